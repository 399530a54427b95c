"""A search as one job of a cluster, and the words that start it there. Every target makes its text of this."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from search.driver.options import RunOptions

DRAIN_SECONDS = 120  # between a cluster's notice and its end: trials save about every ten seconds
CHECKOUT = Path(__file__).resolve().parents[2]

S = TypeVar("S")


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a search finds on the machines of its cluster. Every path is one of theirs."""

    runs: str
    space: str
    data: tuple[Path, ...]
    python: str = "python"
    address: str | None = "auto"  # of the Ray that runs there already; None if the search starts its own
    storage: str | None = None  # the database, if its URL may stand in the command


@dataclass(frozen=True, kw_only=True)
class Job(Generic[S]):
    """A search as one job of a cluster. Every path is absolute, and one of the machines that the job runs on."""

    study: str
    suffix: str  # tells a study's jobs apart where names must be unique
    arguments: tuple[str, ...]  # of `tinysearch run`, the space first
    runs: str
    checkout: str  # the folder that holds the packages `search` and `trainer`
    settings: S  # what only its target knows
    python: str = "python"
    space_text: str = ""
    family_files: Mapping[str, str] = field(default_factory=dict)  # the space's own family, beside it: name and text

    @property
    def name(self) -> str:
        """The job's name in DNS-1123 form: of the study, and unique by its suffix."""
        words = re.sub(r"[^a-z0-9]+", "-", self.study.lower()).strip("-")
        if words != self.study or len(words) > 30:  # two studies stay two names; KubeRay takes 47 characters
            words = f"{words[:24].rstrip('-')}-{hashlib.sha256(self.study.encode()).hexdigest()[:5]}"
        return f"ts-{words}-{self.suffix}"

    @property
    def command(self) -> list[str]:
        return [self.python, "-m", "search.cli", "run", *self.arguments]

    @property
    def entrypoint(self) -> list[str]:
        """The command of a Ray job, which replaces the shell that Ray starts it in.

        To stop a job, Ray signals the shell and the search, and waits for both. If Ray is the first process of a
        container, nobody collects a search whose shell is gone, and Ray would wait for it in vain.
        """
        return ["exec", *self.command]


def run_arguments(options: RunOptions, place: Place) -> tuple[str, ...]:
    """The words after `tinysearch run` that ask for the same as `options`, with what is different in this place.

    A database is left out unless the place names one: its URL may hold a password. Raises ValueError for what would not
    mean the same each time that the job starts.
    """
    if options.trials is not None and options.trials.strip().startswith("+"):
        raise ValueError(
            f"--trials {options.trials}: a job that starts again would add as many again; give the total instead"
        )
    elsewhere = replace(
        options,
        name=options.study_name,
        runs=Path(place.runs),
        data=place.data,
        address=place.address,
        storage=None,
    )
    words = [flag if value is None else f"{flag}={value}" for flag, value in elsewhere.words()]
    return (place.space, *words, *([f"--storage={place.storage}"] if place.storage else []))


def absolute_data(data: tuple[Path, ...]) -> tuple[Path, ...]:
    """The paths of `--data`, as the cluster's machines have them. Raises ValueError for one that is relative."""
    for path in data:
        if not path.is_absolute():
            raise ValueError(f"--data {path}: a job is not in this folder; give the path that its machines have")
    return data

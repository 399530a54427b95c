"""A search as one job on a cluster, and the command that starts it there. Every target writes its text from this."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from search.driver.options import RunOptions

DRAIN_SECONDS = 120  # between a cluster's notice and the end; trials save about every ten seconds
CHECKOUT = Path(__file__).resolve().parents[2]

S = TypeVar("S")


@dataclass(frozen=True, kw_only=True)
class Locations:
    """What a search finds on the machines of its cluster. All paths are theirs."""

    runs: str
    space: str
    data: tuple[Path, ...]
    python: str = "python"
    address: str | None = "auto"  # of the Ray that is running there; None if the search starts its own
    storage: str | None = None  # the database, if its URL may appear in the command


@dataclass(frozen=True, kw_only=True)
class Job(Generic[S]):
    """A search as one job of a cluster. All paths are absolute, on the machines that run the job."""

    study: str
    suffix: str  # distinguishes jobs of one study if names must be unique
    arguments: tuple[str, ...]  # of `tinysearch run`, the space first
    runs: str
    checkout: str  # the folder that holds the packages `search` and `trainer`
    settings: S  # of its target
    python: str = "python"
    space_text: str = ""
    family_files: Mapping[str, str] = field(default_factory=dict)  # name and text, of the user's own family

    @property
    def name(self) -> str:
        """The job's name in DNS-1123 form: that of the study, and unique by its suffix."""
        words = re.sub(r"[^a-z0-9]+", "-", self.study.lower()).strip("-")
        if words != self.study or len(words) > 30:  # so that two studies have two names; KubeRay takes 47 characters
            words = f"{words[:24].rstrip('-')}-{hashlib.sha256(self.study.encode()).hexdigest()[:5]}"
        return f"ts-{words}-{self.suffix}"

    @property
    def command(self) -> list[str]:
        return [self.python, "-m", "search.cli", "run", *self.arguments]

    @property
    def entrypoint(self) -> list[str]:
        """The command of a Ray job, which replaces the shell that Ray starts it in.

        To stop a job, Ray signals the shell and the search, and waits for both. If Ray is the first process of a
        container, nothing reaps a search whose shell is gone, and Ray would wait until its timeout.
        """
        return ["exec", *self.command]


def run_arguments(options: RunOptions, locations: Locations) -> tuple[str, ...]:
    """The words after `tinysearch run` that ask for the same as `options`, adapted to this location.

    A database is left out unless `locations` names one: its URL may hold a password. Raises ValueError for options that
    would not mean the same each time the job starts.
    """
    if options.trials is not None and options.trials.strip().startswith("+"):
        raise ValueError(
            f"--trials {options.trials}: a job that starts again would add as many again; give the total instead"
        )
    from search.strategy.own_sampler import located  # with Optuna

    elsewhere = replace(
        options,
        name=options.study_name,
        runs=Path(locations.runs),
        data=locations.data,
        address=locations.address,
        storage=None,
        sampler=options.sampler and located(options.sampler, Path()),
    )
    words = [flag if value is None else f"{flag}={value}" for flag, value in elsewhere.words()]
    return (locations.space, *words, *([f"--storage={locations.storage}"] if locations.storage else []))


def absolute_data(data: tuple[Path, ...]) -> tuple[Path, ...]:
    """The paths of `--data` on the cluster's machines. Raises ValueError for a relative path."""
    for path in data:
        if not path.is_absolute():
            raise ValueError(f"--data {path}: a job is not in this folder; give the path that its machines have")
    return data

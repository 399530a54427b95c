"""The options of a search, each declared once, here.

The command line derives its options from these declarations, a cluster job its command, and `check` its checks. To add
an option, add a field to RunOptions and use it where the search is prepared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import Field, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from search.driver.amounts import (
    check_seed,
    check_trials,
    gpu_share,
    number_of_tokens,
    seconds_to_hang,
)
from search.driver.deadline import check_until
from search.driver.hardware import check_shares
from search.worker.object_store import check_url


class TokenDtype(StrEnum):
    """The type of the tokens in a .bin file."""

    uint16 = "uint16"
    uint32 = "uint32"


@dataclass(frozen=True)
class Option:
    """How a field of RunOptions is given on the command line."""

    flag: str
    help: str
    metavar: str | None = None
    envvar: str | None = None
    check: Callable[[Any], Any] | None = None
    """Raises ValueError for a value that is not valid."""
    resumes: bool = False
    """Whether `resume` takes it too; all others are stored with the study."""
    is_listed: bool = False
    """Whether several values are one word with commas; otherwise the option may be repeated."""


def option_of(name: str) -> Option:
    """How the field `name` is given."""
    return _FIELDS[name].metadata["option"]


def default_of(name: str) -> Any:
    return _FIELDS[name].default


def _option(flag: str, default: Any = None, *, help: str, **how: Any) -> Any:
    return field(default=default, metadata={"option": Option(flag, help, **how)})


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What `tinysearch run` or `resume` was asked to do."""

    space: Path | None  # None: resume a study by its name, with its stored settings
    name: str | None = _option("--name", help="The study's name. Default: space and budget.")
    runs: Path = _option("--runs", Path("runs"), help="The folder that holds all studies.", resumes=True)
    storage: str | None = _option(
        "--storage",
        metavar="URL",
        envvar="OPTUNA_STORAGE",
        help="Keep the study in a database, such as sqlite:///FILE or postgresql://... Default: a file in its folder.",
        resumes=True,
    )
    storage_path: str | None = _option(
        "--storage-path",
        metavar="URL",
        help="Keep checkpoints and text at a URL, for machines without a shared folder: s3://bucket/folder.",
        check=check_url,
    )
    budget: str | None = _option("--budget", help="Use a named budget of the space, such as quick.")
    trials: str | None = _option(
        "--trials", metavar="N|+N", help="Train N trials in total, or N more.", check=check_trials, resumes=True
    )
    max_tokens: str | None = _option(
        "--max-tokens",
        metavar="N",
        help="Train up to N tokens, such as 54M. A larger N extends a study. Default: the budget's.",
        check=number_of_tokens,
        resumes=True,
    )
    until: str | None = _option(
        "--until",
        metavar="TIME",
        help="Stop at this time, such as 8h or 18:00, and run the trials that fit. `resume` continues.",
        check=check_until,
        resumes=True,
    )
    data: tuple[Path, ...] = _option(
        "--data",
        (),
        metavar="PATH...",
        help="Text, JSON, JSON lines, Parquet (also compressed), token .bin files, or folders. "
        "Default: the sources of Python's standard library.",
    )
    token_dtype: TokenDtype = _option("--token-dtype", TokenDtype.uint16, help="The type of the tokens in .bin files.")
    text_key: str = _option("--text-key", "text", metavar="NAME", help="The field (or column) that holds the text.")
    skip_bad: bool = _option("--skip-bad", False, help="Skip records without text, and unreadable files.")
    goals: tuple[str, ...] = _option(
        "--goal", (), metavar="NAME", help="Narrow the space to a goal of the guide. Repeatable."
    )
    assignments: tuple[str, ...] = _option("--set", (), metavar="NAME=VALUE", help="Fix a parameter. Repeatable.")
    limits: tuple[str, ...] = _option(
        "--limit",
        (),
        metavar="NAME=MAX",
        help="Add a limit: num_params=2M, or tokens_per_second=1000.. (at least). Repeatable.",
    )
    metrics: tuple[str, ...] = _option(
        "--metrics", (), metavar="NAME,...", help="What to optimise. Default: the space's metric.", is_listed=True
    )
    sampler: str | None = _option(
        "--sampler",
        metavar="NAME",
        help="Who proposes: curves, tpe, gp, cmaes, random, qmc, grid, nsga2, nsga3, or FILE.py:CLASS. Default: the "
        "space's, or curves.",
    )
    stopping: str | None = _option(
        "--stopping",
        metavar="NAME",
        help="Who stops trials early: curves, asha, hyperband, median or none. Default: the space's, or curves.",
    )
    seed: int = _option("--seed", 0, help="Random seed of the search and of training.", check=check_seed)
    gpus_per_trial: float | None = _option(
        "--gpus-per-trial",
        help="GPUs for each trial; fractions are allowed. Default: 1 if there are GPUs.",
        check=lambda share: check_shares(gpus_per_trial=share),
        resumes=True,
    )
    cpus_per_trial: float | None = _option(
        "--cpus-per-trial",
        help="Cores (and threads) for each trial. Default: an equal share.",
        check=lambda share: check_shares(cpus_per_trial=share),
        resumes=True,
    )
    trials_per_gpu: str | None = _option(
        "--trials-per-gpu",
        metavar="N|auto",
        help="Trials that share a GPU; auto: as many as fit its memory.",
        check=gpu_share,
        resumes=True,
    )
    gpu_kind: str | None = _option(
        "--gpu-kind", help="Use only GPUs of this kind, by Ray's name, such as A100.", resumes=True
    )
    parallel: int | None = _option(
        "--parallel",
        help="The maximum number of trials at a time.",
        check=lambda number: check_shares(parallel=number),
        resumes=True,
    )
    address: str | None = _option(
        "--address", help="Use this running Ray cluster. Default: start Ray on this machine.", resumes=True
    )
    hang_minutes: float = _option(
        "--hang-minutes",
        30.0,
        help="Replace a worker that has not reported for so many minutes.",
        check=seconds_to_hang,
        resumes=True,
    )

    @property
    def study_name(self) -> str:
        """The study's name: the space's, with the budget's if one was named."""
        if self.name is not None:
            return self.name
        assert self.space is not None
        return "-".join(filter(None, [self.space.stem, self.budget]))

    @property
    def reading(self) -> dict[str, Any]:
        """How the text is read, for a training run. Newer fields only if set, so that older studies compare equal."""
        asked = {"text_key": self.text_key} if self.text_key != "text" else {}
        return {"token_dtype": self.token_dtype.value, **asked, **({"skip_bad": True} if self.skip_bad else {})}

    @property
    def shares(self) -> dict[str, Any]:
        """The shares of the hardware that were asked for, for search/driver/hardware.py. Raises ValueError."""
        gpus = self.gpus_per_trial
        if self.trials_per_gpu is not None:
            if gpus is not None:
                raise ValueError("--trials-per-gpu and --gpus-per-trial say the same in two ways; give one")
            gpus = gpu_share(self.trials_per_gpu)
        return {
            "gpus_per_trial": gpus,
            "cpus_per_trial": self.cpus_per_trial,
            "parallel": self.parallel,
        }

    def check(self) -> None:
        """Raises ValueError for the first number, time or URL that is not valid."""
        for name in OPTIONS:
            check, value = option_of(name).check, getattr(self, name)
            if check is not None and value is not None:
                check(value)
        _ = self.shares

    def words(self) -> Iterator[tuple[str, str | None]]:
        """Each flag that was given, with its value; None for a flag without one."""
        for name in OPTIONS:
            value, option = getattr(self, name), option_of(name)
            if value == default_of(name):
                continue
            if value is True:
                yield option.flag, None
            elif isinstance(value, tuple) and not option.is_listed:
                yield from ((option.flag, str(one)) for one in value)
            else:
                yield option.flag, ",".join(value) if isinstance(value, tuple) else str(value)


_FIELDS: dict[str, Field[Any]] = {f.name: f for f in fields(RunOptions)}
OPTIONS = tuple(name for name, f in _FIELDS.items() if "option" in f.metadata)
RESUMABLE = tuple(name for name in OPTIONS if option_of(name).resumes)

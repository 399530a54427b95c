"""What a search can be asked to do: each option is declared once, here.

The command line makes its options from these declarations, a job on a cluster its command, and `check` its checks. To
add an option, add a field to RunOptions and use it where the search is made.
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
    """How wide the tokens of a .bin file are."""

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
    """Raises ValueError for a value that cannot be meant."""
    resumes: bool = False
    """Whether `resume` takes it too; a study keeps all others."""
    is_listed: bool = False
    """Whether several values are one word, with commas; otherwise the option may be repeated."""


def option_of(name: str) -> Option:
    """How the field `name` is given."""
    return _FIELDS[name].metadata["option"]


def _option(flag: str, default: Any = None, *, help: str, **how: Any) -> Any:
    return field(default=default, metadata={"option": Option(flag, help, **how)})


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What `tinysearch run`, or `resume`, was asked to do."""

    space: Path | None  # None to resume a study by its name, with the settings that it has
    name: str | None = _option("--name", help="The study's name; the space's and budget's if left out.")
    runs: Path = _option("--runs", Path("runs"), help="The folder that holds the studies.", resumes=True)
    storage: str | None = _option(
        "--storage",
        metavar="URL",
        envvar="OPTUNA_STORAGE",
        help="A database, such as sqlite:///FILE or postgresql://...; a file in the study's folder if left out.",
        resumes=True,
    )
    storage_path: str | None = _option(
        "--storage-path",
        metavar="URL",
        help="For checkpoints and the text if machines share no folder: s3://bucket/folder.",
        check=check_url,
    )
    budget: str | None = _option("--budget", help="A budget that the space names, such as quick.")
    trials: str | None = _option(
        "--trials", metavar="N|+N", help="Trials in total, or N more.", check=check_trials, resumes=True
    )
    max_tokens: str | None = _option(
        "--max-tokens",
        metavar="N",
        help="In place of the budget's last rung; a study may grow, as to 54M.",
        check=number_of_tokens,
        resumes=True,
    )
    until: str | None = _option(
        "--until",
        metavar="TIME",
        help="As many trials as fit: 8h from now, or until 18:00. What waits then is kept.",
        check=check_until,
        resumes=True,
    )
    data: tuple[Path, ...] = _option(
        "--data",
        (),
        metavar="PATH...",
        help="Text, JSON, JSON lines, Parquet, these compressed, token .bin files, or folders of them; the standard "
        "library's sources if left out.",
    )
    token_dtype: TokenDtype = _option("--token-dtype", TokenDtype.uint16, help="Of .bin files.")
    text_key: str = _option(
        "--text-key", "text", metavar="NAME", help="The field of records, or the column, that has the text."
    )
    skip_bad: bool = _option("--skip-bad", False, help="Leave out records without text, and unreadable files.")
    goals: tuple[str, ...] = _option(
        "--goal", (), metavar="NAME", help="Narrow the space by a goal of the guide; may be repeated."
    )
    assignments: tuple[str, ...] = _option("--set", (), metavar="NAME=VALUE", help="Fix a parameter; may be repeated.")
    limits: tuple[str, ...] = _option(
        "--limit",
        (),
        metavar="NAME=MAX",
        help="A limit beside the space's: num_params=2M, tokens_per_second=1000.. for at least; may be repeated.",
    )
    metrics: tuple[str, ...] = _option(
        "--metrics", (), metavar="NAME,...", help="What to optimise, in place of the space's metric.", is_listed=True
    )
    seed: int = _option("--seed", 0, help="Of proposals and training.", check=check_seed)
    gpus_per_trial: float | None = _option(
        "--gpus-per-trial",
        help="Fractions are allowed; 1 if there are GPUs.",
        check=lambda share: check_shares(gpus_per_trial=share),
        resumes=True,
    )
    cpus_per_trial: float | None = _option(
        "--cpus-per-trial",
        help="Cores, and threads; a machine's are shared out if left out.",
        check=lambda share: check_shares(cpus_per_trial=share),
        resumes=True,
    )
    trials_per_gpu: str | None = _option(
        "--trials-per-gpu",
        metavar="N|auto",
        help="Trials that share a GPU; auto: as many as its memory holds.",
        check=gpu_share,
        resumes=True,
    )
    gpu_kind: str | None = _option("--gpu-kind", help="Of a cluster with several, as Ray names it: A100.", resumes=True)
    parallel: int | None = _option(
        "--parallel",
        help="Trials at a time, at most.",
        check=lambda number: check_shares(parallel=number),
        resumes=True,
    )
    address: str | None = _option(
        "--address", help="A Ray cluster that is running; one is started here if left out.", resumes=True
    )
    hang_minutes: float = _option(
        "--hang-minutes",
        30.0,
        help="A worker without a report for so long is ended and replaced.",
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
        """How the text is read, as fields of a training run; what earlier studies do not have only if it is asked."""
        asked = {"text_key": self.text_key} if self.text_key != "text" else {}
        return {"token_dtype": self.token_dtype.value, **asked, **({"skip_bad": True} if self.skip_bad else {})}

    @property
    def shares(self) -> dict[str, Any]:
        """What was asked for of the hardware, as search/driver/hardware.py takes it. Raises ValueError."""
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
        """Raises ValueError for the first number, time or URL that cannot be meant."""
        for name in OPTIONS:
            check, value = option_of(name).check, getattr(self, name)
            if check is not None and value is not None:
                check(value)
        _ = self.shares

    def words(self) -> Iterator[tuple[str, str | None]]:
        """Each flag that was given, with its value; None for one that takes none."""
        for name in OPTIONS:
            value, option = getattr(self, name), option_of(name)
            if value == _FIELDS[name].default:
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

"""What all commands share: options, where they print, and what becomes of an error.

Exit codes: 0 done, 1 failed, 2 used wrongly, 130 interrupted. Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import contextlib
import errno
import json
import sys
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from search.launch import RunOptions
    from search.storage import StudyFolder


class TokenDtype(StrEnum):
    """How wide the tokens of a .bin file are."""

    uint16 = "uint16"
    uint32 = "uint32"


StudyName = Annotated[str | None, typer.Argument(metavar="[STUDY]", help="A study's name; the latest one if left out.")]
Runs = Annotated[Path, typer.Option("--runs", help="The folder that holds the studies.")]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        envvar="OPTUNA_STORAGE",
        help="A database, such as sqlite:///FILE or postgresql://...; a file in the study's folder if left out.",
    ),
]
StoragePath = Annotated[
    str | None,
    typer.Option(
        "--storage-path",
        metavar="URL",
        help="For checkpoints and the text where machines share no folder: s3://bucket/folder.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, for scripts.")]
SpaceFile = Annotated[Path, typer.Argument(metavar="SPACE", help="The space: a YAML file such as spaces/hybrid.yaml.")]
Goals = Annotated[
    list[str] | None, typer.Option("--goal", help="Narrow the space by a goal of the guide; may be repeated.")
]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Fix a parameter; may be repeated.")
]
Trials = Annotated[str | None, typer.Option("--trials", metavar="N|+N", help="Trials in total, or N more.")]
MaxTokens = Annotated[
    str | None,
    typer.Option("--max-tokens", metavar="N", help="In place of the budget's last rung; a study may grow, as to 54M."),
]
Until = Annotated[
    str | None,
    typer.Option(
        "--until", metavar="TIME", help="As many trials as fit: 8h from now, or until 18:00. What waits then is kept."
    ),
]
GpusPerTrial = Annotated[
    float | None, typer.Option("--gpus-per-trial", help="Fractions are allowed; 1 where there are GPUs.")
]
CpusPerTrial = Annotated[
    float | None, typer.Option("--cpus-per-trial", help="Cores, and threads; a machine's are shared out if left out.")
]
TrialsPerGpu = Annotated[
    str | None,
    typer.Option(
        "--trials-per-gpu", metavar="N|auto", help="Trials that share a GPU; auto: as many as its memory holds."
    ),
]
GpuKind = Annotated[str | None, typer.Option("--gpu-kind", help="Of a cluster with several, as Ray names it: A100.")]
Parallel = Annotated[int | None, typer.Option("--parallel", help="Trials at a time, at most.")]
Address = Annotated[
    str | None, typer.Option("--address", help="A Ray cluster that is running; one is started here if left out.")
]
HangMinutes = Annotated[
    float, typer.Option("--hang-minutes", help="A worker without a report for so long is ended and replaced.")
]
Budget = Annotated[str | None, typer.Option("--budget", help="A budget that the space names, such as quick.")]
Name = Annotated[str | None, typer.Option("--name", help="The study's name; the space's and budget's if left out.")]
MoreData = Annotated[list[Path] | None, typer.Argument(hidden=True)]
Data = Annotated[
    list[Path] | None,
    typer.Option(
        "--data", help="Text files, folders, .jsonl or token .bin files; the standard library's sources if left out."
    ),
]
DataAsForRun = Annotated[list[Path] | None, typer.Option("--data", help="As for run; may be repeated.")]
TokenWidth = Annotated[TokenDtype, typer.Option("--token-dtype", help="Of .bin files.")]
Metrics = Annotated[
    str | None, typer.Option("--metrics", metavar="NAME,...", help="What to optimise, in place of the space's metric.")
]
Seed = Annotated[int, typer.Option("--seed", help="Of proposals and training.", min=0)]


def run_options(
    *,
    goals: Sequence[str] | None,
    assignments: Sequence[str] | None,
    metrics: str | None,
    data: Sequence[Path] | None,
    more_data: Sequence[Path] | None,
    token_dtype: TokenDtype,
    **others: Any,
) -> RunOptions:
    """What `run` or `submit` was asked to do, as typed. Raises ValueError for a second space."""
    from search.launch import RunOptions

    if more_data and not data:
        raise ValueError(f"unexpected {str(more_data[0])!r}; one space is searched at a time, text follows --data")
    return RunOptions(
        goals=tuple(goals or ()),
        assignments=tuple(assignments or ()),
        metrics=tuple(name.strip() for name in metrics.split(",")) if metrics is not None else (),
        data=(*(data or ()), *(more_data or ())),  # --data a b c, as well as --data a --data b
        token_dtype=token_dtype.value,
        **others,
    )


def study_folder(runs: Path, storage: str | None, study: str | None) -> StudyFolder:
    """A study that is there, the latest one unless named. Raises StudyError."""
    from search.archive import archive_at
    from search.storage import StudyError, StudyFolder

    archive = archive_at(storage, runs)
    if not study and not (names := archive.names()):
        raise StudyError(f"there are no studies in {archive}; `tinysearch run` makes one")
    return StudyFolder(runs.absolute(), study or names[-1], archive)


def make_console(*, to_stderr: bool = False) -> Console:
    from rich.console import Console

    console = Console(highlight=False, stderr=to_stderr)
    if not console.is_terminal:
        console.width = 250  # a pipe has no width; wrapping there would break lines that scripts read
    return console


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=2, allow_nan=False))


@contextlib.contextmanager
def reporting_errors() -> Iterator[None]:
    """What the user can mend is one message on stderr and exit code 2; a study that failed is 1."""
    try:
        yield
    except ValueError as error:  # SpaceError, StudyError, CorpusError and ConfigError are all ValueErrors
        if not type(error).__module__.startswith(("search.", "trainer.")) and type(error) is not ValueError:
            raise
        complain(str(error), 2)
    except RuntimeError as error:
        if not type(error).__module__.startswith("search."):
            raise
        complain(str(error), 1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        complain(f"{error.filename or 'the disk'}: {error.strerror}; free some space, then the same command goes on", 1)
    except KeyboardInterrupt:
        complain("interrupted", 130)


def complain(message: str, code: int) -> None:
    print(message, file=sys.stderr)
    raise typer.Exit(code)

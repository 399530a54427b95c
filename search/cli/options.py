"""The options of all commands, each defined once; `search_options` collects those that a search takes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from search.cli.command import reporting_errors

if TYPE_CHECKING:
    from search.driver.launch import RunOptions


class TokenDtype(StrEnum):
    """The width of the tokens in a .bin file."""

    uint16 = "uint16"
    uint32 = "uint32"


StudyName = Annotated[
    str | None, typer.Argument(metavar="[STUDY]", help="The name of a study. Default: the latest one.")
]
Runs = Annotated[Path, typer.Option("--runs", help="The folder that holds all studies.")]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        envvar="OPTUNA_STORAGE",
        help="Keep the study in a database, such as sqlite:///FILE or postgresql://... Default: a file in its folder.",
    ),
]
StoragePath = Annotated[
    str | None,
    typer.Option(
        "--storage-path",
        metavar="URL",
        help="Keep checkpoints and text at a URL, for machines without a shared folder: s3://bucket/folder.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document for scripts.")]
SpaceFile = Annotated[Path, typer.Argument(metavar="SPACE", help="A space file, such as spaces/hybrid.yaml.")]
Goals = Annotated[
    list[str] | None,
    typer.Option("--goal", metavar="NAME", help="Narrow the space to a goal of the guide. Repeatable."),
]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Fix a parameter. Repeatable.")
]
Trials = Annotated[str | None, typer.Option("--trials", metavar="N|+N", help="Train N trials in total, or N more.")]
MaxTokens = Annotated[
    str | None,
    typer.Option(
        "--max-tokens",
        metavar="N",
        help="Train up to N tokens, such as 54M. A larger N extends a study. Default: the budget's.",
    ),
]
Until = Annotated[
    str | None,
    typer.Option(
        "--until",
        metavar="TIME",
        help="Stop at this time, such as 8h or 18:00, and run the trials that fit. `resume` continues.",
    ),
]
Time = Annotated[
    str | None,
    typer.Option(
        "--time",
        metavar="TIME",
        help="Measure the speed for some seconds and propose a search that fits, such as 6m or 18:00.",
    ),
]
GpusPerTrial = Annotated[
    float | None,
    typer.Option("--gpus-per-trial", help="GPUs for each trial; fractions are allowed. Default: 1 if there are GPUs."),
]
CpusPerTrial = Annotated[
    float | None, typer.Option("--cpus-per-trial", help="Cores (and threads) for each trial. Default: an equal share.")
]
TrialsPerGpu = Annotated[
    str | None,
    typer.Option(
        "--trials-per-gpu", metavar="N|auto", help="Trials that share a GPU; auto: as many as fit its memory."
    ),
]
GpuKind = Annotated[
    str | None, typer.Option("--gpu-kind", help="Use only GPUs of this kind, by Ray's name, such as A100.")
]
Parallel = Annotated[int | None, typer.Option("--parallel", help="The maximum number of trials at a time.")]
Address = Annotated[
    str | None, typer.Option("--address", help="Use this running Ray cluster. Default: start Ray on this machine.")
]
HangMinutes = Annotated[
    float, typer.Option("--hang-minutes", help="Replace a worker that has not reported for so many minutes.")
]
Budget = Annotated[str | None, typer.Option("--budget", help="Use a named budget of the space, such as quick.")]
Name = Annotated[str | None, typer.Option("--name", help="The study's name. Default: space and budget.")]
MoreData = Annotated[list[Path] | None, typer.Argument(metavar="--data TEXT", hidden=True)]
Data = Annotated[
    list[Path] | None,
    typer.Option(
        "--data",
        metavar="PATH...",
        help="Text, JSON, JSON lines, Parquet (also compressed), token .bin files, or folders. Default: the sources of "
        "Python's standard library.",
    ),
]
DataAsForRun = Annotated[
    list[Path] | None, typer.Option("--data", metavar="PATH", help="Text, as for run. Repeatable.")
]
TokenWidth = Annotated[TokenDtype, typer.Option("--token-dtype", help="The type of the tokens in .bin files.")]
TextKey = Annotated[
    str,
    typer.Option("--text-key", metavar="NAME", help="The field (or column) that holds the text."),
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Skip records without text, and unreadable files.")]
Metrics = Annotated[
    str | None, typer.Option("--metrics", metavar="NAME,...", help="What to optimise. Default: the space's metric.")
]
Columns = Annotated[
    str | None,
    typer.Option("--columns", metavar="NAME,...|all", help="Columns of the table. Default: those that fit."),
]
Limits = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="NAME=MAX",
        help="Add a limit: num_params=2M, or tokens_per_second=1000.. (at least). Repeatable.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Random seed of the search and of training.", min=0)]


def takes_search_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the parameter `options` of a command by all options of `search_options`; it receives their result.

    Typer builds the command line from the signature of a function.
    """
    own, options = _parameters(command), _parameters(search_options)
    parameters = []
    for parameter in own:
        parameters += options if parameter.name == "options" else [parameter]

    @functools.wraps(command)
    def called(**given: Any) -> None:
        with reporting_errors():
            asked = search_options(**{option.name: given.pop(option.name) for option in options})
        command(options=asked, **given)

    called.__signature__ = inspect.Signature(parameters)
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of a function with resolved annotations; RunOptions stays unresolved (its import is heavy)."""
    types = get_type_hints(function, localns={"RunOptions": Any}, include_extras=True)
    return [p.replace(annotation=types[p.name]) for p in inspect.signature(function).parameters.values()]


def search_options(
    more_data: MoreData = None,
    name: Name = None,
    runs: Runs = Path("runs"),
    storage: Storage = None,
    storage_path: StoragePath = None,
    budget: Budget = None,
    trials: Trials = None,
    max_tokens: MaxTokens = None,
    until: Until = None,
    data: Data = None,
    token_dtype: TokenWidth = TokenDtype.uint16,
    text_key: TextKey = "text",
    skip_bad: SkipBad = False,
    goal: Goals = None,
    assign: Assignments = None,
    limit: Limits = None,
    metrics: Metrics = None,
    seed: Seed = 0,
    gpus_per_trial: GpusPerTrial = None,
    cpus_per_trial: CpusPerTrial = None,
    trials_per_gpu: TrialsPerGpu = None,
    gpu_kind: GpuKind = None,
    parallel: Parallel = None,
    hang_minutes: HangMinutes = 30.0,
) -> RunOptions:
    """The options of a search as RunOptions, without the space and the address.

    Raises ValueError for a second space, and for numbers and times that are not valid.
    """
    from search.driver.amounts import check_amounts

    if more_data and not data:
        raise ValueError(f"unexpected {str(more_data[0])!r}; one space is searched at a time, text follows --data")
    check_amounts(  # before Optuna, which takes a second, is imported
        trials=trials,
        max_tokens=max_tokens,
        until=until,
        hang_minutes=hang_minutes,
        seed=seed,
        storage_path=storage_path,
        trials_per_gpu=trials_per_gpu,
        gpus_per_trial=gpus_per_trial,
        cpus_per_trial=cpus_per_trial,
        parallel=parallel,
    )
    from search.driver.launch import RunOptions

    return RunOptions(
        space=None,
        name=name,
        runs=runs,
        storage=storage,
        storage_path=storage_path,
        budget=budget,
        trials=trials,
        max_tokens=max_tokens,
        until=until,
        seed=seed,
        goals=tuple(goal or ()),
        assignments=tuple(assign or ()),
        limits=tuple(limit or ()),
        metrics=words_of(metrics),
        data=(*(data or ()), *(more_data or ())),  # --data a b c, as well as --data a --data b
        token_dtype=token_dtype.value,
        text_key=text_key,
        skip_bad=skip_bad,
        gpus_per_trial=gpus_per_trial,
        cpus_per_trial=cpus_per_trial,
        trials_per_gpu=trials_per_gpu,
        gpu_kind=gpu_kind,
        parallel=parallel,
        hang_minutes=hang_minutes,
    )


def words_of(listed: str | None) -> tuple[str, ...]:
    """Split `loss,num_params` into words; empty if the option was not given."""
    return () if listed is None else tuple(word.strip() for word in listed.split(","))

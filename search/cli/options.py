"""The options of commands, each once; and those of a search together, for every command that takes them."""

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
    list[str] | None,
    typer.Option("--goal", metavar="NAME", help="Narrow the space by a goal of the guide; may be repeated."),
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
Time = Annotated[
    str | None,
    typer.Option(
        "--time", metavar="TIME", help="Measure for seconds, and propose a search that fits: 6m, or until 18:00."
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
MoreData = Annotated[list[Path] | None, typer.Argument(metavar="--data TEXT", hidden=True)]
Data = Annotated[
    list[Path] | None,
    typer.Option(
        "--data",
        metavar="PATH...",
        help="Text, JSON, JSON lines, Parquet, these compressed, token .bin files, or folders of them; the standard "
        "library's sources if left out.",
    ),
]
DataAsForRun = Annotated[list[Path] | None, typer.Option("--data", metavar="PATH", help="As for run; may be repeated.")]
TokenWidth = Annotated[TokenDtype, typer.Option("--token-dtype", help="Of .bin files.")]
TextKey = Annotated[
    str,
    typer.Option("--text-key", metavar="NAME", help="The field of records, or the column, that has the text."),
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out records without text, and unreadable files.")]
Metrics = Annotated[
    str | None, typer.Option("--metrics", metavar="NAME,...", help="What to optimise, in place of the space's metric.")
]
Columns = Annotated[
    str | None,
    typer.Option("--columns", metavar="NAME,...|all", help="Of the table of trials; what fits if left out."),
]
Limits = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="NAME=MAX",
        help="A limit beside the space's: num_params=2M, tokens_per_second=1000.. for at least; may be repeated.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Of proposals and training.", min=0)]


def takes_search_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with every option of `search_options` in place of its parameter `options`, which gets their result.

    Typer makes the command line from a function's signature.
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

    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """A function's parameters, their annotations read; what RunOptions is, the command line need not know."""
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
    """What a search is asked to do, but for its space and where.

    Raises ValueError for a second space, and for numbers and times that mean nothing.
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
    """`loss,num_params` as its words; none where nothing was given."""
    return () if listed is None else tuple(word.strip() for word in listed.split(","))

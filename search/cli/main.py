"""The command line: `tinysearch run spaces/hybrid.yaml`. Only parsing, printing and exit codes; the work is elsewhere.

Exit codes: 0 done, 1 failed, 2 used wrongly, 130 interrupted. Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import dataclasses
import io
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.cli import studies, submitting
from search.cli.command import make_console, print_json, print_trials, reporting_errors, study_folder
from search.cli.garbage import collect_seldom
from search.cli.options import (
    Address,
    Assignments,
    Budget,
    Columns,
    CpusPerTrial,
    DataAsForRun,
    Goals,
    GpuKind,
    GpusPerTrial,
    HangMinutes,
    Json,
    Limits,
    MaxTokens,
    Metrics,
    Parallel,
    Runs,
    SkipBad,
    SpaceFile,
    Storage,
    StudyName,
    TextKey,
    Time,
    TokenDtype,
    TokenWidth,
    Trials,
    TrialsPerGpu,
    Until,
    takes_search_options,
    words_of,
)
from search.cli.words import Commands
from search.worker.hangup import outliving_the_terminal

if TYPE_CHECKING:
    from search.driver.launch import RunOptions

app = typer.Typer(
    help="Find the right configuration of a small language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    cls=Commands,
    rich_markup_mode=None,  # square brackets in what was typed would be taken for markup
)


def _say_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        print(f"tinysearch {version('tinysearch')}")
        raise typer.Exit


@app.callback()
def tinysearch(
    version: Annotated[
        bool, typer.Option("--version", help="Say which tinysearch this is.", is_eager=True, callback=_say_version)
    ] = False,
) -> None:
    """Find the right configuration of a small language model."""


@app.command()
@takes_search_options
def run(space: SpaceFile, options: RunOptions, address: Address = None, columns: Columns = None) -> None:
    """Search a space. Running again under the same name continues."""
    with outliving_the_terminal(), reporting_errors():
        code = _search(dataclasses.replace(options, space=space, address=address), columns)
    if code:
        raise typer.Exit(code)


@app.command()
def resume(
    study: StudyName = None,
    runs: Runs = Path("runs"),
    storage: Storage = None,
    trials: Trials = None,
    max_tokens: MaxTokens = None,
    until: Until = None,
    gpus_per_trial: GpusPerTrial = None,
    cpus_per_trial: CpusPerTrial = None,
    trials_per_gpu: TrialsPerGpu = None,
    gpu_kind: GpuKind = None,
    parallel: Parallel = None,
    address: Address = None,
    hang_minutes: HangMinutes = 30.0,
    columns: Columns = None,
) -> None:
    """Go on with a study, interrupted or to be extended, by its name alone."""
    with outliving_the_terminal(), reporting_errors():
        from search.driver.amounts import check_amounts
        from search.report.overview import Overview
        from search.report.tables import check_columns, columns_asked

        check_amounts(
            trials=trials,
            max_tokens=max_tokens,
            until=until,
            hang_minutes=hang_minutes,
            trials_per_gpu=trials_per_gpu,
            gpus_per_trial=gpus_per_trial,
            cpus_per_trial=cpus_per_trial,
            parallel=parallel,
        )
        from search.driver.launch import RunOptions

        folder = study_folder(runs, storage, study)
        if asked := columns_asked(columns):  # before the search rather than after it
            overview = Overview.stored(folder.load(), is_run=False)
            check_columns(asked, (metric.name for metric in overview.metrics), overview.parameters)
        options = RunOptions(
            space=None,
            name=folder.name,
            runs=runs,
            storage=storage,
            trials=trials,
            max_tokens=max_tokens,
            until=until,
            gpus_per_trial=gpus_per_trial,
            cpus_per_trial=cpus_per_trial,
            trials_per_gpu=trials_per_gpu,
            gpu_kind=gpu_kind,
            parallel=parallel,
            address=address,
            hang_minutes=hang_minutes,
        )
        code = _search(options, columns)
    if code:
        raise typer.Exit(code)


def _search(options: RunOptions, columns: str | None) -> int:
    """Run a search and print what came of it; returns the exit code."""
    from search.driver.launch import run_search, summary
    from search.report.tables import TrialsTable, check_columns, columns_asked
    from search.space.loading import load_space
    from search.storage.address import shown_url

    console, asked = make_console(), columns_asked(columns)
    if asked and options.space is not None:  # before the search rather than after it
        space = load_space(options.space)
        check_columns(asked, (*options.metrics, *(m.name for m in space.spec.objectives)), space.parameters)
    overview, was_interrupted = run_search(options, console)
    print_trials(console, TrialsTable(overview, overview.ranked()[:10], width=console.width, asked=asked))
    for line in summary(overview):
        console.print(line)
    where = "" if options.runs == Path("runs") else f" --runs {shlex.quote(str(options.runs))}"
    if options.storage is not None and options.storage != os.environ.get("OPTUNA_STORAGE"):
        where += f" --storage {shlex.quote(shown_url(options.storage))}"
    if was_interrupted and not overview.is_complete:
        console.print("interrupted; the same command goes on from here")
        return 130
    if not overview.is_complete:
        console.print(f"the time is up; what waits goes on with tinysearch resume {overview.name}{where}")
    if overview.best is not None:
        front = " --pareto" if len(overview.metrics) > 1 else ""
        console.print(
            f"the configuration: tinysearch best {overview.name}{where}{front}; "
            f"in a browser: tinysearch dashboard {overview.name}{where}",
            style="dim",
        )
    return 0


def _reading(token_dtype: TokenDtype, text_key: str, skip_bad: bool) -> dict[str, Any]:
    """How text is read, as fields of a training run."""
    return {"token_dtype": token_dtype.value, "text_key": text_key, "skip_bad": skip_bad}


def _reading_words(reading: dict[str, Any]) -> list[str]:
    """The options that ask for what `_reading` returned."""
    words = [] if reading["token_dtype"] == "uint16" else ["--token-dtype", reading["token_dtype"]]
    words += [] if reading["text_key"] == "text" else ["--text-key", reading["text_key"]]
    return words + (["--skip-bad"] if reading["skip_bad"] else [])


@app.command()
def validate(
    space: SpaceFile,
    budget: Budget = None,
    goal: Goals = None,
    assign: Assignments = None,
    limit: Limits = None,
    metrics: Metrics = None,
    as_json: Json = False,
) -> None:
    """Check a space: its keys, ranges, rules and presets, and how much of it may be launched."""
    with reporting_errors():
        from search.cli.validation import Validation
        from search.driver.launch import RunOptions

        found = Validation.of(
            RunOptions(
                space=space,
                budget=budget,
                goals=tuple(goal or ()),
                assignments=tuple(assign or ()),
                limits=tuple(limit or ()),
                metrics=words_of(metrics),
            )
        )
        if as_json:
            print_json(found.to_dict())
            return
        console = make_console()
        for line in found.lines():
            console.print(line)
        for warning in found.warnings:
            console.print(f"warning: {warning}", style="yellow")


@app.command()
def advise(
    space: SpaceFile,
    data: DataAsForRun = None,
    token_dtype: TokenWidth = TokenDtype.uint16,
    text_key: TextKey = "text",
    skip_bad: SkipBad = False,
    assign: Assignments = None,
    time: Time = None,
    budget: Budget = None,
    as_json: Json = False,
) -> None:
    """What the guide recommends for this text and this machine; with --time, a search that fits it."""
    if time is not None:
        with reporting_errors():
            reading = _reading(token_dtype, text_key, skip_bad)
            _plan(space, data, reading, assign, time, budget, as_json=as_json)
        return
    with reporting_errors():
        from search.cli.context import known_context
        from search.space.advice import advise, unknown_to
        from search.space.grammar import CONTEXT
        from search.space.loading import load_space
        from search.space.narrowing import narrow
        from search.space.parameter import shown

        loaded = narrow(load_space(space), assignments=assign or ())
        context = known_context(loaded, tuple(data or ()), reading=_reading(token_dtype, text_key, skip_bad))
        found, unknown = advise(loaded, context), unknown_to(loaded, context)
        known = {name: context[name] for name in CONTEXT if name in context}
        if as_json:
            print_json({"context": known, "unknown": unknown, "advice": [dataclasses.asdict(entry) for entry in found]})
            return
        console = make_console()
        facts = [f"{name} {value:{',' if isinstance(value, int) else '.3g'}}" for name, value in known.items()]
        console.print(", ".join(facts), style="dim")
        for entry in found:
            suggested = [
                f"{name} is {shown(value)} already" if context.get(name) == value else f"--set {name}={shown(value)}"
                for name, value in entry.suggest.items()
            ]
            suggested += [f"preset {entry.preset}"] if entry.preset else []
            console.print(f"- {entry.say}" + (f"  [{', '.join(suggested)}]" if suggested else ""))
            console.print(f"    where {entry.when}" + (f"; {entry.source}" if entry.source else ""), style="dim")
        if not found:
            console.print(
                f"{'the guide' if loaded.has_guide else 'the space'} has no advice for this text and this machine"
            )
        if unknown:
            console.print(f"not evaluated, for want of {', '.join(unknown)}", style="dim")


def _plan(
    space: Path,
    data: list[Path] | None,
    reading: dict[str, Any],
    assign: list[str] | None,
    time: str,
    budget: str | None,
    *,
    as_json: bool,
) -> None:
    """Print a search that fits a time, and the command that starts it."""
    from search.driver.launch import RunOptions, plan_search
    from search.driver.planning import seconds_of

    seconds = seconds_of(time)
    console = make_console(to_stderr=as_json)
    options = RunOptions(
        space=space,
        budget=budget,
        assignments=tuple(assign or ()),
        data=tuple(data or ()),
        **reading,
    )
    found = plan_search(options, seconds, console)
    words = ["tinysearch", "run", str(space)]
    words += [word for path in data or () for word in ("--data", str(path))]
    words += _reading_words(reading)
    words += [word for assignment in assign or () for word in ("--set", assignment)]
    if as_json:
        print_json({**found.document(), "command": [*words, *found.options()] if found.proposal else None})
        return
    for line in found.lines(shlex.join(words)):
        console.print(line, soft_wrap=line.startswith(" "))


for command in (
    *(studies.status, studies.trials, studies.best, studies.confirm, studies.clean, studies.dashboard),
    *(submitting.submit, submitting.jobs, submitting.logs, submitting.stop),
):
    app.command()(command)


@app.command()
def train(
    preset: Annotated[
        str, typer.Option("--preset", metavar="SPACE/PRESET", help="Such as hybrid/tiny, or my/space.yaml/base.")
    ],
    budget: Budget = None,
    assign: Assignments = None,
    data: DataAsForRun = None,
    token_dtype: TokenWidth = TokenDtype.uint16,
    text_key: TextKey = "text",
    skip_bad: SkipBad = False,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    checkpoint: Annotated[Path | None, typer.Option("--checkpoint", help="Save here, and go on from here.")] = None,
    as_json: Json = False,
) -> None:
    """Train one preset of a space alone."""
    with reporting_errors():
        from search.cli.preset import preset_config
        from trainer.__main__ import run_alone

        config = preset_config(
            preset,
            budget_name=budget,
            assignments=tuple(assign or ()),
            data=tuple(data or ()),
            reading=_reading(token_dtype, text_key, skip_bad),
            seed=seed,
        )
        code = run_alone(config, checkpoint=checkpoint, as_json=as_json)
    if code:
        raise typer.Exit(code)


@app.command(hidden=True)
def schema() -> None:
    """Print the JSON schema of space files, as it stands in spaces/schema.json."""
    from search.space.grammar import json_schema

    print_json(json_schema())


def main() -> None:
    """The entry point of the `tinysearch` command."""
    collect_seldom()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a letter is told which
            stream.reconfigure(errors="backslashreplace")
    app()

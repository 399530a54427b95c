"""The command line, such as `tinysearch run spaces/hybrid.yaml`: only parsing, printing and exit codes.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import dataclasses
import io
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from search.cli import studies, submitting
from search.cli.command import make_console, print_json, print_trials, reporting_errors, study_folder
from search.cli.garbage import collect_seldom
from search.cli.options import Columns, Json, SpaceFile, StudyName, Time, takes
from search.cli.words import Commands
from search.driver.options import OPTIONS, RESUMABLE, RunOptions
from search.worker.hangup import outliving_the_terminal

app = typer.Typer(
    help="Find the right configuration of a small language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    cls=Commands,
    rich_markup_mode=None,  # square brackets in user input would be read as markup
)


def _say_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        print(f"tinysearch {version('tinysearch')}")
        raise typer.Exit


@app.callback()
def tinysearch(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_say_version)
    ] = False,
) -> None:
    """Find the right configuration of a small language model."""


@app.command()
@takes(*OPTIONS)
def run(space: SpaceFile, options: RunOptions, columns: Columns = None) -> None:
    """Search a space. The same command resumes an interrupted search."""
    with outliving_the_terminal(), reporting_errors():
        code = _search(dataclasses.replace(options, space=space), columns)
    if code:
        raise typer.Exit(code)


@app.command()
@takes(*RESUMABLE)
def resume(options: RunOptions, study: StudyName = None, columns: Columns = None) -> None:
    """Resume or extend a study by its name."""
    with outliving_the_terminal(), reporting_errors():
        from search.report.overview import Overview
        from search.report.tables import check_columns, columns_asked

        folder = study_folder(options.runs, options.storage, study)
        if asked := columns_asked(columns):  # before the search, not after it
            overview = Overview.stored(folder.load(), is_run=False)
            check_columns(asked, (metric.name for metric in overview.metrics), overview.parameters)
        code = _search(dataclasses.replace(options, name=folder.name), columns)
    if code:
        raise typer.Exit(code)


def _search(options: RunOptions, columns: str | None) -> int:
    """Run a search, print its results, and return the exit code."""
    from search.driver.launch import run_search
    from search.report.sentences import summary
    from search.report.tables import TrialsTable, check_columns, columns_asked
    from search.space.loading import load_space
    from search.storage.address import shown_url

    console, asked = make_console(), columns_asked(columns)
    if asked and options.space is not None:  # before the search, not after it
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
        console.print("interrupted; run the same command to resume")
        return 130
    if not overview.is_complete:
        console.print(f"the time is up; tinysearch resume {overview.name}{where} continues the trials that wait")
    if overview.best is not None:
        front = " --pareto" if len(overview.metrics) > 1 else ""
        console.print(
            f"the configuration: tinysearch best {overview.name}{where}{front}; "
            f"in a browser: tinysearch dashboard {overview.name}{where}",
            style="dim",
        )
    return 0


@app.command()
@takes("budget", "goals", "assignments", "limits", "metrics", "sampler", "stopping")
def validate(space: SpaceFile, options: RunOptions, as_json: Json = False) -> None:
    """Check a space: its keys, rules and presets, and how much of it is feasible."""
    with reporting_errors():
        from search.cli.validation import Validation

        found = Validation.of(dataclasses.replace(options, space=space))
        if as_json:
            print_json(found.to_dict())
            return
        console = make_console()
        for line in found.lines():
            console.print(line)
        for warning in found.warnings:
            console.print(f"warning: {warning}", style="yellow")


@app.command()
@takes("data", "token_dtype", "text_key", "skip_bad", "assignments", "budget")
def advise(space: SpaceFile, options: RunOptions, time: Time = None, as_json: Json = False) -> None:
    """Show the guide's advice for your text and machine; with --time, plan a search."""
    with reporting_errors():
        options = dataclasses.replace(options, space=space)
        if time is None:
            _advise(options, as_json=as_json)
        else:
            _plan(options, time, as_json=as_json)


def _advise(options: RunOptions, *, as_json: bool) -> None:
    """Print the guide's advice that applies."""
    from search.cli.context import known_context
    from search.space.advice import advise, unknown_to
    from search.space.loading import load_space
    from search.space.narrowing import narrow
    from search.space.parameter import shown
    from search.space.spec import CONTEXT

    assert options.space is not None
    loaded = narrow(load_space(options.space), assignments=options.assignments)
    context = known_context(loaded, options.data, reading=options.reading)
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
        console.print(f"    if {entry.when}" + (f"; {entry.source}" if entry.source else ""), style="dim")
    if not found:
        console.print(
            f"{'the guide' if loaded.has_guide else 'the space'} has no advice for this text and this machine"
        )
    if unknown:
        console.print(f"not evaluated, because unknown: {', '.join(unknown)}", style="dim")


def _plan(options: RunOptions, time: str, *, as_json: bool) -> None:
    """Print a search that fits the time, and the command that starts it."""
    from search.driver.planning import plan_search, seconds_of

    console = make_console(to_stderr=as_json)
    found = plan_search(options, seconds_of(time), console)
    asked = dataclasses.replace(options, budget=None)  # the plan chooses one
    words = ["tinysearch", "run", str(options.space)]
    words += [word for given in asked.words() for word in given if word is not None]
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
@takes("budget", "assignments", "data", "token_dtype", "text_key", "skip_bad", "seed")
def train(
    preset: Annotated[
        str,
        typer.Option("--preset", metavar="SPACE/PRESET", help="A preset, such as hybrid/tiny or my/space.yaml/base."),
    ],
    options: RunOptions,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Save to this file, and resume from it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train one preset of a space, without a search."""
    with reporting_errors():
        from search.cli.preset import preset_config
        from trainer.__main__ import run_alone

        code = run_alone(preset_config(preset, options), checkpoint=checkpoint, as_json=as_json)
    if code:
        raise typer.Exit(code)


@app.command(hidden=True)
def schema() -> None:
    """Print the JSON schema of space files (stored in spaces/schema.json)."""
    from search.space.schema import json_schema

    print_json(json_schema())


def main() -> None:
    """The entry point of the `tinysearch` command."""
    collect_seldom()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a character gets an escape
            stream.reconfigure(errors="backslashreplace")
    app()

"""The command line: `tinysearch run spaces/hybrid.yaml`. Only parsing, printing and exit codes; the work is elsewhere.

Exit codes: 0 done, 1 failed, 2 used wrongly, 130 interrupted. Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search import studies, submitting
from search.command import make_console, print_json, reporting_errors, study_folder
from search.garbage import collect_seldom
from search.options import (
    Address,
    Assignments,
    Budget,
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
    SpaceFile,
    Storage,
    StudyName,
    TokenDtype,
    TokenWidth,
    Trials,
    TrialsPerGpu,
    Until,
    takes_search_options,
    words_of,
)

if TYPE_CHECKING:
    from search.launch import RunOptions

app = typer.Typer(
    help="Find the right configuration of a small language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
@takes_search_options
def run(space: SpaceFile, options: RunOptions, address: Address = None) -> None:
    """Search a space. Running again under the same name continues."""
    with reporting_errors():
        code = _search(dataclasses.replace(options, space=space, address=address))
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
) -> None:
    """Go on with a study, interrupted or to be extended, by its name alone."""
    with reporting_errors():
        from search.launch import RunOptions

        options = RunOptions(
            space=None,
            name=study_folder(runs, storage, study).name,
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
        code = _search(options)
    if code:
        raise typer.Exit(code)


def _search(options: RunOptions) -> int:
    """Run a search and print what came of it; returns the exit code."""
    from search.database import shown_url
    from search.launch import run_search, summary
    from search.report import trials_table

    console = make_console()
    overview, was_interrupted = run_search(options, console)
    console.print(trials_table(overview, overview.ranked()[:10], width=console.width))
    for line in summary(overview):
        console.print(line)
    where = "" if options.runs == Path("runs") else f" --runs {options.runs}"
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
            highlight=False,
        )
    return 0


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
        from search.launch import RunOptions
        from search.validation import Validation

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
            console.print(line, markup=False, highlight=False)
        for warning in found.warnings:
            console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False)


@app.command()
def advise(
    space: SpaceFile,
    data: DataAsForRun = None,
    token_dtype: TokenWidth = TokenDtype.uint16,
    assign: Assignments = None,
    as_json: Json = False,
) -> None:
    """What the guide recommends for this text and this machine."""
    with reporting_errors():
        from search.advise import advise, unknown_to
        from search.context import known_context
        from search.grammar import CONTEXT
        from search.loading import load_space
        from search.narrowing import narrow
        from search.parameter import shown

        loaded = narrow(load_space(space), assignments=assign or ())
        context = known_context(loaded, tuple(data or ()), token_dtype=token_dtype.value)
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
            console.print(f"- {entry.say}" + (f"  [{', '.join(suggested)}]" if suggested else ""), markup=False)
            console.print(f"    where {entry.when}" + (f"; {entry.source}" if entry.source else ""), style="dim")
        if not found:
            console.print("the guide has no advice for this text and this machine")
        if unknown:
            console.print(f"not evaluated, for want of {', '.join(unknown)}", style="dim")


for command in (
    *(studies.status, studies.trials, studies.best, studies.confirm, studies.clean, studies.dashboard),
    *(submitting.submit, submitting.jobs, submitting.logs, submitting.stop),
):
    app.command()(command)


@app.command()
def train(
    preset: Annotated[str, typer.Option("--preset", metavar="SPACE/PRESET", help="Such as hybrid/tiny.")],
    budget: Budget = None,
    assign: Assignments = None,
    data: DataAsForRun = None,
    token_dtype: TokenWidth = TokenDtype.uint16,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    checkpoint: Annotated[Path | None, typer.Option("--checkpoint", help="Save here, and go on from here.")] = None,
    as_json: Json = False,
) -> None:
    """Train one preset of a guide alone."""
    with reporting_errors():
        from search.preset import preset_config
        from trainer.__main__ import run_alone

        config = preset_config(
            preset,
            budget_name=budget,
            assignments=tuple(assign or ()),
            data=tuple(data or ()),
            token_dtype=token_dtype.value,
            seed=seed,
        )
        code = run_alone(config, checkpoint=checkpoint, as_json=as_json)
    if code:
        raise typer.Exit(code)


@app.command(hidden=True)
def schema() -> None:
    """Print the JSON schema of space files, as it stands in spaces/schema.json."""
    from search.grammar import json_schema

    print_json(json_schema())


def main() -> None:
    """The entry point of the `tinysearch` command."""
    collect_seldom()
    app()


if __name__ == "__main__":
    main()

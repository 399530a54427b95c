"""The command line: `tinysearch run spaces/hybrid.yaml`. Only parsing, printing and exit codes; the work is elsewhere.

Exit codes: 0 done, 1 failed, 2 used wrongly, 130 interrupted. Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from search.storage import StudyFolder

app = typer.Typer(
    help="Find the right configuration of a small language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

SpaceFile = Annotated[Path, typer.Argument(metavar="SPACE", help="The space: a YAML file such as spaces/hybrid.yaml.")]
StudyName = Annotated[str | None, typer.Argument(metavar="[STUDY]", help="A study's name; the latest one if left out.")]
Runs = Annotated[Path, typer.Option("--runs", help="The folder that holds the studies.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, for scripts.")]
Goals = Annotated[
    list[str] | None, typer.Option("--goal", help="Narrow the space by a goal of the guide; may be repeated.")
]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Fix a parameter; may be repeated.")
]
Budget = Annotated[str | None, typer.Option("--budget", help="A budget that the space names, such as quick.")]


class TokenDtype(StrEnum):
    """How wide the tokens of a .bin file are."""

    uint16 = "uint16"
    uint32 = "uint32"


class BestFormat(StrEnum):
    """How `best` prints a configuration."""

    yaml = "yaml"
    json = "json"
    train = "train"


@app.command()
def run(
    space: SpaceFile,
    more_data: Annotated[list[Path] | None, typer.Argument(hidden=True)] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="The study's name; the space's and budget's if left out.")
    ] = None,
    runs: Runs = Path("runs"),
    budget: Budget = None,
    trials: Annotated[str | None, typer.Option("--trials", metavar="N|+N", help="Trials in total, or N more.")] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            "--data",
            help="Text files, folders, .jsonl or token .bin files; the standard library's sources if left out.",
        ),
    ] = None,
    token_dtype: Annotated[TokenDtype, typer.Option("--token-dtype", help="Of .bin files.")] = TokenDtype.uint16,
    goal: Goals = None,
    assign: Assignments = None,
    metrics: Annotated[
        str | None,
        typer.Option("--metrics", metavar="NAME,...", help="What to optimise, in place of the space's metric."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of proposals and training.", min=0)] = 0,
    gpus_per_trial: Annotated[
        float | None, typer.Option("--gpus-per-trial", help="Fractions are allowed; 1 where there are GPUs.")
    ] = None,
    parallel: Annotated[int | None, typer.Option("--parallel", help="Trials at a time, at most.")] = None,
    address: Annotated[
        str | None, typer.Option("--address", help="A Ray cluster that is running; one is started here if left out.")
    ] = None,
) -> None:
    """Search a space. Running again under the same name continues."""
    with _reporting_errors():
        from search.launch import RunOptions, run_search, summary

        if more_data and not data:
            raise ValueError(f"unexpected {str(more_data[0])!r}; one space is searched at a time, text follows --data")
        console = _console()
        overview = run_search(
            RunOptions(
                space=space,
                name=name,
                runs=runs,
                budget=budget,
                trials=trials,
                seed=seed,
                goals=tuple(goal or ()),
                assignments=tuple(assign or ()),
                metrics=tuple(name.strip() for name in metrics.split(",")) if metrics is not None else (),
                data=(*(data or ()), *(more_data or ())),  # --data a b c, as well as --data a --data b
                token_dtype=token_dtype.value,
                gpus_per_trial=gpus_per_trial,
                parallel=parallel,
                address=address,
            ),
            console,
        )
        from search.report import trials_table

        ranked = overview.ranked()
        console.print(trials_table(overview, ranked[:10], width=console.width))
        for line in summary(overview):
            console.print(line)
        if overview.is_complete and overview.best is not None:
            where = "" if runs == Path("runs") else f" --runs {runs}"
            front = " --pareto" if len(overview.metrics) > 1 else ""
            console.print(
                f"the configuration: tinysearch best {overview.name}{where}{front}; "
                f"in a browser: tinysearch dashboard {overview.name}{where}",
                style="dim",
                highlight=False,
            )
    if not overview.is_complete:
        raise typer.Exit(130)


@app.command()
def validate(
    space: SpaceFile, budget: Budget = None, goal: Goals = None, assign: Assignments = None, as_json: Json = False
) -> None:
    """Check a space: its keys, ranges, rules and presets, and how much of it may be launched."""
    with _reporting_errors():
        from search.launch import RunOptions, fixed_line, prepare_space
        from search.space import rungs_of

        options = RunOptions(space=space, budget=budget, goals=tuple(goal or ()), assignments=tuple(assign or ()))
        checked, chosen, assessment = prepare_space(options)
        if as_json:
            _print_json(
                {
                    "space": str(space),
                    "family": checked.family,
                    "searched": list(checked.searched),
                    "rules": len(checked.rules),
                    "presets": list(checked.presets),
                    "goals": list(checked.spec.goals),
                    "rungs": list(rungs_of(chosen)),
                    "set": chosen.set,
                    "feasible_share": assessment.share,
                    "sampled": assessment.num_sampled,
                    "rejected": assessment.reasons,
                    "warning": assessment.warning or None,
                }
            )
            return
        console = _console()
        console.print(
            f"{space} is valid: family {checked.family}, {len(checked.searched)} parameters searched, "
            f"{len(checked.rules)} rules,",
            highlight=False,
        )
        console.print(
            f"  presets {', '.join(checked.presets) or 'none'}; goals {', '.join(checked.spec.goals) or 'none'}",
            highlight=False,
        )
        console.print(f"  rungs at {', '.join(f'{r:,}' for r in rungs_of(chosen))} tokens")
        if chosen.set:
            console.print(f"  {fixed_line(chosen)}", highlight=False)
        console.print(
            f"{assessment.share:.1%} of {assessment.num_sampled:,} configurations drawn at random may be launched",
            highlight=False,
        )
        for reason, count in assessment.reasons.items():
            line = f"  rejected {count / assessment.num_sampled:6.1%}  {reason}"
            console.print(line, markup=False, highlight=False)
        if assessment.warning:
            console.print(f"warning: {assessment.warning}", style="yellow", markup=False, highlight=False)


@app.command()
def advise(
    space: SpaceFile,
    data: Annotated[list[Path] | None, typer.Option("--data", help="As for run; may be repeated.")] = None,
    token_dtype: Annotated[TokenDtype, typer.Option("--token-dtype", help="Of .bin files.")] = TokenDtype.uint16,
    assign: Assignments = None,
    as_json: Json = False,
) -> None:
    """What the guide recommends for this text and this machine."""
    with _reporting_errors():
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
            _print_json(
                {"context": known, "unknown": unknown, "advice": [dataclasses.asdict(entry) for entry in found]}
            )
            return
        console = _console()
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


@app.command()
def status(
    study: StudyName = None,
    runs: Runs = Path("runs"),
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again every two seconds until the study ends or Ctrl-C.")
    ] = False,
    as_json: Json = False,
) -> None:
    """How far a study is, its best trial, and the guide's own configuration beside it."""
    with _reporting_errors():
        from rich.console import Group
        from rich.live import Live
        from rich.text import Text

        from search.report import Overview, comparison_line, counts_line, trials_table

        folder = _folder(runs, study)
        stored = folder.load()
        if as_json:
            driver = folder.driver()
            overview = Overview.stored(stored, is_run=driver is not None)
            _print_json({**overview.to_dict(), "driver": driver})
            return
        console = _console()

        def render() -> tuple[Any, bool]:
            driver = folder.driver()
            overview = Overview.stored(stored, is_run=driver is not None)
            run_by = (
                f"run by {driver}"
                if driver
                else ("complete" if overview.is_complete else "not running; `tinysearch run` continues it")
            )
            lines = [
                f"{overview.name}: {run_by}",
                counts_line(overview.counts, overview.num_trials),
                comparison_line(overview),
            ]
            return Group(*map(Text, lines), trials_table(overview, overview.ranked()[:10], width=0)), driver is not None

        view, is_running = render()
        if not watch:
            console.print(view)
            return
        with Live(view, console=console, auto_refresh=False) as live, contextlib.suppress(KeyboardInterrupt):
            while is_running:
                time.sleep(2)
                view, is_running = render()
                live.update(view, refresh=True)


@app.command()
def trials(study: StudyName = None, runs: Runs = Path("runs"), as_json: Json = False) -> None:
    """Every trial of a study: state, measurements, parameters."""
    with _reporting_errors():
        from search.report import Overview, trial_dict, trials_table

        folder = _folder(runs, study)
        overview = Overview.stored(folder.load(), is_run=folder.driver() is not None)
        if as_json:
            _print_json([trial_dict(record) for record in overview.records])
            return
        console = _console()
        console.print(trials_table(overview, overview.ranked(), title=overview.name, width=console.width))
        for record in overview.records:
            if record.reason and record.outcome not in ("stopped", "finished"):
                console.print(f"trial {record.number} {record.outcome}: {record.reason}", markup=False)


@app.command()
def best(
    study: StudyName = None,
    runs: Runs = Path("runs"),
    form: Annotated[
        BestFormat, typer.Option("--format", help="train prints only what `python -m trainer` takes.")
    ] = BestFormat.yaml,
    pareto: Annotated[
        bool, typer.Option("--pareto", help="All that no other beats in every metric, instead of the first metric's.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """The best configuration among the trials that finished their whole budget."""
    with _reporting_errors():
        import yaml

        from search.launch import best_document, front_documents
        from search.storage import StudyError

        stored = _folder(runs, study).load()
        document = best_document(stored)
        if document is None:
            raise StudyError("no trial has finished its budget yet; see `tinysearch status`")
        if pareto:
            from search.report import Overview, trials_table

            if form is BestFormat.train:
                raise ValueError("--pareto --format train: several configurations; --json has `train` of each")
            if as_json or form is BestFormat.json:
                _print_json(front_documents(stored))
                return
            console, overview = _console(), Overview.stored(stored, is_run=False)
            console.print(trials_table(overview, overview.front, width=console.width))
        elif form is BestFormat.train:
            _print_json(document["train"])
        elif as_json or form is BestFormat.json:
            _print_json(document)
        else:
            document.pop("train")
            print(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120), end="")


@app.command()
def dashboard(
    study: StudyName = None,
    runs: Runs = Path("runs"),
    host: Annotated[
        str, typer.Option("--host", help="Who may reach it: this machine only unless told otherwise.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535)] = 8080,
) -> None:
    """Show a study in the Optuna dashboard until Ctrl-C."""
    with _reporting_errors():
        from search.dashboard import serve

        folder = _folder(runs, study)
        folder.load()
        serve(
            folder.open_storage(),
            host=host,
            port=port,
            announce=lambda url: print(f"{folder.name}: {url}  (Ctrl-C ends it)", flush=True),
        )


@app.command()
def train(
    preset: Annotated[str, typer.Option("--preset", metavar="SPACE/PRESET", help="Such as hybrid/tiny.")],
    budget: Budget = None,
    assign: Assignments = None,
    data: Annotated[list[Path] | None, typer.Option("--data", help="As for run; may be repeated.")] = None,
    token_dtype: Annotated[TokenDtype, typer.Option("--token-dtype", help="Of .bin files.")] = TokenDtype.uint16,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    checkpoint: Annotated[Path | None, typer.Option("--checkpoint", help="Save here, and go on from here.")] = None,
    as_json: Json = False,
) -> None:
    """Train one preset of a guide alone."""
    with _reporting_errors():
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

    _print_json(json_schema())


def main() -> None:
    """The entry point of the `tinysearch` command."""
    app()


def _folder(runs: Path, study: str | None) -> StudyFolder:
    from search.storage import StudyFolder, latest_study

    return StudyFolder(runs.absolute(), study or latest_study(runs))


def _console() -> Console:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 250  # a pipe has no width; wrapping there would break lines that scripts read
    return console


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=2, allow_nan=False))


@contextlib.contextmanager
def _reporting_errors() -> Iterator[None]:
    """What the user can mend is one message on stderr and exit code 2; a study that failed is 1."""
    try:
        yield
    except ValueError as error:  # SpaceError, StudyError, CorpusError and ConfigError are all ValueErrors
        if not type(error).__module__.startswith(("search.", "trainer.")) and type(error) is not ValueError:
            raise
        _complain(str(error), 2)
    except RuntimeError as error:
        if not type(error).__module__.startswith("search."):
            raise
        _complain(str(error), 1)
    except KeyboardInterrupt:
        _complain("interrupted", 130)


def _complain(message: str, code: int) -> None:
    print(message, file=sys.stderr)
    raise typer.Exit(code)


if __name__ == "__main__":
    main()

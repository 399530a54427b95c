"""The commands about an existing study: `status`, `trials`, `best`, `confirm`, `clean`, `dashboard`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from search.cli.command import complain, make_console, print_json, print_trials, reporting_errors, study_folder
from search.cli.options import Columns, Json, Runs, Storage, StudyName
from search.worker.hangup import interrupting, outliving_the_terminal
from trainer.checks import counted, printable


class BestFormat(StrEnum):
    """The output formats of `best`."""

    yaml = "yaml"
    json = "json"
    train = "train"


def status(
    study: StudyName = None,
    runs: Runs = Path("runs"),
    storage: Storage = None,
    columns: Columns = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Refresh every two seconds until the study ends or Ctrl-C.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the progress of a study, its best trial, and the reference."""
    with reporting_errors():
        from rich.console import Group
        from rich.live import Live
        from rich.text import Text

        from search.driver.disk import disk_line
        from search.report.overview import Overview
        from search.report.sentences import comparison_line, counts_line, side_lines
        from search.report.tables import TrialsTable, columns_asked

        folder = study_folder(runs, storage, study)
        stored = folder.load()
        if as_json:
            driver = folder.driver()
            overview = Overview.stored(stored, is_run=driver is not None)
            print_json({**overview.to_dict(), "driver": driver})
            return
        console = make_console()

        def render() -> tuple[list[str], TrialsTable, bool]:
            driver = folder.driver()
            overview = Overview.stored(stored, is_run=driver is not None)
            run_by = (
                f"run by {driver}"
                if driver
                else ("complete" if overview.is_complete else "not running; `tinysearch resume` resumes it")
            )
            lines = [
                f"{overview.name}: {run_by}",
                counts_line(overview.counts, overview.num_trials),
                comparison_line(overview),
                *side_lines(overview),
                *disk_line(folder, stored).splitlines(),
            ]
            table = TrialsTable(overview, overview.ranked()[:10], width=console.width, asked=columns_asked(columns))
            return lines, table, driver is not None

        def view(lines: list[str], table: TrialsTable) -> Group:
            return Group(*map(Text, lines), table.rich(), *(Text(note, style="dim") for note in table.notes))

        lines, table, is_running = render()
        if not watch:
            for line in lines:
                console.print(line)
            print_trials(console, table)
            return
        with (
            Live(view(lines, table), console=console, auto_refresh=False) as live,
            contextlib.suppress(KeyboardInterrupt),
        ):
            while is_running:
                time.sleep(2)
                lines, table, is_running = render()
                live.update(view(lines, table), refresh=True)


def trials(
    study: StudyName = None,
    runs: Runs = Path("runs"),
    storage: Storage = None,
    columns: Columns = None,
    as_json: Json = False,
) -> None:
    """List all trials of a study: state, measurements, parameters."""
    with reporting_errors():
        from search.report.overview import Overview, trial_dict
        from search.report.tables import TrialsTable, columns_asked

        folder = study_folder(runs, storage, study)
        overview = Overview.stored(folder.load(), is_run=folder.driver() is not None)
        if as_json:
            print_json([trial_dict(record) for record in overview.records])
            return
        console = make_console()
        table = TrialsTable(overview, overview.ranked(), width=console.width, asked=columns_asked(columns))
        print_trials(console, table, overview.name)
        for record in overview.records:
            if record.reason and record.outcome not in ("stopped", "paused", "finished"):
                console.print(f"trial {record.number} {record.outcome}: {record.reason}")
            for fault in record.faults:
                console.print(f"trial {record.number}: {fault}")
        for fault in overview.faults:
            console.print(f"the study: {fault}")


def best(
    study: StudyName = None,
    runs: Runs = Path("runs"),
    storage: Storage = None,
    columns: Columns = None,
    form: Annotated[
        BestFormat, typer.Option("--format", help="`train` prints the input of `python -m trainer`.")
    ] = BestFormat.yaml,
    max_tokens: Annotated[
        str | None,
        typer.Option(
            "--max-tokens", metavar="N", help="With --format train or json: train for N tokens. Default: the last rung."
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option("--tokenizer", metavar="FILE", help="Also write its tokenizer to this file (tokenizer.json)."),
    ] = None,
    pareto: Annotated[
        bool, typer.Option("--pareto", help="With several metrics: print the whole Pareto front.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Print the best fully trained configuration."""
    with reporting_errors():
        import yaml

        from search.driver.amounts import number_of_tokens
        from search.report.winner import best_document, front_documents, write_tokenizer
        from search.storage.folder import StudyError

        tokens = number_of_tokens(max_tokens)
        if tokens is not None and (pareto or form is BestFormat.yaml and not as_json):
            raise ValueError("--max-tokens is of what the trainer takes: give --format train")
        stored = study_folder(runs, storage, study).load()
        document = best_document(stored, max_tokens=tokens)
        if document is None:
            raise StudyError("no trial has finished its budget yet; see `tinysearch status`")
        if tokenizer is not None:
            make_console(to_stderr=True).print(write_tokenizer(stored, tokenizer))
        if pareto:
            from search.report.overview import Overview
            from search.report.tables import TrialsTable, columns_asked

            if form is BestFormat.train:
                raise ValueError("--pareto --format train: several configurations; --json has `train` of each")
            if as_json or form is BestFormat.json:
                print_json(front_documents(stored))
                return
            console, overview = make_console(), Overview.stored(stored, is_run=False)
            table = TrialsTable(overview, overview.front, width=console.width, asked=columns_asked(columns))
            print_trials(console, table)
        elif form is BestFormat.train:
            print_json(document["train"])
        elif as_json or form is BestFormat.json:
            print_json(document)
        else:
            document.pop("train")
            print(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120), end="")


def confirm(
    study: StudyName = None,
    runs: Runs = Path("runs"),
    storage: Storage = None,
    columns: Columns = None,
    top: Annotated[
        int, typer.Option("--top", help="How many of the best finished trials to train again.", min=1, max=1000)
    ] = 5,
    seeds: Annotated[int, typer.Option("--seeds", help="How many new seeds.", min=1, max=1000)] = 3,
    as_json: Json = False,
) -> None:
    """Train the best trials again with new seeds, and show which differences are noise.

    The reference (the first preset) is trained too. Runs are sequential. The same command resumes and repeats no run.
    """
    with reporting_errors():
        from search.confirm.confirmation import closing_lines, confirmation_table
        from search.confirm.training import confirm_study
        from search.report.overview import Overview
        from search.report.tables import ALL, check_columns, columns_asked

        console = make_console(to_stderr=as_json)
        folder = study_folder(runs, storage, study)
        asked: Sequence[str] = columns_asked(columns) or ()
        if asked:  # before the training, not after it
            overview = Overview.stored(folder.load(), is_run=False)
            check_columns(asked, (metric.name for metric in overview.metrics), overview.parameters)
            asked = overview.searched if ALL in asked else [name for name in asked if name in overview.parameters]
        with outliving_the_terminal(), interrupting():
            confirmation = confirm_study(folder, top=top, num_seeds=seeds, console=console)
        if as_json:
            print_json(confirmation.to_dict())
        else:
            table = confirmation_table(confirmation, asked)
            if asked:
                console.print_whole(table)
            else:
                console.print(table, soft_wrap=False)  # its longest cells are wrapped
            for line in closing_lines(confirmation):
                console.print(line)
    if not confirmation.is_complete:
        if as_json:
            complain("interrupted; run the same command to resume", 130)
        raise typer.Exit(130)
    if confirmation.failures:
        raise typer.Exit(1)


def clean(
    study: StudyName = None,
    runs: Runs = Path("runs"),
    storage: Storage = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also those of finished trials, except the best and the front.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be deleted.")] = False,
    as_json: Json = False,
) -> None:
    """Delete the checkpoints that are not needed any more."""
    with reporting_errors():
        from search.driver.disk import clean_study, disk_line
        from search.report.texts import bytes_text

        folder = study_folder(runs, storage, study)
        found = clean_study(folder, with_finished=everything, is_dry_run=dry_run)
        total = sum(file.num_bytes for file in found)
        if as_json:
            files = [{"file": file.path, "bytes": file.num_bytes, "why": file.why} for file in found]
            print_json({"study": folder.name, "deleted": not dry_run, "bytes": total, "files": files})
            return
        console = make_console()
        for file in found:
            console.print(f"{file.name}  {bytes_text(file.num_bytes)}  {file.why}")
        freed = "would be freed" if dry_run else "freed"
        console.print(f"{folder.name}: {counted(len(found), 'file')}, {bytes_text(total)} {freed}")
        for kept in disk_line(folder, folder.load()).splitlines():
            console.print(f"{'now' if dry_run else 'left'}: {kept}", style="dim")


def dashboard(
    study: StudyName = None,
    runs: Runs = Path("runs"),
    storage: Storage = None,
    host: Annotated[
        str, typer.Option("--host", help="The address to listen on. Default: this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535)] = 8080,
) -> None:
    """Show a study in the Optuna dashboard until Ctrl-C."""
    with reporting_errors():
        from search.report.dashboard import serve

        folder = study_folder(runs, storage, study)
        folder.load()
        serve(
            folder.open_storage(),
            host=host,
            port=port,
            announce=lambda url: print(printable(f"{folder.name}: {url}  (Ctrl-C ends it)"), flush=True),
        )

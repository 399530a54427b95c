"""The commands about jobs on a cluster: `submit`, `jobs`, `logs`, `stop`."""

from __future__ import annotations

import dataclasses
import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from search.cli.command import make_console, print_json, reporting_errors
from search.cli.options import (
    Json,
    Runs,
    SpaceFile,
    takes,
    takes_settings,
)
from search.driver.options import OPTIONS, RunOptions
from search.jobs.programs import ClusterError, show
from search.jobs.target import Submission
from search.jobs.targets import SETTINGS, TARGETS

Cluster = StrEnum("Cluster", {name: name for name in TARGETS})  # type: ignore[misc]  # made from the registry


def _kinds() -> str:
    """The kinds of clusters that take jobs, as one phrase."""
    *first, last = (target.title for target in TARGETS.values())
    phrase = f"{', '.join(first)}, or {last}"
    return phrase[0].upper() + phrase[1:]


OfStudy = Annotated[str | None, typer.Argument(metavar="[STUDY]", help="The name of a study. Default: all studies.")]
JobId = Annotated[
    str | None, typer.Option("--job", metavar="ID", help="A job as listed by `jobs`. Default: the latest one.")
]


@takes(*(name for name in OPTIONS if name not in SETTINGS))
@takes_settings(SETTINGS)
def submit(
    space: SpaceFile,
    to: Annotated[Cluster, typer.Option("--to", help=f"{_kinds()}.")],
    options: RunOptions,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the script, manifest or command; do not submit.")
    ] = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Run a search as a job on a cluster. The next job with the same study name resumes it."""
    with reporting_errors():
        from search.jobs.submission import prepare_job, submit_job

        target = TARGETS[to]
        options = dataclasses.replace(options, space=space)
        job = prepare_job(options, target, settings)
        if dry_run:
            print(target.text(job), end="")
            return
        submission = submit_job(job, target, runs=options.runs, storage=options.storage)
        where = "" if options.runs == Path("runs") else f" --runs {shlex.quote(str(options.runs))}"
        console = make_console()
        console.print(f"{job.study}: job {submission.id} submitted to {target.name}")
        console.print(f"tinysearch logs {job.study}{where} --follow; tinysearch stop {job.study}{where}")


def jobs(study: OfStudy = None, runs: Runs = Path("runs"), as_json: Json = False) -> None:
    """List the jobs that were submitted from here, and their state."""
    with reporting_errors():
        from rich.table import Table

        from search.jobs.submission import submissions

        def state_now(submission: Submission) -> str:
            try:
                return TARGETS[submission.to].state(submission)
            except ClusterError as error:  # one cluster that is away does not hide the others
                return f"unknown: {error}"

        found = [(submission, state_now(submission)) for submission in submissions(runs.absolute(), study)]
        if as_json:
            print_json([{**dataclasses.asdict(submission), "state": state} for submission, state in found])
            return
        console = make_console()
        if not found:
            console.print(f"no job was submitted from {runs}" + (f" for {study}" if study else ""))
            return
        table = Table("study", "to", "job", "submitted", "state", box=None, pad_edge=False, header_style="dim")
        for submission, state in found:
            table.add_row(submission.study, submission.to, submission.id, submission.submitted[:19], state)
        console.print(table)


def logs(
    study: OfStudy = None,
    runs: Runs = Path("runs"),
    job: JobId = None,
    follow: Annotated[bool, typer.Option("--follow", help="Keep printing new output until Ctrl-C.")] = False,
) -> None:
    """Print the output of a submitted job."""
    with reporting_errors():
        from search.jobs.submission import find_submission

        submission = find_submission(runs.absolute(), study, job)
        code = show(TARGETS[submission.to].log_command(submission, is_followed=follow))
    if code:
        raise typer.Exit(1)


def stop(study: OfStudy = None, runs: Runs = Path("runs"), job: JobId = None) -> None:
    """Stop a submitted job at a checkpoint. Another job of the study resumes it."""
    with reporting_errors():
        from search.jobs.submission import find_submission

        submission = find_submission(runs.absolute(), study, job)
        done = TARGETS[submission.to].stop(submission)
        make_console().print(f"{submission.study}: job {submission.id}: {done}")

"""The commands about jobs on a cluster: `submit`, `jobs`, `logs`, `stop`."""

from __future__ import annotations

import dataclasses
import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.cli.command import make_console, print_json, reporting_errors
from search.cli.options import (
    Json,
    Runs,
    SpaceFile,
    takes_search_options,
)

if TYPE_CHECKING:
    from search.driver.launch import RunOptions


class Cluster(StrEnum):
    """Where a job can be submitted."""

    ray = "ray"
    slurm = "slurm"
    k8s = "k8s"


OfStudy = Annotated[str | None, typer.Argument(metavar="[STUDY]", help="Of this study; of all if left out.")]
JobId = Annotated[str | None, typer.Option("--job", metavar="ID", help="The latest one if left out; see `jobs`.")]


@takes_search_options
def submit(
    space: SpaceFile,
    to: Annotated[Cluster, typer.Option("--to", help="A running Ray cluster, Slurm, or Kubernetes with KubeRay.")],
    options: RunOptions,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the script, manifest or command; submit nothing.")
    ] = False,
    nodes: Annotated[int | None, typer.Option("--nodes", help="Machines, or pods; 1 if left out.")] = None,
    cpus: Annotated[int | None, typer.Option("--cpus-per-node", help="Cores of each; 4 if left out.")] = None,
    gpus: Annotated[int | None, typer.Option("--gpus-per-node", help="GPUs of each.")] = None,
    memory: Annotated[
        str | None,
        typer.Option("--memory-per-node", metavar="SIZE", help="64G as for Slurm, or 64Gi as for Kubernetes."),
    ] = None,
    time: Annotated[
        str | None,
        typer.Option("--time", metavar="D-HH:MM:SS", help="The longest that it may take, as for Slurm."),
    ] = None,
    partition: Annotated[str | None, typer.Option("--partition", help="Of Slurm.")] = None,
    account: Annotated[str | None, typer.Option("--account", help="Of Slurm.")] = None,
    qos: Annotated[str | None, typer.Option("--qos", help="Of Slurm.")] = None,
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="URL", help="Of a Ray cluster's job server, such as http://head:8265."),
    ] = None,
    cluster_runs: Annotated[
        str | None,
        typer.Option("--cluster-runs", metavar="PATH", help="The folder for studies that a Ray cluster shares."),
    ] = None,
    image: Annotated[
        str | None, typer.Option("--image", help="Of Kubernetes: a container image with tinysearch and ray[default].")
    ] = None,
    namespace: Annotated[str | None, typer.Option("--namespace", help="Of Kubernetes; default if left out.")] = None,
    claim: Annotated[
        str | None, typer.Option("--claim", metavar="NAME", help="The PersistentVolumeClaim that keeps the studies.")
    ] = None,
    storage_secret: Annotated[
        str | None,
        typer.Option("--storage-secret", metavar="NAME", help="The Secret whose OPTUNA_STORAGE is the database's URL."),
    ] = None,
) -> None:
    """Run a search as a job of a cluster. The same study name goes on in the next job."""
    with reporting_errors():
        from search.jobs.submission import prepare_job, submit_job, text_of

        options = dataclasses.replace(options, space=space)
        job = prepare_job(
            options,
            to.value,
            cluster_runs=cluster_runs,
            nodes=nodes,
            cpus_per_node=cpus,
            gpus_per_node=gpus,
            memory_per_node=memory,
            time=time,
            partition=partition,
            account=account,
            qos=qos,
            address=address,
            image=image,
            namespace=namespace,
            claim=claim,
            storage_secret=storage_secret,
        )
        if dry_run:
            print(text_of(job, to.value), end="")
            return
        submission = submit_job(job, to.value, runs=options.runs, storage=options.storage)
        where = "" if options.runs == Path("runs") else f" --runs {shlex.quote(str(options.runs))}"
        console = make_console()
        console.print(f"{job.study}: job {submission.id} submitted to {to.value}")
        console.print(f"tinysearch logs {job.study}{where} --follow; tinysearch stop {job.study}{where}")


def jobs(study: OfStudy = None, runs: Runs = Path("runs"), as_json: Json = False) -> None:
    """The jobs that were submitted from here, and what their clusters say of them."""
    with reporting_errors():
        from rich.table import Table

        from search.jobs.submission import Submission, state_of, submissions
        from search.storage.folder import StudyError

        def state_now(submission: Submission) -> str:
            try:
                return state_of(submission)
            except StudyError as error:  # one cluster that is away does not hide the others
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
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what comes until Ctrl-C.")] = False,
) -> None:
    """What a submitted job has printed."""
    with reporting_errors():
        from search.jobs.submission import find_submission, show_log

        code = show_log(find_submission(runs.absolute(), study, job), is_followed=follow)
    if code:
        raise typer.Exit(1)


def stop(study: OfStudy = None, runs: Runs = Path("runs"), job: JobId = None) -> None:
    """End a submitted job; its trials stop at a checkpoint, and another job of that study goes on."""
    with reporting_errors():
        from search.jobs.submission import find_submission, stop_job

        submission = find_submission(runs.absolute(), study, job)
        make_console().print(f"{submission.study}: job {submission.id}: {stop_job(submission)}")

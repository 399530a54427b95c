"""A search as a job of a running Ray cluster: `ray job submit`, and the `ray job` commands about the job."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from search.jobs.job import CHECKOUT, DRAIN_SECONDS, Job, Locations, absolute_data
from search.jobs.programs import ClusterError, ask
from search.jobs.settings import setting
from search.jobs.target import Submission, Target

if TYPE_CHECKING:
    from search.driver.options import RunOptions
    from trainer.families.family import Source


@dataclass(frozen=True, kw_only=True)
class RayJobSettings:
    """The settings of a job on a Ray cluster's job server."""

    address: str | None = setting("Ray's job server, such as http://head:8265.", metavar="URL")
    cluster_runs: str | None = setting("Ray: the folder for studies on the cluster.", metavar="PATH")


class RayJobTarget(Target[RayJobSettings]):
    """A Ray cluster that is running. The job's driver runs on its head, in an upload of this checkout."""

    name = "ray"
    title = "a running Ray cluster"
    settings = RayJobSettings

    def locations(self, options: RunOptions, settings: RayJobSettings) -> Locations:
        runs = settings.cluster_runs
        if runs is None or not runs.startswith("/"):
            raise ValueError(
                "--to ray needs --cluster-runs PATH: the folder, on every machine of that cluster, where studies are "
                "kept"
            )
        assert options.space is not None
        return Locations(
            runs=runs,
            data=absolute_data(options.data),
            space=_space_in_checkout(options.space),
            storage=_database_to_show(options.storage),
        )

    def family_files(self, family: Source, space: Path) -> dict[str, str]:
        file = Path(family.location).resolve()
        if family.text is not None and not file.is_relative_to(CHECKOUT):
            raise ValueError(f"{file} is not in {CHECKOUT}, which is what a Ray job takes along; put it there")
        return {}

    def faults(self, job: Job[RayJobSettings]) -> list[str]:
        address = job.settings.address
        if address is not None and "@" in address:
            return ["--address: a password in it would be noted and shown; give it in RAY_JOB_HEADERS"]
        return []

    def text(self, job: Job[RayJobSettings]) -> str:
        return shlex.join(ray_job_command(job)) + "\n"

    def submit(self, job: Job[RayJobSettings], *, storage: str | None, submitted: str) -> Submission:
        if not (CHECKOUT / "pyproject.toml").exists():
            raise ClusterError(f"--to ray takes tinysearch's checkout along, but {CHECKOUT} is an installation")
        ask(ray_job_command(job), seconds=None)
        address = job.settings.address
        return Submission(study=job.study, to=self.name, id=job.name, submitted=submitted, address=address)

    def state(self, submission: Submission) -> str:
        answer = ask(["ray", "job", "status", *_at(submission.address), submission.id])
        states = re.findall(r"\b(PENDING|RUNNING|STOPPED|SUCCEEDED|FAILED)\b|(succeeded|failed|stopped)", answer)
        return "".join(states[-1]).upper() if states else "unknown"

    def log_command(self, submission: Submission, *, is_followed: bool) -> list[str]:
        follow = ["--follow"] if is_followed else []
        return ["ray", "job", "logs", *_at(submission.address), *follow, submission.id]

    def stop(self, submission: Submission) -> str:
        ask(["ray", "job", "stop", *_at(submission.address), submission.id], seconds=None)
        return "its trials stopped at their last checkpoint"


def ray_job_command(job: Job[RayJobSettings]) -> list[str]:
    """The words of `ray job submit` that start the search on a running cluster and return at once."""
    environment = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(DRAIN_SECONDS)}}
    return [
        *("ray", "job", "submit", "--no-wait"),
        *_at(job.settings.address),
        f"--submission-id={job.name}",
        f"--working-dir={job.checkout}",
        f"--runtime-env-json={json.dumps(environment)}",
        "--",
        *job.entrypoint,
    ]


def _at(address: str | None) -> list[str]:
    return [f"--address={address}"] if address else []


def _space_in_checkout(space: Path) -> str:
    """The space's path in the folder that the job runs in. Raises ValueError."""
    try:
        return str(space.resolve().relative_to(CHECKOUT))
    except ValueError:
        raise ValueError(f"{space} is not in {CHECKOUT}, which is what a Ray job takes along; put it there") from None


def _database_to_show(url: str | None) -> str | None:
    """The database, if its URL may be public. Raises ValueError if it has a password."""
    if url is None:
        return None
    from search.storage.address import Address

    if Address(url).holds_secret:
        raise ValueError(
            "--to ray: a job's command is shown to all who see the cluster, so a password cannot be given this way; "
            "set OPTUNA_STORAGE where the cluster's head is started, and leave it out here"
        )
    return url

"""Submitted jobs: prepared, handed to their cluster, noted in the study's folder, and found again."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from search.driver.options import RunOptions
from search.driver.preparing import check_metrics, prepare_space
from search.jobs.job import CHECKOUT, Job, run_arguments
from search.jobs.target import Submission, Target
from search.jobs.targets import TARGETS
from search.space.space import Space
from search.storage.folder import StudyError, StudyFolder

RECORD = "jobs.json"


def prepare_job(options: RunOptions, target: Target[Any], given: Mapping[str, Any]) -> Job[Any]:
    """The job that searches as `options` ask; `given` are the target's settings that were given.

    Checks what can be checked here: the space, the options of `run`, names and sizes. Raises SpaceError, StudyError and
    ValueError; writes nothing.
    """
    settings = target.settings_from(given)
    assert options.space is not None
    folder = StudyFolder(options.runs, options.study_name)
    options.check()
    family = _check_space(options, folder).family_source
    locations = target.locations(options, settings)
    job = Job(
        study=options.study_name,
        suffix=secrets.token_hex(3),
        arguments=run_arguments(options, locations),
        runs=locations.runs,
        checkout=str(CHECKOUT),
        settings=settings,
        python=locations.python,
        space_text=options.space.read_text(encoding="utf-8"),
        family_files={} if family is None else target.family_files(family, options.space),
    )
    target.check(job)
    return job


def _check_space(options: RunOptions, folder: StudyFolder) -> Space:
    """The space. Raises SpaceError or ValueError for a space that `run` would refuse, there or here."""
    space, budget, _ = prepare_space(options)
    is_begun = options.storage is not None or folder.find() is not None  # a database may be reachable only from there
    asked = {"budget_name": options.budget or "", "metrics": options.metrics}
    check_metrics(space, budget, options.data, is_begun=is_begun, **asked)
    return space


def submit_job(job: Job[Any], target: Target[Any], *, runs: Path, storage: str | None) -> Submission:
    """Hand a job to its cluster and note it in the study's folder.

    Raises ClusterError if the cluster refuses it, and StudyError for a folder that cannot be written.
    """
    folder = StudyFolder(runs.absolute(), job.study)
    folder.check_writable()
    folder.path.mkdir(parents=True, exist_ok=True)  # Slurm opens the log before this project's code runs
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    submission = target.submit(job, storage=storage, submitted=now)
    _note(folder, submission)
    return submission


def submissions(runs: Path, study: str | None = None) -> list[Submission]:
    """The jobs noted in `runs`, of one study or of all, the oldest first. Raises StudyError for a damaged record."""
    files = [StudyFolder(runs, study).path / RECORD] if study else sorted(runs.glob(f"*/{RECORD}"))
    found = [submission for file in files if file.exists() for submission in _noted(file)]
    return sorted(found, key=lambda submission: datetime.fromisoformat(submission.submitted).astimezone())


def find_submission(runs: Path, study: str | None, job: str | None) -> Submission:
    """The job with that id, of a study or of all; by default the latest. Raises StudyError."""
    found = submissions(runs, study)
    of = f" of {study}" if study else ""
    if not found:
        raise StudyError(f"no job{of} was submitted from {runs}; `tinysearch submit` does")
    if job is None:
        return found[-1]
    named = [submission for submission in found if submission.id == job]
    if not named:
        raise StudyError(f"no job {job}{of} in {runs}; there are {', '.join(s.id for s in found)}")
    return named[-1]


def _noted(file: Path) -> list[Submission]:
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(entries, list):
            raise ValueError("no list")
        found = [Submission(**entry) for entry in entries]
        for submission in found:
            datetime.fromisoformat(submission.submitted)
            if submission.to not in TARGETS or not all(isinstance(v, str | None) for v in vars(submission).values()):
                raise ValueError(f"no job: {submission}")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise StudyError(f"{file} does not list jobs ({error}); delete it, which forgets them") from None
    return found


def _note(folder: StudyFolder, submission: Submission) -> None:
    file = folder.path / RECORD
    noted = [*(_noted(file) if file.exists() else []), submission]
    written = file.with_name(f".{RECORD}-{os.getpid()}")
    written.write_text(json.dumps([dataclasses.asdict(entry) for entry in noted], indent=2), encoding="utf-8")
    os.replace(written, file)

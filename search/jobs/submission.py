"""Jobs that were submitted: made ready, handed to a cluster's own programs, noted in the study's folder, asked after.

Ray, Slurm and Kubernetes are reached through `ray`, `sbatch` and its kin, and `kubectl`, as a person would reach them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from search.driver.launch import RunOptions, check_metrics, prepare_space
from search.jobs.jobs import (
    CLAIM_PATH,
    SPACE_PATH,
    Job,
    check_job,
    misplaced,
    ray_job_command,
    rayjob_manifest,
    run_arguments,
    slurm_log,
    slurm_script,
)
from search.space.space import Space
from search.storage.folder import StudyError, StudyFolder
from trainer.families.family import Source

RECORD = "jobs.json"
CHECKOUT = Path(__file__).resolve().parents[2]
CLUSTERS = ("ray", "slurm", "k8s")
K8S_MEMORY = "16Gi"  # of a node, where nobody asked for more or less
_FAULT = re.compile(r"[\w.]*(?:Error|Exception):|(?:\w+: )?error: |Error from server")  # among what else is printed
ANSWER_SECONDS = 60  # for a question; a submission may take longer, it uploads the checkout


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A job that a cluster took: by which it is asked after."""

    study: str
    to: str
    id: str
    submitted: str  # when, in the time of the machine that submitted it
    address: str | None = None  # of a Ray cluster's job server
    namespace: str | None = None  # of Kubernetes
    log: str | None = None  # the file of a Slurm job


def prepare_job(options: RunOptions, to: str, *, cluster_runs: str | None = None, **given: Any) -> Job:
    """The job that searches as `options` ask, on the cluster `to`; `given` are fields of a Job, None if not asked for.

    Checks what can be checked here: the space, the options of `run`, names and sizes. Raises SpaceError, StudyError and
    ValueError; writes nothing.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if wrong := misplaced([*given, *(["cluster_runs"] if cluster_runs else [])], to):
        raise ValueError(f"--to {to}: {', '.join(wrong)} means nothing there")
    assert options.space is not None
    folder = StudyFolder(options.runs, options.study_name)
    options.check()
    family = _check_space(options, folder).family_source
    if to == "k8s":
        given = {"memory_per_node": K8S_MEMORY, "ray_version": version("ray"), **given}
    job = Job(
        study=options.study_name,
        suffix=secrets.token_hex(3),
        runs=_runs_there(options, to, cluster_runs),
        checkout=str(CHECKOUT),
        python=sys.executable if to == "slurm" else "python",
        space_text=options.space.read_text(encoding="utf-8"),
        family_files={} if family is None or family.text is None else _family_there(family, options.space, to),
        arguments=(),
        **given,
    )
    arguments = run_arguments(
        dataclasses.replace(options, data=_data_there(options, to)),
        space=_space_there(options.space, to),
        runs=job.runs,
        address="auto" if to != "slurm" or job.nodes > 1 else None,
    )
    job = dataclasses.replace(job, arguments=(*arguments, *_storage_argument(options.storage, to, job)))
    check_job(job, to)
    return job


def _check_space(options: RunOptions, folder: StudyFolder) -> Space:
    """The space. Raises SpaceError or ValueError for a space that `run` would refuse, there or here."""
    space, budget, _ = prepare_space(options)
    is_begun = options.storage is not None or folder.find() is not None  # a database may be reached from there only
    asked = {"budget_name": options.budget or "", "metrics": options.metrics}
    check_metrics(space, budget, options.data, is_begun=is_begun, **asked)
    return space


def text_of(job: Job, to: str) -> str:
    """What `--dry-run` shows: a script, a manifest, or a command line."""
    texts = {"slurm": slurm_script, "k8s": rayjob_manifest, "ray": lambda job: shlex.join(ray_job_command(job)) + "\n"}
    return texts[to](job)


def submit_job(job: Job, to: str, *, runs: Path, storage: str | None) -> Submission:
    """Hand a job to its cluster and note it in the study's folder. Raises StudyError where the cluster refuses it."""
    folder = StudyFolder(runs.absolute(), job.study)
    folder.check_writable()
    folder.path.mkdir(parents=True, exist_ok=True)  # Slurm opens the log before anything of ours runs
    said = {"study": job.study, "to": to, "submitted": datetime.now().astimezone().isoformat(timespec="seconds")}
    if to == "slurm":
        environment = {} if storage is None else {"OPTUNA_STORAGE": storage}
        answer = _ask(["sbatch", "--parsable"], text=slurm_script(job), environment=environment, seconds=None)
        number = answer.strip().split(";")[0]
        submission = Submission(**said, id=number, log=slurm_log(job.runs, job.study, number))
    elif to == "k8s":
        submission = Submission(**said, id=job.name, namespace=job.namespace)
        try:
            _ask(["kubectl", "create", "--filename=-"], text=rayjob_manifest(job), seconds=None)
        except StudyError:  # the space may be there already
            _ask(_kubectl(submission, ["delete", f"configmap/{job.name}", "--ignore-not-found"]), fails="")
            raise
    else:
        if not (CHECKOUT / "pyproject.toml").exists():
            raise StudyError(f"--to ray takes tinysearch's checkout along, but {CHECKOUT} is an installation")
        _ask(ray_job_command(job), seconds=None)
        submission = Submission(**said, id=job.name, address=job.address)
    _note(folder, submission)
    return submission


def submissions(runs: Path, study: str | None = None) -> list[Submission]:
    """The jobs noted in `runs`, of one study or of all, the oldest first. Raises StudyError for a damaged record."""
    files = [StudyFolder(runs, study).path / RECORD] if study else sorted(runs.glob(f"*/{RECORD}"))
    found = [submission for file in files if file.exists() for submission in _noted(file)]
    return sorted(found, key=lambda submission: datetime.fromisoformat(submission.submitted).astimezone())


def find_submission(runs: Path, study: str | None, job: str | None) -> Submission:
    """The job of that id, of a study or of all; the latest one unless named. Raises StudyError."""
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


def state_of(submission: Submission) -> str:
    """What the cluster says of a job, in its own words. Raises StudyError where it cannot be asked."""
    if submission.to == "slurm":
        queued = _ask(["squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={submission.id}"], fails="")
        if queued.strip():
            return queued.split()[0]
        asked = ["sacct", "--noheader", "--allocations", "--parsable2", "--format=State", f"--jobs={submission.id}"]
        ended = _ask(asked, fails="") if shutil.which("sacct") else ""  # not every Slurm keeps accounts
        return ended.split("\n")[0].strip() or "ended"
    if submission.to == "k8s":
        asked = ["get", f"rayjob/{submission.id}", "--ignore-not-found", "--output=json"]
        if not (answer := _ask(_kubectl(submission, asked))).strip():
            return "deleted"
        status = json.loads(answer).get("status", {})
        return " ".join(filter(None, [status.get("jobDeploymentStatus"), status.get("jobStatus")])) or "new"
    answer = _ask(["ray", "job", "status", *_at(submission), submission.id])
    states = re.findall(r"\b(PENDING|RUNNING|STOPPED|SUCCEEDED|FAILED)\b|(succeeded|failed|stopped)", answer)
    return "".join(states[-1]).upper() if states else "unknown"


def show_log(submission: Submission, *, is_followed: bool) -> int:
    """Print what a job has written, or go on printing until Ctrl-C; returns the exit code of what prints it."""
    if submission.to == "slurm":
        assert submission.log is not None
        if not Path(submission.log).exists():
            raise StudyError(f"job {submission.id} has written nothing yet; it is {state_of(submission)}")
        words = ["tail", "--lines=+1", *(["--follow=name"] if is_followed else []), submission.log]
    elif submission.to == "k8s":  # the submitter's, which prints what the search prints
        words = _kubectl(submission, ["logs", f"job/{submission.id}", *(["--follow"] if is_followed else [])])
    else:
        words = ["ray", "job", "logs", *_at(submission), *(["--follow"] if is_followed else []), submission.id]
    return subprocess.run(_found(words), env=_environment()).returncode


def stop_job(submission: Submission) -> str:
    """End a job so that its trials stop at their next checkpoint; returns what was done. The study stays."""
    if submission.to == "slurm":
        state = state_of(submission)
        if state == "RUNNING":  # only the script, which drains the search; Slurm's own TERM would end Ray under it
            _ask(["scancel", "--batch", "--signal=INT", submission.id])
            return "its trials stop at their next checkpoint"
        if state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "CONFIGURING"):
            _ask(["scancel", submission.id])
            return "taken from the queue"
        return f"it is {state} already"
    if submission.to == "k8s":
        asked = ["delete", f"rayjob/{submission.id}", f"configmap/{submission.id}", "--ignore-not-found"]
        _ask(_kubectl(submission, asked), seconds=None)
        return "deleted, with its Ray cluster"
    _ask(["ray", "job", "stop", *_at(submission), submission.id], seconds=None)
    return "its trials stopped at their last checkpoint"


def _runs_there(options: RunOptions, to: str, cluster_runs: str | None) -> str:
    """Where the job keeps its studies, as its machines call it. Raises ValueError."""
    if to == "k8s":
        return CLAIM_PATH
    if to == "slurm":
        return str(options.runs.absolute())
    if cluster_runs is None or not cluster_runs.startswith("/"):
        raise ValueError(
            "--to ray needs --cluster-runs PATH: the folder, on every machine of that cluster, where studies are kept"
        )
    return cluster_runs


def _space_there(space: Path, to: str) -> str:
    if to == "k8s":
        return f"{SPACE_PATH}/space.yaml"
    if to == "slurm":
        return str(space.absolute())
    try:
        return str(space.resolve().relative_to(CHECKOUT))
    except ValueError:
        raise ValueError(f"{space} is not in {CHECKOUT}, which is what a Ray job takes along; put it there") from None


def _family_there(family: Source, space: Path, to: str) -> dict[str, str]:
    """The file of the space's own family as a job takes it along, name and text; empty where it need not.

    Raises ValueError where the file lies where the job has none.
    """
    file = Path(family.location).resolve()
    if to == "k8s":
        if file.parent != space.resolve().parent or file.name == "space.yaml":
            raise ValueError(f"{file} is not beside {space}; a Kubernetes job takes both along, so put it there")
        assert family.text is not None
        return {file.name: family.text}
    if to == "ray" and not file.is_relative_to(CHECKOUT):
        raise ValueError(f"{file} is not in {CHECKOUT}, which is what a Ray job takes along; put it there")
    return {}


def _data_there(options: RunOptions, to: str) -> tuple[Path, ...]:
    if to == "slurm":
        return tuple(path.absolute() for path in options.data)
    for path in options.data:
        if not path.is_absolute():
            raise ValueError(f"--data {path}: a job is not in this folder; give the path that its machines have")
    return options.data


def _storage_argument(url: str | None, to: str, job: Job) -> tuple[str, ...]:
    """How the job learns of its database. Raises ValueError where a password would have to be written down."""
    if to == "k8s" and url is not None and job.storage_secret is None:
        raise ValueError(
            "--to k8s takes a database from a Secret: kubectl create secret generic NAME "
            "--from-literal=OPTUNA_STORAGE=URL, and give --storage-secret NAME"
        )
    if to != "ray" or url is None:
        return ()  # Slurm hands the environment on
    from search.storage.address import Address

    if Address(url).holds_secret:
        raise ValueError(
            "--to ray: a job's command is shown to all who see the cluster, so a password cannot be given this way; "
            "set OPTUNA_STORAGE where the cluster's head is started, and leave it out here"
        )
    return (f"--storage={url}",)


def _noted(file: Path) -> list[Submission]:
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(entries, list):
            raise ValueError("no list")
        found = [Submission(**entry) for entry in entries]
        for submission in found:
            datetime.fromisoformat(submission.submitted)
            if submission.to not in CLUSTERS or not all(isinstance(v, str | None) for v in vars(submission).values()):
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


def _at(submission: Submission) -> list[str]:
    return [f"--address={submission.address}"] if submission.address else []


def _kubectl(submission: Submission, words: Sequence[str]) -> list[str]:
    return ["kubectl", f"--namespace={submission.namespace}", *words]


def _environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    environment = {**os.environ, **(more or {})}
    if environment.get("RAY_AUTH_TOKEN"):
        environment.setdefault("RAY_AUTH_MODE", "token")
    return environment


def _found(words: Sequence[str]) -> list[str]:
    """The command with its program's path; `ray` is the one beside this Python. Raises StudyError."""
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    program = shutil.which(words[0], path=beside if words[0] == "ray" else None)
    if program is None:
        raise StudyError(
            f"there is no {words[0]} on this machine; go where there is one, or print what it would get with "
            "`tinysearch submit --dry-run`"
        )
    return [program, *words[1:]]


def _ask(
    words: Sequence[str],
    *,
    text: str | None = None,
    environment: Mapping[str, str] | None = None,
    seconds: float | None = ANSWER_SECONDS,
    fails: str | None = None,
) -> str:
    """What a program prints; `fails` in its place if it fails, where that is no fault. Raises StudyError."""
    try:
        done = subprocess.run(
            _found(words),
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            env=_environment(environment),
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise StudyError(f"{words[0]} does not answer for {seconds:.0f} s") from None
    if done.returncode == 0:
        return done.stdout
    if fails is not None:
        return fails
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    faults = [line for line in lines if _FAULT.match(line)] or lines or [f"exit code {done.returncode}"]
    raise StudyError(f"{' '.join(words[: 3 if words[0] == 'ray' else 1])} failed: {faults[-1]:.300}")

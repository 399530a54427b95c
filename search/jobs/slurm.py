"""A search as a Slurm job: its batch script, and the `squeue`, `sacct` and `scancel` commands about the job."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.jobs.job import DRAIN_SECONDS, Job, Locations
from search.jobs.programs import ClusterError, ask
from search.jobs.settings import NodeSettings, setting, wrong_names
from search.jobs.target import Submission, Target

if TYPE_CHECKING:
    from search.driver.options import RunOptions

_MEMORY = re.compile(r"[0-9]+[KMGT]?")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._,@:+-]*")
_ONE_LINE = re.compile(r"[^\x00-\x1f\x7f]*")
_QUEUED = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "CONFIGURING")


@dataclass(frozen=True, kw_only=True)
class SlurmSettings(NodeSettings):
    """The settings of a Slurm job."""

    partition: str | None = setting("Slurm partition.")
    account: str | None = setting("Slurm account.")
    qos: str | None = setting("Slurm quality of service.")


class SlurmTarget(Target[SlurmSettings]):
    """Slurm, on this machine. Checkout, studies and text are on a file system that its nodes share."""

    name = "slurm"
    title = "Slurm"
    settings = SlurmSettings

    def locations(self, options: RunOptions, settings: SlurmSettings) -> Locations:
        assert options.space is not None
        return Locations(
            runs=str(options.runs.absolute()),
            space=str(options.space.absolute()),
            data=tuple(path.absolute() for path in options.data),
            python=sys.executable,
            address="auto" if settings.nodes > 1 else None,
            storage=None,  # the job inherits the environment
        )

    def faults(self, job: Job[SlurmSettings]) -> list[str]:
        paths = (job.runs, job.checkout, job.python)
        return [
            *job.settings.faults(),
            *wrong_names(job.settings, dict.fromkeys(("partition", "account", "qos"), _WORD), "Slurm"),
            *job.settings.memory_faults(_MEMORY, "64G"),
            *(
                f"{path!r}: Slurm reads no path with a quote or a line break in it"
                for path in paths
                if not _ONE_LINE.fullmatch(path) or '"' in path
            ),
        ]

    def text(self, job: Job[SlurmSettings]) -> str:
        return slurm_script(job)

    def submit(self, job: Job[SlurmSettings], *, storage: str | None, submitted: str) -> Submission:
        environment = {} if storage is None else {"OPTUNA_STORAGE": storage}
        answer = ask(["sbatch", "--parsable"], text=slurm_script(job), environment=environment, seconds=None)
        number = answer.strip().split(";")[0]
        log = slurm_log(job.runs, job.study, number)
        return Submission(study=job.study, to=self.name, id=number, submitted=submitted, log=log)

    def state(self, submission: Submission) -> str:
        queued = ask(["squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={submission.id}"], fails="")
        if queued.strip():
            return queued.split()[0]
        asked = ["sacct", "--noheader", "--allocations", "--parsable2", "--format=State", f"--jobs={submission.id}"]
        ended = ask(asked, fails="") if shutil.which("sacct") else ""  # accounting is optional in Slurm
        return ended.split("\n")[0].strip() or "ended"

    def log_command(self, submission: Submission, *, is_followed: bool) -> list[str]:
        assert submission.log is not None
        if not Path(submission.log).exists():
            raise ClusterError(f"job {submission.id} has written nothing yet; it is {self.state(submission)}")
        return ["tail", "--lines=+1", *(["--follow=name"] if is_followed else []), submission.log]

    def stop(self, submission: Submission) -> str:
        state = self.state(submission)
        if state == "RUNNING":  # signal only the script, which drains the search; Slurm's own TERM would end Ray
            ask(["scancel", "--batch", "--signal=INT", submission.id])
            return "its trials stop at their next checkpoint"
        if state in _QUEUED:
            ask(["scancel", submission.id])
            return "taken from the queue"
        return f"it is {state} already"


def slurm_script(job: Job[SlurmSettings]) -> str:
    """A batch script that runs the search on the job's nodes, drains it before the time limit, and requeues it."""
    asked = job.settings
    options: dict[str, Any] = {
        "job-name": job.name,
        "nodes": asked.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": asked.cpus_per_node,
        "gpus-per-node": asked.gpus_per_node or None,
        "mem": asked.memory_per_node,
        "time": asked.time,
        "partition": asked.partition,
        "account": asked.account,
        "qos": asked.qos,
        "chdir": f'"{job.checkout}"',
        "output": f'"{slurm_log(job.runs.replace("%", "%%"), job.study, "%j")}"',
        "open-mode": "append",
        "signal": f"B:TERM@{DRAIN_SECONDS}",
    }
    lines = [f"#SBATCH --{name}={value}" for name, value in options.items() if value is not None]
    lines.append("#SBATCH --requeue")
    if asked.nodes > 1:
        lines.append("#SBATCH --exclusive")
    return _SLURM.format(
        options="\n".join(lines),
        afterwards=_AFTER_SEVERAL_NODES if asked.nodes > 1 else "",
        bin=shlex.quote(job.python.rpartition("/")[0] or "."),
        start=(_SEVERAL_NODES if asked.nodes > 1 else _ONE_NODE).format(
            nodes=asked.nodes,
            cpus=asked.cpus_per_node,
            gpus=asked.gpus_per_node,
            python=shlex.quote(job.python),
            command=" \\\n        ".join(map(shlex.quote, job.command)),
        ),
    )


def slurm_log(runs: str, study: str, number: str) -> str:
    """The log file of the Slurm job with that number."""
    return f"{runs}/{study}/slurm-{number}.log"


_SLURM = """#!/bin/bash
{options}

# The study is stored in its runs folder: whenever this script starts, it resumes where the last one ended.
set -u
export PATH={bin}:"$PATH"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
started= is_draining= is_stopped=

# One TERM lets every trial stop at its next checkpoint; the search ends with 130 if something is left to do.
drain() {{
    [ -n "$started" ] || exit 130
    [ -z "$is_draining" ] || return
    is_draining=1
    if [ -s "$scratch/driver" ]; then kill -TERM "$(cat "$scratch/driver")"; else kill -TERM "$started"; fi
}}
trap drain TERM                       # from Slurm: the time is nearly up, or another job needs the nodes
trap 'is_stopped=1; drain' INT        # from `tinysearch stop`

# The search runs on this script's own node: its process can be signalled from here, its exit code read.
search='"$@" & echo "$!" > "$0/driver"; wait "$!"; code=$?; echo "$code" > "$0/code"; exit "$code"'
{start}
started=$!
while [ ! -s "$scratch/code" ] && kill -0 "$started" 2>/dev/null; do sleep 1 & wait "$!"; done
{afterwards}wait "$started"
code=$?
[ ! -s "$scratch/code" ] || code=$(cat "$scratch/code")
if [ ! -s "$scratch/driver" ] && [ "$code" -eq 0 ]; then
    echo "the search was not started; see Ray's messages above" >&2
    code=1
fi
case $code in 130 | 143) is_draining=1 ;; esac    # Slurm may signal the search itself when it takes the nodes
# Only a running job is queued again: one that was cancelled must not come back.
if [ "$code" -ne 0 ] && [ -n "$is_draining" ] && [ -z "$is_stopped" ] &&
    [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
    echo "queued again; the study will resume from here"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""

_ONE_NODE = """\
bash -c "$search" "$scratch" \\
        {command} &"""

_SEVERAL_NODES = """\
# symmetric-run makes the node that has the address the head: this one. It takes none of the loopback, and it ends
# every Ray of this user on its nodes, so the nodes are not shared.
addresses=$(getent ahostsv4 "$(hostname)"; hostname -I | tr ' ' '\\n')
address=$(awk '/^[0-9.]+/ && !/^127\\./ {{ print $1; exit }}' <<< "$addresses")
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$({python} -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300 RAY_USAGE_STATS_ENABLED=0
srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --cpus-per-task={cpus} \\
    ray symmetric-run --address "$address:$((20000 + SLURM_JOB_ID % 10000))" --min-nodes {nodes} \\
        --num-cpus={cpus} --num-gpus={gpus} -- \\
    bash -c "$search" "$scratch" \\
        {command} &"""

_AFTER_SEVERAL_NODES = """\
# The head's Ray stops in seconds; the other nodes' would look for it for a minute, in which they are not needed.
for _ in $(seq 10); do kill -0 "$started" 2>/dev/null && sleep 1; done
kill -TERM "$started" 2>/dev/null
"""

"""What a cluster is asked to run, as text: a Slurm script, a KubeRay manifest, a Ray job's command line.

Pure functions of a Job: nothing is read, run or written here, and no text holds a secret. A token or a database's
password reaches the job through its environment or a Kubernetes Secret.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.driver.launch import RunOptions

DRAIN_SECONDS = 120  # between a cluster's notice and its end: trials save about every ten seconds
MAX_RETRIES = 3  # of a RayJob whose cluster was lost; each goes on with the study
KEPT_SECONDS = 3600  # a finished RayJob's pods, for their logs
RAY_PORTS = {"gcs": 6379, "dashboard": 8265, "client": 10001}
CLAIM_PATH = "/runs"
SPACE_PATH = "/etc/tinysearch"

_QUANTITY = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:[KMGTPE]i|[kMGTPE])?")
_SLURM_MEMORY = re.compile(r"[0-9]+[KMGT]?")
_SLURM_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._,@:+-]*")
_SLURM_TIMES = (
    re.compile(r"(?P<minutes>[0-9]+)(?::(?P<seconds>[0-9]{2}))?"),
    re.compile(r"(?P<hours>[0-9]+):(?P<minutes>[0-9]{2}):(?P<seconds>[0-9]{2})"),
    re.compile(r"(?P<days>[0-9]+)-(?P<hours>[0-9]{1,2})(?::(?P<minutes>[0-9]{2})(?::(?P<seconds>[0-9]{2}))?)?"),
)
_DNS_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_DNS_NAME = re.compile(rf"{_DNS_LABEL.pattern}(?:\.{_DNS_LABEL.pattern})*")
_IMAGE = re.compile(r"[a-z0-9]\S*")
_ONE_LINE = re.compile(r"[^\x00-\x1f\x7f]*")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A search as one job of a cluster. Every path is absolute, and one of the machines that the job runs on."""

    study: str
    suffix: str  # tells a study's jobs apart where names must be unique
    arguments: tuple[str, ...]  # of `tinysearch run`, the space first
    runs: str
    checkout: str  # the folder that holds the packages `search` and `trainer`
    python: str = "python"
    nodes: int = 1
    cpus_per_node: int = 4
    gpus_per_node: int = 0
    memory_per_node: str | None = None
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    address: str | None = None  # of a Ray cluster's job server
    image: str | None = None
    namespace: str = "default"
    claim: str | None = None  # the PersistentVolumeClaim with the studies
    storage_secret: str | None = None  # the Secret whose key OPTUNA_STORAGE is the database's URL
    space_text: str = ""
    family_files: Mapping[str, str] = field(default_factory=dict)  # the space's own family, beside it: name and text
    ray_version: str = ""

    @property
    def name(self) -> str:
        """The job's name in DNS-1123 form: of the study, and unique by its suffix."""
        words = re.sub(r"[^a-z0-9]+", "-", self.study.lower()).strip("-")
        if words != self.study or len(words) > 30:  # two studies stay two names; KubeRay takes 47 characters
            words = f"{words[:24].rstrip('-')}-{hashlib.sha256(self.study.encode()).hexdigest()[:5]}"
        return f"ts-{words}-{self.suffix}"

    @property
    def command(self) -> list[str]:
        return [self.python, "-m", "search.cli", "run", *self.arguments]

    @property
    def entrypoint(self) -> list[str]:
        """The command of a Ray job, in place of the shell that Ray starts it in.

        To stop a job Ray signals both and waits for both, but a search whose shell is gone is buried by nobody where a
        container's first process is Ray itself.
        """
        return ["exec", *self.command]


def run_arguments(options: RunOptions, *, space: str, runs: str, address: str | None) -> tuple[str, ...]:
    """The words after `tinysearch run` that ask for what `options` ask; the space, runs and address as given here.

    A database is left out: its URL may hold a password. Raises ValueError for what would not mean the same each time
    that the job starts.
    """
    if options.trials is not None and options.trials.strip().startswith("+"):
        raise ValueError(
            f"--trials {options.trials}: a job that starts again would add as many again; give the total instead"
        )
    words = [space, f"--name={options.study_name}", f"--runs={runs}"]
    once = {
        "storage-path": options.storage_path,
        "budget": options.budget,
        "trials": options.trials,
        "max-tokens": options.max_tokens,
        "until": options.until,
        "metrics": ",".join(options.metrics) or None,
        "gpus-per-trial": options.gpus_per_trial,
        "cpus-per-trial": options.cpus_per_trial,
        "trials-per-gpu": options.trials_per_gpu,
        "gpu-kind": options.gpu_kind,
        "parallel": options.parallel,
        "address": address,
    }
    defaults = {field.name: field.default for field in fields(options)}
    for name in ("token_dtype", "text_key", "seed", "hang_minutes"):
        if (value := getattr(options, name)) != defaults[name]:
            once[name.replace("_", "-")] = value
    words += [f"--{name}={value}" for name, value in once.items() if value is not None]
    words += ["--skip-bad"] if options.skip_bad else []
    words += [f"--goal={goal}" for goal in options.goals]
    words += [f"--set={assignment}" for assignment in options.assignments]
    words += [f"--limit={limit}" for limit in options.limits]
    words += [f"--data={path}" for path in options.data]
    return tuple(words)


def check_job(job: Job, to: str) -> None:
    """Raises ValueError, naming every fault, for a job that `to` (ray, slurm or k8s) would refuse or misread."""
    faults = []
    for name in ("nodes", "cpus_per_node"):
        if getattr(job, name) < 1:
            faults.append(f"{_option(name)} {getattr(job, name)}: give at least 1")
    if job.gpus_per_node < 0:
        faults.append(f"--gpus-per-node {job.gpus_per_node} is negative")
    if job.time is not None and not slurm_seconds(job.time):
        faults.append(f"--time {job.time}: no time; give minutes, HH:MM:SS or D-HH:MM:SS, as Slurm does")
    checked = {
        "slurm": {"partition": _SLURM_WORD, "account": _SLURM_WORD, "qos": _SLURM_WORD},
        "k8s": {"namespace": _DNS_LABEL, "claim": _DNS_NAME, "storage_secret": _DNS_NAME, "image": _IMAGE},
        "ray": {},
    }[to]
    for name, pattern in checked.items():
        value = getattr(job, name)
        if value is not None and not pattern.fullmatch(value):
            faults.append(f"{_option(name)} {value!r} is no name that {_CLUSTERS[to]} takes")
    if to == "k8s":
        faults += [
            f"--to k8s needs {_option(name)}, {what}" for name, what in _NEEDED.items() if not getattr(job, name)
        ]
        if sum(len(text.encode()) for text in (job.space_text, *job.family_files.values())) > 2**20:
            faults.append("the space is larger than the 1 MiB that a ConfigMap holds")
    if job.memory_per_node is not None:
        pattern, form = {"slurm": (_SLURM_MEMORY, "64G")}.get(to, (_QUANTITY, "64Gi"))
        if not pattern.fullmatch(job.memory_per_node):
            faults.append(f"--memory-per-node {job.memory_per_node}: no size; give one such as {form}")
    if job.address is not None and "@" in job.address:
        faults.append("--address: a password in it would be noted and shown; give it in RAY_JOB_HEADERS")
    if to == "slurm":
        for name in ("runs", "checkout", "python"):
            if not _ONE_LINE.fullmatch(getattr(job, name)) or '"' in getattr(job, name):
                faults.append(f"{getattr(job, name)!r}: Slurm reads no path with a quote or a line break in it")
    faults += [f"{word!r} has a zero byte in it" for word in job.command if "\0" in word]
    if faults:
        raise ValueError("\n".join(faults))


def slurm_seconds(text: str) -> int | None:
    """The seconds of a time as Slurm writes it (`30`, `MM:SS`, `HH:MM:SS`, `D-HH`, ...); None if it is none, or zero.

    Times of which Slurm makes something else than what they say, such as 90 seconds in `5:90`, are none.
    """
    for form in _SLURM_TIMES:
        if match := form.fullmatch(text):
            parts = {name: int(value or 0) for name, value in match.groupdict().items()}
            if parts.get("seconds", 0) > 59 or ("hours" in parts and parts["minutes"] > 59):
                return None
            if "days" in parts and parts["hours"] > 23:
                return None
            days, hours = parts.get("days", 0), parts.get("hours", 0)
            return ((days * 24 + hours) * 60 + parts["minutes"]) * 60 + parts["seconds"] or None
    return None


def slurm_script(job: Job) -> str:
    """A batch script that runs the search on the job's nodes, drains it before its end, and has it queued again."""
    options: dict[str, Any] = {
        "job-name": job.name,
        "nodes": job.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": job.cpus_per_node,
        "gpus-per-node": job.gpus_per_node or None,
        "mem": job.memory_per_node,
        "time": job.time,
        "partition": job.partition,
        "account": job.account,
        "qos": job.qos,
        "chdir": f'"{job.checkout}"',
        "output": f'"{slurm_log(job.runs.replace("%", "%%"), job.study, "%j")}"',
        "open-mode": "append",
        "signal": f"B:TERM@{DRAIN_SECONDS}",
    }
    lines = [f"#SBATCH --{name}={value}" for name, value in options.items() if value is not None]
    lines.append("#SBATCH --requeue")
    if job.nodes > 1:
        lines.append("#SBATCH --exclusive")
    return _SLURM.format(
        options="\n".join(lines),
        afterwards=_AFTER_SEVERAL_NODES if job.nodes > 1 else "",
        bin=shlex.quote(job.python.rpartition("/")[0] or "."),
        start=(_SEVERAL_NODES if job.nodes > 1 else _ONE_NODE).format(
            nodes=job.nodes,
            cpus=job.cpus_per_node,
            gpus=job.gpus_per_node,
            python=shlex.quote(job.python),
            command=" \\\n        ".join(map(shlex.quote, job.command)),
        ),
    )


def slurm_log(runs: str, study: str, number: str) -> str:
    """The file that the Slurm job of that number writes to."""
    return f"{runs}/{study}/slurm-{number}.log"


_SLURM = """#!/bin/bash
{options}

# The study is kept in its runs folder: whenever this script starts, it goes on where the last one ended.
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
    echo "the search was not started; what Ray says of it stands above" >&2
    code=1
fi
case $code in 130 | 143) is_draining=1 ;; esac    # Slurm may signal the search itself when it takes the nodes
# Only a running job is queued again: one that was cancelled must not come back.
if [ "$code" -ne 0 ] && [ -n "$is_draining" ] && [ -z "$is_stopped" ] &&
    [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
    echo "queued again; the study goes on from here"
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


def ray_job_command(job: Job) -> list[str]:
    """The words of `ray job submit` that start the search on a running cluster and return at once."""
    environment = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(DRAIN_SECONDS)}}
    return [
        *("ray", "job", "submit", "--no-wait"),
        *([f"--address={job.address}"] if job.address else []),
        f"--submission-id={job.name}",
        f"--working-dir={job.checkout}",
        f"--runtime-env-json={json.dumps(environment)}",
        "--",
        *job.entrypoint,
    ]


def rayjob_documents(job: Job) -> list[dict[str, Any]]:
    """A ConfigMap with the space, and the RayJob that searches it: a Ray cluster of its own, gone when it has ended."""
    labels = {"app.kubernetes.io/name": "tinysearch", "tinysearch/job": job.name}
    where = {"name": job.name, "namespace": job.namespace, "labels": labels}
    cluster: dict[str, Any] = {
        "rayVersion": job.ray_version,
        "authOptions": {"mode": "token"},  # KubeRay makes the token, keeps it in a Secret and hands it to every pod
        "headGroupSpec": {"rayStartParams": {}, "template": _pod(job, "ray-head", is_head=True)},
    }
    if job.nodes > 1:
        cluster["workerGroupSpecs"] = [
            {
                "groupName": "workers",
                **dict.fromkeys(("replicas", "minReplicas", "maxReplicas"), job.nodes - 1),
                "rayStartParams": {},
                "template": _pod(job, "ray-worker", is_head=False),
            }
        ]
    spec: dict[str, Any] = {
        "entrypoint": shlex.join(job.entrypoint),
        "runtimeEnvYAML": f'env_vars: {{RAY_JOB_STOP_WAIT_TIME_S: "{DRAIN_SECONDS}"}}\n',
        "backoffLimit": MAX_RETRIES,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": KEPT_SECONDS,
        "rayClusterSpec": cluster,
    }
    if job.time is not None:
        spec["activeDeadlineSeconds"] = slurm_seconds(job.time)
    files = {"space.yaml": job.space_text, **job.family_files}
    space = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": where, "data": files}
    return [space, {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": where, "spec": spec}]


def rayjob_manifest(job: Job) -> str:
    """The documents of a job for Kubernetes, as `kubectl create -f` takes them."""
    import yaml

    return yaml.dump_all(rayjob_documents(job), Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=120)


def _pod(job: Job, name: str, *, is_head: bool) -> dict[str, Any]:
    size: dict[str, Any] = {"cpu": job.cpus_per_node, "memory": job.memory_per_node}
    if job.gpus_per_node:
        size["nvidia.com/gpu"] = job.gpus_per_node
    size = {resource: str(amount) for resource, amount in size.items()}
    container: dict[str, Any] = {
        "name": name,
        "image": job.image,
        "resources": {"requests": size, "limits": size},
        "volumeMounts": [{"name": "runs", "mountPath": CLAIM_PATH}],
    }
    volumes: list[dict[str, Any]] = [{"name": "runs", "persistentVolumeClaim": {"claimName": job.claim}}]
    if is_head:  # the search itself runs here, trials on all nodes
        container["ports"] = [{"name": port, "containerPort": number} for port, number in RAY_PORTS.items()]
        container["volumeMounts"].append({"name": "space", "mountPath": SPACE_PATH, "readOnly": True})
        volumes.append({"name": "space", "configMap": {"name": job.name}})
        if job.storage_secret:
            source = {"secretKeyRef": {"name": job.storage_secret, "key": "OPTUNA_STORAGE"}}
            container["env"] = [{"name": "OPTUNA_STORAGE", "valueFrom": source}]
    return {"spec": {"containers": [container], "volumes": volumes}}


def _dumper() -> type:
    import yaml

    class Dumper(yaml.SafeDumper):
        """Texts of several lines as blocks, and no anchors: people read it."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return Dumper


_CLUSTERS = {"slurm": "Slurm", "k8s": "Kubernetes", "ray": "Ray"}
_NEEDED = {
    "image": "with tinysearch and ray[default] in it",
    "claim": "the PersistentVolumeClaim that keeps the studies",
}


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def misplaced(options: Sequence[str], to: str) -> list[str]:
    """Which of these options, named as fields of a Job, mean nothing to `to`."""
    only = {
        **dict.fromkeys(("partition", "account", "qos"), {"slurm"}),
        **dict.fromkeys(("image", "namespace", "claim", "storage_secret"), {"k8s"}),
        **dict.fromkeys(("nodes", "cpus_per_node", "gpus_per_node", "memory_per_node", "time"), {"slurm", "k8s"}),
        **dict.fromkeys(("address", "cluster_runs"), {"ray"}),
    }
    return [_option(name) for name in options if to not in only[name]]

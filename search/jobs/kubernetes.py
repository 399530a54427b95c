"""A search as a RayJob of KubeRay on Kubernetes: its manifest, and the `kubectl` commands about the job."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.jobs.job import DRAIN_SECONDS, Job, Locations, absolute_data
from search.jobs.programs import ClusterError, ask
from search.jobs.settings import NodeSettings, flag_of, setting, time_seconds, wrong_names
from search.jobs.target import Submission, Target

if TYPE_CHECKING:
    from search.driver.options import RunOptions
    from trainer.families.family import Source

MAX_RETRIES = 3  # of a RayJob whose cluster was lost; each resumes the study
KEPT_SECONDS = 3600  # a finished RayJob's pods, for their logs
NODE_MEMORY = "16Gi"  # the default
RAY_PORTS = {"gcs": 6379, "dashboard": 8265, "client": 10001}
CLAIM_PATH = "/runs"
SPACE_PATH = "/etc/tinysearch"
MAX_SPACE_BYTES = 2**20

_QUANTITY = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:[KMGTPE]i|[kMGTPE])?")
_DNS_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_DNS_NAME = re.compile(rf"{_DNS_LABEL.pattern}(?:\.{_DNS_LABEL.pattern})*")
_IMAGE = re.compile(r"[a-z0-9]\S*")
_NAMES = {"namespace": _DNS_LABEL, "claim": _DNS_NAME, "storage_secret": _DNS_NAME, "image": _IMAGE}
_NEEDED = {
    "image": "with tinysearch and ray[default] in it",
    "claim": "the PersistentVolumeClaim that keeps the studies",
}


@dataclass(frozen=True, kw_only=True)
class KubernetesSettings(NodeSettings):
    """The settings of a Kubernetes job."""

    image: str | None = setting("Kubernetes: a container image with tinysearch and ray[default].")
    namespace: str = setting("Kubernetes namespace. Default: default.", "default")
    claim: str | None = setting("Kubernetes: the PersistentVolumeClaim for the studies.", metavar="NAME")
    storage_secret: str | None = setting(
        "Kubernetes: the Secret with the database URL in OPTUNA_STORAGE.", metavar="NAME"
    )
    ray_version: str = field(default_factory=lambda: version("ray"))


class KubernetesTarget(Target[KubernetesSettings]):
    """Kubernetes with KubeRay. Each job gets its own Ray cluster; studies are on a PersistentVolumeClaim."""

    name = "k8s"
    title = "Kubernetes with KubeRay"
    settings = KubernetesSettings

    def locations(self, options: RunOptions, settings: KubernetesSettings) -> Locations:
        data = absolute_data(options.data)
        if options.storage is not None and settings.storage_secret is None:
            raise ValueError(
                "--to k8s takes a database from a Secret: kubectl create secret generic NAME "
                "--from-literal=OPTUNA_STORAGE=URL, and give --storage-secret NAME"
            )
        return Locations(runs=CLAIM_PATH, space=f"{SPACE_PATH}/space.yaml", data=data)

    def family_files(self, family: Source, space: Path) -> dict[str, str]:
        if family.text is None:  # an installed module
            return {}
        file = Path(family.location).resolve()
        if file.parent != space.resolve().parent or file.name == "space.yaml":
            raise ValueError(f"{file} is not beside {space}; a Kubernetes job takes both along, so put it there")
        return {file.name: family.text}

    def faults(self, job: Job[KubernetesSettings]) -> list[str]:
        asked = job.settings
        found = [*asked.faults(), *wrong_names(asked, _NAMES, "Kubernetes")]
        found += [
            f"--to k8s needs {flag_of(name)}, {what}" for name, what in _NEEDED.items() if not getattr(asked, name)
        ]
        if sum(len(text.encode()) for text in (job.space_text, *job.family_files.values())) > MAX_SPACE_BYTES:
            found.append("the space is larger than the 1 MiB that a ConfigMap holds")
        return [*found, *asked.memory_faults(_QUANTITY, "64Gi")]

    def text(self, job: Job[KubernetesSettings]) -> str:
        return rayjob_manifest(job)

    def submit(self, job: Job[KubernetesSettings], *, storage: str | None, submitted: str) -> Submission:
        namespace = job.settings.namespace
        try:
            ask(["kubectl", "create", "--filename=-"], text=rayjob_manifest(job), seconds=None)
        except ClusterError:  # the ConfigMap may have been created already
            ask(_kubectl(namespace, ["delete", f"configmap/{job.name}", "--ignore-not-found"]), fails="")
            raise
        return Submission(study=job.study, to=self.name, id=job.name, submitted=submitted, namespace=namespace)

    def state(self, submission: Submission) -> str:
        asked = ["get", f"rayjob/{submission.id}", "--ignore-not-found", "--output=json"]
        if not (answer := ask(_kubectl(submission.namespace, asked))).strip():
            return "deleted"
        status = json.loads(answer).get("status", {})
        return " ".join(filter(None, [status.get("jobDeploymentStatus"), status.get("jobStatus")])) or "new"

    def log_command(self, submission: Submission, *, is_followed: bool) -> list[str]:
        # KubeRay's submitter, a Kubernetes job of the same name, prints what the search prints.
        asked = ["logs", f"job/{submission.id}", *(["--follow"] if is_followed else [])]
        return _kubectl(submission.namespace, asked)

    def stop(self, submission: Submission) -> str:
        asked = ["delete", f"rayjob/{submission.id}", f"configmap/{submission.id}", "--ignore-not-found"]
        ask(_kubectl(submission.namespace, asked), seconds=None)
        return "deleted, with its Ray cluster"


def _kubectl(namespace: str | None, words: Sequence[str]) -> list[str]:
    return ["kubectl", f"--namespace={namespace}", *words]


def rayjob_documents(job: Job[KubernetesSettings]) -> list[dict[str, Any]]:
    """A ConfigMap with the space, and the RayJob that searches it: a Ray cluster that is deleted when the job ends."""
    asked = job.settings
    labels = {"app.kubernetes.io/name": "tinysearch", "tinysearch/job": job.name}
    where = {"name": job.name, "namespace": asked.namespace, "labels": labels}
    cluster: dict[str, Any] = {
        "rayVersion": asked.ray_version,
        "authOptions": {"mode": "token"},  # KubeRay creates the token, stores it in a Secret and passes it to every pod
        "headGroupSpec": {"rayStartParams": {}, "template": _pod(job, "ray-head", is_head=True)},
    }
    if asked.nodes > 1:
        cluster["workerGroupSpecs"] = [
            {
                "groupName": "workers",
                **dict.fromkeys(("replicas", "minReplicas", "maxReplicas"), asked.nodes - 1),
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
    if asked.time is not None:
        spec["activeDeadlineSeconds"] = time_seconds(asked.time)
    files = {"space.yaml": job.space_text, **job.family_files}
    space = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": where, "data": files}
    return [space, {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": where, "spec": spec}]


def rayjob_manifest(job: Job[KubernetesSettings]) -> str:
    """The documents of a job for Kubernetes, as `kubectl create -f` takes them."""
    import yaml

    return yaml.dump_all(rayjob_documents(job), Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=120)


def _pod(job: Job[KubernetesSettings], name: str, *, is_head: bool) -> dict[str, Any]:
    asked = job.settings
    size: dict[str, Any] = {"cpu": asked.cpus_per_node, "memory": asked.memory_per_node or NODE_MEMORY}
    if asked.gpus_per_node:
        size["nvidia.com/gpu"] = asked.gpus_per_node
    size = {resource: str(amount) for resource, amount in size.items()}
    container: dict[str, Any] = {
        "name": name,
        "image": asked.image,
        "resources": {"requests": size, "limits": size},
        "volumeMounts": [{"name": "runs", "mountPath": CLAIM_PATH}],
    }
    volumes: list[dict[str, Any]] = [{"name": "runs", "persistentVolumeClaim": {"claimName": asked.claim}}]
    if is_head:  # the search itself runs here, trials on all nodes
        container["ports"] = [{"name": port, "containerPort": number} for port, number in RAY_PORTS.items()]
        container["volumeMounts"].append({"name": "space", "mountPath": SPACE_PATH, "readOnly": True})
        volumes.append({"name": "space", "configMap": {"name": job.name}})
        if asked.storage_secret:
            source = {"secretKeyRef": {"name": asked.storage_secret, "key": "OPTUNA_STORAGE"}}
            container["env"] = [{"name": "OPTUNA_STORAGE", "valueFrom": source}]
    return {"spec": {"containers": [container], "volumes": volumes}}


def _dumper() -> type:
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes multi-line text as blocks, and no anchors, because people read it."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return Dumper

"""Writes the schemas beside it: those nodes of the published ones that our manifests use, and nothing made up.

    pip install --no-deps --target FOLDER kubernetes-validate==1.37.0
    cd FOLDER/kubernetes_validate/kubernetes-json-schema
    PYTHONPATH=CHECKOUT python CHECKOUT/tests/jobs/golden/schemas/trim.py v1.37.0-local-strict

Core kinds and pod templates are Kubernetes 1.37's, strict (no unknown fields), as that package ships them. KubeRay's
fields are those of its API types, of which it generates its CRD (ray-project/kuberay, ray-operator/apis/ray/v1, with
the `authOptions` of release 1.5.1); a pod template there is the one of Kubernetes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from search.jobs.kubernetes import rayjob_documents
from tests.jobs.test_jobs import K8S, LARGE_K8S

HERE = Path(__file__).resolve().parent
TEXT, FLAG = {"type": "string"}, {"type": "boolean"}
INT32 = {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1}
TEXTS = {"type": "object", "additionalProperties": TEXT}


def fields(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    """An object of these fields and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def rayjob(definitions: dict[str, Any]) -> dict[str, Any]:
    """KubeRay's RayJob, but for the fields that no manifest of ours could hold."""
    template = {"$ref": "_definitions.json#/$defs/io.k8s.api.core.v1.PodTemplateSpec"}
    metadata = {"$ref": "_definitions.json#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
    head = fields(
        ("template",),  # rayStartParams is optional since release 1.5, and required before
        template=template,
        enableIngress=FLAG,
        resources=TEXTS,
        labels=TEXTS,
        rayStartParams=TEXTS,
        serviceType=TEXT,
    )
    worker = fields(
        ("groupName", "maxReplicas", "minReplicas", "template"),
        suspend=FLAG,
        groupName=TEXT,
        replicas=INT32,
        minReplicas=INT32,
        maxReplicas=INT32,
        idleTimeoutSeconds=INT32,
        resources=TEXTS,
        labels=TEXTS,
        rayStartParams=TEXTS,
        template=template,
        numOfHosts=INT32,
    )
    cluster = fields(
        ("headGroupSpec",),
        authOptions=fields(mode={"type": "string", "enum": ["disabled", "token"]}),
        suspend=FLAG,
        managedBy=TEXT,
        headServiceAnnotations=TEXTS,
        enableInTreeAutoscaling=FLAG,
        headGroupSpec=head,
        rayVersion=TEXT,
        workerGroupSpecs={"type": "array", "items": worker},
    )
    spec = fields(
        activeDeadlineSeconds=INT32,
        backoffLimit=INT32,
        rayClusterSpec=cluster,
        submitterPodTemplate=template,
        metadata=TEXTS,
        clusterSelector=TEXTS,
        submitterConfig=fields(backoffLimit=INT32),
        managedBy=TEXT,
        entrypoint=TEXT,
        runtimeEnvYAML=TEXT,
        jobId=TEXT,
        submissionMode=TEXT,
        entrypointResources=TEXT,
        entrypointNumCpus={"type": "number"},
        entrypointNumGpus={"type": "number"},
        ttlSecondsAfterFinished=INT32,
        shutdownAfterJobFinishes=FLAG,
        suspend=FLAG,
    )
    kind = {"apiVersion": {"enum": ["ray.io/v1"]}, "kind": {"enum": ["RayJob"]}}
    return fields(("apiVersion", "kind"), **kind, metadata=metadata, spec=spec)


def trimmed(node: dict[str, Any], used: list[Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A schema's node without what describes it to people, and without the properties that none of `used` has."""
    while "$ref" in node:
        node = definitions[node["$ref"].rpartition("/")[2]]
    kept = {name: value for name, value in node.items() if name != "description" and not name.startswith("x-")}
    for name in ("oneOf", "anyOf"):
        if name in kept:
            kept[name] = [trimmed(option, used, definitions) for option in kept[name]]
    objects = [value for value in used if isinstance(value, dict)]
    if "properties" in kept:
        kept["properties"] = {
            name: trimmed(child, [value[name] for value in objects if name in value], definitions)
            for name, child in kept["properties"].items()
            if any(name in value for value in objects)
        }
    if isinstance(kept.get("additionalProperties"), dict):
        inside = [child for value in objects for child in value.values()]
        kept["additionalProperties"] = trimmed(kept["additionalProperties"], inside, definitions)
    if isinstance(kept.get("items"), dict):
        inside = [child for value in used if isinstance(value, list) for child in value]
        kept["items"] = trimmed(kept["items"], inside, definitions)
    return kept


def main(folder: Path) -> None:
    definitions = json.loads((folder / "_definitions.json").read_text())["$defs"]
    whole = {
        "RayJob": rayjob(definitions),
        "ConfigMap": definitions["io.k8s.api.core.v1.ConfigMap"],
    }
    documents = [document for job in (K8S, LARGE_K8S) for document in rayjob_documents(job)]
    for kind, schema in whole.items():
        used = [document for document in documents if document["kind"] == kind]
        text = json.dumps(trimmed(schema, used, definitions), indent=1)
        (HERE / f"{kind}.json").write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

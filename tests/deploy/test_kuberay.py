"""deploy/kuberay-rayjob.yaml against the field names and types of KubeRay's and Kubernetes' own types.

No validator of Kubernetes manifests is among the dependencies and `kubectl --dry-run=client` asks a server, so the fields in use are
written down here as a JSON Schema that allows nothing else. Sources: ray-operator/apis/ray/v1/{rayjob,raycluster}_types.go of
ray-project/kuberay and its API reference for v1.6.2 (RayJobSpec, RayClusterSpec, AuthOptions, AutoscalerOptions, HeadGroupSpec,
WorkerGroupSpec), and the Kubernetes API reference (PodSpec, Container, PersistentVolumeClaimSpec).
"""

from __future__ import annotations

import copy
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

FILE = Path(__file__).parents[2] / "deploy" / "kuberay-rayjob.yaml"

STRING = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0}
SWITCH = {"type": "boolean"}
QUANTITY = {"type": "string", "pattern": r"^\d+(\.\d+)?(m|Ki|Mi|Gi|Ti|k|M|G|T)?$"}
STRINGS = {"type": "object", "additionalProperties": STRING}  # rayStartParams: map[string]string, so numbers must be quoted


def fields(*required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def items(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": schema, "minItems": 1}


AMOUNTS = {
    "type": "object",
    "properties": {"cpu": QUANTITY, "memory": QUANTITY, "nvidia.com/gpu": {"type": "string", "pattern": r"^[1-9]\d*$"}},
    "additionalProperties": False,
}
CONTAINER = fields(
    "name",
    "image",
    "resources",
    name={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"},
    image=STRING,
    ports=items(fields("containerPort", containerPort={"type": "integer", "maximum": 65535}, name={"type": "string", "maxLength": 15})),
    env=items(fields("name", "value", name=STRING, value=STRING)),
    resources=fields("requests", "limits", requests=AMOUNTS, limits=AMOUNTS),
    volumeMounts=items(fields("name", "mountPath", name=STRING, mountPath={"type": "string", "pattern": "^/"})),
)
POD = fields(
    "containers",
    restartPolicy={"enum": ["Always", "OnFailure", "Never"]},
    terminationGracePeriodSeconds=COUNT,
    securityContext=fields(fsGroup=COUNT, runAsUser=COUNT, runAsGroup=COUNT),
    tolerations=items(
        fields(
            key=STRING,
            operator={"enum": ["Exists", "Equal"]},
            value=STRING,
            effect={"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
        )
    ),
    containers=items(CONTAINER),
    volumes=items(fields("name", "persistentVolumeClaim", name=STRING, persistentVolumeClaim=fields("claimName", claimName=STRING))),
)
TEMPLATE = fields("spec", spec=POD)
RAY_CLUSTER = fields(
    "rayVersion",
    "headGroupSpec",
    "workerGroupSpecs",
    "authOptions",
    rayVersion=STRING,
    authOptions=fields("mode", mode={"enum": ["token"]}),
    enableInTreeAutoscaling=SWITCH,
    autoscalerOptions=fields(upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]}, idleTimeoutSeconds=COUNT),
    headGroupSpec=fields("template", rayStartParams=STRINGS, template=TEMPLATE),
    workerGroupSpecs=items(
        fields(
            "groupName",
            "minReplicas",
            "maxReplicas",
            "template",
            groupName=STRING,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            rayStartParams=STRINGS,
            template=TEMPLATE,
        )
    ),
)
METADATA = fields("name", name={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 47})
RAY_JOB = fields(
    "apiVersion",
    "kind",
    "metadata",
    "spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=METADATA,
    spec=fields(
        "entrypoint",
        "rayClusterSpec",
        entrypoint=STRING,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"]},
        backoffLimit=COUNT,
        submitterConfig=fields(backoffLimit=COUNT),
        activeDeadlineSeconds={"type": "integer", "minimum": 1},
        shutdownAfterJobFinishes=SWITCH,
        ttlSecondsAfterFinished=COUNT,
        rayClusterSpec=RAY_CLUSTER,
    ),
)
CLAIM = fields(
    "apiVersion",
    "kind",
    "metadata",
    "spec",
    apiVersion={"const": "v1"},
    kind={"const": "PersistentVolumeClaim"},
    metadata=METADATA,
    spec=fields(
        "accessModes",
        "resources",
        accessModes=items({"enum": ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"]}),
        storageClassName=STRING,
        resources=fields("requests", requests=fields("storage", storage=QUANTITY)),
    ),
)


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(FILE.read_text()))


@pytest.fixture(scope="module")
def cluster(documents: list[dict[str, Any]]) -> dict[str, Any]:
    return documents[1]["spec"]["rayClusterSpec"]


def pods(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def test_only_known_fields_of_the_right_type_are_used(documents: list[dict[str, Any]]) -> None:
    """A claim and a RayJob, each with nothing but fields that their definitions have."""
    claim, job = documents

    jsonschema.validate(claim, CLAIM)
    jsonschema.validate(job, RAY_JOB)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("ttlSeconds",), 600),
        (("backoffLimit",), "3"),
        (("rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("rayClusterSpec", "workerGroupSpecs", 0, "minWorkers"), 1),
        (("rayClusterSpec", "autoscalerOptions", "idleTimeoutMinutes"), 5),
    ],
    ids=str,
)
def test_the_schema_refuses_slips(documents: list[dict[str, Any]], path: tuple[Any, ...], value: Any) -> None:
    """The check above can fail: misspelt fields, numbers where strings belong and the other way round."""
    job = copy.deepcopy(documents[1])
    place = job["spec"]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, RAY_JOB)


def test_every_pod_mounts_the_shared_claim_and_runs_one_image(documents: list[dict[str, Any]], cluster: dict[str, Any]) -> None:
    """Store, data and project are the same on all nodes, and several nodes may write to them."""
    claim = documents[0]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in pods(cluster):
        (volume,), (container,) = pod["volumes"], pod["containers"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        (mount,) = container["volumeMounts"]
        assert (mount["name"], mount["mountPath"]) == (volume["name"], "/study")
    assert len({pod["containers"][0]["image"] for pod in pods(cluster)}) == 1


def test_the_driver_runs_where_the_project_lies_and_trials_run_on_gpus(documents: list[dict[str, Any]], cluster: dict[str, Any]) -> None:
    """The entry point is `ablate run --cluster` in the volume, the head takes no trial, workers ask for a GPU and scale within bounds."""
    bash, flag, script = shlex.split(documents[1]["spec"]["entrypoint"])
    assert (bash, flag) == ("bash", "-c")
    assert script == "cd /study/project && exec python -m pipeline run --cluster"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (workers,) = cluster["workerGroupSpecs"]
    assert 1 <= workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    resources = workers["template"]["spec"]["containers"][0]["resources"]
    assert resources["requests"] == resources["limits"], "a pod that uses more than it asked for is the first to be evicted"
    assert resources["limits"]["nvidia.com/gpu"] == "1"
    assert cluster["enableInTreeAutoscaling"] is True


def test_the_cluster_has_a_token_goes_away_and_matches_the_installed_ray(documents: list[dict[str, Any]], cluster: dict[str, Any]) -> None:
    """Authentication is on without a secret in the file, nothing is left running when the study ends, versions agree."""
    assert cluster["authOptions"] == {"mode": "token"}
    assert "AUTH_TOKEN" not in FILE.read_text()
    assert documents[1]["spec"]["shutdownAfterJobFinishes"] is True
    assert cluster["rayVersion"] == version("ray")
    assert pods(cluster)[0]["containers"][0]["image"].endswith(f":{version('ray')}")

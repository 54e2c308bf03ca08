"""The RayCluster definition on a real API server: what it takes, fills in, refuses, shows and keeps."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from control_plane import ControlPlane

Raw = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
EVERY_FIELD = ROOT / "tests" / "unit" / "api" / "every-field.yaml"
EXAMPLES = sorted(
    path for path in (ROOT / "examples").glob("*.yaml") if "kind: RayCluster" in path.read_text()
)
RULES_SINCE = (1, 25)


def path(namespace: str, name: str = "", version: str = "v1") -> str:
    return f"/apis/ray.io/{version}/namespaces/{namespace}/rayclusters{'/' if name else ''}{name}"


def everything() -> Raw:
    found: Raw = yaml.safe_load(EVERY_FIELD.read_text())
    return found


def group(**fields: Any) -> Raw:
    return {"groupName": "g", "template": {"spec": {"containers": [{"name": "r", "image": "i"}]}}, **fields}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_every_example_is_taken_as_it_stands(crds: ControlPlane, namespace: str, example: Path) -> None:
    for document in yaml.safe_load_all(example.read_text()):
        if document["kind"] == "RayCluster":
            status, answer = crds.request("POST", path(namespace), document)
            assert status == 201, answer
            assert contains(answer["spec"], document["spec"]), "nothing was dropped"


def contains(whole: Any, part: Any) -> bool:
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(contains(whole.get(key), item) for key, item in part.items())
    if isinstance(part, list):
        same = isinstance(whole, list) and len(whole) == len(part)
        return same and all(contains(*pair) for pair in zip(whole, part, strict=True))
    return bool(whole == part)


@pytest.mark.parametrize("version", ["v1", "v1alpha1"])
def test_every_field_is_kept_and_unknown_ones_are_not(
    crds: ControlPlane, namespace: str, version: str
) -> None:
    raw = {**everything(), "apiVersion": f"ray.io/{version}"}
    wanted = copy.deepcopy(raw["spec"])
    raw["spec"]["aFieldOfTomorrow"] = 1
    raw["spec"]["headGroupSpec"]["template"]["spec"]["aFieldOfKubernetes"] = {"of": "tomorrow"}
    status, answer = crds.request("POST", path(namespace, version=version), raw)
    assert status == 201, answer
    status, found = crds.request("GET", path(namespace, "demo"))
    assert status == 200
    assert contains(found["spec"], wanted)
    assert "aFieldOfTomorrow" not in found["spec"]
    assert found["spec"]["headGroupSpec"]["template"]["spec"]["aFieldOfKubernetes"] == {"of": "tomorrow"}


def test_defaults_are_filled_in(crds: ControlPlane, namespace: str) -> None:
    raw = everything()
    raw["spec"]["workerGroupSpecs"] = [group()]
    raw["spec"]["gcsFaultToleranceOptions"] = {"backend": "rocksdb", "storage": {}}
    _, answer = crds.request("POST", path(namespace), raw)
    (found,) = answer["spec"]["workerGroupSpecs"]
    assert {name: found[name] for name in ("replicas", "minReplicas", "maxReplicas", "numOfHosts")} == {
        "replicas": 0,
        "minReplicas": 0,
        "maxReplicas": 2147483647,
        "numOfHosts": 1,
    }
    assert answer["spec"]["gcsFaultToleranceOptions"]["storage"]["deletionPolicy"] == "DeleteWithCluster"


REFUSED: list[tuple[str, Any, str]] = [
    ("rayVersion", 2.6, "rayVersion"),
    ("suspend", "maybe", "suspend"),
    ("managedBy", "me", "managedBy"),
    ("upgradeStrategy", {"type": "Rolling"}, "upgradeStrategy.type"),
    ("headGroupSpec", {}, "headGroupSpec.template"),
    ("headGroupSpec", {"template": {"spec": {"containers": []}}}, "headGroupSpec.template.spec.containers"),
    ("workerGroupSpecs", [group(replicas=-1)], "workerGroupSpecs"),
    ("workerGroupSpecs", [group(maxReplicas="five")], "workerGroupSpecs"),
    ("gcsFaultToleranceOptions", {"backend": "etcd"}, "gcsFaultToleranceOptions.backend"),
    ("gcsFaultToleranceOptions", {"backend": "rocksdb", "storage": {"size": "big"}}, "storage.size"),
    ("autoscalerOptions", {"version": "v3"}, "autoscalerOptions.version"),
]


@pytest.mark.parametrize(("field", "value", "named"), REFUSED)
def test_what_no_server_takes(crds: ControlPlane, namespace: str, field: str, value: Any, named: str) -> None:
    raw = everything()
    raw["spec"][field] = value
    status, answer = crds.request("POST", path(namespace), raw)
    assert status == 422, answer
    assert named in answer["message"]


RULES: list[Raw] = [
    {"gcsFaultToleranceOptions": {"backend": "rocksdb", "redisAddress": "redis:6379"}},
    {"gcsFaultToleranceOptions": {"backend": "redis", "storage": {"size": "1Gi"}}},
    {"gcsFaultToleranceOptions": {"backend": "rocksdb", "storage": {"claimName": "c", "size": "1Gi"}}},
    {"gcsFaultToleranceOptions": {"backend": "rocksdb", "enableActivePassiveHead": True}},
    {"gcsFaultToleranceOptions": {"redisPassword": {"value": "p", "valueFrom": {"secretKeyRef": {}}}}},
    {"workerGroupSpecs": [group(minReplicas=3, maxReplicas=2)]},
    {"authOptions": {"enableK8sTokenAuth": True}},
]


@pytest.mark.parametrize("change", RULES)
def test_contradictions_where_the_server_has_rules(crds: ControlPlane, namespace: str, change: Raw) -> None:
    """An older server takes them, and the operator says what is wrong."""
    raw = everything()
    raw["spec"].update(change)
    status, answer = crds.request("POST", path(namespace), raw)
    assert status == (422 if crds.version >= RULES_SINCE else 201), answer


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gcsFaultToleranceOptions", {"backend": "rocksdb"}),
        ("managedBy", "kueue.x-k8s.io/multikueue"),
    ],
)
def test_what_is_fixed_once_set(crds: ControlPlane, namespace: str, field: str, value: Any) -> None:
    _, raw = crds.request("POST", path(namespace), everything())
    raw["spec"][field] = value
    status, answer = crds.request("PUT", path(namespace, "demo"), raw)
    assert status == (422 if crds.version >= RULES_SINCE else 200), answer


# Without empty texts: servers of 1.20 built with a later Go take some of them for null.
STATUS: Raw = {
    "state": "ready",
    "head": {"podIP": "10.0.0.1", "podName": "h", "serviceIP": "10.0.0.1", "serviceName": "s"},
    "endpoints": {"client": "10001"},
    "readyWorkerReplicas": 1,
    "availableWorkerReplicas": 1,
    "desiredWorkerReplicas": 1,
    "minWorkerReplicas": 0,
    "maxWorkerReplicas": 2147483647,
    "desiredCPU": "1500m",
    "desiredMemory": "3Gi",
    "desiredGPU": "0",
    "desiredTPU": "0",
    "observedGeneration": 1,
    "lastUpdateTime": "2023-11-14T22:13:20Z",
    "stateTransitionTimes": {"ready": "2023-11-14T22:13:20Z"},
    "conditions": [
        {
            "type": "HeadPodReady",
            "status": "True",
            "reason": "HeadPodRunningAndReady",
            "message": "The head is ready",
            "lastTransitionTime": "2023-11-14T22:13:20Z",
        }
    ],
}


def test_a_status_is_kept_whole_and_shown(crds: ControlPlane, namespace: str) -> None:
    status, answer = crds.request("POST", path(namespace), everything())
    assert status == 201, answer["message"]
    body = {"status": STATUS}
    status, answer = crds.request(
        "PATCH", path(namespace, "demo/status"), body, content_type="application/merge-patch+json"
    )
    assert status == 200, answer["message"]
    assert answer["status"] == STATUS
    assert answer["metadata"]["generation"] == 1
    head, row = crds.kubectl("get", "rayclusters", "--namespace", namespace).stdout.strip().splitlines()
    for column in ("DESIRED WORKERS", "AVAILABLE WORKERS", "CPUS", "MEMORY", "GPUS", "STATUS", "AGE"):
        assert column in head
    assert row.split()[:7] == ["demo", "1", "1", "1500m", "3Gi", "0", "ready"]
    wide = crds.kubectl("get", "raycluster", "--namespace", namespace, "--output=wide").stdout
    assert "10.0.0.1" in wide
    assert "raycluster.ray.io/demo" in crds.kubectl("get", "all", "--namespace", namespace).stdout


def test_kubectl_explains_the_fields(crds: ControlPlane) -> None:
    said = crds.kubectl("explain", "rayclusters.spec.gcsFaultToleranceOptions.enableActivePassiveHead").stdout
    assert "second head" in said


def test_the_old_version_is_marked_as_such(crds: ControlPlane) -> None:
    found = json.loads(crds.kubectl("get", "crd", "rayclusters.ray.io", "--output=json").stdout)
    versions = {version["name"]: version for version in found["spec"]["versions"]}
    assert versions["v1"]["storage"]
    assert versions["v1alpha1"]["deprecated"]
    conditions = {item["type"]: item["status"] for item in found["status"]["conditions"]}
    assert conditions["Established"] == "True"
    assert conditions.get("NonStructuralSchema", "False") == "False"

"""The definitions on a real API server: what they take, fill in, refuse, show and keep."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from control_plane import ControlPlane
from ray_objects import (
    CLUSTER_STATUS,
    RULES_SINCE,
    cluster_of,
    contains,
    everything,
    group,
    path,
    whole,
)

Raw = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.yaml") if "\nkind: Ray" in path.read_text())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_every_example_is_taken_as_it_stands(crds: ControlPlane, namespace: str, example: Path) -> None:
    for document in yaml.safe_load_all(example.read_text()):
        if document["kind"] in ("RayCluster", "RayService"):
            status, answer = crds.request("POST", path(namespace, kind=document["kind"]), document)
            assert status == 201, answer
            assert contains(answer["spec"], document["spec"]), "nothing was dropped"


@pytest.mark.parametrize("kind", ["RayCluster", "RayService"])
@pytest.mark.parametrize("version", ["v1", "v1alpha1"])
def test_every_field_is_kept_and_unknown_ones_are_not(
    crds: ControlPlane, namespace: str, version: str, kind: str
) -> None:
    raw = {**whole(kind), "apiVersion": f"ray.io/{version}"}
    wanted = copy.deepcopy(raw["spec"])
    raw["spec"]["aFieldOfTomorrow"] = 1
    cluster_of(raw)["headGroupSpec"]["template"]["spec"]["aFieldOfKubernetes"] = {"of": "tomorrow"}
    status, answer = crds.request("POST", path(namespace, version=version, kind=kind), raw)
    assert status == 201, answer
    status, found = crds.request("GET", path(namespace, "demo", kind=kind))
    assert status == 200
    assert contains(found["spec"], wanted)
    assert "aFieldOfTomorrow" not in found["spec"]
    pod = cluster_of(found)["headGroupSpec"]["template"]["spec"]
    assert pod["aFieldOfKubernetes"] == {"of": "tomorrow"}


@pytest.mark.parametrize("kind", ["RayCluster", "RayService"])
def test_defaults_are_filled_in(crds: ControlPlane, namespace: str, kind: str) -> None:
    raw = whole(kind)
    cluster_of(raw)["workerGroupSpecs"] = [group()]
    cluster_of(raw)["gcsFaultToleranceOptions"] = {"backend": "rocksdb", "storage": {}}
    _, answer = crds.request("POST", path(namespace, kind=kind), raw)
    cluster = cluster_of(answer)
    (found,) = cluster["workerGroupSpecs"]
    assert {name: found[name] for name in ("replicas", "minReplicas", "maxReplicas", "numOfHosts")} == {
        "replicas": 0,
        "minReplicas": 0,
        "maxReplicas": 2147483647,
        "numOfHosts": 1,
    }
    assert cluster["gcsFaultToleranceOptions"]["storage"]["deletionPolicy"] == "DeleteWithCluster"


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


@pytest.mark.parametrize("kind", ["RayCluster", "RayService"])
@pytest.mark.parametrize("change", RULES)
def test_contradictions_where_the_server_has_rules(
    crds: ControlPlane, namespace: str, change: Raw, kind: str
) -> None:
    """An older server takes them, and the operator says what is wrong."""
    raw = whole(kind)
    cluster_of(raw).update(change)
    status, answer = crds.request("POST", path(namespace, kind=kind), raw)
    assert status == (422 if crds.version >= RULES_SINCE else 201), answer


@pytest.mark.parametrize(("kind", "longest"), [("RayCluster", 53), ("RayService", 47)])
def test_names_that_leave_no_room_for_others(
    crds: ControlPlane, namespace: str, kind: str, longest: int
) -> None:
    raw = whole(kind)
    raw["metadata"]["name"] = "n" * (longest + 1)
    status, answer = crds.request("POST", path(namespace, kind=kind), raw)
    assert status == (422 if crds.version >= RULES_SINCE else 201), answer
    raw["metadata"]["name"] = "n" * longest
    status, answer = crds.request("POST", path(namespace, kind=kind), raw)
    assert status == 201, answer


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


def test_a_status_is_kept_whole_and_shown(crds: ControlPlane, namespace: str) -> None:
    status, answer = crds.request("POST", path(namespace), everything())
    assert status == 201, answer["message"]
    body = {"status": CLUSTER_STATUS}
    status, answer = crds.request(
        "PATCH", path(namespace, "demo/status"), body, content_type="application/merge-patch+json"
    )
    assert status == 200, answer["message"]
    assert answer["status"] == CLUSTER_STATUS
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
    said = crds.kubectl("explain", "rayservices.spec.rayClusterConfig.gcsFaultToleranceOptions").stdout
    assert "enableActivePassiveHead" in said


@pytest.mark.parametrize("name", ["rayclusters.ray.io", "rayservices.ray.io"])
def test_the_old_version_is_marked_as_such(crds: ControlPlane, name: str) -> None:
    found = json.loads(crds.kubectl("get", "crd", name, "--output=json").stdout)
    versions = {version["name"]: version for version in found["spec"]["versions"]}
    assert versions["v1"]["storage"]
    assert versions["v1alpha1"]["deprecated"]
    conditions = {item["type"]: item["status"] for item in found["status"]["conditions"]}
    assert conditions["Established"] == "True"
    assert conditions.get("NonStructuralSchema", "False") == "False"

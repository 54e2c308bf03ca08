"""The RayService definition on a real API server, where it is not like the RayCluster's."""

from __future__ import annotations

from typing import Any

import pytest
from control_plane import ControlPlane
from ray_objects import CLUSTER_STATUS, RULES_SINCE, path, whole_service

Raw = dict[str, Any]


REFUSED_OF_A_SERVICE: list[tuple[str, Any, str]] = [
    ("rayClusterConfig", {}, "rayClusterConfig.headGroupSpec"),
    ("serveConfigV2", {"applications": []}, "serveConfigV2"),
    ("serveService", "mine", "serveService"),
    ("upgradeStrategy", {"type": "Rolling"}, "upgradeStrategy.type"),
    ("rayClusterDeletionDelaySeconds", -1, "rayClusterDeletionDelaySeconds"),
    ("excludeHeadPodFromServeSvc", "yes", "excludeHeadPodFromServeSvc"),
    ("managedBy", "me", "managedBy"),
]


@pytest.mark.parametrize(("field", "value", "named"), REFUSED_OF_A_SERVICE)
def test_what_no_server_takes_of_a_service(
    crds: ControlPlane, namespace: str, field: str, value: Any, named: str
) -> None:
    raw = whole_service()
    raw["spec"][field] = value
    status, answer = crds.request("POST", path(namespace, kind="RayService"), raw)
    assert status == 422, answer
    assert named in answer["message"]


def test_what_a_new_cluster_may_have_otherwise(crds: ControlPlane, namespace: str) -> None:
    """A backend is fixed in a RayCluster; in a RayService another one makes another cluster."""
    _, raw = crds.request("POST", path(namespace, kind="RayService"), whole_service())
    raw["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"] = {"backend": "rocksdb"}
    status, raw = crds.request("PUT", path(namespace, "demo", kind="RayService"), raw)
    assert status == 200, raw
    raw["spec"]["managedBy"] = "kueue.x-k8s.io/multikueue"
    status, answer = crds.request("PUT", path(namespace, "demo", kind="RayService"), raw)
    assert status == (422 if crds.version >= RULES_SINCE else 200), answer


SERVED: Raw = {
    "rayClusterName": "demo-abcde",
    "rayClusterStatus": CLUSTER_STATUS,
    "applicationStatuses": {
        "fruit": {
            "status": "RUNNING",
            "message": "m",
            "serveDeploymentStatuses": {"Market": {"status": "HEALTHY", "message": "m"}},
        }
    },
    "targetCapacity": 100,
    "trafficRoutedPercent": 100,
    "lastTrafficMigratedTime": "2023-11-14T22:13:20Z",
}
SERVICE_STATUS: Raw = {
    "activeServiceStatus": SERVED,
    "pendingServiceStatus": {**SERVED, "rayClusterName": "demo-fghij"},
    "serviceStatus": "Running",
    "numServeEndpoints": 3,
    "observedGeneration": 1,
    "lastUpdateTime": "2023-11-14T22:13:20Z",
    "conditions": [{**CLUSTER_STATUS["conditions"][0], "type": "Ready", "reason": "NonZeroServeEndpoints"}],
}


def test_the_status_of_a_service_is_kept_whole_and_shown(crds: ControlPlane, namespace: str) -> None:
    status, answer = crds.request("POST", path(namespace, kind="RayService"), whole_service())
    assert status == 201, answer["message"]
    status, answer = crds.request(
        "PATCH",
        path(namespace, "demo/status", kind="RayService"),
        {"status": SERVICE_STATUS},
        content_type="application/merge-patch+json",
    )
    assert status == 200, answer["message"]
    assert answer["status"] == SERVICE_STATUS
    assert answer["metadata"]["generation"] == 1
    head, row = crds.kubectl("get", "rsvc", "--namespace", namespace).stdout.strip().splitlines()
    assert all(column in head for column in ("SERVICE STATUS", "NUM SERVE ENDPOINTS", "AGE"))
    assert row.split()[:3] == ["demo", "Running", "3"]
    wide = crds.kubectl("get", "rayservice", "--namespace", namespace, "--output=wide").stdout
    assert {"demo-abcde", "demo-fghij"} <= set(wide.split())
    assert "rayservice.ray.io/demo" in crds.kubectl("get", "all", "--namespace", namespace).stdout

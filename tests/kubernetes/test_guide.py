"""The guide to GCS fault tolerance, step by step with kubectl: real API server, real Ray, real Redis.

Once with the manifest of today and once with the older annotations; each on a cluster of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from control_plane import ControlPlane, until
from live_cluster import PASSWORD, LiveCluster, live_cluster
from operator_process import OperatorProcess

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", params=["external-redis", "deprecate-gcs-ft"])
def guide(
    request: pytest.FixtureRequest, live_operator: OperatorProcess, control_plane: ControlPlane
) -> Iterator[LiveCluster]:
    """Steps 3 to 5: the cluster is up and its detached actor exists."""
    with live_cluster(control_plane, request.param) as found:
        found.python("detached_actor.py")
        yield found


def environment(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in pod["spec"]["containers"][0]["env"]}


def test_the_guide(guide: LiveCluster) -> None:
    """The steps in their order, for each needs the one before."""
    steps_4_and_5(guide)
    step_6(guide)
    step_7_and_8(guide)
    a_deleted_head_pod(guide)
    step_9(guide)


def steps_4_and_5(guide: LiveCluster) -> None:
    assert len(guide.pods()) == 2
    assert set(guide.restarts().values()) == {0}
    status = guide.json("raycluster", guide.name)["status"]
    assert status["head"]["podName"] == guide.head()
    assert status["readyWorkerReplicas"] == status["desiredWorkerReplicas"] == 1
    conditions = {item["type"]: item["status"] for item in status["conditions"]}
    assert conditions["HeadPodReady"] == conditions["RayClusterProvisioned"] == "True"
    assert guide.python("increment_counter.py").splitlines()[-1] == "1"


def step_6(guide: LiveCluster) -> None:
    raw = guide.json("raycluster", guide.name)
    assert "ray.io/gcs-ft-redis-cleanup-finalizer" in raw["metadata"]["finalizers"]
    on_head = environment(guide.pods()[guide.head()])
    namespace = on_head["RAY_external_storage_namespace"]["value"]
    annotations = guide.pods()[guide.head()]["metadata"]["annotations"]
    assert annotations["ray.io/ft-enabled"] == "true"
    assert annotations["ray.io/external-storage-namespace"] == namespace
    tables = {"ACTOR", "JOB", "ACTOR_TASK_SPEC", "WORKERS", "JobCounter", "KV", "NODE"}
    assert {f"RAY{namespace}@{table}" for table in tables} <= set(guide.redis("KEYS", "*").split())
    on_worker = environment(guide.pods()[guide.worker()])
    assert on_worker["RAY_gcs_rpc_server_reconnect_timeout_s"]["value"] == "600"
    assert "RAY_gcs_rpc_server_reconnect_timeout_s" not in on_head


def step_7_and_8(guide: LiveCluster) -> None:
    before, pods = guide.restarts(), set(guide.pods())
    kill = (
        "import os, signal; [os.kill(int(p), signal.SIGKILL) for p in os.listdir('/proc') if p.isdigit() and "
    )
    kill += "os.path.basename(open(f'/proc/{p}/cmdline').read().split(chr(0))[0]) == 'gcs_server']"
    guide.kubectl("exec", "-i", guide.head(), "--", "python3", "-c", kill)
    assert guide.python("increment_counter.py").splitlines()[-1] == "2"
    assert guide.restarts() == before, "the head Pod does not restart"
    assert set(guide.pods()) == pods


def a_deleted_head_pod(guide: LiveCluster) -> None:
    old, worker = guide.head(), guide.worker()
    guide.delete_head(bound_s=30)
    until("the old one is gone", lambda: old not in guide.pods("--selector=ray.io/node-type=head"), 60)
    assert guide.python("increment_counter.py").splitlines()[-1] == "3"
    assert guide.worker() == worker
    assert guide.restarts()[worker] == 0
    until("the failover is told", lambda: any("FailoverCompleted" in event for event in guide.events()))


def step_9(guide: LiveCluster) -> None:
    guide.kubectl("delete", "raycluster", guide.name, "--timeout=120s", timeout_s=130)
    assert guide.json("rayclusters")["items"] == []
    assert guide.redis("DBSIZE") == "0"
    told = guide.events()
    assert any(event.startswith("CreatedRedisCleanupJob") for event in told), told
    until("the Pods are gone", lambda: not guide.pods(), 60)


def test_the_log_names_no_secret(live_operator: OperatorProcess) -> None:
    assert PASSWORD not in Path(live_operator.log).read_text()

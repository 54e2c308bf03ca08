"""Clusters with other stores, and with two heads, for real: a head Pod that goes takes nothing with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from control_plane import ControlPlane, until
from counter_script import COUNTER
from live_cluster import UP_S, LiveCluster, live_cluster
from operator_process import OperatorProcess

pytestmark = pytest.mark.ray


@pytest.fixture(params=["embedded-gcs-ft", "persistent-redis-sidecar"])
def cluster(
    request: pytest.FixtureRequest, live_operator: OperatorProcess, control_plane: ControlPlane
) -> Iterator[LiveCluster]:
    """State on a volume that follows the head: RocksDB, or a Redis beside it."""
    with live_cluster(control_plane, request.param) as found:
        yield found


@pytest.fixture
def pair(live_operator: OperatorProcess, control_plane: ControlPlane) -> Iterator[LiveCluster]:
    """Two heads, state in a Redis of its own."""
    with live_cluster(control_plane, "ha") as found:
        yield found


def count(cluster: LiveCluster, head: str) -> int:
    said = cluster.kubectl("exec", "-i", head, "--", "python3", "-c", COUNTER, timeout_s=90)
    return int(said.split()[-2])


def test_the_next_head_finds_the_volume(cluster: LiveCluster) -> None:
    old, worker = cluster.head(), cluster.worker()
    assert count(cluster, old) == 1
    cluster.delete_head(bound_s=120)
    assert count(cluster, cluster.head()) == 2, "the actor lives on"
    assert cluster.worker() == worker
    assert cluster.restarts()[worker] == 0


def test_a_standby_leads_when_the_leaders_pod_is_lost(pair: LiveCluster) -> None:
    until("a head leads and one stands by", lambda: _stands(pair), UP_S)
    old, workers = pair.leader(), set(pair.pods("--selector=ray.io/node-type=worker"))
    (spare,) = {pod["metadata"]["name"] for pod in pair.heads()} - {old}
    assert count(pair, old) == 1
    pair.kubectl("delete", "pod", old, "--grace-period=0", "--force")
    until("the standby leads", lambda: pair.leader() == spare, 120)
    assert count(pair, spare) == 2, "the actor lives on"
    until("a new head stands by", lambda: _stands(pair), UP_S)
    assert set(pair.pods("--selector=ray.io/node-type=worker")) == workers
    assert {pair.restarts()[worker] for worker in workers} == {0}
    until("it is told", lambda: any(event.startswith("LeaderChanged") for event in pair.events()))


def _stands(cluster: LiveCluster) -> bool:
    wanted = ("LeaderElected", "StandbyHeadReady", "WritesFenced", "StoreHealthy")
    return all(cluster.condition(name)["status"] == "True" for name in wanted)

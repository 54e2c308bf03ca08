"""Heads that Kubernetes still lists and that serve nobody: on a lost node, evicted, crashing for ever."""

from __future__ import annotations

from typing import Any

import pytest

from rayward.plan.lost_nodes import lost_nodes
from rayward.plan.outcome import Plan
from rayward.plan.pod_state import timestamp

Raw = dict[str, Any]
NOW = 1_700_000_000.0


def deleted(plan: Plan) -> dict[str, str]:
    return {found.name: found.reason for found in plan.delete}


def new_heads(plan: Plan) -> int:
    return sum("-head-" in found["metadata"].get("generateName", "") for found in plan.create)


def reasons(plan: Plan) -> list[str]:
    return [event.reason for event in plan.events]


def unfenced(standing: Any, why: str) -> None:
    """Make it a cluster whose heads no fence stops, with a head that runs."""
    if why == "rocksdb":
        standing.raw["spec"]["gcsFaultToleranceOptions"] = {"backend": "rocksdb"}
        standing.raw["metadata"]["finalizers"] = []
    else:
        standing.raw["metadata"]["annotations"]["rayward.dev/agent"] = "disabled"
    standing.build()


LOST = {
    "reason of the Pod": lambda pod: pod["status"].update(reason="NodeLost"),
    "reason of Ready": lambda pod: pod["status"].update(
        conditions=[{"type": "Ready", "status": "False", "reason": "NodeLost"}]
    ),
    "phase": lambda pod: pod["status"].update(phase="Unknown"),
    "node": lambda pod: pod["spec"].update(nodeName="node-1"),
    "taint": lambda pod: pod["status"]["conditions"].append(
        {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
    ),
    "eviction": lambda pod: pod["status"].update(phase="Failed", reason="Evicted"),
}


@pytest.mark.parametrize("how", LOST)
def test_a_fenced_head_is_replaced_in_the_same_pass(standing: Any, how: str) -> None:
    standing.seen["lost_nodes"] = frozenset({"node-1"})
    assert standing.run().delete == ()
    LOST[how](standing.pod("head-a"))
    plan = standing.run()
    assert list(deleted(plan)) == ["head-a"]
    assert new_heads(plan) == 1
    assert plan.status["state"] == ""
    if how == "eviction":
        assert "Evicted" in deleted(plan)["head-a"]


@pytest.mark.parametrize("how", ["node", "phase", "taint"])
@pytest.mark.parametrize("why", ["rocksdb", "no agent"])
def test_an_unfenced_one_is_asked_to_end_first_and_waited_for_to_the_end(
    standing: Any, how: str, why: str
) -> None:
    unfenced(standing, why)
    standing.seen["lost_nodes"] = frozenset({"node-1"})
    head = standing.pod("head-a")
    LOST[how](head)
    plan = standing.settle()
    assert list(deleted(plan)) == ["head-a"]
    assert new_heads(plan) == 0
    assert "WaitingForHeadPod" in reasons(plan)
    head["metadata"]["deletionTimestamp"] = timestamp(NOW + 30)
    plan = standing.settle(NOW + 1)
    assert (new_heads(plan), plan.delete) == (0, ())
    assert plan.requeue_after == pytest.approx(59)
    assert "WaitingForHeadPod" not in reasons(plan), "it is said once"
    assert new_heads(standing.run(NOW + 60)) == 1


def test_of_two_heads_the_lost_one_is_replaced_and_the_other_not_touched(standing: Any) -> None:
    standing.raw["spec"]["gcsFaultToleranceOptions"]["enableActivePassiveHead"] = True
    standing.build()
    standing.pod("head-a")["spec"]["nodeName"] = "node-1"
    standing.pod("head-b")["spec"]["nodeName"] = "node-2"
    standing.seen["lost_nodes"] = frozenset({"node-1"})
    plan = standing.run()
    assert list(deleted(plan)) == ["head-a"]
    assert [pod["metadata"]["labels"]["rayward.dev/head-index"] for pod in plan.create] == ["0"]


def test_workers_on_a_lost_node_are_left_to_kubernetes(standing: Any) -> None:
    standing.pod("worker-b")["spec"]["nodeName"] = "node-1"
    standing.seen["lost_nodes"] = frozenset({"node-1"})
    assert standing.run().delete == ()


# -- crash loops ----------------------------------------------------------------------------------------


def crash(standing: Any, since: float = 300.0, restarts: int = 5, state: Raw | None = None) -> None:
    head = standing.pod("head-a")
    head["status"]["conditions"] = [
        {"type": "Ready", "status": "False", "lastTransitionTime": timestamp(NOW - since)}
    ]
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s"}}
    head["status"]["containerStatuses"][0].update(state=state or waiting, restartCount=restarts)


def test_a_head_that_crashes_for_five_minutes_is_moved(standing: Any) -> None:
    crash(standing)
    plan = standing.run()
    assert "crashing" in deleted(plan)["head-a"]
    assert new_heads(plan) == 1


def test_before_that_it_is_left_alone_and_looked_at_in_time(standing: Any) -> None:
    crash(standing, since=100)
    plan = standing.run()
    assert plan.delete == ()
    assert plan.requeue_after == pytest.approx(200)


def two_faults(standing: Any) -> None:
    crash(standing, restarts=4)


def never_ready(standing: Any) -> None:
    crash(standing)
    for item in standing.raw["status"]["conditions"]:
        if item["type"] == "RayClusterProvisioned":
            item["status"] = "False"


def template(**spec: Any) -> Any:
    def bend(standing: Any) -> None:
        standing.raw["spec"]["headGroupSpec"]["template"]["spec"].update(spec)
        standing.build()
        crash(standing)

    return bend


def sidecar_redis(standing: Any) -> None:
    standing.raw["spec"]["gcsFaultToleranceOptions"]["redisAddress"] = "redis://127.0.0.1:6380"
    standing.build()
    crash(standing)


def not_to_come_back(standing: Any) -> None:
    standing.raw["metadata"]["annotations"]["ray.io/disable-provisioned-head-restart"] = "true"
    crash(standing)


STAYS = {
    "it has crashed a few times only": two_faults,
    "the cluster has never been complete": never_ready,
    "it runs just now": lambda standing: crash(standing, state={"running": {}}),
    "its template names a node": template(nodeName="node-1"),
    "its template uses a directory of the node": template(
        volumes=[{"name": "v", "hostPath": {"path": "/d"}}]
    ),
    "its Redis would go with it": sidecar_redis,
    "a head must not come back": not_to_come_back,
}


@pytest.mark.parametrize("why", STAYS)
def test_a_crashing_head_stays_where_it_is_when(standing: Any, why: str) -> None:
    STAYS[why](standing)
    assert standing.run().delete == ()


def test_a_redis_beside_the_head_on_a_claim_can_move(standing: Any) -> None:
    volume = {"name": "redis-data", "persistentVolumeClaim": {"claimName": "redis-data"}}
    standing.raw["spec"]["headGroupSpec"]["template"]["spec"]["volumes"] = [volume]
    sidecar_redis(standing)
    assert list(deleted(standing.run())) == ["head-a"]


# -- nodes ----------------------------------------------------------------------------------------------


def node(name: str, ready: str = "True", taint: str = "", effect: str = "NoExecute") -> Raw:
    taints = [{"key": taint, "effect": effect}] if taint else []
    return {
        "metadata": {"name": name},
        "spec": {"taints": taints},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }


@pytest.mark.parametrize(
    ("lost", "is_lost"),
    [
        (node("a", "Unknown"), True),
        (node("a", "False"), False),
        (node("a", taint="node.kubernetes.io/unreachable"), True),
        (node("a", taint="node.kubernetes.io/out-of-service"), True),
        (node("a", taint="node.kubernetes.io/not-ready"), False),
        ({"metadata": {"name": "a"}}, False),
    ],
)
def test_which_nodes_are_lost(lost: Raw, is_lost: bool) -> None:
    assert lost_nodes([lost, node("b")]) == ({"a"} if is_lost else set())


@pytest.mark.parametrize(
    ("lost", "of", "counted"), [(1, 1, 0), (1, 2, 1), (2, 3, 0), (11, 20, 11), (12, 20, 0)]
)
def test_when_most_nodes_seem_lost_it_is_the_network(lost: int, of: int, counted: int) -> None:
    nodes = [node(f"n{number}", "Unknown" if number < lost else "True") for number in range(of)]
    assert len(lost_nodes(nodes)) == counted

"""Heads that are lost, held, doubled or evicted, and steps that fail beside them, on a real API server."""

from __future__ import annotations

import pytest
from clusters import (
    REDIS,
    Raw,
    Stage,
    cluster,
    group,
    is_going,
    metric,
    name_of,
    stays,
    template,
    uid,
)
from control_plane import until
from kubelet_fixture import NodeProcess
from operator_process import OperatorProcess

from rayward.kube.kinds import INGRESSES, NODES, PODS, SERVICES
from rayward.plan import names

STORED = {"gcsFaultToleranceOptions": REDIS}


def until_another_head(stage: Stage, old: Raw, name: str = "one") -> Raw:
    """The head after ``old``, ready."""

    def there() -> Raw | None:
        heads = stage.heads(name)
        return heads[0] if len(heads) == 1 and uid(heads[0]) != uid(old) else None

    until("there is another head", there)
    stage.until_state(name=name)
    return stage.head(name)


# --- the head goes


@pytest.mark.parametrize("spec", [{}, STORED], ids=["no store", "redis"])
def test_a_deleted_head_is_replaced_and_the_worker_stays(
    stage: Stage, operator: OperatorProcess, spec: Raw
) -> None:
    stage.apply(cluster(**spec))
    stage.until_state()
    old, workers = stage.head(), stage.workers()
    recovered = metric(operator, "rayward_head_pod_recovery_seconds_count")
    stage.delete(PODS, name_of(old))
    new = until_another_head(stage, old)
    assert [uid(pod) for pod in stage.workers()] == [uid(pod) for pod in workers]
    assert stage.status()["head"]["podName"] == name_of(new)
    said = stage.until_event("FailoverCompleted")
    assert said.startswith(f"{name_of(new)} is the head now")
    assert metric(operator, "rayward_head_pod_recovery_seconds_count") == recovered + 1


@pytest.mark.parametrize("spec", [{}, STORED], ids=["no store", "redis with fence"])
def test_a_head_that_does_not_end_is_not_waited_for(stage: Stage, spec: Raw) -> None:
    """Nothing of it can do harm: it has no store, or the store refuses its writes."""
    stage.apply(cluster(**spec))
    stage.until_state()
    old = stage.head()
    stage.hold(old)
    stage.delete(PODS, name_of(old))
    until_another_head(stage, old)
    kept = stage.there(PODS, name_of(old))
    assert is_going(kept)
    stage.let_go(kept)
    until("the old one has gone", lambda: stage.get(PODS, name_of(old)) is None)
    assert len(stage.heads()) == 1


@pytest.mark.parametrize("why", ["rocksdb", "no agent"])
def test_a_head_that_may_still_write_is_waited_for(stage: Stage, hollow_node: NodeProcess, why: str) -> None:
    here = template()
    here["spec"]["nodeName"] = hollow_node.names[0]  # no scheduler that would wait for the claim
    if why == "rocksdb":
        stage.apply(cluster(head={"template": here}, gcsFaultToleranceOptions={"backend": "rocksdb"}))
    else:
        stage.apply(cluster(annotations={names.AGENT: "disabled"}, **STORED))
    stage.until_state()
    old = stage.head()
    stage.hold(old)
    stage.delete(PODS, name_of(old))
    assert name_of(old) in stage.until_event("WaitingForHeadPod")
    until("the status says so", lambda: name_of(old) in stage.message("HeadPodReady"))
    stays("no other head", lambda: stage.heads() == [], 1.5)
    assert stage.status().get("state", "") != "ready"
    stage.let_go(old)
    until_another_head(stage, old)


def test_a_head_on_a_lost_node_is_replaced_elsewhere(stage: Stage, hollow_node: NodeProcess) -> None:
    stage.apply(cluster(**STORED))
    stage.until_state()
    old = stage.head()
    node, taint = old["spec"]["nodeName"], "node.kubernetes.io/out-of-service"
    stage.hold(old)
    taints = stage.there(NODES, node)["spec"].get("taints") or []
    lost = [*taints, {"key": taint, "value": "nodeshutdown", "effect": "NoSchedule"}]
    stage.patch(NODES, node, {"spec": {"taints": lost}})
    try:
        new = until_another_head(stage, old)
        assert new["spec"]["nodeName"] != node
        stage.until_event("DeletedHeadPod", f"its node {node} does not answer")
    finally:
        stage.patch(NODES, node, {"spec": {"taints": taints}})
        stage.let_go(old)


@pytest.mark.parametrize("node_type", [names.HEAD, names.WORKER])
def test_an_evicted_pod_is_replaced(stage: Stage, node_type: str) -> None:
    stage.apply(cluster())
    stage.until_state()
    (evicted,) = stage.pods(node_type=node_type)
    others = {uid(pod) for pod in stage.pods()} - {uid(evicted)}
    status = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory"}
    stage.patch(PODS, name_of(evicted), {"status": status}, "status")
    until("it has gone", lambda: stage.get(PODS, name_of(evicted)) is None)
    stage.until_pods(2)
    stage.until_state()
    assert others < {uid(pod) for pod in stage.pods()}
    stage.until_event(f"Deleted{node_type.capitalize()}Pod", "(Evicted)")


def test_of_two_heads_one_stays(stage: Stage) -> None:
    stage.apply(cluster())
    stage.until_state()
    head = stage.head()
    twin = {
        "metadata": {
            "name": "one-head-twin",
            **{key: head["metadata"][key] for key in ("labels", "annotations", "ownerReferences")},
        },
        "spec": {
            "nodeSelector": head["spec"]["nodeSelector"],
            "containers": [{"name": "ray", "image": "none"}],
        },
    }
    stage.create(PODS, twin)
    stage.until_event("TooManyHeadPods", f"keeping {name_of(head)}")
    stage.until_pods(2)
    stage.until_state()
    assert uid(stage.head()) == uid(head)


def test_without_a_head_it_is_not_ready(stage: Stage) -> None:
    """The annotation forbids a second head, and so there is none."""
    stage.apply(cluster(annotations={names.NO_HEAD_RESTART: "true"}))
    stage.until_state()
    workers = stage.workers()
    stage.delete(PODS, name_of(stage.head()))
    stage.until_state("")
    assert stage.condition("HeadPodReady") == ("False", "HeadPodNotFound")
    assert stage.condition("RayClusterProvisioned")[0] == "True"
    assert not stage.status()["head"].get("podName")
    assert stage.heads() == []
    assert [uid(pod) for pod in stage.workers()] == [uid(pod) for pod in workers]


# --- steps that fail


def test_what_fails_beside_it_does_not_keep_a_head_away(stage: Stage) -> None:
    """No Service and no Ingress may be made."""
    with stage.quota({"services": "0", "count/ingresses.networking.k8s.io": "0"}):
        stage.apply(cluster(head={"enableIngress": True}))
        stage.until_pods(2)
        stage.until_event("FailedToCreateService", "one-head-svc")
        stage.until_event("FailedToCreateIngress", "one-head-ingress")
        until("its condition says it", lambda: stage.condition("ReplicaFailure")[0] == "True")
        old = stage.head()
        stage.delete(PODS, name_of(old))
        until("there is another head", lambda: [uid(pod) for pod in stage.heads()] not in ([], [uid(old)]))
        assert stage.status().get("state", "") != "ready"
    stage.until_state()
    assert stage.condition("ReplicaFailure") == ("", "")
    assert stage.named(SERVICES) == {"one-head-svc"}
    assert stage.named(INGRESSES) == {"one-head-ingress"}


def test_a_quota_on_pods_is_told_and_comes_right_by_itself(stage: Stage, operator: OperatorProcess) -> None:
    def tries() -> float:
        refused = {"resource": "pods", "method": "CREATE", "code": "403"}
        return metric(operator, "rest_client_requests_total", **refused)

    with stage.quota({"pods": "0"}):
        stage.apply(cluster("one", group(replicas=2)))
        until(
            "its condition says it",
            lambda: stage.condition("ReplicaFailure") == ("True", "FailedCreateHeadPod"),
        )
        assert "exceeded quota" in stage.message("ReplicaFailure")
        stage.until_event("FailedToCreateHeadPod", "exceeded quota")
        stage.until_event("FailedToCreateWorkerPod", "exceeded quota")
        until("all that is there is told", lambda: stage.status().get("endpoints"))
        stays("it is not ready", lambda: stage.status().get("state", "") != "ready", 1.5)
        before, written = tries(), stage.cluster()["metadata"]["resourceVersion"]
        stays("it is not ready", lambda: stage.status().get("state", "") != "ready", 3.0)
        # Three Pods each time, after 0.1 s, 0.2 s, 0.4 s and so on; without a pause it would be hundreds.
        assert tries() - before <= 30
        until("it is tried again", lambda: tries() >= before + 3, 35)
        # The same is not written again, and told as one.
        assert stage.cluster()["metadata"]["resourceVersion"] == written
        assert len(stage.events("FailedToCreateHeadPod")) == 1
    stage.until_state()
    assert stage.condition("ReplicaFailure") == ("", "")
    assert len(stage.workers()) == 2


def test_other_clusters_do_not_notice(stage: Stage) -> None:
    with stage.quota({"count/ingresses.networking.k8s.io": "0"}):
        stage.apply(cluster("stuck", head={"enableIngress": True}))
        stage.until_event("FailedToCreateIngress")
        stage.apply(cluster("fine"))
        stage.until_state(name="fine")

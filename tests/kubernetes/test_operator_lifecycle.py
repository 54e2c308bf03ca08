"""The operator and a RayCluster that nothing happens to: it is made, scaled, suspended, and left alone."""

from __future__ import annotations

import json
import time

from clusters import (
    IMAGE,
    REDIS,
    Raw,
    Stage,
    cluster,
    group,
    metric,
    name_of,
    template,
    uid,
)
from control_plane import until
from operator_process import OperatorProcess

from rayward.kube.kinds import CONFIGMAPS, PODS, RAYCLUSTERS, SERVICES
from rayward.plan import names
from rayward.plan.pod_state import seconds


def hosts(stage: Stage) -> dict[str, set[str]]:
    """The uids of the workers of each replica."""
    found: dict[str, set[str]] = {}
    for pod in stage.workers():
        found.setdefault(pod["metadata"]["labels"][names.REPLICA_INDEX], set()).add(uid(pod))
    return found


# --- made


def test_a_cluster_comes_up_and_says_so(stage: Stage, operator: OperatorProcess) -> None:
    stage.apply(cluster("one", group(replicas=2)))
    found = stage.until_state("ready")
    status, head, workers = found["status"], stage.head(), stage.workers()
    assert name_of(head).startswith("one-head-")
    assert [name_of(pod).rpartition("-")[0] for pod in workers] == ["one-small-worker"] * 2
    assert stage.named(SERVICES) == {"one-head-svc"}
    assert len([name for name in stage.named(CONFIGMAPS) if name.startswith("rayward-agent-")]) == 1
    assert status["observedGeneration"] == found["metadata"]["generation"]
    counts = ("desiredWorkerReplicas", "readyWorkerReplicas", "availableWorkerReplicas")
    assert [status[count] for count in counts] == [2, 2, 2]
    assert (status["minWorkerReplicas"], status["maxWorkerReplicas"]) == (0, 10)
    assert (status["desiredCPU"], status["desiredMemory"]) == ("3", "3Gi")
    assert status["head"]["podName"] == name_of(head)
    assert status["head"]["podIP"] == status["head"]["serviceIP"] == head["status"]["podIP"]
    assert status["head"]["serviceName"] == "one-head-svc"
    assert status["endpoints"]["gcs-server"] == "6379"
    assert stage.condition("HeadPodReady") == ("True", "HeadPodRunningAndReady")
    assert stage.condition("RayClusterProvisioned") == ("True", "AllPodRunningAndReadyFirstTime")
    assert stage.condition("ReplicaFailure") == ("", "")
    assert stage.until_event("CreatedHeadPod") == f"Created Pod {name_of(head)}"
    said = stage.until_event("CreatedWorkerPod")
    assert all(name_of(pod) in said for pod in workers)
    stage.until_event("CreatedService", "one-head-svc")
    labels = {"name": "one", "namespace": stage.namespace, "uid": uid(found)}
    assert metric(operator, "kuberay_cluster_info", owner_kind="None", **labels) == 1
    assert metric(operator, "kuberay_cluster_condition_provisioned", condition="true", **labels) == 1
    assert metric(operator, "kuberay_cluster_provisioned_duration_seconds", **labels) >= 0
    assert metric(operator, "leader_election_master_status", name="rayward-operator") == 1
    assert metric(operator, "controller_runtime_reconcile_total", controller="raycluster") > 0
    assert "workqueue_depth" in operator.metrics()


# --- scaled


def test_up_and_down(stage: Stage) -> None:
    stage.apply(cluster())
    stage.until_state()
    (first,) = stage.workers()
    made = seconds(first["metadata"]["creationTimestamp"]) or 0.0
    until("the next ones are younger", lambda: time.time() >= made + 1)
    stage.scale(4)
    stage.until_pods(5)
    assert stage.until_state()["status"]["desiredWorkerReplicas"] == 4
    stage.scale(1)
    stage.until_pods(2)
    assert [uid(pod) for pod in stage.workers()] == [uid(first)]
    assert stage.until_state()["status"]["readyWorkerReplicas"] == 1
    stage.until_event("DeletedWorkerPod", "the group has more than 1 replicas")


def test_within_minimum_and_maximum(stage: Stage) -> None:
    stage.apply(cluster("one", group(replicas=0, minReplicas=2, maxReplicas=3)))
    stage.until_pods(3)
    stage.scale(9)
    stage.until_pods(4)
    status = stage.until_state()["status"]
    wanted = ("minWorkerReplicas", "desiredWorkerReplicas", "maxWorkerReplicas")
    assert [status[field] for field in wanted] == [2, 3, 3]


def test_the_workers_that_are_named_go(stage: Stage) -> None:
    """And nobody else's Pods, whatever is named."""
    stage.apply(cluster("other"))
    stage.apply(cluster("one", group(replicas=3)))
    for name in ("one", "other"):
        stage.until_state(name=name)
    workers, (stranger,) = stage.workers(), stage.workers("other")
    named = [name_of(workers[1]), name_of(stranger), name_of(stage.head()), "no-such-pod"]
    stage.change(
        [
            {"op": "replace", "path": "workerGroupSpecs/0/replicas", "value": 2},
            {"op": "add", "path": "workerGroupSpecs/0/scaleStrategy", "value": {"workersToDelete": named}},
        ]
    )
    stage.until_pods(3)
    stage.until_state()
    assert {uid(pod) for pod in stage.workers()} == {uid(workers[0]), uid(workers[2])}
    assert [uid(pod) for pod in stage.workers("other")] == [uid(stranger)]
    stage.until_event("DeletedWorkerPod", "workersToDelete")


def test_a_group_comes_and_goes(stage: Stage) -> None:
    stage.apply(cluster())
    stage.until_state()
    before = {uid(pod) for pod in stage.pods()}
    stage.change([{"op": "add", "path": "workerGroupSpecs/-", "value": group("big", 2)}])
    stage.until_pods(4)
    stage.until_state()
    stage.change([{"op": "remove", "path": "workerGroupSpecs/1"}])
    stage.until_pods(2)
    assert {uid(pod) for pod in stage.pods()} == before
    stage.until_event("DeletedWorkerPod", "no longer in the spec")


def test_several_hosts_are_one_replica(stage: Stage) -> None:
    stage.apply(cluster("one", group(replicas=2, numOfHosts=2)))
    stage.until_state()
    assert "one-headless" in stage.named(SERVICES)
    before = hosts(stage)
    assert {len(pods) for pods in before.values()} == {2}
    assert before.keys() == {"0", "1"}
    lost = next(pod for pod in stage.workers() if pod["metadata"]["labels"][names.REPLICA_INDEX] == "0")
    stage.delete(PODS, name_of(lost))
    until(
        "the other host of its replica is replaced too",
        lambda: not before["0"] & hosts(stage).get("0", before["0"]),
    )
    stage.until_state()
    after = hosts(stage)
    assert after["1"] == before["1"]
    assert len(after["0"]) == 2
    stage.scale(1)
    stage.until_pods(3)
    assert len(hosts(stage)) == 1


def test_five_hundred_groups_without_a_worker(stage: Stage) -> None:
    stage.apply(cluster("one", *(group(f"group-{number}", 0) for number in range(500))))
    stage.until_state()
    assert len(stage.pods()) == 1
    stage.scale(1, index=499)
    stage.until_pods(2)
    assert stage.workers()[0]["metadata"]["labels"][names.GROUP] == "group-499"


# --- suspended


def test_suspended_and_resumed(stage: Stage, operator: OperatorProcess) -> None:
    stage.apply(cluster(gcsFaultToleranceOptions={"backend": "redis", **REDIS}))
    stage.until_state()
    recovered = metric(operator, "rayward_head_pod_recovery_seconds_count")
    stage.change({"suspend": True})
    stage.until_state("suspended")
    assert stage.pods(going=True) == []
    assert stage.condition("RayClusterSuspended")[0] == "True"
    assert stage.condition("RayClusterSuspending")[0] == "False"
    assert stage.condition("RayClusterProvisioned")[0] == "False"
    assert stage.condition("HeadPodReady") == ("False", "HeadPodNotFound")
    assert "one-head-svc" in stage.named(SERVICES)
    stage.change({"suspend": False})
    stage.until_state("ready")
    assert stage.condition("RayClusterSuspended")[0] == "False"
    assert stage.condition("RayClusterProvisioned")[0] == "True"
    assert {"ready", "suspended"} <= stage.status()["stateTransitionTimes"].keys()
    # Nothing was lost, so nothing has recovered.
    assert metric(operator, "rayward_head_pod_recovery_seconds_count") == recovered


def test_a_suspended_group(stage: Stage) -> None:
    stage.apply(cluster("one", group("a", 2), group("b", 1)))
    stage.until_state()
    stage.change([{"op": "add", "path": "workerGroupSpecs/0/suspend", "value": True}])
    stage.until_pods(2)
    assert stage.workers()[0]["metadata"]["labels"][names.GROUP] == "b"
    assert stage.until_state()["status"]["desiredWorkerReplicas"] == 1


# --- changed


def test_a_changed_template_restarts_nothing_unless_asked(stage: Stage) -> None:
    image = [
        {"op": "replace", "path": "headGroupSpec/template/spec/containers/0/image", "value": f"{IMAGE}-py311"}
    ]
    stage.apply(cluster("kept"))
    stage.apply(cluster("renewed", upgradeStrategy={"type": "Recreate"}))
    for name in ("kept", "renewed"):
        stage.until_state(name=name)
    before = {name: {uid(pod) for pod in stage.pods(name)} for name in ("kept", "renewed")}
    for name in ("kept", "renewed"):
        stage.change(image, name)
    until(
        "all Pods are new", lambda: len({uid(pod) for pod in stage.pods("renewed")} - before["renewed"]) == 2
    )
    stage.until_state(name="renewed")
    assert stage.head("renewed")["spec"]["containers"][0]["image"] == f"{IMAGE}-py311"
    stage.until_state(name="kept")
    assert {uid(pod) for pod in stage.pods("kept")} == before["kept"]


def test_another_operators_cluster_is_left_alone(stage: Stage) -> None:
    stage.apply(cluster("theirs", managedBy="kueue.x-k8s.io/multikueue"))
    stage.apply(cluster("ours", managedBy="ray.io/kuberay-operator"))
    stage.until_state(name="ours")
    assert stage.pods("theirs") == []
    assert stage.status("theirs") == {}
    assert stage.events(about="theirs") == []
    stage.delete(RAYCLUSTERS, "theirs")
    stage.until_gone("theirs")


# --- of unusual sizes and words


def test_any_words_in_annotations_and_a_long_namespace(stage: Stage) -> None:
    namespace = f"{stage.namespace}-{'x' * (62 - len(stage.namespace))}"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    code, answer = stage.plane.request("POST", "/api/v1/namespaces", body)
    assert code == 201, answer
    long = Stage(stage.plane, namespace)
    try:
        until("the namespace has its account", lambda: stage.plane.account_exists(namespace))
        words = {"team/owner": 'Jürgen Ωμέγα 船 🚢 "quoted"\n\tsecond line'}
        annotated = template()
        annotated["metadata"] = {"annotations": words}
        name = "r" + "a" * 52
        long.apply(cluster(name, annotations=words, head={"template": annotated}))
        long.until_state(name=name)
        assert long.head(name)["metadata"]["annotations"]["team/owner"] == words["team/owner"]
        assert long.status(name)["head"]["podName"] == name_of(long.head(name))
    finally:
        stage.plane.request("DELETE", f"/api/v1/namespaces/{namespace}")


def test_a_manifest_of_one_megabyte(stage: Stage) -> None:
    """The API server takes 1.5 MB at most; its Pods are smaller by half."""
    variables = [{"name": f"LONG_{number}", "value": "x" * 10_000} for number in range(50)]
    big: Raw = cluster(
        "one",
        group(template=template(env=variables)),
        head={"template": template(env=variables)},
    )
    assert len(json.dumps(big)) > 1_000_000
    stage.apply(big)
    stage.until_state()
    (worker,) = stage.workers()
    assert {item["name"] for item in variables} <= {
        item["name"] for item in worker["spec"]["containers"][0]["env"]
    }


def test_many_at_once(stage: Stage) -> None:
    names_ = [f"c{index}" for index in range(20)]
    for name in names_:
        stage.apply(cluster(name))
    for name in names_:
        stage.until_state(name=name)
    assert len(stage.list(PODS)) == 2 * len(names_)
    assert stage.events("TooManyHeadPods") == []

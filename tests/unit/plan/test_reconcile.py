"""One pass over a live cluster: what is created, deleted and reported, by situation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rayward.api.raycluster import RayCluster
from rayward.plan.outcome import Observed, Plan
from rayward.plan.pod_state import timestamp
from rayward.plan.pods import head_pod, worker_pod
from rayward.plan.reconcile import reconcile
from rayward.plan.services import head_agents_service, head_service
from rayward.plan.settings import Settings

Raw = dict[str, Any]
NOW = 1_700_000_000.0
S = Settings()
FINALIZER = "ray.io/gcs-ft-redis-cleanup-finalizer"


@pytest.fixture
def world(raw: Raw, parsed: Callable[[], RayCluster], born: Callable[..., Raw]) -> World:
    return World(raw, parsed, born)


class World:
    """A cluster as it stands: one ready head, one ready worker, its Service."""

    def __init__(self, raw: Raw, parsed: Callable[[], RayCluster], born: Callable[..., Raw]) -> None:
        self.raw, self.parsed, self.born = raw, parsed, born
        self.pods = [self.head("head-a"), self.worker("worker-a")]
        self.pvcs: list[Raw] = []

    def head(self, name: str, **how: Any) -> Raw:
        return self.born(head_pod(self.parsed(), S), name, **how)

    def worker(self, name: str, index: int = 0, host: int = 0, **how: Any) -> Raw:
        cluster = self.parsed()
        pod = worker_pod(cluster, cluster.workers[0], S, replica_index=index, host_index=host)
        return self.born(pod, name, **how)

    def run(self, now: float = NOW, settings: Settings = S) -> Plan:
        cluster = self.parsed()
        found = (head_service(cluster, S), head_agents_service(cluster, S))
        services = tuple(service for service in found if service is not None)
        return reconcile(self.raw, Observed(tuple(self.pods), services, (), tuple(self.pvcs)), settings, now)


def created(plan: Plan) -> list[str]:
    return [found["metadata"].get("name") or found["metadata"]["generateName"] for found in plan.create]


def deleted(plan: Plan) -> list[str]:
    return [found.name for found in plan.delete]


SERVICES = ["raycluster-external-redis-head-svc", "raycluster-external-redis-head-agents"]
HEAD, WORKER = "raycluster-external-redis-head-", "raycluster-external-redis-small-group-worker-"


def test_the_finalizer_is_there_before_anything_else(raw: Raw) -> None:
    raw["metadata"]["finalizers"] = ["other"]
    plan = reconcile(raw, Observed(), S, NOW)
    assert plan.finalizers == ("other", FINALIZER)
    assert plan.create == ()


@pytest.mark.parametrize("why", ["switched off", "rocksdb", "no fault tolerance"])
def test_a_finalizer_nobody_needs_goes(raw: Raw, why: str) -> None:
    settings = Settings(redis_cleanup=why != "switched off")
    if why == "rocksdb":
        raw["spec"]["gcsFaultToleranceOptions"] = {"backend": "rocksdb"}
    if why == "no fault tolerance":
        del raw["spec"]["gcsFaultToleranceOptions"]
    plan = reconcile(raw, Observed(), settings, NOW)
    assert plan.finalizers == ()
    assert HEAD in created(plan)


def test_everything_that_is_missing_is_created_in_one_pass(raw: Raw) -> None:
    plan = reconcile(raw, Observed(), S, NOW)
    assert created(plan) == [*SERVICES, HEAD, WORKER]
    reasons = ["CreatedService", "CreatedService", "CreatedHeadPod", "CreatedWorkerPod"]
    assert [event.reason for event in plan.events] == reasons


def test_a_cluster_as_it_should_be_is_left_alone(world: World) -> None:
    plan = world.run()
    assert (plan.create, plan.delete, plan.events, plan.finalizers) == ((), (), (), None)
    assert (plan.update, plan.status_now) == ((), False)
    assert plan.status["state"] == "ready"


RESTART = ("Always", "OnFailure", "Never")
TABLE = [("Failed", "running", policy, True) for policy in RESTART]
TABLE += [("Succeeded", "terminated", policy, True) for policy in RESTART]
TABLE += [("Running", "terminated", "Never", True)]
TABLE += [("Running", "terminated", policy, False) for policy in RESTART[:2]]
TABLE += [("Running", state, policy, False) for state in ("running", "waiting") for policy in RESTART]
TABLE += [("Pending", "terminated", "Never", False)]
ROLES = [(0, "head-a", HEAD), (1, "worker-a", WORKER)]


@pytest.mark.parametrize("case", TABLE)
@pytest.mark.parametrize("role", ROLES, ids=["head", "worker"])
def test_when_a_pod_is_replaced(
    world: World, case: tuple[str, str, str, bool], role: tuple[int, str, str]
) -> None:
    phase, state, policy, replaced = case
    index, name, prefix = role
    pod = world.pods[index]
    pod["spec"]["restartPolicy"] = policy
    pod["status"]["phase"] = phase
    pod["status"]["containerStatuses"][0]["state"] = {state: {}}
    plan = world.run()
    assert (deleted(plan), created(plan)) == (([name], [prefix]) if replaced else ([], []))


def test_a_terminating_head_without_a_store_is_replaced_at_once_and_its_workers_stay(world: World) -> None:
    del world.raw["spec"]["gcsFaultToleranceOptions"]
    world.pods[0]["metadata"]["deletionTimestamp"] = timestamp(NOW)
    plan = world.run()
    assert (deleted(plan), created(plan)) == ([], [HEAD])
    assert plan.status["state"] == ""


@pytest.mark.parametrize("why", ["rocksdb", "no agent", "fence off", "older rayward"])
@pytest.mark.parametrize(
    ("state", "after", "replaced"), [("running", 0, False), ("terminated", 0, True), ("running", 31, True)]
)
def test_a_head_without_a_fence_is_replaced_when_its_gcs_can_write_no_more(
    world: World, why: str, state: str, after: float, replaced: bool
) -> None:
    if why == "rocksdb":
        world.raw["spec"]["gcsFaultToleranceOptions"] = {"backend": "rocksdb"}
    if why == "no agent":
        world.raw["metadata"]["annotations"]["rayward.dev/agent"] = "disabled"
    world.pods[0] = world.head("head-a")
    env = world.pods[0]["spec"]["containers"][0]["env"]
    if why == "fence off":
        env.append({"name": "RAYWARD_FENCE", "value": "off"})
    if why == "older rayward":
        env[:] = [item for item in env if item["name"] != "RAYWARD_HEADS"]
    world.pods[0]["metadata"]["deletionTimestamp"] = timestamp(NOW)
    world.pods[0]["status"]["containerStatuses"][0]["state"] = {state: {}}
    assert (HEAD in created(world.run(NOW + after))) == replaced


def test_a_head_behind_the_fence_is_replaced_while_it_still_runs(world: World) -> None:
    world.pods[0]["metadata"]["deletionTimestamp"] = timestamp(NOW)
    assert HEAD in created(world.run())


@pytest.mark.parametrize(
    ("ready", "kept"), [((True, True), "head-a"), ((False, True), "head-b"), ((False, False), "head-a")]
)
def test_of_two_heads_the_oldest_ready_one_stays(world: World, ready: tuple[bool, bool], kept: str) -> None:
    world.pods[:1] = [
        world.head("head-b", created="2023-11-14T22:05:00Z", ready=ready[1]),
        world.head("head-a", created="2023-11-14T22:00:00Z", ready=ready[0]),
    ]
    plan = world.run()
    assert set(deleted(plan)) == {"head-a", "head-b"} - {kept}
    assert any(event.reason == "TooManyHeadPods" and kept in event.message for event in plan.events)
    assert created(plan) == []


def test_a_head_that_must_not_come_back_keeps_the_workers_untouched(world: World) -> None:
    world.raw["status"] = world.run().status
    world.raw["metadata"]["annotations"]["ray.io/disable-provisioned-head-restart"] = "true"
    world.raw["spec"]["workerGroupSpecs"][0]["replicas"] = 5
    world.pods = world.pods[1:]
    assert (created(world.run()), deleted(world.run())) == ([], [])


def test_groups_grow_on_free_indices_and_shrink_from_the_newest_unready_first(world: World) -> None:
    group = world.raw["spec"]["workerGroupSpecs"][0]
    group["replicas"] = 3
    plan = world.run()
    indices = [pod["metadata"]["labels"]["ray.io/worker-group-replica-index"] for pod in plan.create]
    assert indices == ["1", "2"]
    world.pods += [
        world.worker("worker-old", 1, created="2023-11-14T21:00:00Z", ready=False),
        world.worker("worker-new", 2, created="2023-11-14T23:00:00Z"),
    ]
    group["replicas"] = 2
    assert deleted(world.run()) == ["worker-old"]
    group["replicas"] = 1
    assert deleted(world.run()) == ["worker-old", "worker-new"]
    world.raw["spec"]["enableInTreeAutoscaling"] = True
    assert deleted(world.run()) == []


def test_workers_to_delete_hits_only_this_groups_pods(world: World) -> None:
    group = world.raw["spec"]["workerGroupSpecs"][0]
    group.update(replicas=2, scaleStrategy={"workersToDelete": ["head-a", "worker-a", "gone"]})
    world.pods.append(world.worker("worker-b", 1))
    plan = world.run()
    assert (deleted(plan), created(plan)) == (["worker-a"], [WORKER])


def test_a_cluster_with_a_step_left_is_not_ready(world: World) -> None:
    plan = reconcile(world.raw, Observed(tuple(world.pods)), S, NOW)
    assert created(plan) == SERVICES
    assert plan.status["state"] == ""


def test_terminating_workers_do_not_hold_up_their_replacement(world: World) -> None:
    world.pods[1]["metadata"]["deletionTimestamp"] = timestamp(NOW)
    assert created(world.run()) == [WORKER]


def test_replicas_of_several_hosts_come_and_go_as_one(world: World) -> None:
    world.raw["spec"]["workerGroupSpecs"][0]["numOfHosts"] = 2
    world.pods[1:] = [world.worker("w-0", 0, 0), world.worker("w-1", 0, 1)]
    service = "raycluster-external-redis-headless"
    assert (created(world.run()), deleted(world.run())) == ([service], [])
    world.pods[2]["status"]["phase"] = "Failed"
    plan = world.run()
    assert (sorted(deleted(plan)), created(plan)) == (["w-0", "w-1"], [service, WORKER, WORKER])
    hosts = [pod["metadata"]["labels"]["ray.io/replica-host-index"] for pod in plan.create[1:]]
    assert hosts == ["0", "1"]


def test_suspended_group_and_dropped_group_lose_their_pods(world: World) -> None:
    group = world.raw["spec"]["workerGroupSpecs"][0]
    group["suspend"] = True
    assert (deleted(world.run()), created(world.run())) == (["worker-a"], [])
    world.raw["spec"]["workerGroupSpecs"] = []
    assert deleted(world.run()) == ["worker-a"]


def test_suspend_and_resume(world: World) -> None:
    world.raw["spec"]["suspend"] = True
    plan = world.run()
    assert sorted(deleted(plan)) == ["head-a", "worker-a"]
    assert conditions(plan)["RayClusterSuspending"] == "True"
    world.raw["status"], world.pods = plan.status, []
    plan = world.run()
    assert created(plan) == []
    assert plan.status["state"] == "suspended"
    assert (conditions(plan)["RayClusterSuspending"], conditions(plan)["RayClusterSuspended"]) == (
        "False",
        "True",
    )
    world.raw["status"], world.raw["spec"]["suspend"] = plan.status, False
    plan = world.run()
    assert created(plan) == [HEAD, WORKER]
    assert conditions(plan)["RayClusterSuspended"] == "False"


def test_recreate_replaces_pods_of_another_spec(world: World) -> None:
    world.raw["spec"]["upgradeStrategy"] = {"type": "Recreate"}
    world.raw["spec"]["workerGroupSpecs"][0]["replicas"] = 2
    assert deleted(world.run()) == []
    world.raw["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["image"] = "rayproject/ray:2.61.0"
    assert sorted(deleted(world.run())) == ["head-a", "worker-a"]
    world.raw["spec"]["upgradeStrategy"] = {"type": "None"}
    assert deleted(world.run()) == []


def test_an_invalid_spec_changes_nothing_and_says_why(world: World) -> None:
    world.raw["spec"]["workerGroupSpecs"][0]["maxReplicas"] = "five"
    plan = reconcile(world.raw, Observed(), S, NOW)
    assert (plan.create, plan.delete) == ((), ())
    assert plan.events[0].reason == "InvalidRayClusterSpec"
    assert "spec.workerGroupSpecs[0].maxReplicas" in plan.events[0].message


def test_rocksdb_gets_its_claim_once_and_drift_is_only_reported(world: World) -> None:
    world.raw["spec"]["gcsFaultToleranceOptions"] = {"backend": "rocksdb"}
    world.raw["metadata"]["finalizers"] = []
    claim = world.run().create[0]
    assert claim["kind"] == "PersistentVolumeClaim"
    world.pvcs = [claim]
    assert world.run().create == ()
    world.raw["spec"]["gcsFaultToleranceOptions"]["storage"] = {"size": "9Gi"}
    plan = world.run()
    assert plan.create == ()
    assert [event.reason for event in plan.events] == ["FailedToCreatePVC"]


def conditions(plan: Plan) -> dict[str, str]:
    return {item["type"]: item["status"] for item in plan.status["conditions"]}


def test_status_is_stable_and_times_move_only_on_change(world: World) -> None:
    first = world.run().status
    world.raw["status"] = first
    assert world.run(NOW + 100).status == first
    world.pods[0]["status"]["conditions"][0]["status"] = "False"
    lost = world.run(NOW + 200).status
    assert lost["state"] == ""
    by_type = {item["type"]: item for item in lost["conditions"]}
    assert by_type["HeadPodReady"]["lastTransitionTime"] == timestamp(NOW + 200)
    assert by_type["RayClusterProvisioned"]["lastTransitionTime"] == timestamp(NOW)
    assert by_type["RayClusterProvisioned"]["status"] == "True"


def test_status_tells_where_the_head_is_and_how_many_workers(world: World) -> None:
    status = world.run().status
    assert status["head"] == {
        "podIP": "10.0.0.9",
        "podName": "head-a",
        "serviceIP": "10.0.0.9",
        "serviceName": "raycluster-external-redis-head-svc",
    }
    assert status["endpoints"]["dashboard"] == "8265"
    keys = ("readyWorkerReplicas", "availableWorkerReplicas", "desiredWorkerReplicas", "maxWorkerReplicas")
    assert [status[key] for key in keys] == [1, 1, 1, 10]
    assert status["observedGeneration"] == 3


def test_a_crashing_head_shows_its_containers_reason(world: World) -> None:
    head = world.pods[0]["status"]
    head["conditions"] = [{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}]
    head["containerStatuses"][0]["state"] = {"waiting": {"reason": "CrashLoopBackOff"}}
    found = {item["type"]: item["reason"] for item in world.run().status["conditions"]}
    assert found["HeadPodReady"] == "CrashLoopBackOff"


def test_desired_resources_add_up(world: World) -> None:
    world.raw["spec"]["workerGroupSpecs"][0]["replicas"] = 3
    limits = {"limits": {"cpu": "1500m", "memory": "1Gi", "nvidia.com/gpu": "1"}}
    world.raw["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"] = limits
    status = world.run().status
    found = [status[key] for key in ("desiredCPU", "desiredMemory", "desiredGPU", "desiredTPU")]
    assert found == ["4500m", "3Gi", "3", "0"]

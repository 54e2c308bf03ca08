"""A cluster with a second head: what is created, kept and deleted, and what status says of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rayward.api.raycluster import RayCluster
from rayward.plan.heads import head_index, is_fenced
from rayward.plan.outcome import Observed, Plan
from rayward.plan.pod_state import timestamp
from rayward.plan.pods import head_pod, worker_pod
from rayward.plan.reconcile import reconcile
from rayward.plan.services import head_agents_service, head_service
from rayward.plan.settings import Settings

Raw = dict[str, Any]
NOW = 1_700_000_000.0
S = Settings()
HEAD, WORKER = "raycluster-external-redis-head-", "raycluster-external-redis-small-group-worker-"


class World:
    """A cluster as it stands: head-a leads (index 0), head-b stands by (index 1), one worker, Services."""

    def __init__(self, raw: Raw, parsed: Callable[[], RayCluster], born: Callable[..., Raw]) -> None:
        self.raw, self.parsed, self.born = raw, parsed, born
        raw["spec"]["gcsFaultToleranceOptions"]["enableActivePassiveHead"] = True
        self.a, self.b = self.head("head-a", 0), self.head("head-b", 1, ready=False)
        cluster = parsed()
        worker = worker_pod(cluster, cluster.workers[0], S, replica_index=0)
        self.worker = born(worker, "worker-a")
        self.pods = [self.a, self.b, self.worker]
        found = (head_service(cluster, S), head_agents_service(cluster, S))
        self.services = [service for service in found if service is not None]

    def head(self, name: str, index: int, **how: Any) -> Raw:
        made = self.born(head_pod(self.parsed(), S, index=index), name, **how)
        made["status"]["podIP"] = f"10.0.0.{10 + index}"
        return made

    def one_head(self) -> None:
        self.raw["spec"]["gcsFaultToleranceOptions"]["enableActivePassiveHead"] = False

    def run(self, now: float = NOW) -> Plan:
        return reconcile(self.raw, Observed(tuple(self.pods), tuple(self.services)), S, now)


@pytest.fixture
def world(raw: Raw, parsed: Callable[[], RayCluster], born: Callable[..., Raw]) -> World:
    return World(raw, parsed, born)


def heads_created(plan: Plan) -> list[int]:
    return [head_index(pod) for pod in plan.create if pod["metadata"].get("generateName") == HEAD]


def deleted(plan: Plan) -> list[str]:
    return sorted(found.name for found in plan.delete)


def make_ready(pod: Raw, ready: bool) -> None:
    pod["status"]["conditions"] = [{"type": "Ready", "status": "True" if ready else "False"}]


def condition(plan: Plan, kind: str) -> tuple[str, str] | None:
    found = {item["type"]: (item["status"], item["reason"]) for item in plan.status["conditions"]}
    return found.get(kind)


def leader(plan: Plan) -> tuple[str, str]:
    return plan.status["head"]["podName"], plan.status["head"]["podIP"]


STANDBY = "StandbyHeadReady"


def test_both_heads_are_made_in_one_pass(world: World) -> None:
    world.pods = []
    assert heads_created(world.run()) == [0, 1]


def test_two_standbys_make_three_heads(world: World) -> None:
    world.pods = []
    world.raw["metadata"]["annotations"]["rayward.dev/standby-heads"] = "2"
    assert heads_created(world.run()) == [0, 1, 2]


def test_a_cluster_as_it_should_be_is_left_alone(world: World) -> None:
    plan = world.run()
    assert (plan.create, plan.update, plan.delete, plan.events) == ((), (), (), ())
    assert plan.status["state"] == "ready"
    assert leader(plan) == ("head-a", "10.0.0.10")
    assert condition(plan, "HeadPodReady") == ("True", "HeadPodRunningAndReady")
    assert condition(plan, STANDBY) == ("True", "StandbyHeadRunning")
    world.raw["status"] = plan.status
    assert world.run(NOW + 50).status == plan.status


@pytest.mark.parametrize(("lost", "index"), [("head-a", 0), ("head-b", 1)])
@pytest.mark.parametrize("how", ["gone", "failed", "terminating"])
def test_a_lost_head_is_replaced_under_its_number_and_the_other_stays(
    world: World, lost: str, index: int, how: str
) -> None:
    pod = world.a if lost == "head-a" else world.b
    if how == "gone":
        world.pods.remove(pod)
    elif how == "failed":
        pod["status"]["phase"] = "Failed"
    else:
        pod["metadata"]["deletionTimestamp"] = timestamp(NOW)
    plan = world.run()
    assert heads_created(plan) == [index]
    assert deleted(plan) == ([lost] if how == "failed" else [])
    assert plan.status["state"] == ""


def test_a_failed_head_is_replaced_while_the_other_fails_too(world: World) -> None:
    for pod in (world.a, world.b):
        pod["status"]["phase"] = "Failed"
    plan = world.run()
    assert heads_created(plan) == [0, 1]
    assert deleted(plan) == ["head-a", "head-b"]


def test_workers_are_looked_after_while_a_head_is_missing(world: World) -> None:
    world.pods = [world.b]
    plan = world.run()
    assert WORKER in [pod["metadata"].get("generateName") for pod in plan.create]


def test_a_third_head_goes_and_the_leader_stays_however_young(world: World) -> None:
    third = world.head("head-c", 0, created="2023-11-14T23:00:00Z")
    make_ready(world.a, False)
    world.pods.append(third)
    plan = world.run()
    assert deleted(plan) == ["head-b"]
    (event,) = [event for event in plan.events if event.reason == "TooManyHeadPods"]
    assert event.message == "Found 3 head Pods instead of 2; keeping head-c and head-a"


def test_two_heads_are_not_too_many(world: World) -> None:
    make_ready(world.b, True)
    assert world.run().delete == ()


def test_switching_the_standby_on_keeps_the_head_and_hides_unready_ones(world: World) -> None:
    world.one_head()
    old = world.head("head-old", 0)
    services = [head_service(world.parsed(), S), world.services[1]]
    assert "rayward.dev/head-index" not in old["metadata"]["labels"]
    world.raw["spec"]["gcsFaultToleranceOptions"]["enableActivePassiveHead"] = True
    world.pods, world.services = [old, world.worker], services
    plan = world.run()
    assert heads_created(plan) == [1]
    assert plan.delete == ()
    (update,) = plan.update
    assert update["metadata"]["name"] == services[0]["metadata"]["name"]
    assert update["spec"] == {"publishNotReadyAddresses": False}


@pytest.mark.parametrize("leading", ["a", "b"])
def test_switching_it_off_keeps_the_leader(world: World, leading: str) -> None:
    make_ready(world.a, leading == "a")
    make_ready(world.b, leading == "b")
    world.raw["status"] = world.run().status
    world.one_head()
    plan = world.run()
    assert deleted(plan) == ["head-b" if leading == "a" else "head-a"]
    assert [found["spec"] for found in plan.update] == [{"publishNotReadyAddresses": True}]
    world.pods = [pod for pod in world.pods if pod["metadata"]["name"] not in deleted(plan)]
    plan = world.run()
    assert heads_created(plan) == []
    assert condition(plan, STANDBY) is None


def test_a_service_without_the_field_needs_no_update(world: World) -> None:
    del world.services[0]["spec"]["publishNotReadyAddresses"]
    assert world.run().update == ()


def test_recreate_does_not_take_a_standby_for_another_spec(world: World) -> None:
    world.raw["spec"]["upgradeStrategy"] = {"type": "Recreate"}
    world.a, world.b = world.head("head-a", 0), world.head("head-b", 1, ready=False)
    world.pods = [world.a, world.b, world.worker]
    world.one_head()
    assert deleted(world.run()) == ["head-b"]
    container = world.raw["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    container["image"] = "rayproject/ray:2.61.0"
    assert deleted(world.run()) == ["head-a", "head-b", "worker-a"]


def test_suspend_takes_both_heads_and_resume_brings_both(world: World) -> None:
    world.raw["spec"]["suspend"] = True
    plan = world.run()
    assert deleted(plan) == ["head-a", "head-b", "worker-a"]
    world.raw["status"], world.pods = plan.status, []
    plan = world.run()
    assert plan.status["state"] == "suspended"
    world.raw["status"], world.raw["spec"]["suspend"] = plan.status, False
    assert heads_created(world.run()) == [0, 1]


def test_keys_are_cleaned_up_when_both_heads_are_gone(world: World) -> None:
    world.raw["metadata"]["deletionTimestamp"] = timestamp(NOW)
    plan = world.run()
    assert deleted(plan) == ["head-a", "head-b", "worker-a"]
    for pod in world.pods:
        pod["metadata"]["deletionTimestamp"] = timestamp(NOW)
    for left in ([world.a, world.b], [world.a], [world.b]):
        world.pods = left
        assert world.run().create == ()
    world.pods = []
    assert [found["kind"] for found in world.run().create] == ["Job"]


def test_heads_that_must_not_come_back_leave_the_other_and_the_workers_alone(world: World) -> None:
    world.raw["status"] = world.run().status
    world.raw["metadata"]["annotations"]["ray.io/disable-provisioned-head-restart"] = "true"
    world.pods = [world.b, world.worker]
    assert world.run().create == ()
    world.pods = [world.b]
    assert [pod["metadata"]["generateName"] for pod in world.run().create] == [WORKER]
    world.pods = []
    assert world.run().create == ()


def test_state_and_leader_follow_a_failover(world: World) -> None:
    world.raw["status"] = world.run().status
    make_ready(world.a, False)
    during = world.run()
    assert during.status["state"] == ""
    assert leader(during)[0] == "head-a"
    assert condition(during, "HeadPodReady") == ("False", "Unknown")
    assert condition(during, STANDBY) == ("False", "NoLeader")
    world.raw["status"] = during.status
    world.a["metadata"]["creationTimestamp"] = "2023-11-14T23:00:00Z"
    assert leader(world.run())[0] == "head-a", "it led last, however young it is"
    make_ready(world.b, True)
    after = world.run()
    assert after.status["state"] == "ready"
    assert leader(after) == ("head-b", "10.0.0.11")
    assert condition(after, "HeadPodReady") == ("True", "HeadPodRunningAndReady")
    assert condition(after, STANDBY) == ("True", "StandbyHeadRunning")


def test_a_leader_keeps_its_truth_while_its_standby_is_gone_or_crashes(world: World) -> None:
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
    world.b["status"]["containerStatuses"][0]["state"] = waiting
    plan = world.run()
    assert plan.status["state"] == ""
    assert condition(plan, "HeadPodReady") == ("True", "HeadPodRunningAndReady")
    assert condition(plan, STANDBY) == ("False", "CrashLoopBackOff")
    world.pods.remove(world.b)
    plan = world.run()
    assert condition(plan, "HeadPodReady") == ("True", "HeadPodRunningAndReady")
    assert condition(plan, STANDBY) == ("False", "StandbyHeadMissing")


def test_a_cluster_with_one_head_has_no_word_about_standbys(world: World) -> None:
    world.one_head()
    world.pods.remove(world.b)
    plan = world.run()
    assert plan.status["state"] == "ready"
    assert condition(plan, STANDBY) is None


def test_both_heads_count_into_the_resources(world: World) -> None:
    template = world.raw["spec"]["headGroupSpec"]["template"]["spec"]
    template["containers"][0]["resources"] = {"limits": {"cpu": "2"}}
    assert world.run().status["desiredCPU"] == "4"


def test_what_counts_as_fenced_is_the_pod_as_it_was_made(world: World) -> None:
    assert is_fenced(world.a)
    env = world.a["spec"]["containers"][0]["env"]
    env.append({"name": "RAYWARD_FENCE", "value": "off"})
    assert not is_fenced(world.a)

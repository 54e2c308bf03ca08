"""Deployment, StatefulSet, Job and Service endpoints at their simplest."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from rayward.plan.outcome import Plan
from rayward.plan.pod_state import timestamp
from rayward.plan.workloads import endpoints, reconcile_workload

Raw = dict[str, Any]
NOW = 1_700_000_000.0
TEMPLATE = {
    "metadata": {"labels": {"app": "redis"}},
    "spec": {"containers": [{"name": "redis", "image": "redis:7.4.0"}]},
}


def workload(kind: str, **spec: Any) -> Raw:
    api = "batch/v1" if kind == "Job" else "apps/v1"
    body = {"selector": {"matchLabels": {"app": "redis"}}, "template": copy.deepcopy(TEMPLATE), **spec}
    return {"apiVersion": api, "kind": kind, "metadata": {"name": "redis", "uid": "u"}, "spec": body}


def alive(
    pod: Raw, name: str, *, phase: str = "Running", ready: bool = True, ended: float | None = None
) -> Raw:
    made = copy.deepcopy(pod)
    made["metadata"].update(name=name, creationTimestamp=timestamp(NOW))
    state = {"running": {}} if ended is None else {"terminated": {"finishedAt": timestamp(ended)}}
    made["status"] = {
        "phase": phase,
        "podIP": "10.0.0.2",
        "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        "containerStatuses": [{"name": "redis", "state": state, "restartCount": 0}],
    }
    return made


def step(raw: Raw, *pods: Raw, now: float = NOW) -> Plan:
    return reconcile_workload(raw, pods, now)


def test_deployment_pods_carry_a_stable_hash_in_their_name() -> None:
    plan = step(workload("Deployment"))
    (pod,) = plan.create
    digest = pod["metadata"]["labels"]["pod-template-hash"]
    assert len(digest) == 10
    assert pod["metadata"]["generateName"] == f"redis-{digest}-"
    assert step(workload("Deployment")).create == plan.create
    assert step(workload("Deployment"), alive(pod, "redis-1")).create == ()


def test_deployment_replaces_ended_pods_and_trims_surplus() -> None:
    raw = workload("Deployment")
    pod = step(raw).create[0]
    plan = step(raw, alive(pod, "a", phase="Failed"))
    assert ([found.name for found in plan.delete], len(plan.create)) == (["a"], 1)
    plan = step(raw, alive(pod, "a"), alive(pod, "b", ready=False))
    assert [found.name for found in plan.delete] == ["b"]


@pytest.mark.parametrize(("strategy", "first"), [("RollingUpdate", "create"), ("Recreate", "delete")])
def test_deployment_changes_template_in_the_order_of_its_strategy(strategy: str, first: str) -> None:
    raw = workload("Deployment", strategy={"type": strategy})
    old = alive(step(raw).create[0], "old")
    raw["spec"]["template"]["spec"]["containers"][0]["image"] = "redis:8"
    plan = step(raw, old)
    assert (bool(plan.create), bool(plan.delete)) == ((True, False) if first == "create" else (False, True))
    new = alive(step(raw).create[0], "new")
    if first == "create":
        assert [found.name for found in step(raw, old, new).delete] == ["old"]
        assert step(raw, old, alive(new, "new", ready=False)).delete == ()


def test_stateful_set_has_fixed_names_claims_and_order() -> None:
    claim = {"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}
    raw = workload("StatefulSet", replicas=2, serviceName="redis", volumeClaimTemplates=[claim])
    made = step(raw).create
    assert [(found["kind"], found["metadata"]["name"]) for found in made] == [
        ("PersistentVolumeClaim", "data-redis-0"),
        ("Pod", "redis-0"),
    ]
    pod = made[1]
    assert pod["spec"]["volumes"] == [
        {"name": "data", "persistentVolumeClaim": {"claimName": "data-redis-0"}}
    ]
    assert "ownerReferences" not in made[0]["metadata"]
    assert step(raw, alive(pod, "redis-0", ready=False)).create == ()
    assert step(raw, alive(pod, "redis-0")).create[1]["metadata"]["name"] == "redis-1"
    raw["spec"]["podManagementPolicy"] = "Parallel"
    assert len(step(raw).create) == 4
    raw["spec"]["replicas"] = 0
    assert [found.name for found in step(raw, alive(pod, "redis-0")).delete] == ["redis-0"]


def test_stateful_set_waits_for_a_name_to_be_free() -> None:
    raw = workload("StatefulSet")
    pod = alive(step(raw).create[0], "redis-0")
    pod["metadata"]["deletionTimestamp"] = timestamp(NOW)
    plan = step(raw, pod)
    assert (plan.create, plan.delete) == ((), ())


def condition(plan: Plan) -> tuple[str, str]:
    (found,) = plan.status["conditions"]
    return found["type"], found["reason"]


def test_job_runs_once_and_completes() -> None:
    raw = workload("Job", backoffLimit=0, activeDeadlineSeconds=300)
    plan = step(raw)
    (pod,) = plan.create
    assert pod["metadata"]["labels"]["job-name"] == "redis"
    raw["status"] = plan.status
    assert step(raw, alive(pod, "p")).create == ()
    plan = step(raw, alive(pod, "p", phase="Succeeded"))
    assert condition(plan) == ("Complete", "CompletionsReached")
    raw["status"] = plan.status
    again = step(raw, now=NOW + 999)
    assert (again.create, again.status) == ((), plan.status)


def test_job_gives_up_after_its_tries_with_longer_pauses_between_them() -> None:
    raw = workload("Job", backoffLimit=1)
    pod = step(raw).create[0]
    failed = alive(pod, "p", phase="Failed", ended=NOW)
    plan = step(raw, failed, now=NOW + 4)
    assert (plan.create, plan.requeue_after) == ((), 6.0)
    assert len(step(raw, failed, now=NOW + 10).create) == 1
    plan = step(raw, failed, alive(pod, "q", phase="Failed", ended=NOW))
    assert condition(plan) == ("Failed", "BackoffLimitExceeded")
    assert plan.delete == ()


def test_job_ends_at_its_deadline_with_its_pod() -> None:
    raw = workload("Job", activeDeadlineSeconds=5)
    plan = step(raw)
    raw["status"], pod = plan.status, alive(plan.create[0], "p")
    assert step(raw, pod, now=NOW + 4).delete == ()
    plan = step(raw, pod, now=NOW + 5)
    assert condition(plan) == ("Failed", "DeadlineExceeded")
    assert [found.name for found in plan.delete] == ["p"]


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "Job"])
def test_a_namesakes_pods_are_not_touched_and_deletion_takes_only_ones_own(kind: str) -> None:
    raw = workload(kind)
    pod = alive(step(raw).create[0], "p")
    stranger = copy.deepcopy(pod)
    stranger["metadata"]["ownerReferences"][0]["uid"] = "other"
    stranger["metadata"]["name"] = "q"
    raw["metadata"]["deletionTimestamp"] = timestamp(NOW)
    plan = step(raw, pod, stranger)
    assert [found.name for found in plan.delete] == ["p"]
    assert step(raw, stranger).remove_cluster


def test_endpoints_are_the_ready_pods_of_the_selector() -> None:
    service = {"metadata": {"name": "redis"}, "spec": {"selector": {"app": "redis"}}}
    pod = step(workload("Deployment")).create[0]
    ready, waiting, other = alive(pod, "a"), alive(pod, "b", ready=False), alive(pod, "c")
    waiting["status"]["podIP"] = "10.0.0.1"
    other["metadata"]["labels"] = {"app": "x"}
    over = alive(pod, "d", phase="Failed")
    over["status"]["podIP"] = "10.0.0.3"
    assert endpoints(service, (ready, waiting, other, over)) == ("10.0.0.2",)
    service["spec"]["publishNotReadyAddresses"] = True  # type: ignore[index]
    assert endpoints(service, (ready, waiting, other, over)) == ("10.0.0.1", "10.0.0.2")
    assert endpoints({"metadata": {}, "spec": {}}, (ready,)) == ()
    leaving = copy.deepcopy(ready)
    leaving["metadata"]["deletionTimestamp"] = timestamp(NOW)
    del service["spec"]["publishNotReadyAddresses"]  # type: ignore[attr-defined]
    assert endpoints(service, (leaving,)) == ()

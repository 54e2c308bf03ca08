"""A cluster on its way out: Pods, keys, object, and an end to every wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rayward.api.raycluster import RayCluster
from rayward.plan.cleanup import cleanup_job
from rayward.plan.outcome import Observed, Plan
from rayward.plan.pod_state import timestamp
from rayward.plan.pods import head_pod, worker_pod
from rayward.plan.reconcile import reconcile
from rayward.plan.settings import Settings

Raw = dict[str, Any]
NOW = 1_700_000_000.0
S = Settings()


@pytest.fixture
def pods(raw: Raw, parsed: Callable[[], RayCluster], born: Callable[..., Raw]) -> tuple[Raw, Raw]:
    cluster = parsed()
    worker = worker_pod(cluster, cluster.workers[0], S, replica_index=0)
    raw["metadata"]["deletionTimestamp"] = timestamp(NOW)
    return born(head_pod(cluster, S), "head-a"), born(worker, "worker-a")


@pytest.fixture
def job(pods: tuple[Raw, Raw], parsed: Callable[[], RayCluster]) -> Raw:
    return cleanup_job(parsed(), S)


def run(
    raw: Raw, *pods: Raw, jobs: tuple[Raw, ...] = (), now: float = NOW + 1, settings: Settings = S
) -> Plan:
    return reconcile(raw, Observed(pods=pods, jobs=jobs), settings, now)


def end(job: Raw, kind: str) -> Raw:
    return {**job, "status": {"conditions": [{"type": kind, "status": "True"}]}}


def test_pods_go_first_and_the_job_waits_for_the_head_alone(raw: Raw, pods: tuple[Raw, Raw]) -> None:
    plan = run(raw, *pods)
    assert [found.name for found in plan.delete] == ["head-a", "worker-a"]
    assert (plan.create, plan.finalizers, plan.remove_cluster) == ((), None, False)
    for pod in pods:
        pod["metadata"]["deletionTimestamp"] = timestamp(NOW)
    assert run(raw, *pods).delete == ()
    assert run(raw, *pods).create == ()
    plan = run(raw, pods[1])
    assert [found["kind"] for found in plan.create] == ["Job"]
    assert plan.finalizers is None


def test_a_running_job_is_waited_for_and_never_made_twice(raw: Raw, job: Raw) -> None:
    plan = run(raw, jobs=(job,))
    assert (plan.create, plan.finalizers, plan.remove_cluster) == ((), None, False)


def test_a_finished_job_lets_the_cluster_go(raw: Raw, job: Raw) -> None:
    raw["metadata"]["finalizers"].insert(0, "other")
    plan = run(raw, jobs=(end(job, "Complete"),), now=NOW + 1000)
    assert plan.finalizers == ("other",)
    assert not plan.remove_cluster
    assert [event.type for event in plan.events] == ["Normal"]
    raw["metadata"]["finalizers"].remove("other")
    assert run(raw, jobs=(end(job, "Complete"),)).remove_cluster


@pytest.mark.parametrize("kind", ["Failed", "FailureTarget"])
def test_a_failed_job_lets_it_go_too_with_the_command_to_run(raw: Raw, job: Raw, kind: str) -> None:
    plan = run(raw, jobs=(end(job, kind),))
    assert (plan.finalizers, plan.remove_cluster) == ((), True)
    assert plan.events[0].type == "Warning"
    assert "rayward store cleanup 66a4e2af --redis-address redis:6379" in plan.events[0].message


@pytest.mark.parametrize(
    ("annotation", "seconds"),
    [(None, 300), ("20", 20), ("0", 300), ("-5", 300), ("soon", 300), ("9" * 12, 300)],
)
def test_a_head_that_never_ends_is_not_waited_for_for_ever(
    raw: Raw, pods: tuple[Raw, Raw], annotation: str | None, seconds: int
) -> None:
    if annotation is not None:
        raw["metadata"]["annotations"]["ray.io/gcs-ft-deletion-timeout"] = annotation
    pods[0]["metadata"]["deletionTimestamp"] = timestamp(NOW)
    assert run(raw, pods[0], now=NOW + seconds - 1).finalizers is None
    plan = run(raw, pods[0], now=NOW + seconds)
    assert (plan.finalizers, plan.remove_cluster) == ((), True)
    assert plan.events[-1].reason == "ForceDeletedStuckCluster"
    assert "66a4e2af" in plan.events[-1].message


def test_a_spec_that_went_bad_or_lost_its_redis_does_not_hold_the_cluster(
    raw: Raw, pods: tuple[Raw, Raw]
) -> None:
    raw["spec"]["suspend"] = "maybe"
    assert run(raw, *pods).finalizers is None
    assert run(raw).finalizers == ()
    assert run(raw).events[0].type == "Warning"
    del raw["spec"]["suspend"], raw["spec"]["gcsFaultToleranceOptions"]
    assert run(raw, *pods).finalizers == ()


def test_cleanup_switched_off_later_does_not_hold_the_cluster(raw: Raw, pods: tuple[Raw, Raw]) -> None:
    assert run(raw, *pods, settings=Settings(redis_cleanup=False)).finalizers == ()


def test_a_namesakes_job_is_not_taken_for_ours(raw: Raw, job: Raw) -> None:
    job["metadata"]["ownerReferences"][0]["uid"] = "another"
    plan = run(raw, jobs=(end(job, "Complete"),))
    assert plan.finalizers is None
    assert [found["kind"] for found in plan.create] == ["Job"]


def test_without_a_finalizer_the_cluster_goes_with_its_last_pod(raw: Raw, pods: tuple[Raw, Raw]) -> None:
    raw["metadata"]["finalizers"] = []
    assert not run(raw, *pods).remove_cluster
    assert run(raw).remove_cluster
    assert run(raw, *pods, now=NOW + 300).remove_cluster

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
def test_a_failed_job_lets_it_go_too_with_the_reason_and_the_command(raw: Raw, job: Raw, kind: str) -> None:
    failed = end(job, kind)
    failed["status"]["conditions"][0].update(reason="DeadlineExceeded", message="not done after 300 s")
    last = {
        "metadata": {"name": "cleanup-x", "labels": {"ray.io/node-type": "redis-cleanup"}},
        "status": {
            "containerStatuses": [
                {"state": {"terminated": {"message": "redis:6379: wrong\n  password"}}},
            ]
        },
    }
    plan = run(raw, last, jobs=(failed,))
    assert (plan.finalizers, plan.remove_cluster) == ((), True)
    (event,) = plan.events
    assert (event.type, event.reason) == ("Warning", "RedisCleanupFailed")
    assert "DeadlineExceeded: not done after 300 s: redis:6379: wrong password" in event.message
    assert "rayward store cleanup 66a4e2af --redis redis:6379" in event.message


def test_a_job_keeps_its_last_words(job: Raw) -> None:
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_the_command_shows_no_password_and_can_be_pasted(raw: Raw, job: Raw) -> None:
    options = raw["spec"]["gcsFaultToleranceOptions"]
    options.update(redisAddress="rediss://me:s3cret@redis.x:6380", externalStorageNamespace="my keys")
    (event,) = run(raw, jobs=(end(job, "Failed"),)).events
    assert "s3cret" not in event.message
    assert event.message.endswith("rayward store cleanup 'my keys' --redis rediss://redis.x:6380")
    options["redisAddress"] = ""
    (event,) = run(raw, jobs=(end(job, "Failed"),)).events
    assert event.message.endswith("--redis ADDRESS")


def test_a_job_that_succeeded_in_the_end_did(raw: Raw, job: Raw) -> None:
    done = end(job, "FailureTarget")
    done["status"]["conditions"].append({"type": "Complete", "status": "True"})
    plan = run(raw, jobs=(done,), now=NOW + 10_000)
    assert [event.reason for event in plan.events] == ["RedisCleanupDone"]


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


def test_a_head_long_past_its_end_is_on_a_lost_node_and_the_keys_go(raw: Raw, pods: tuple[Raw, Raw]) -> None:
    pods[0]["metadata"]["deletionTimestamp"] = timestamp(NOW + 30)
    plan = run(raw, pods[0], now=NOW + 59)
    assert (plan.create, plan.finalizers) == ((), None)
    assert plan.requeue_after == pytest.approx(1)
    plan = run(raw, pods[0], now=NOW + 60)
    assert [found["kind"] for found in plan.create] == ["Job"]
    assert plan.finalizers is None
    pods[0]["status"]["phase"] = "Failed"
    assert run(raw, pods[0], now=NOW + 31).create, "one that has ended writes no more"


def test_waiting_for_heads_takes_nothing_from_the_jobs_time(raw: Raw, job: Raw) -> None:
    job["metadata"]["creationTimestamp"] = timestamp(NOW + 299)
    for now in (NOW + 300, NOW + 299 + 359):
        plan = run(raw, jobs=(job,), now=now)
        assert (plan.finalizers, plan.events) == (None, ())
    plan = run(raw, jobs=(job,), now=NOW + 299 + 360)
    assert plan.finalizers == ()
    assert [event.reason for event in plan.events] == ["ForceDeletedStuckCluster"]
    assert [found.kind for found in plan.delete] == ["Job"]


def test_a_time_of_ones_own_is_for_the_whole_and_the_job_keeps_within_it(raw: Raw, job: Raw) -> None:
    raw["metadata"]["annotations"]["ray.io/gcs-ft-deletion-timeout"] = "60"
    (made,) = run(raw, now=NOW + 20).create
    assert made["spec"]["activeDeadlineSeconds"] == 40
    job["metadata"]["creationTimestamp"] = timestamp(NOW + 20)
    assert run(raw, jobs=(job,), now=NOW + 59).finalizers is None
    assert run(raw, jobs=(job,), now=NOW + 60).finalizers == ()
    raw["metadata"]["annotations"]["ray.io/gcs-ft-deletion-timeout"] = "7200"
    (made,) = run(raw, now=NOW + 20).create
    assert made["spec"]["activeDeadlineSeconds"] == 300


def test_a_spec_that_went_bad_does_not_hold_the_cluster(raw: Raw, pods: tuple[Raw, Raw]) -> None:
    raw["spec"]["suspend"] = "maybe"
    assert run(raw, *pods).finalizers is None
    for pod in pods:
        pod["metadata"]["deletionTimestamp"] = timestamp(NOW)
    assert run(raw, *pods).finalizers is None
    assert run(raw, *pods, now=NOW + 30).finalizers == ()
    plan = run(raw)
    assert plan.finalizers == ()
    assert plan.events[0].reason == "FailedToCreateRedisCleanupJob"
    assert "spec.suspend" in plan.events[0].message
    plan = run(raw, pods[0], now=NOW + 30)
    assert "rayward store cleanup 66a4e2af --redis redis:6379" in plan.events[-1].message
    pods[0]["metadata"]["deletionTimestamp"] = None
    assert run(raw, *pods, now=NOW + 299).finalizers is None
    assert run(raw, *pods, now=NOW + 300).finalizers == ()


@pytest.mark.parametrize("instead", [None, {"backend": "rocksdb"}], ids=["off", "rocksdb"])
def test_a_cluster_that_lost_its_redis_goes_and_says_what_it_leaves(
    raw: Raw, pods: tuple[Raw, Raw], job: Raw, instead: Raw | None
) -> None:
    raw["spec"]["gcsFaultToleranceOptions"] = instead
    plan = run(raw, *pods, jobs=(job,))
    assert plan.finalizers == ()
    (event,) = [event for event in plan.events if event.type == "Warning"]
    assert event.reason == "RedisCleanupSkipped"
    assert "rayward store cleanup 66a4e2af --redis redis:6379" in event.message
    assert [found.kind for found in plan.delete] == ["Pod", "Pod", "Job"]
    (event,) = run(raw).events
    assert event.reason == "RedisCleanupSkipped"


def test_cleanup_switched_off_later_does_not_hold_the_cluster(raw: Raw, pods: tuple[Raw, Raw]) -> None:
    plan = run(raw, *pods, settings=Settings(redis_cleanup=False))
    assert plan.finalizers == ()
    assert plan.events[-1].reason == "RedisCleanupDisabled"


def test_another_manager_does_not_hold_it_either(raw: Raw, pods: tuple[Raw, Raw]) -> None:
    raw["spec"]["managedBy"] = "kueue.x-k8s.io/multikueue"
    assert [found.name for found in run(raw, *pods).delete] == ["head-a", "worker-a"]
    assert [found["kind"] for found in run(raw).create] == ["Job"]
    raw["metadata"]["finalizers"] = ["theirs"]
    plan = run(raw, *pods)
    assert (plan.create, plan.delete, plan.finalizers, plan.events) == ((), (), None, ())


def test_keys_that_another_cluster_uses_are_never_removed(raw: Raw, job: Raw) -> None:
    shared = Observed(store_shared_with=("default/other", "x/third"))
    plan = reconcile(raw, shared, S, NOW + 1)
    assert (plan.create, plan.finalizers, plan.remove_cluster) == ((), (), True)
    (event,) = plan.events
    assert (event.type, event.reason) == ("Warning", "RedisCleanupSkipped")
    assert "default/other and x/third" in event.message
    assert "rayward store cleanup 66a4e2af" in event.message
    plan = reconcile(raw, Observed(jobs=(job,), store_shared_with=("default/other",)), S, NOW + 1)
    assert [found.kind for found in plan.delete] == ["Job"]
    assert plan.finalizers == ()


def test_two_long_names_that_end_alike_have_jobs_of_their_own(raw: Raw, job: Raw) -> None:
    raw["metadata"]["name"] = "a" + "x" * 52
    first = run(raw).create[0]
    raw["metadata"].update(name="b" + "x" * 52, uid="another")
    second = run(raw, jobs=(end(first, "Complete"),)).create[0]
    assert first["metadata"]["name"] != second["metadata"]["name"]


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

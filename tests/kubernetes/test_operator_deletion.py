"""Deleted clusters and their keys in Redis: order, clean-up Job, what is told; never stuck.

Hollow nodes end every Pod of a Job well; a Pod that no node takes is ended badly by the test itself.
"""

from __future__ import annotations

from typing import Any

import pytest
from clusters import (
    FINALIZER,
    HOLD,
    REDIS,
    Raw,
    Stage,
    cluster,
    is_going,
    metric,
    name_of,
    template,
    uid,
)
from control_plane import until
from operator_process import OperatorProcess

from rayward.kube.kinds import JOBS, PODS, RAYCLUSTERS, SERVICES
from rayward.plan import names

SOON = {names.DELETION_TIMEOUT: "3"}


def stored(name: str = "one", *, annotations: dict[str, str] | None = None, **options: Any) -> Raw:
    """A cluster whose keys are in Redis."""
    return cluster(name, annotations=annotations, gcsFaultToleranceOptions={**REDIS, **options})


def nowhere() -> Raw:
    """A template whose Pods no node takes."""
    found = template()
    found["spec"]["nodeSelector"] = {"rayward.test/no": "such"}
    return found


def job_of(stage: Stage, name: str = "one") -> Raw:
    """The clean-up Job of a cluster, once it is there."""
    return until(f"{name} has a clean-up Job", lambda: stage.get(JOBS, f"{name}-redis-cleanup"), 45)


def held(stage: Stage, manifest: Raw) -> Raw:
    """A cluster whose deletion is asked for, and whose head does not end; the head."""
    name = name_of(manifest)
    stage.apply(manifest)
    stage.until_state(name=name)
    head = stage.head(name)
    stage.hold(head)
    stage.delete(RAYCLUSTERS, name)
    until("the head is on its way out", lambda: is_going(stage.there(PODS, name_of(head))))
    return head


# --- as it should be


def test_the_finalizer_is_there_before_anything_else(stage: Stage) -> None:
    versions = {kind: stage.version(kind) for kind in (RAYCLUSTERS, PODS, SERVICES)}
    stage.apply(stored())
    stage.until_state()
    assert stage.cluster()["metadata"]["finalizers"] == [FINALIZER]
    happened = {
        kind: [
            (what, int(found["metadata"]["resourceVersion"]), found)
            for what, found in stage.history(kind, since)
        ]
        for kind, since in versions.items()
    }
    set_in = next(at for _, at, found in happened[RAYCLUSTERS] if found["metadata"].get("finalizers"))
    made = [at for kind in (PODS, SERVICES) for what, at, _ in happened[kind] if what == "ADDED"]
    assert len(made) == 4
    assert set_in < min(made)


def test_only_where_there_are_keys(stage: Stage) -> None:
    stage.apply(cluster("memory"))
    stage.apply(cluster("files", gcsFaultToleranceOptions={"backend": "rocksdb"}))
    stage.until_state(name="memory")
    until("both have a status", lambda: stage.status("files"))
    for name in ("memory", "files"):
        assert stage.cluster(name)["metadata"].get("finalizers") is None
        stage.delete(RAYCLUSTERS, name)
        stage.until_gone(name)
    until("the Pods go too", lambda: not stage.list(PODS), 60)
    assert stage.list(JOBS) == []


def test_first_the_head_then_the_keys_then_the_object(stage: Stage, operator: OperatorProcess) -> None:
    done = metric(operator, "rayward_redis_cleanups_total", outcome="done")
    stage.apply(stored())
    stage.until_state()
    head, (worker,), found = stage.head(), stage.workers(), stage.cluster()
    stage.hold(head)
    stage.hold(worker)
    stage.delete(RAYCLUSTERS, "one")
    for pod in (head, worker):
        until("it is on its way out", lambda pod=pod: is_going(stage.there(PODS, name_of(pod))))
    assert stage.list(JOBS) == []
    stage.until_event("DeletedPod", name_of(head))
    assert stage.list(JOBS) == []
    assert stage.pods() == [], "nothing is made anew"
    stage.let_go(head)  # the worker stays on
    job = job_of(stage)
    variables = {
        item["name"]: item.get("value") for item in job["spec"]["template"]["spec"]["containers"][0]["env"]
    }
    assert variables["RAY_REDIS_ADDRESS"] == REDIS["redisAddress"]
    assert variables["RAY_external_storage_namespace"] == uid(found)
    assert job["spec"]["activeDeadlineSeconds"] == 300
    stage.until_gone()
    assert stage.until_event("RedisCleanupDone") == f"Removed all keys of {uid(found)}"
    assert metric(operator, "rayward_redis_cleanups_total", outcome="done") == done + 1
    stage.let_go(worker)
    until("nothing is left", lambda: not stage.list(PODS) and not stage.list(SERVICES), 60)
    assert stage.events("ForceDeletedStuckCluster") == []


def test_a_name_that_comes_again_is_another_cluster(stage: Stage) -> None:
    stage.apply(stored())
    stage.until_state()
    old = stage.cluster()
    stage.delete(RAYCLUSTERS, "one")
    stage.until_gone()
    stage.apply(stored())
    stage.until_state()
    assert uid(stage.cluster()) != uid(old)
    owners = {owner["uid"] for pod in stage.pods() for owner in pod["metadata"]["ownerReferences"]}
    assert owners == {uid(stage.cluster())}
    stage.delete(RAYCLUSTERS, "one")
    stage.until_gone()
    until("each cleanup was told of", lambda: len(stage.events("RedisCleanupDone")) == 2, 10)


def test_keys_that_another_cluster_uses_stay(stage: Stage, operator: OperatorProcess) -> None:
    skipped = metric(operator, "rayward_redis_cleanups_total", outcome="skipped")
    for name in ("one", "two"):
        stage.apply(stored(name, externalStorageNamespace="shared"))
    for name in ("one", "two"):
        stage.until_state(name=name)
    before = {uid(pod) for pod in stage.pods("two")}
    stage.delete(RAYCLUSTERS, "one")
    stage.until_gone("one")
    said = stage.until_event("RedisCleanupSkipped", f"{stage.namespace}/two")
    assert "rayward store cleanup shared --redis redis.example:6379" in said
    assert stage.list(JOBS) == []
    assert metric(operator, "rayward_redis_cleanups_total", outcome="skipped") == skipped + 1
    assert {uid(pod) for pod in stage.pods("two")} == before
    stage.delete(RAYCLUSTERS, "two")
    stage.until_gone("two")
    stage.until_event("RedisCleanupDone", "Removed all keys of shared")


# --- when it goes wrong


def test_a_job_that_fails_says_why_and_what_to_do(stage: Stage, operator: OperatorProcess) -> None:
    failed = metric(operator, "rayward_redis_cleanups_total", outcome="failed")
    manifest = stored(redisAddress="redis://redis.example:6379")
    manifest["spec"]["headGroupSpec"]["template"] = nowhere()
    stage.apply(manifest)
    stage.until_pods(2)
    found = stage.cluster()
    stage.delete(RAYCLUSTERS, "one")
    job_of(stage)
    selector = f"{names.NODE_TYPE}={names.REDIS_CLEANUP}"
    (pod,) = until("the Job has a Pod", lambda: stage.list(PODS, selector))
    words = "WRONGPASS invalid username-password pair"
    ended = {"exitCode": 1, "reason": "Error", "message": f"{words}\n"}
    status = {"name": "ray", "image": "", "imageID": "", "ready": False, "restartCount": 0}
    body = {"phase": "Failed", "containerStatuses": [{**status, "state": {"terminated": ended}}]}
    stage.patch(PODS, name_of(pod), {"status": body}, "status")
    stage.until_gone()
    said = stage.until_event("RedisCleanupFailed")
    assert "BackoffLimitExceeded" in said
    assert words in said
    assert said.endswith(f"rayward store cleanup {uid(found)} --redis redis://redis.example:6379")
    assert metric(operator, "rayward_redis_cleanups_total", outcome="failed") == failed + 1


def test_a_job_that_hangs_does_not_hold_the_object(stage: Stage) -> None:
    """It has as long as the user's annotation says, and no longer."""
    manifest = stored(annotations=SOON)
    manifest["spec"]["headGroupSpec"]["template"] = nowhere()
    stage.apply(manifest)
    stage.until_pods(2)
    stage.delete(RAYCLUSTERS, "one")
    assert job_of(stage)["spec"]["activeDeadlineSeconds"] <= 3
    stage.until_gone()
    # Whichever comes first, the Job's end or that of the operator's patience.
    told = ("RedisCleanupFailed", "ForceDeletedStuckCluster")
    (said,) = until("it is told", lambda: [words for reason in told for words in stage.events(reason)], 20)
    assert "To remove them: rayward store cleanup" in said


def test_a_head_that_never_ends_does_not_hold_the_object(stage: Stage) -> None:
    head = held(stage, stored(annotations=SOON))
    stage.until_gone()
    assert "a head Pod that never ended" in stage.until_event("ForceDeletedStuckCluster")
    assert stage.list(JOBS) == []
    stage.let_go(head)


def test_fault_tolerance_switched_off_meanwhile(stage: Stage) -> None:
    head = held(stage, stored())
    stage.change({"gcsFaultToleranceOptions": None})
    stage.until_gone()
    assert "rayward store cleanup" in stage.until_event("RedisCleanupSkipped")
    assert stage.list(JOBS) == []
    stage.let_go(head)


def test_fault_tolerance_switched_off_before(stage: Stage) -> None:
    stage.apply(stored())
    stage.until_state()
    stage.change({"gcsFaultToleranceOptions": None})
    until("the finalizer goes", lambda: not stage.cluster()["metadata"].get("finalizers"))
    stage.until_event("RedisCleanupSkipped")
    stage.delete(RAYCLUSTERS, "one")
    stage.until_gone()


@pytest.mark.parametrize("when", ["contradictory", "unreadable"])
def test_a_spec_that_is_wrong_by_now(stage: Stage, when: str) -> None:
    """A contradiction does not hide where the keys are; what cannot be read at all does."""
    head = held(stage, stored(annotations={names.DELETION_TIMEOUT: "5"}))
    if when == "contradictory":
        stage.change({"headGroupSpec": {"rayStartParams": {"redis-username": "nobody"}}})
    else:
        limits = "headGroupSpec/template/spec/containers/0/resources/limits/cpu"
        stage.change([{"op": "replace", "path": limits, "value": "plenty"}])
    stage.let_go(head)
    stage.until_gone()
    if when == "contradictory":
        stage.until_event("RedisCleanupDone")
    else:
        stage.until_event("FailedToCreateRedisCleanupJob", "the spec cannot be read any more")


def test_a_job_that_may_not_be_made_does_not_hold_the_object(stage: Stage) -> None:
    """No Jobs in this namespace: told, tried again, and given up in the end."""
    with stage.quota({"count/jobs.batch": "0"}):
        stage.apply(stored(annotations=SOON))
        stage.until_state()
        stage.delete(RAYCLUSTERS, "one")
        stage.until_event("FailedToCreateRedisCleanupJob", "exceeded quota")
        stage.until_gone()
    stage.until_event("ForceDeletedStuckCluster", "could not start")


def test_somebody_elses_finalizer_stays(stage: Stage) -> None:
    manifest = stored()
    manifest["metadata"]["finalizers"] = [HOLD]
    stage.apply(manifest)
    stage.until_state()
    assert stage.cluster()["metadata"]["finalizers"] == [HOLD, FINALIZER]
    stage.delete(RAYCLUSTERS, "one")
    until("only theirs is left", lambda: stage.cluster()["metadata"]["finalizers"] == [HOLD])
    stage.until_event("RedisCleanupDone")
    stage.patch(RAYCLUSTERS, "one", {"metadata": {"finalizers": None}})
    stage.until_gone()


def test_a_namespace_that_goes_is_not_held_back(stage: Stage, operator: OperatorProcess) -> None:
    """No clean-up can run in it; the log has the command."""
    stage.apply(stored())
    stage.until_state()
    found = stage.cluster()
    code, answer = stage.plane.request("DELETE", f"/api/v1/namespaces/{stage.namespace}")
    assert code in (200, 202), answer
    gone = f"/api/v1/namespaces/{stage.namespace}"
    until("the namespace is gone", lambda: stage.plane.request("GET", gone)[0] == 404, 60)
    assert operator.said(f"rayward store cleanup {uid(found)} --redis redis.example:6379")

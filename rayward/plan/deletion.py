"""How a RayCluster goes: its Pods first, then its keys in Redis, then the object, whatever happens.

Every wait here has an end: a Job that fails, a Pod that never stops and a spec that cannot be read any
more all lead to removal, with a Warning that names what is left behind.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from rayward.api.fault_tolerance import Backend, FaultTolerance, fault_tolerance
from rayward.api.problems import ManifestError
from rayward.api.raycluster import RayCluster, parse_ray_cluster
from rayward.plan import names
from rayward.plan.cleanup import cleanup_job
from rayward.plan.outcome import Event, ObjectRef, Observed, Plan, Raw, reference
from rayward.plan.pod_state import is_terminating, seconds
from rayward.plan.settings import Settings

DEFAULT_TIMEOUT_S = 300
POLL_S = 2.0


def plan_deletion(raw: Raw, observed: Observed, settings: Settings, now: float) -> Plan:
    """The next steps for a cluster whose deletion was asked for."""
    metadata = raw["metadata"]
    finalizers = tuple(metadata.get("finalizers") or ())
    ray_pods = [pod for pod in observed.pods if names.node_type(pod) in (names.HEAD, names.WORKER)]
    delete = tuple(
        reference(pod, "the cluster is being deleted") for pod in ray_pods if not is_terminating(pod)
    )
    overdue = now >= (seconds(metadata["deletionTimestamp"]) or now) + deletion_timeout(metadata)
    cleanup = _Cleanup(True)
    if names.CLEANUP_FINALIZER in finalizers:
        heads = [pod for pod in ray_pods if names.node_type(pod) == names.HEAD]
        cleanup = _cleanup(raw, heads, observed, settings, overdue=overdue)
    left = (
        tuple(name for name in finalizers if name != names.CLEANUP_FINALIZER) if cleanup.done else finalizers
    )
    return Plan(
        create=cleanup.create,
        delete=delete,
        finalizers=left if left != finalizers else None,
        remove_cluster=not left and cleanup.done and (not ray_pods or overdue),
        status=dict(raw.get("status") or {}),
        requeue_after=POLL_S,
        events=(*_deleted(delete), *cleanup.events),
    )


def deletion_timeout(metadata: Raw) -> int:
    """Seconds after which the object goes in any case; a value that is no positive number is ignored."""
    text = str((metadata.get("annotations") or {}).get(names.DELETION_TIMEOUT, "")).strip()
    return int(text) if text.isascii() and text.isdecimal() and 0 < int(text) < 2**31 else DEFAULT_TIMEOUT_S


def cleanup_command(ft: FaultTolerance) -> str:
    """The command by which a user can remove what a failed cleanup left."""
    address = f" --redis-address {shlex.quote(ft.redis_address)}" if ft.redis_address else ""
    return f"rayward store cleanup {shlex.quote(ft.namespace_in_use)}{address}"


def _deleted(delete: tuple[ObjectRef, ...]) -> list[Event]:
    return [Event("Normal", "DeletedPod", f"Deleted Pod {found.name}: {found.reason}") for found in delete]


@dataclass(frozen=True)
class _Cleanup:
    """Whether the finalizer may go, and what to create and say."""

    done: bool
    create: tuple[Raw, ...] = ()
    events: tuple[Event, ...] = ()


def _cleanup(
    raw: Raw, heads: list[Raw], observed: Observed, settings: Settings, *, overdue: bool
) -> _Cleanup:
    """The next step for a cluster that still has its finalizer."""
    if not settings.redis_cleanup:
        return _abandon("RedisCleanupDisabled", "Keys in Redis are kept: cleanup is switched off")
    try:
        cluster = parse_ray_cluster(raw)
    except ManifestError as error:
        if heads and not overdue:
            return _Cleanup(False)
        text = f"Keys in Redis are kept: the spec cannot be read any more ({error.problems[0]})"
        return _abandon("FailedToCreateRedisCleanupJob", text)
    ft = fault_tolerance(cluster)
    if ft.backend is not Backend.REDIS:
        return _abandon("RedisCleanupSkipped", "The spec names no Redis any more; nothing is cleaned up")
    job = _job(observed, cluster)
    outcome = finished(job) if job is not None else None
    if outcome is not None:
        return _after_job(outcome, ft)
    return _start_or_wait(cluster, ft, settings, waiting=bool(heads) or job is not None, overdue=overdue)


def _after_job(outcome: str, ft: FaultTolerance) -> _Cleanup:
    if outcome == "Complete":
        event = Event("Normal", "RedisCleanupDone", f"Removed all keys of {ft.namespace_in_use}")
        return _Cleanup(True, events=(event,))
    text = f"The cleanup Job failed; keys may be left. To remove them: {cleanup_command(ft)}"
    return _abandon("RedisCleanupFailed", text)


def _start_or_wait(
    cluster: RayCluster, ft: FaultTolerance, settings: Settings, *, waiting: bool, overdue: bool
) -> _Cleanup:
    """No outcome yet: give up when it is time, else start the Job as soon as no head can write."""
    if overdue:
        text = f"Gave up waiting; keys may be left. To remove them: {cleanup_command(ft)}"
        return _abandon("ForceDeletedStuckCluster", text)
    if waiting:
        return _Cleanup(False)
    job = cleanup_job(cluster, settings)
    event = Event("Normal", "CreatedRedisCleanupJob", f"Created Job {job['metadata']['name']}")
    return _Cleanup(False, (job,), (event,))


def _abandon(reason: str, message: str) -> _Cleanup:
    return _Cleanup(True, events=(Event("Warning", reason, message),))


def _job(observed: Observed, cluster: RayCluster) -> Raw | None:
    """This cluster's Job: not that of a namesake, nor of a cluster whose long name ends alike."""
    for job in observed.jobs:
        labels = job["metadata"].get("labels") or {}
        owners = job["metadata"].get("ownerReferences") or ()
        ours = not owners or any(owner.get("uid") == cluster.metadata.uid for owner in owners)
        if (
            labels.get(names.CLUSTER) == cluster.name
            and labels.get(names.NODE_TYPE) == names.REDIS_CLEANUP
            and ours
        ):
            return job
    return None


def finished(job: Raw) -> str | None:
    """ "Complete" or "Failed" once the Job's conditions say so."""
    for condition in (job.get("status") or {}).get("conditions") or ():
        if condition.get("status") == "True":
            if condition.get("type") == "Complete":
                return "Complete"
            if condition.get("type") in ("Failed", "FailureTarget"):
                return "Failed"
    return None

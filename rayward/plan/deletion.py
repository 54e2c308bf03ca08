"""How a RayCluster goes: its Pods first, then its keys in Redis, then the object, whatever happens.

Every wait here has an end: a Job that fails, a Pod that never stops and a spec that cannot be read any
more all lead to removal, with a Warning that names what is left behind. Keys that another living cluster
uses are never removed.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from rayward.api.fault_tolerance import EXTERNAL_STORAGE_NAMESPACE, Backend, FaultTolerance, fault_tolerance
from rayward.api.problems import ManifestError, Problem
from rayward.api.raycluster import RayCluster, parse_ray_cluster
from rayward.plan import names
from rayward.plan.cleanup import DEADLINE_S, Verdict, cleanup_job, verdict
from rayward.plan.heads import DEAD_NODE_S
from rayward.plan.outcome import Event, ObjectRef, Observed, Plan, Raw, reference
from rayward.plan.pod_state import is_terminating, phase, seconds
from rayward.plan.settings import Settings

DEFAULT_TIMEOUT_S = 300
# Beyond its own deadline a Job gets this long to be reported as failed before it counts as stuck.
JOB_MARGIN_S = 60
POLL_S = 10.0


def plan_deletion(raw: Raw, observed: Observed, settings: Settings, now: float) -> Plan:
    """The next steps for a cluster whose deletion was asked for."""
    metadata = raw["metadata"]
    finalizers = tuple(metadata.get("finalizers") or ())
    ours = names.CLEANUP_FINALIZER in finalizers
    status = dict(raw.get("status") or {})
    if not ours and (raw.get("spec") or {}).get("managedBy") == "kueue.x-k8s.io/multikueue":
        return Plan(status=status)
    ray_pods = [pod for pod in observed.pods if names.node_type(pod) in (names.HEAD, names.WORKER)]
    delete = tuple(
        reference(pod, "the cluster is being deleted") for pod in ray_pods if not is_terminating(pod)
    )
    deletion = _Deletion(raw, observed, settings, now)
    cleanup = deletion.cleanup() if ours else _Cleanup(True)
    left = (
        tuple(name for name in finalizers if name != names.CLEANUP_FINALIZER) if cleanup.done else finalizers
    )
    return Plan(
        create=cleanup.create,
        delete=(*delete, *cleanup.delete),
        finalizers=left if left != finalizers else None,
        remove_cluster=not left and cleanup.done and (not ray_pods or now >= deletion.give_up),
        status=status,
        requeue_after=max(0.0, min(POLL_S, cleanup.look_again - now)) if ours else POLL_S,
        events=(*_deleted(delete), *cleanup.events),
    )


def deletion_timeout(metadata: Raw) -> int | None:
    """The annotation's number of seconds after which the object goes in any case; None when there is none
    or it is no positive number."""
    text = str((metadata.get("annotations") or {}).get(names.DELETION_TIMEOUT, "")).strip()
    return int(text) if text.isascii() and text.isdecimal() and 0 < int(text) < 2**31 else None


def cleanup_command(namespace: str, address: str) -> str:
    """The command by which a user can remove what a failed cleanup left. The password is read from the
    environment variable REDIS_PASSWORD."""
    target = f" --redis {shlex.quote(_without_password(address))}" if address else " --redis ADDRESS"
    return f"rayward store cleanup {shlex.quote(namespace)}{target}"


def kept_keys(observed: Observed) -> tuple[Event, ...]:
    """What to say when a living cluster needs no cleanup any more, for it does not use Redis any more: what
    its heads wrote is not looked after from now on."""
    for pod in observed.pods:
        if names.node_type(pod) == names.HEAD:
            env = {item["name"]: item.get("value") for item in pod["spec"]["containers"][0].get("env") or ()}
            annotations = pod["metadata"].get("annotations") or {}
            namespace = env.get("RAY_external_storage_namespace") or annotations.get(
                EXTERNAL_STORAGE_NAMESPACE
            )
            if namespace:
                command = cleanup_command(namespace, env.get("RAY_REDIS_ADDRESS") or "")
                text = f"The spec names no Redis any more; keys are kept there. To remove them: {command}"
                return (Event("Warning", "RedisCleanupSkipped", text),)
    return ()


def _without_password(address: str) -> str:
    """An event is read by more people than a Secret."""
    scheme, separator, rest = address.rpartition("://")
    hosts = rest.rpartition("@")[2]
    return f"{scheme}{separator}{hosts}"


def _deleted(delete: tuple[ObjectRef, ...]) -> list[Event]:
    return [
        Event("Normal", "DeletedPod", f"Deleted Pod {found.name}: {found.reason}", found) for found in delete
    ]


@dataclass(frozen=True)
class _Cleanup:
    """Whether the finalizer may go, what to create, delete and say, and when to look again at the latest."""

    done: bool
    create: tuple[Raw, ...] = ()
    events: tuple[Event, ...] = ()
    delete: tuple[ObjectRef, ...] = ()
    look_again: float = field(default=float("inf"))


def _abandon(reason: str, message: str, delete: tuple[ObjectRef, ...] = ()) -> _Cleanup:
    return _Cleanup(True, events=(Event("Warning", reason, message),), delete=delete)


class _Deletion:
    """One look at a cluster that still has its finalizer. ``give_up``: when its object goes in any case."""

    def __init__(self, raw: Raw, observed: Observed, settings: Settings, now: float) -> None:
        self.raw, self.observed, self.settings, self.now = raw, observed, settings, now
        metadata = raw["metadata"]
        self.limit = deletion_timeout(metadata)
        self.asked = seconds(metadata["deletionTimestamp"]) or now
        self.give_up = self.asked + (self.limit or DEFAULT_TIMEOUT_S)
        self.heads = [pod for pod in observed.pods if names.node_type(pod) == names.HEAD]

    def cleanup(self) -> _Cleanup:
        """The next step."""
        job = self._job()
        running = () if job is None or verdict(job) is not None else (_job_reference(job),)
        if not self.settings.redis_cleanup:
            text = "Keys in Redis are kept: cleanup is switched off"
            return _abandon("RedisCleanupDisabled", text, running)
        try:
            cluster = parse_ray_cluster(self.raw, unknown=[])
        except ManifestError as error:
            return self._unreadable(error.problems[0])
        ft = fault_tolerance(cluster)
        if ft.backend is Backend.REDIS:
            return self._with_redis(cluster, ft, job, running)
        text = "The spec names no Redis any more; nothing is cleaned up"
        return _Cleanup(
            True,
            events=kept_keys(self.observed) or (Event("Warning", "RedisCleanupSkipped", text),),
            delete=running,
        )

    def _with_redis(
        self, cluster: RayCluster, ft: FaultTolerance, job: Raw | None, running: tuple[ObjectRef, ...]
    ) -> _Cleanup:
        command = cleanup_command(ft.namespace_in_use, ft.redis_address)
        outcome = verdict(job) if job is not None else None
        if outcome is not None:
            return _after_job(outcome, ft.namespace_in_use, command, self._last_words())
        if self.observed.store_shared_with:
            others = " and ".join(self.observed.store_shared_with)
            text = f"Keys of {ft.namespace_in_use} are kept: RayCluster {others} uses them. Later: {command}"
            return _abandon("RedisCleanupSkipped", text, running)
        return self._start_or_wait(cluster, command) if job is None else self._wait_for(job, command)

    def _unreadable(self, problem: Problem) -> _Cleanup:
        waits = self._heads_that_may_write()
        if waits and self.now < self.give_up:
            return _Cleanup(False, look_again=min(waits, self.give_up))
        told = kept_keys(self.observed)
        text = f"Keys in Redis are kept: the spec cannot be read any more ({problem})"
        return _Cleanup(True, events=(Event("Warning", "FailedToCreateRedisCleanupJob", text), *told))

    def _wait_for(self, job: Raw, command: str) -> _Cleanup:
        """The Job runs: it has its own deadline in full, unless the user set one for the whole."""
        made = seconds(job["metadata"].get("creationTimestamp")) or self.now
        deadline = int((job.get("spec") or {}).get("activeDeadlineSeconds") or DEADLINE_S)
        due = self.give_up if self.limit else max(self.give_up, made + deadline + JOB_MARGIN_S)
        if self.now < due:
            return _Cleanup(False, look_again=due)
        text = f"The cleanup Job is stuck; keys may be left. To remove them: {command}"
        return _abandon("ForceDeletedStuckCluster", text, (_job_reference(job),))

    def _start_or_wait(self, cluster: RayCluster, command: str) -> _Cleanup:
        """No Job yet: give up when it is time, else start it as soon as no head can write."""
        if self.now >= self.give_up:
            waited = "a head Pod that never ended" if self.heads else "the cleanup Job that could not start"
            text = f"Gave up waiting for {waited}; keys may be left. To remove them: {command}"
            return _abandon("ForceDeletedStuckCluster", text)
        waits = self._heads_that_may_write()
        if waits:
            return _Cleanup(False, look_again=min(waits, self.give_up))
        job = cleanup_job(cluster, self.settings)
        if self.limit:
            left = int(self.give_up - self.now)
            job["spec"]["activeDeadlineSeconds"] = max(1, min(DEADLINE_S, left))
        event = Event("Normal", "CreatedRedisCleanupJob", f"Created Job {job['metadata']['name']}", job)
        return _Cleanup(False, (job,), (event,), look_again=self.give_up)

    def _heads_that_may_write(self) -> float | None:
        """Until when a head has to be waited for, None when none has: one that has ended cannot write, and
        one that is long past its time of death is on a node that is lost."""
        latest = None
        for pod in self.heads:
            if phase(pod) in ("Failed", "Succeeded"):
                continue
            due = seconds(pod["metadata"].get("deletionTimestamp"))
            until = float("inf") if due is None else due + DEAD_NODE_S
            if self.now < until:
                latest = until if latest is None else max(latest, until)
        return latest

    def _job(self) -> Raw | None:
        """This cluster's Job: not that of a namesake, nor of a cluster whose long name ends alike."""
        name, uid = self.raw["metadata"]["name"], self.raw["metadata"].get("uid")
        for job in self.observed.jobs:
            labels = job["metadata"].get("labels") or {}
            owners = job["metadata"].get("ownerReferences") or ()
            ours = not owners or any(owner.get("uid") == uid for owner in owners)
            if (
                labels.get(names.CLUSTER) == name
                and labels.get(names.NODE_TYPE) == names.REDIS_CLEANUP
                and ours
            ):
                return job
        return None

    def _last_words(self) -> str:
        """What the Job's container said when it failed, one line."""
        pods = [pod for pod in self.observed.pods if names.node_type(pod) == names.REDIS_CLEANUP]
        return _terminated_message(pods)


def _terminated_message(pods: Sequence[Raw]) -> str:
    for pod in pods:
        for status in (pod.get("status") or {}).get("containerStatuses") or ():
            ended = (status.get("state") or {}).get("terminated") or {}
            if ended.get("message"):
                return " ".join(str(ended["message"]).split())[-300:]
    return ""


def _job_reference(job: Raw) -> ObjectRef:
    return reference({"kind": "Job", **job}, "its outcome is not waited for any more")


def _after_job(outcome: Verdict, namespace: str, command: str, words: str) -> _Cleanup:
    if outcome.complete:
        return _Cleanup(
            True, events=(Event("Normal", "RedisCleanupDone", f"Removed all keys of {namespace}"),)
        )
    why = ": ".join(part for part in (outcome.why, words) if part)
    text = f"The cleanup Job failed ({why}); keys may be left. To remove them: {command}"
    return _abandon("RedisCleanupFailed", text)

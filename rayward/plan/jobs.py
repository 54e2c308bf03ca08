"""A batch Job that runs one Pod to its end: tries, deadline, conditions.

``completions`` other than 1 are treated as 1: nothing beside a RayCluster needs more.
"""

from __future__ import annotations

from rayward.plan.outcome import Event, ObjectRef, Plan, Raw, reference
from rayward.plan.pod_state import is_terminating, phase, seconds, timestamp
from rayward.plan.workload_pods import pod_from

DEFAULT_BACKOFF_LIMIT = 6
FIRST_DELAY_S, LONGEST_DELAY_S = 10.0, 360.0


def reconcile_job(raw: Raw, mine: list[Raw], now: float) -> Plan:
    """The next steps for a Job, given its own Pods. Pods that ended are kept: their logs are the result."""
    old = dict(raw.get("status") or {})
    if finished(old):
        return Plan(status=old)
    spec = raw["spec"]
    status = {**old, "startTime": old.get("startTime") or timestamp(now)}
    active = [pod for pod in mine if phase(pod) not in ("Failed", "Succeeded") and not is_terminating(pod)]
    failed = _failures(mine)
    succeeded = sum(phase(pod) == "Succeeded" for pod in mine)
    status.update(active=len(active), failed=failed, succeeded=succeeded)
    verdict = _verdict(spec, status, now)
    if verdict is not None:
        kind, reason, message = verdict
        return _end(status, active, now, kind=kind, reason=reason, message=message)
    left = _time_left(spec, status, now)
    waiting = any(is_terminating(pod) and phase(pod) not in ("Failed", "Succeeded") for pod in mine)
    if active or waiting or spec.get("suspend"):
        return Plan(status=status, requeue_after=left)
    delay = _delay(mine, now)
    if delay > 0:
        return Plan(status=status, requeue_after=delay if left is None else min(delay, left))
    pod = pod_from(raw, spec["template"], _labels(raw))
    pod["metadata"]["generateName"] = f"{raw['metadata']['name'][:57]}-"
    status["active"] = 1
    return Plan(create=(pod,), status=status, requeue_after=left)


def _verdict(spec: Raw, status: Raw, now: float) -> tuple[str, str, str] | None:
    """(condition, reason, message) once the Job is over."""
    if status["succeeded"]:
        return "Complete", "CompletionsReached", "The Pod ended successfully"
    limit = DEFAULT_BACKOFF_LIMIT if spec.get("backoffLimit") is None else int(spec["backoffLimit"])
    if status["failed"] > limit:
        return "Failed", "BackoffLimitExceeded", f"{status['failed']} of at most {limit + 1} tries failed"
    left = _time_left(spec, status, now)
    if left is not None and left <= 0:
        return "Failed", "DeadlineExceeded", f"not done after {spec['activeDeadlineSeconds']} s"
    return None


def _time_left(spec: Raw, status: Raw, now: float) -> float | None:
    """Seconds until the deadline, None without one."""
    deadline = spec.get("activeDeadlineSeconds")
    start = seconds(status["startTime"])
    return None if deadline is None else (now if start is None else start) + float(deadline) - now


def finished(status: Raw) -> bool:
    """Whether the Job's outcome is settled."""
    return any(
        item.get("type") in ("Complete", "Failed") and item.get("status") == "True"
        for item in status.get("conditions") or ()
    )


def _labels(raw: Raw) -> dict[str, str]:
    name, uid = raw["metadata"]["name"], raw["metadata"].get("uid", "")
    labels = {"batch.kubernetes.io/job-name": name, "job-name": name}
    return {**labels, "batch.kubernetes.io/controller-uid": uid} if uid else labels


def _failures(mine: list[Raw]) -> int:
    """Tries that failed: whole Pods, or restarts in place where the Pod's policy allows them."""
    failed = sum(phase(pod) == "Failed" for pod in mine)
    for pod in mine:
        if phase(pod) in ("Failed", "Succeeded"):
            continue
        statuses = (pod.get("status") or {}).get("containerStatuses") or ()
        failed += sum(int(status.get("restartCount", 0)) for status in statuses)
    return failed


def _delay(mine: list[Raw], now: float) -> float:
    """Seconds until the next try: 10 s after the first failure, twice as long after each further one."""
    ends = [end for pod in mine if phase(pod) == "Failed" and (end := _ended_at(pod)) is not None]
    if not ends:
        return 0.0
    wait = min(FIRST_DELAY_S * 2.0 ** min(len(ends) - 1, 10), LONGEST_DELAY_S)
    return max(ends) + wait - now


def _ended_at(pod: Raw) -> float | None:
    ends = []
    for status in (pod.get("status") or {}).get("containerStatuses") or ():
        terminated = (status.get("state") or {}).get("terminated") or {}
        end = seconds(terminated.get("finishedAt"))
        if end is not None:
            ends.append(end)
    return max(ends) if ends else None


def _end(status: Raw, active: list[Raw], now: float, *, kind: str, reason: str, message: str) -> Plan:
    condition = {
        "type": kind,
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": timestamp(now),
    }
    ended = {**status, "active": 0, "conditions": [*(status.get("conditions") or ()), condition]}
    if kind == "Complete":
        ended["completionTime"] = timestamp(now)
    delete: tuple[ObjectRef, ...] = tuple(reference(pod, f"the Job is over: {message}") for pod in active)
    event = Event("Normal" if kind == "Complete" else "Warning", reason, message)
    return Plan(delete=delete, status=ended, events=(event,))

"""The status of a RayService: what both clusters serve, how many endpoints there are, and the conditions.

Reasons are KubeRay's. `Ready` rests on endpoints alone; what Ray says of the applications has a condition of
its own, so that neither hides the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rayward.api.rayservice import RayService
from rayward.plan.conditions import Conditions, find
from rayward.plan.outcome import Raw
from rayward.plan.pod_state import seconds, timestamp
from rayward.plan.serve_status import application_statuses
from rayward.plan.service_outcome import ServeSeen
from rayward.plan.status_writes import status_differs

READY, UPGRADE, SUSPENDING, SUSPENDED = "Ready", "UpgradeInProgress", "Suspending", "Suspended"
APPLICATIONS, SPEC = "ApplicationsRunning", "SpecValid"
INITIALIZING, TIMED_OUT = "Initializing", "InitializingTimeout"
_OF_THE_CLUSTER = ("state", "head", "endpoints", "readyWorkerReplicas", "desiredWorkerReplicas")


@dataclass(frozen=True)
class Side:
    """One of the two clusters of a service. ``raw`` None: it does not exist yet; ``nodes``: the names of its
    Pods by address."""

    name: str = ""
    raw: Raw | None = None
    seen: ServeSeen | None = None
    endpoints: int = 0
    nodes: Mapping[str, str] = field(default_factory=dict)


def service_status(service: RayService, active: Side, pending: Side, now: float) -> Raw:
    """The new status while the service runs; the old one if it says nothing else. ``now`` is in seconds."""
    old, moment = service.status, timestamp(now)
    conditions = Conditions(old.get("conditions") or (), moment)
    _ready(conditions, active)
    _upgrade(conditions, active, pending)
    _applications(conditions, active, pending)
    conditions.drop(SPEC)
    status: Raw = {
        "activeServiceStatus": _side(active, _old_side(old, active.name)),
        "pendingServiceStatus": _side(pending, _old_side(old, pending.name)),
        "numServeEndpoints": active.endpoints,
        "serviceStatus": "Running" if conditions.is_true(READY) else "",
        "observedGeneration": service.metadata.generation,
        "conditions": conditions.result(),
        "lastUpdateTime": moment,
    }
    return status if status_differs(old, status) else old


def invalid_status(old: Raw, generation: int, why: str, endpoints: int, now: float) -> Raw:
    """The status while the spec cannot be used. What runs goes on: with endpoints the service stays ready."""
    conditions = Conditions(old.get("conditions") or (), timestamp(now))
    conditions.set(SPEC, "False", "ValidationFailed", why)
    if not endpoints:
        conditions.set(READY, "False", "ValidationFailed", why)
    return {
        **old,
        "numServeEndpoints": endpoints,
        "serviceStatus": "Running" if conditions.is_true(READY) else "",
        "observedGeneration": generation,
        "conditions": conditions.result(),
    }


def suspended_status(service: RayService, left: int, now: float) -> Raw:
    """The status while the service is suspended; ``left`` counts the objects that are not gone yet."""
    conditions = Conditions(service.status.get("conditions") or (), timestamp(now))
    done = not left
    reason = "SuspendComplete" if done else "SuspendInProgress"
    words = "All clusters and Services are gone" if done else f"{left} objects are not gone yet"
    conditions.set(SUSPENDING, "False" if done else "True", reason, words)
    if done:
        conditions.set(SUSPENDED, "True", reason, words)
    conditions.set(READY, "False", reason, words)
    conditions.set(UPGRADE, "False", reason, words)
    conditions.drop(APPLICATIONS)
    return {
        "numServeEndpoints": 0,
        "serviceStatus": "",
        "observedGeneration": service.metadata.generation,
        "conditions": conditions.result(),
    }


def resumed_status(service: RayService, now: float) -> Raw:
    """The status with which a service begins again after it was suspended."""
    conditions = Conditions(service.status.get("conditions") or (), timestamp(now))
    conditions.drop(SUSPENDING)
    conditions.set(SUSPENDED, "False", "RayServiceResumed", "The service is brought up again")
    conditions.set(READY, "False", INITIALIZING, "The service is brought up again")
    return {**service.status, "conditions": conditions.result()}


def timed_out_status(service: RayService, limit_s: float, last: str, now: float) -> Raw:
    """The final status of a service that did not become ready in time."""
    conditions = Conditions(service.status.get("conditions") or (), timestamp(now))
    words = f"Not ready within {limit_s:g} s" + (f"; last: {last}" if last else "")
    conditions.set(READY, "False", TIMED_OUT, words)
    conditions.set(UPGRADE, "False", "NoPendingCluster", "The service was given up")
    return {
        **{key: value for key, value in service.status.items() if not key.endswith("ServiceStatus")},
        "numServeEndpoints": 0,
        "serviceStatus": "",
        "observedGeneration": service.metadata.generation,
        "conditions": conditions.result(),
    }


def initializing_since(status: Raw) -> float | None:
    """Since when the service has been getting ready for the first time, in seconds since the epoch; None when
    it is not."""
    ready = find(status, READY)
    if ready.get("status") == "False" and ready.get("reason") == INITIALIZING:
        return seconds(ready.get("lastTransitionTime"))
    return None


def is_given_up(status: Raw) -> bool:
    """Whether the service ran out of time; final until the object is made anew or suspended."""
    return bool(find(status, READY).get("reason") == TIMED_OUT)


def cluster_names(status: Raw) -> tuple[str, str]:
    """The names of the active and the pending cluster; empty where there is none."""
    found = [
        str((status.get(which) or {}).get("rayClusterName") or "")
        for which in ("activeServiceStatus", "pendingServiceStatus")
    ]
    return found[0], found[1]


def _side(side: Side, old: Raw) -> Raw:
    if not side.name:
        return {}
    cluster = (side.raw or {}).get("status") or {}
    answered = side.seen is not None and side.seen.view.applications is not None
    # A dashboard that does not answer now takes nothing back of what it said.
    told = application_statuses(side.seen.view, side.nodes) if side.seen is not None and answered else None
    return {
        "rayClusterName": side.name,
        "applicationStatuses": old.get("applicationStatuses") or {} if told is None else told,
        "rayClusterStatus": {name: cluster[name] for name in _OF_THE_CLUSTER if cluster.get(name)},
    }


def _old_side(old: Raw, name: str) -> Raw:
    for which in ("activeServiceStatus", "pendingServiceStatus"):
        side: Raw = old.get(which) or {}
        if name and side.get("rayClusterName") == name:
            return side
    return {}


def _ready(conditions: Conditions, active: Side) -> None:
    if active.endpoints:
        words = f"{active.endpoints} node{'s' * (active.endpoints > 1)} answer{'s' * (active.endpoints == 1)}"
        # The number is in numServeEndpoints: a condition that repeats it would be written at every change.
        conditions.set(READY, "True", "NonZeroServeEndpoints", words, calm=True)
        return
    before = conditions.get(READY)
    first = before.get("status") != "True" and before.get("reason") != "ZeroServeEndpoints"
    if first or not active.name:
        conditions.set(READY, "False", INITIALIZING, "No node answers requests yet")
    else:
        conditions.set(READY, "False", "ZeroServeEndpoints", "No node of the active cluster answers requests")


def _upgrade(conditions: Conditions, active: Side, pending: Side) -> None:
    if active.name and pending.name:
        words = f"{pending.name} is built to take the place of {active.name}"
        conditions.set(UPGRADE, "True", "BothActivePendingClustersExist", words)
    elif active.name:
        conditions.set(UPGRADE, "False", "NoPendingCluster", f"{active.name} serves")
    elif pending.name:
        conditions.set(UPGRADE, "False", INITIALIZING, f"{pending.name} is the first cluster")
    else:
        conditions.set(UPGRADE, "Unknown", "NoActiveCluster", "There is no cluster yet")


def _applications(conditions: Conditions, active: Side, pending: Side) -> None:
    """What Ray says of the applications on the newest cluster that they were sent to."""
    side = pending if pending.name else active
    seen = side.seen
    if seen is None or (seen.view.applications is None and not seen.refused):
        if not conditions.get(APPLICATIONS):
            conditions.set(APPLICATIONS, "Unknown", "NotAsked", "Ray's dashboard has not answered yet")
        return
    failures = seen.view.failures()
    if seen.refused:
        conditions.set(APPLICATIONS, "False", "ConfigRefused", f"{side.name}: {seen.refused}")
    elif failures:
        conditions.set(APPLICATIONS, "False", "ApplicationFailed", f"{side.name}: {'; '.join(failures)}")
    elif seen.view.serves(seen.view.applications or ()):
        count = len(seen.view.applications or ())
        conditions.set(APPLICATIONS, "True", "Running", f"{count} on {side.name}")
    else:
        waiting = [
            f"{name} is {found.status}"
            for name, found in sorted((seen.view.applications or {}).items())
            if found.status != "RUNNING"
        ]
        conditions.set(
            APPLICATIONS, "False", "Deploying", f"{side.name}: {'; '.join(waiting) or 'no application'}"
        )

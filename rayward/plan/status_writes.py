"""When a new status has to be written, how soon, and what a failed write of something else adds to it.

Pure comparisons of raw statuses; what a status says is decided elsewhere.
"""

from __future__ import annotations

from rayward.plan.conditions import Conditions, find
from rayward.plan.outcome import Raw
from rayward.plan.pod_state import timestamp

REPLICA_FAILURE = "ReplicaFailure"
PROVISIONED = "RayClusterProvisioned"


def status_differs(old: Raw | None, new: Raw) -> bool:
    """Whether ``new`` says anything that ``old``, the one on the API server, does not. The time of the last
    update alone is nothing new, and neither is an empty value in place of an absent one, for servers and
    other operators leave such values out."""
    return _content(old or {}) != _content(new)


def is_urgent(old: Raw | None, new: Raw) -> bool:
    """Whether somebody waits for this change: another state, and in a cluster that was complete once,
    another head or another answer of a condition. A new failure to make Pods is one too. The rest (counts,
    addresses while Pods come up) may wait a second and be written in one go."""
    old = old or {}
    if (old.get("state") or "") != (new.get("state") or ""):
        return True
    if _answers(old).get(REPLICA_FAILURE) != _answers(new).get(REPLICA_FAILURE):
        return True
    if find(old, PROVISIONED).get("status") != "True":
        return False
    return _content(old.get("head")) != _content(new.get("head")) or _answers(old) != _answers(new)


def written(status: Raw) -> Raw:
    """``status`` as it is written: without empty values, as by everybody else, and with a message in each
    condition, which CRDs ask for. (API servers of 1.20 built with a later Go take an empty text for null.)"""
    kept = {key: _written(value) for key, value in status.items()}
    conditions = [
        {**item, "message": item.get("message") or item["reason"]} for item in status.get("conditions") or ()
    ]
    if conditions:
        kept["conditions"] = conditions
    return {key: value for key, value in kept.items() if value not in (None, "", {}, [])}


def with_replica_failure(status: Raw, reason: str, message: str, now: float) -> Raw:
    """``status`` with the condition that Pods could not be made or deleted. ``reason`` is one of
    FailedDeleteAllPods, FailedCreateHeadPod, FailedDeleteHeadPod, FailedCreateWorkerPod and
    FailedDeleteWorkerPod; ``now`` is seconds since the epoch. Equal when it said so already."""
    conditions = Conditions(status.get("conditions") or (), timestamp(now))
    conditions.set(REPLICA_FAILURE, "True", reason, message, calm=True)
    return {**status, "conditions": conditions.result()}


def without_replica_failure(status: Raw) -> Raw:
    """``status`` after a pass in which everything could be made and deleted."""
    if not find(status, REPLICA_FAILURE):
        return status
    kept = [item for item in status["conditions"] if item.get("type") != REPLICA_FAILURE]
    return {**status, "conditions": kept}


def _written(value: object) -> object:
    if not isinstance(value, dict):
        return value
    kept = {key: _written(item) for key, item in value.items()}
    return {key: item for key, item in kept.items() if item not in (None, "", {}, [])}


def _answers(status: Raw) -> dict[str, str]:
    return {str(item.get("type")): str(item.get("status")) for item in status.get("conditions") or ()}


def _content(value: object) -> object:
    """A value without what makes no difference, conditions in the order of their types."""
    if isinstance(value, dict):
        # Sorted, for the server sorts too, and equal values must look equal to the sorting of lists.
        found = {key: _content(item) for key, item in sorted(value.items()) if key != "lastUpdateTime"}
        return {key: item for key, item in found.items() if item not in (None, "", 0, False, {}, [])}
    if isinstance(value, list):
        return sorted((_content(item) for item in value), key=_order)
    return value


def _order(value: object) -> str:
    """Sorts mappings by what they hold, not by the order in which it was written down."""
    return str(sorted(value.items(), key=str)) if isinstance(value, dict) else str(value)

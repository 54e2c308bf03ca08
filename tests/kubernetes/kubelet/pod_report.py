"""What is written to the API server about a Pod, and how little of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Object = dict[str, Any]

OVER = ("Succeeded", "Failed")
_OWN_FIELDS = (
    "phase",
    "reason",
    "message",
    "podIP",
    "podIPs",
    "hostIP",
    "startTime",
    "conditions",
    "containerStatuses",
    "initContainerStatuses",
)
# The scheduler says this one; the Pod's own process only repeats it.
_FOREIGN = "PodScheduled"


def wanted_status(pod: Mapping[str, Any], said: Mapping[str, Any], died: bool, now: str) -> Object:
    """The status that a Pod should have: what its process ``said``, its own conditions, those of others.

    ``died``: the Pod's process is gone without having said how its containers ended. Empty while the Pod has
    said nothing.
    """
    if not said:
        return _never_ran(pod, now) if died else {}
    status = {key: said[key] for key in _OWN_FIELDS if key in said}
    if died and status.get("phase") not in OVER:
        status.update(_dead(status, now))
    status["conditions"] = _conditions(pod, status.get("conditions") or ())
    return status


def _never_ran(pod: Mapping[str, Any], now: str) -> Object:
    gone = {"phase": "Failed", "reason": "PodProcessDied", "message": "the Pod's process did not come up"}
    return {**gone, "startTime": now, "conditions": _conditions(pod, _failed_conditions((), now))}


def _dead(status: Mapping[str, Any], now: str) -> Object:
    found: Object = {
        "phase": "Failed",
        "reason": "PodProcessDied",
        "message": "the Pod's process is gone, and its containers with it",
        "conditions": _failed_conditions(status.get("conditions") or (), now),
    }
    for key in ("containerStatuses", "initContainerStatuses"):
        if key in status:
            found[key] = [_dead_container(entry, now) for entry in status[key]]
    return found


def _failed_conditions(before: Any, now: str) -> list[Object]:
    others = [entry for entry in before if entry["type"] not in ("Ready", "ContainersReady")]
    since = {entry["type"]: entry for entry in before}
    failed = []
    for kind in ("ContainersReady", "Ready"):
        old = since.get(kind) or {}
        time = old["lastTransitionTime"] if old.get("status") == "False" else now
        failed.append({"type": kind, "status": "False", "reason": "PodFailed", "lastTransitionTime": time})
    return [*others, *failed]


def _dead_container(entry: Mapping[str, Any], now: str) -> Object:
    if "terminated" in entry["state"]:
        return dict(entry)
    started = (entry["state"].get("running") or {}).get("startedAt", now)
    end = {"exitCode": 137, "reason": "ContainerStatusUnknown", "startedAt": started, "finishedAt": now}
    return {**entry, "ready": False, "started": False, "state": {"terminated": end}}


def _conditions(pod: Mapping[str, Any], own: Any) -> list[Object]:
    """Own conditions in place of those of their type; what others say stays."""
    known = (pod.get("status") or {}).get("conditions") or ()
    foreign = {entry["type"] for entry in known if entry["type"] == _FOREIGN}
    mine = {entry["type"]: entry for entry in own if entry["type"] not in foreign}
    return [entry for entry in known if entry["type"] not in mine] + list(mine.values())


def difference(pod: Mapping[str, Any], wanted: Mapping[str, Any]) -> Object:
    """The merge patch of ``status`` that makes the Pod say what is wanted; empty: nothing to write."""
    current = pod.get("status") or {}
    if not wanted or (current.get("phase") in OVER and wanted.get("phase") != current.get("phase")):
        return {}  # a Pod that is over stays so
    patch = {key: value for key, value in wanted.items() if not _same(key, current.get(key), value)}
    patch.update({key: None for key in ("reason", "message") if key in current and key not in wanted})
    return patch


def _same(key: str, current: Any, wanted: Any) -> bool:
    if key == "startTime" and current:
        return True
    if key != "conditions":
        return bool(current == wanted)
    return [_core(entry) for entry in current or ()] == [_core(entry) for entry in wanted]


def _core(entry: Mapping[str, Any]) -> Object:
    """A condition without the fields that are empty and those that only say when somebody looked."""
    return {key: value for key, value in entry.items() if value and key not in ("lastProbeTime",)}


def complaints(said: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """By container: reason and message of what keeps it from running, worth an Event."""
    found = {}
    for key in ("initContainerStatuses", "containerStatuses"):
        for entry in said.get(key) or ():
            waiting = entry["state"].get("waiting") or {}
            if waiting.get("message"):
                reason = "BackOff" if waiting["reason"] == "CrashLoopBackOff" else "Failed"
                found[entry["name"]] = (reason, waiting["message"])
    return found


def running_since(said: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """By container that runs: when it started, and for the how-manieth time."""
    return {
        entry["name"]: (entry["state"]["running"].get("startedAt", ""), str(entry["restartCount"]))
        for key in ("initContainerStatuses", "containerStatuses")
        for entry in said.get(key) or ()
        if "running" in entry["state"]
    }

"""What a Pod's status says about it: alive, lost, ready, old.

Reads raw Pods of any kind; decides nothing about clusters.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timezone
from typing import Any

from rayward.plan.conditions import find

Raw = dict[str, Any]


def is_terminating(pod: Raw) -> bool:
    """Whether its deletion was asked for."""
    return bool(pod["metadata"].get("deletionTimestamp"))


def phase(pod: Raw) -> str:
    return str((pod.get("status") or {}).get("phase") or "Pending")


def condition(pod: Raw, kind: str) -> Raw | None:
    """The condition of that type, None when there is none."""
    return find(pod.get("status") or {}, kind) or None


def is_ready(pod: Raw) -> bool:
    """Running, all containers ready, and not on its way out."""
    ready = condition(pod, "Ready")
    return (
        phase(pod) == "Running"
        and not is_terminating(pod)
        and ready is not None
        and ready["status"] == "True"
    )


def is_running(pod: Raw) -> bool:
    """Its Ray container runs and it is not on its way out, ready or not: as a head that stands by does."""
    return phase(pod) == "Running" and not is_terminating(pod) and "running" in ray_container_state(pod)


def ray_container_state(pod: Raw) -> Raw:
    """The state of the first container of the spec: one of running, waiting, terminated, or empty."""
    name = pod["spec"]["containers"][0]["name"]
    for status in (pod.get("status") or {}).get("containerStatuses") or ():
        if status.get("name") == name:
            return dict(status.get("state") or {})
    return {}


def should_delete(pod: Raw) -> str | None:
    """Why this Ray Pod can never serve again and must be replaced; None to keep it.

    A Pod that the node can still restart in place is kept, however unhealthy it looks.
    """
    if is_terminating(pod):
        return None
    if phase(pod) in ("Failed", "Succeeded"):
        why = str((pod.get("status") or {}).get("reason") or "")
        return f"the Pod is {phase(pod)}{f' ({why})' if why else ''}, which is final"
    never = pod["spec"].get("restartPolicy", "Always") == "Never"
    if phase(pod) == "Running" and never and "terminated" in ray_container_state(pod):
        return "its Ray container ended and restartPolicy is Never"
    return None


def is_on_lost_node(pod: Raw, lost_nodes: Collection[str] = ()) -> bool:
    """Whether its machine is gone as far as Kubernetes knows: the node is among ``lost_nodes``, or the
    control plane has written so into the Pod's own status."""
    ready = condition(pod, "Ready") or {}
    return (
        pod["spec"].get("nodeName") in lost_nodes
        or phase(pod) == "Unknown"
        or "NodeLost" in ((pod.get("status") or {}).get("reason"), ready.get("reason"))
    )


def disruption(pod: Raw) -> str | None:
    """Why Kubernetes is about to end this Pod (eviction, preemption, a taint), None when it is not."""
    found = condition(pod, "DisruptionTarget")
    if found is None or found.get("status") != "True":
        return None
    return str(found.get("reason") or "DisruptionTarget")


def crash_loop_age(pod: Raw, now: float, restarts: int) -> float | None:
    """Seconds for which its Ray container has been crashing: it waits for its next try, after at least
    ``restarts`` of them, and the Pod has not been ready since. None for any other Pod."""
    name = pod["spec"]["containers"][0]["name"]
    waiting = ray_container_state(pod).get("waiting") or {}
    for status in (pod.get("status") or {}).get("containerStatuses") or ():
        if status.get("name") == name and int(status.get("restartCount") or 0) >= restarts:
            since = seconds((condition(pod, "Ready") or {}).get("lastTransitionTime"))
            if waiting.get("reason") == "CrashLoopBackOff" and since is not None and not is_ready(pod):
                return now - since
    return None


def age_key(pod: Raw) -> tuple[str, str]:
    """Sorts oldest first; names decide between Pods of the same second."""
    return (str(pod["metadata"].get("creationTimestamp") or ""), pod["metadata"]["name"])


def timestamp(now: float) -> str:
    """Seconds since the epoch as Kubernetes writes times, to the second, in UTC."""
    return datetime.fromtimestamp(int(now), tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(text: str | None) -> float | None:
    """A Kubernetes time as seconds since the epoch; None when it is absent or unreadable."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None

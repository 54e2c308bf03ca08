"""What a Pod says about itself, in the shape of Kubernetes' PodStatus. Pure.

Must not know of processes or files: it is given what is known of each container.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

WAITING, RUNNING, TERMINATED = "waiting", "running", "terminated"


@dataclass(frozen=True)
class ContainerView:
    """What is known of a container. ``state`` and ``last_state`` have one key, as in a ContainerStatus.

    ``final`` says that a terminated container will not start again.
    """

    name: str
    image: str
    state: Mapping[str, Any]
    last_state: Mapping[str, Any] = field(default_factory=dict)
    ready: bool = False
    started: bool = False
    restart_count: int = 0
    final: bool = False

    @property
    def succeeded(self) -> bool:
        """Whether it ended for good with status 0."""
        return self.final and TERMINATED in self.state and self.state[TERMINATED]["exitCode"] == 0

    def as_status(self) -> dict[str, Any]:
        """The ContainerStatus."""
        return {
            "name": self.name,
            "image": self.image,
            "imageID": "",
            "ready": self.ready,
            "started": self.started,
            "restartCount": self.restart_count,
            "state": dict(self.state),
            "lastState": dict(self.last_state),
        }


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    """The state of a container that does not run yet, or not at the moment."""
    return {WAITING: {"reason": reason, "message": message} if message else {"reason": reason}}


def terminated(
    code: int, signal_number: int, message: str, times: tuple[str, str], *, out_of_memory: bool = False
) -> dict[str, Any]:
    """The state of a container that ended; ``times`` are its start and its end."""
    reason = "OOMKilled" if out_of_memory else "Completed" if code == 0 else "Error"
    detail: dict[str, Any] = {
        "exitCode": code,
        "reason": reason,
        "startedAt": times[0],
        "finishedAt": times[1],
    }
    if signal_number:
        detail["signal"] = signal_number
    if message:
        detail["message"] = message
    return {TERMINATED: detail}


def phase(containers: Sequence[ContainerView], init: Sequence[ContainerView]) -> str:
    """Pending, Running, Succeeded or Failed."""
    if any(view.final and not view.succeeded for view in init):
        return "Failed"
    if not all(view.succeeded for view in init):
        return "Pending"
    if all(view.final for view in containers):
        return "Succeeded" if all(view.succeeded for view in containers) else "Failed"
    begun = any(WAITING not in view.state or view.last_state for view in containers)
    return "Running" if begun else "Pending"


def _ready_condition(kind: str, current: str, unready: Sequence[str]) -> dict[str, Any]:
    if current == "Succeeded":
        return {"type": kind, "status": "False", "reason": "PodCompleted"}
    if current == "Failed":
        return {"type": kind, "status": "False", "reason": "PodFailed"}
    if not unready:
        return {"type": kind, "status": "True"}
    message = f"containers with unready status: [{' '.join(unready)}]"
    return {"type": kind, "status": "False", "reason": "ContainersNotReady", "message": message}


def conditions(
    current: str,
    containers: Sequence[ContainerView],
    init: Sequence[ContainerView],
    before: Sequence[Mapping[str, Any]],
    now: str,
) -> list[dict[str, Any]]:
    """The Pod's conditions; one whose status stays keeps its transition time from ``before``."""
    waiting_init = [view.name for view in init if not view.succeeded]
    unready = [view.name for view in containers if not view.ready]
    initialized: dict[str, Any] = {"type": "Initialized", "status": "False" if waiting_init else "True"}
    if waiting_init:
        initialized["reason"] = "ContainersNotInitialized"
        initialized["message"] = f"containers with incomplete status: [{' '.join(waiting_init)}]"
    found = [
        {"type": "PodScheduled", "status": "True"},
        initialized,
        _ready_condition("ContainersReady", current, unready),
        _ready_condition("Ready", current, unready),
    ]
    since = {entry["type"]: (entry["status"], entry["lastTransitionTime"]) for entry in before}
    for entry in found:
        status, time = since.get(entry["type"], ("", now))
        entry["lastTransitionTime"] = time if status == entry["status"] else now
    return found


def pod_status(
    containers: Sequence[ContainerView],
    init: Sequence[ContainerView],
    fixed: Mapping[str, Any],
    before: Mapping[str, Any],
    now: str,
) -> dict[str, Any]:
    """The PodStatus; ``fixed`` holds podIP, hostIP and startTime, ``before`` is the one written last."""
    current = phase(containers, init)
    return {
        "phase": current,
        **fixed,
        "conditions": conditions(current, containers, init, before.get("conditions") or (), now),
        "containerStatuses": [view.as_status() for view in containers],
        **({"initContainerStatuses": [view.as_status() for view in init]} if init else {}),
    }

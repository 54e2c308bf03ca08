"""How far a cluster has come, read off its objects: ready, still on its way, or stuck and why. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayward.local.lead import Lead

Manifest = dict[str, Any]

# Waiting reasons that do not pass by themselves within the patience of somebody who waits at a prompt.
_STUCK = {
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "ErrImageNeverPull",
    "InvalidImageName",
}

_SENTENCE_LINES = 4


@dataclass(frozen=True)
class PodState:
    """One Pod in a line: what ``get pods`` shows of it. ``role`` is "leader" or "standby" for a head that
    says so, else empty; ``stands_by`` is true for a standby that may take over."""

    name: str
    ready: int
    containers: int
    status: str
    restarts: int
    message: str = ""
    role: str = ""
    stands_by: bool = False

    @property
    def is_ready(self) -> bool:
        """Whether all of the Pod's containers are ready (or have done their work). A head that stands by
        is as ready as it can be: ready in Kubernetes' sense is only the head that leads."""
        ready = self.ready == self.containers or self.stands_by
        return self.status == "Completed" or (self.status == "Running" and ready)


@dataclass(frozen=True)
class Progress:
    """All Pods, whether the cluster is ready, and why it will not be (empty while it may)."""

    pods: tuple[PodState, ...]
    ready: bool
    stuck: str = ""


def pod_state(pod: Manifest, lead: Lead | None = None) -> PodState:
    """The state of one Pod, worded as kubectl words it; ``lead`` is what its agent says of leading."""
    status = pod.get("status") or {}
    containers = status.get("containerStatuses") or []
    shown, message = str(status.get("phase", "Pending")), str(status.get("message", ""))
    for entry in [*(status.get("initContainerStatuses") or []), *containers]:
        state = entry.get("state") or {}
        waiting, ended = state.get("waiting") or {}, state.get("terminated") or {}
        if waiting.get("reason") and waiting["reason"] not in ("PodInitializing", "ContainerCreating"):
            shown, message = waiting["reason"], _last_words(entry) or waiting.get("message", "")
            break
        if ended and shown not in ("Succeeded", "Failed") and ended.get("reason") != "Completed":
            shown, message = ended.get("reason", "Error"), ended.get("message", "")
    if shown == "Succeeded":
        shown = "Completed"
    if pod["metadata"].get("deletionTimestamp"):
        shown = "Terminating"
    return PodState(
        name=pod["metadata"]["name"],
        ready=sum(bool(entry.get("ready")) for entry in containers),
        containers=len(pod["spec"]["containers"]),
        status=shown,
        restarts=sum(int(entry.get("restartCount", 0)) for entry in containers),
        message=str(message or status.get("reason", "")).strip(),
        role=lead.role if lead is not None else "",
        stands_by=lead is not None and lead.stands_by,
    )


def _last_words(entry: Manifest) -> str:
    return str(((entry.get("lastState") or {}).get("terminated") or {}).get("message", ""))


def assess(
    pods: Sequence[Manifest],
    ray_clusters: Iterable[Manifest],
    workloads: Iterable[Manifest],
    leads: Mapping[str, Lead],
    ray_services: Iterable[Manifest] = (),
) -> Progress:
    """Whether everything that was asked for runs. ``leads`` holds, by Pod, what heads say of leading."""
    states = tuple(pod_state(pod, leads.get(pod["metadata"]["name"])) for pod in pods)
    stuck = next((state for state in states if state.status in _STUCK), None)
    clusters_ready = all((cluster.get("status") or {}).get("state") == "ready" for cluster in ray_clusters)
    clusters_ready = clusters_ready and all(
        (service.get("status") or {}).get("serviceStatus") == "Running" for service in ray_services
    )
    wanted = sum(int(item["spec"].get("replicas", 1)) for item in workloads)
    ready = clusters_ready and len(states) >= wanted and all(state.is_ready for state in states)
    if stuck is None:
        return Progress(states, ready)
    # A short message is a sentence that somebody wrote; a long one is the tail of a log.
    words = stuck.message.splitlines()
    told = stuck.message if len(words) <= _SENTENCE_LINES else words[-1]
    return Progress(states, False, f"{stuck.name}: {stuck.status}" + (f": {told}" if told else ""))

"""One pass over a RayCluster while it is put together: what it will create, delete and say."""

from __future__ import annotations

from rayward.api.fault_tolerance import FaultTolerance
from rayward.api.raycluster import RayCluster
from rayward.plan import names
from rayward.plan.outcome import Event, ObjectRef, Observed, Raw, reference
from rayward.plan.pod_state import is_terminating
from rayward.plan.settings import Settings


class Steps:
    """The pass; ``now`` is seconds since the epoch. ``waiting`` is why a missing head is not made yet."""

    def __init__(
        self, cluster: RayCluster, ft: FaultTolerance, settings: Settings, observed: Observed, now: float
    ) -> None:
        self.cluster, self.ft, self.settings, self.observed = cluster, ft, settings, observed
        self.now = now
        self.create: list[Raw] = []
        self.update: list[Raw] = []
        self.delete: list[ObjectRef] = []
        self.events: list[Event] = []
        self.waiting = ""
        self.wake_after: float | None = None

    @property
    def first_look(self) -> bool:
        """Whether this spec was not looked at before: what follows from it alone is said only now."""
        return self.cluster.status.get("observedGeneration") != self.cluster.metadata.generation

    def remove(self, pod: Raw, reason: str) -> None:
        """Delete one Pod, once, unless its deletion is under way."""
        wanted = reference(pod, reason)
        if not is_terminating(pod) and all(found.name != wanted.name for found in self.delete):
            self.delete.append(wanted)
            kind = "Head" if names.node_type(pod) == names.HEAD else "Worker"
            self.say(f"Deleted{kind}Pod", f"Deleted Pod {wanted.name}: {reason}", wanted)

    def add(self, manifest: Raw) -> None:
        """Create one object."""
        metadata, kind = manifest["metadata"], manifest["kind"]
        self.create.append(manifest)
        name = metadata.get("name") or f"{metadata['generateName']}*"
        if kind == "Pod":
            head = names.node_type(manifest) == names.HEAD
            reason = "CreatedHeadPod" if head else "CreatedWorkerPod"
            self.say(reason, f"Created {'head' if head else 'worker'} Pod {name}", manifest)
        else:
            reason = "CreatedPVC" if kind == "PersistentVolumeClaim" else f"Created{kind}"
            self.say(reason, f"Created {kind} {name}", manifest)

    def say(self, reason: str, message: str, step: object = None) -> None:
        """An event for a person's information."""
        self.events.append(Event("Normal", reason, message, step))

    def warn(self, reason: str, message: str) -> None:
        """An event that somebody should look at."""
        self.events.append(Event("Warning", reason, message))

    def warn_once(self, reason: str, message: str) -> None:
        """The same about something that follows from the spec: once for each generation of it."""
        if self.first_look:
            self.warn(reason, message)

    def wake(self, seconds: float) -> None:
        """Look again after that many seconds, for something will have changed by then without a word."""
        due = max(0.0, seconds)
        self.wake_after = due if self.wake_after is None else min(self.wake_after, due)

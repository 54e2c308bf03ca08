"""One pass over a RayCluster while it is put together: what it will create, delete and say."""

from __future__ import annotations

from rayward.api.fault_tolerance import FaultTolerance
from rayward.api.raycluster import RayCluster
from rayward.plan import names
from rayward.plan.outcome import Event, ObjectRef, Raw, reference
from rayward.plan.pod_state import is_terminating
from rayward.plan.settings import Settings


class Steps:
    """The pass; ``now`` is seconds since the epoch."""

    def __init__(self, cluster: RayCluster, ft: FaultTolerance, settings: Settings, now: float) -> None:
        self.cluster, self.ft, self.settings, self.now = cluster, ft, settings, now
        self.create: list[Raw] = []
        self.update: list[Raw] = []
        self.delete: list[ObjectRef] = []
        self.events: list[Event] = []

    def remove(self, pod: Raw, reason: str) -> None:
        """Delete one Pod, once, unless its deletion is under way."""
        wanted = reference(pod, reason)
        if not is_terminating(pod) and all(found.name != wanted.name for found in self.delete):
            self.delete.append(wanted)
            kind = "Head" if names.node_type(pod) == names.HEAD else "Worker"
            self.events.append(Event("Normal", f"Deleted{kind}Pod", f"Deleted Pod {wanted.name}: {reason}"))

"""What one pass of planning sees and what it decides, as plain values for any shell.

Holds no rule of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Raw = dict[str, Any]


@dataclass(frozen=True)
class ObjectRef:
    """An object to delete, and the sentence that says why. ``uid`` guards against a namesake."""

    kind: str
    namespace: str
    name: str
    uid: str | None = None
    reason: str = ""


@dataclass(frozen=True)
class Event:
    """Something a user may want to know; ``type`` is Normal or Warning, as in Kubernetes. ``step`` is the
    very object of ``Plan.create``, ``delete`` or ``update`` whose success it reports, if any: when that
    step fails, the event is not true."""

    type: str
    reason: str
    message: str
    step: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Observed:
    """Everything that exists of one cluster: raw objects with their status.

    Of claims, service accounts and Secrets, those count too that are not the cluster's own but are named in
    its spec. ``agents`` is what the agents of head Pods answer on /status, by Pod name; a head that is not
    among them was silent; None: they were not asked yet, and what status says of them stays.
    ``store_shared_with`` names other living clusters on the same keys in the same Redis
    (``store_key.sharers``). ``lost_nodes`` are nodes that do not answer (``lost_nodes.lost_nodes``).
    """

    pods: tuple[Raw, ...] = ()
    services: tuple[Raw, ...] = ()
    jobs: tuple[Raw, ...] = ()
    pvcs: tuple[Raw, ...] = ()
    service_accounts: tuple[Raw, ...] = ()
    roles: tuple[Raw, ...] = ()
    role_bindings: tuple[Raw, ...] = ()
    secrets: tuple[Raw, ...] = ()
    ingresses: tuple[Raw, ...] = ()
    agents: Mapping[str, Raw] | None = None
    store_shared_with: tuple[str, ...] = ()
    lost_nodes: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Plan:
    """The steps of one pass. Each is independent of the others: a shell tries all of them, in the order
    finalizers, delete, create, update, status, and comes back when anything changed or after
    ``requeue_after`` seconds. ``finalizers`` is the full new list, None for no change. ``remove_cluster``
    means nothing holds the object any more: it goes, together with what it owns. A create of something
    that exists is no error. Each of ``update`` is a JSON merge patch (RFC 7386) with the kind and name of
    the object that it is for: lists are replaced as a whole (``merge_patch.merge_patch``); a uid in it
    guards against a namesake. ``status`` is the whole new status; whether and when it must be written say
    ``status_writes.status_differs`` and ``is_urgent``, and ``status_now``."""

    create: tuple[Raw, ...] = ()
    delete: tuple[ObjectRef, ...] = ()
    update: tuple[Raw, ...] = ()
    finalizers: tuple[str, ...] | None = None
    remove_cluster: bool = False
    status: Raw = field(default_factory=dict)
    requeue_after: float | None = None
    events: tuple[Event, ...] = ()

    @property
    def status_now(self) -> bool:
        """Whether a status that differs must be written at once: what is said because of the old one, and
        not because of a step, would be said again until there is a new one."""
        return any(event.step is None for event in self.events)


def patch_of(found: Raw, kind: str) -> Raw:
    """The beginning of a merge patch for an object that exists."""
    metadata = found["metadata"]
    identity = {key: metadata[key] for key in ("name", "namespace", "uid") if key in metadata}
    return {"apiVersion": "v1", "kind": kind, "metadata": identity}


def reference(raw: Raw, reason: str) -> ObjectRef:
    """The reference by which ``raw`` is deleted."""
    metadata = raw["metadata"]
    return ObjectRef(
        raw.get("kind", "Pod"),
        metadata.get("namespace", "default"),
        metadata["name"],
        metadata.get("uid"),
        reason,
    )

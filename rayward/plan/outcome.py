"""What one pass of planning sees and what it decides, as plain values for any shell.

Holds no rule of its own.
"""

from __future__ import annotations

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
    """Something a user may want to know; ``type`` is Normal or Warning, as in Kubernetes."""

    type: str
    reason: str
    message: str


@dataclass(frozen=True)
class Observed:
    """Everything that exists of one cluster: raw objects with their status."""

    pods: tuple[Raw, ...] = ()
    services: tuple[Raw, ...] = ()
    jobs: tuple[Raw, ...] = ()
    pvcs: tuple[Raw, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The steps of one pass. Each is independent of the others: a shell tries all of them, in the order
    finalizers, delete, create, update, status, and comes back when anything changed or after
    ``requeue_after`` seconds. ``finalizers`` is the full new list, None for no change. ``remove_cluster``
    means nothing holds the object any more: it goes, together with what it owns. A create of something
    that exists is no error. ``update`` names objects that exist: each field of its ``spec`` replaces that
    of the existing one."""

    create: tuple[Raw, ...] = ()
    delete: tuple[ObjectRef, ...] = ()
    update: tuple[Raw, ...] = ()
    finalizers: tuple[str, ...] | None = None
    remove_cluster: bool = False
    status: Raw = field(default_factory=dict)
    requeue_after: float | None = None
    events: tuple[Event, ...] = ()


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

"""Whose data lies in a namespace, and whether it is the store that this head knew: one pure classification.

It decides nothing; who asks refuses to start, takes over, or waits for ``rayward store adopt``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class Incarnation:
    """The marker of one life of a store: a random ``id``, made at first use or adoption, and its owner.

    ``cluster`` is the owner's uid, ``cluster_name`` what people call it, ``created`` a time in UTC.
    """

    id: str
    cluster: str
    cluster_name: str = ""
    created: str = ""


@dataclass(frozen=True)
class Remembered:
    """What a head keeps of the store that it used last: its marker's id, and the highest epoch seen there.
    Empty and 0 for a new head."""

    incarnation: str = ""
    epoch: int = 0


@dataclass(frozen=True)
class StoreFacts:
    """What one look at the store found. ``epoch`` 0 and ``held`` false where there is no lease.

    ``quiet``: the lease, though held, has not changed for longer than any living holder would leave it.
    """

    incarnation: Optional[Incarnation]
    has_ray_data: bool
    epoch: int = 0
    held: bool = False
    holder: str = ""
    quiet: bool = False


class Owner(enum.Enum):
    """Whose store it is.

    FRESH: nothing there, nothing remembered. OURS: go on. UNMARKED_DATA: Ray's data without rayward's
    marker (a cluster that ran without rayward): take it over. FOREIGN_LIVE: another cluster uses it: refuse.
    FOREIGN_RELEASED: another cluster used it and does no more: take it over, with a warning. EMPTY: it has
    lost what we remember. OLDER: it went back in time, or is another store.
    """

    FRESH = "fresh"
    OURS = "ours"
    UNMARKED_DATA = "unmarked-data"
    FOREIGN_LIVE = "foreign-live"
    FOREIGN_RELEASED = "foreign-released"
    EMPTY = "empty"
    OLDER = "older"


@dataclass(frozen=True)
class Ownership:
    """The classification, a sentence for people, and what to do about it (empty where nothing need be)."""

    owner: Owner
    sentence: str
    todo: str = ""

    @property
    def usable(self) -> bool:
        """Whether a head may go on to acquire the lease (after taking over, where the owner says so)."""
        return self.owner in (Owner.FRESH, Owner.OURS, Owner.UNMARKED_DATA, Owner.FOREIGN_RELEASED)


_ADOPT = "bring the right store back, or accept this one as it is: rayward store adopt"


def check_owner(facts: StoreFacts, cluster: str, namespace: str, remembered: Remembered) -> Ownership:
    """Classify what ``facts`` say for the cluster with uid ``cluster``."""
    if facts.incarnation is None:
        return _unmarked(facts, namespace, remembered)
    if facts.incarnation.cluster != cluster:
        return _foreign(facts, facts.incarnation, namespace, remembered)
    other = bool(remembered.incarnation) and facts.incarnation.id != remembered.incarnation
    # A marker of this cluster above every epoch that is remembered was made by `store adopt` at another head.
    if other and facts.epoch <= remembered.epoch:
        return Ownership(
            Owner.OLDER,
            f"the store of namespace {namespace!r} is another one than this head knew "
            f"(incarnation {facts.incarnation.id} instead of {remembered.incarnation})",
            _ADOPT,
        )
    if facts.epoch < remembered.epoch:
        return Ownership(
            Owner.OLDER,
            f"the store of namespace {namespace!r} went back in time: its epoch is {facts.epoch}, "
            f"and {remembered.epoch} has been seen",
            _ADOPT,
        )
    return Ownership(Owner.OURS, f"the store of namespace {namespace!r} is this cluster's")


def _unmarked(facts: StoreFacts, namespace: str, remembered: Remembered) -> Ownership:
    if remembered.incarnation or remembered.epoch:
        found = "holds Ray's data, but not rayward's" if facts.has_ray_data else "is empty"
        return Ownership(
            Owner.EMPTY,
            f"the store of namespace {namespace!r} {found}: it lost what this head knew "
            f"(epoch {remembered.epoch})",
            _ADOPT,
        )
    if facts.has_ray_data:
        return Ownership(
            Owner.UNMARKED_DATA,
            f"namespace {namespace!r} holds data of a Ray cluster that ran without rayward; it is taken over",
        )
    return Ownership(Owner.FRESH, f"namespace {namespace!r} is new")


def _foreign(facts: StoreFacts, found: Incarnation, namespace: str, remembered: Remembered) -> Ownership:
    name = (
        f"{found.cluster_name!r} (uid {found.cluster})" if found.cluster_name else f"with uid {found.cluster}"
    )
    if facts.held and not facts.quiet:
        return Ownership(
            Owner.FOREIGN_LIVE,
            f"namespace {namespace!r} belongs to cluster {name}, which runs: its head {facts.holder} leads",
            "give this cluster a storage namespace of its own (externalStorageNamespace, "
            "RAY_external_storage_namespace), or stop the other one",
        )
    if remembered.incarnation and remembered.incarnation != found.id:
        # It was ours, and somebody has taken it over since.
        return Ownership(
            Owner.OLDER,
            f"namespace {namespace!r} was taken over by cluster {name}, which does not run",
            _ADOPT,
        )
    return Ownership(
        Owner.FOREIGN_RELEASED,
        f"namespace {namespace!r} belonged to cluster {name}, which does not run; it is taken over",
    )

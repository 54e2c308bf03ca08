"""What the elector asks of the store, and every answer as one frozen look: no exception leaves this desk
except where a person waits for the outcome.

Joins the lease (``store.lease``), whose store it is (``store.ownership``) and what this head remembers.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rayward.agent.config import HeadSettings
from rayward.agent.lead import StoreStanding
from rayward.agent.timing import LeaseTiming
from rayward.store.lease import LeaseStore
from rayward.store.lease_record import Acquired, LeaseRecord, Refused, StoreView
from rayward.store.lease_rules import LeaseToken, RenewOutcome
from rayward.store.ownership import Owner, Ownership, Remembered, check_owner
from rayward.store.upstream import StoreAwayError, StoreSettings

Members = tuple[dict[str, Any], ...]

# A person who asks may wait longer than the loop may.
_PATIENT = 3.0

_STANDINGS = {
    Owner.FRESH: StoreStanding.GOOD,
    Owner.OURS: StoreStanding.GOOD,
    Owner.UNMARKED_DATA: StoreStanding.GOOD,
    Owner.FOREIGN_RELEASED: StoreStanding.GOOD,
    Owner.FOREIGN_LIVE: StoreStanding.FOREIGN,
    Owner.EMPTY: StoreStanding.EMPTY,
    Owner.OLDER: StoreStanding.OLDER,
}


@dataclass(frozen=True)
class Look:
    """One look at the store. After a failed one everything but standing and fault is what was seen before.

    ``has_data``: a GCS has written here. ``namesake``: the address of another agent with this member's name.
    """

    standing: StoreStanding = StoreStanding.UNASKED
    fault: str = ""
    todo: str = ""
    transient: bool = True
    record: LeaseRecord | None = None
    token: LeaseToken | None = None
    incarnation: str = ""
    members: Members = ()
    paused: bool = False
    has_data: bool = False
    namesake: str = ""
    owner: Ownership | None = None


@dataclass(frozen=True)
class Took:
    """How an attempt to take the lease ended. ``unknown``: nobody can say; the next look will."""

    epoch: int = 0
    why: str = ""
    incarnation: str = ""
    replicas: int = 0
    unknown: bool = False


class StoreDesk:
    """One head's dealings with lease and marker. For the elector's thread, but for what people ask."""

    def __init__(self, store: StoreSettings, settings: HeadSettings, timing: LeaseTiming) -> None:
        self._settings, self._timing = settings, timing
        self._namespace = store.namespace
        self._store = LeaseStore(store)
        self._patient = LeaseStore(store)
        self._patient_lock = threading.Lock()
        self._seq = 0
        self._seen_at: dict[str, tuple[Any, float]] = {}
        self._foreign: tuple[LeaseToken | None, float] | None = None
        self._foreign_uid = ""
        self._wrote = False
        self._namesake_seen = ("", float("-inf"))
        self._foreign_changed = False

    def look(self, entry: Mapping[str, Any], before: Look, remembered: Remembered) -> Look:
        """Write the own entry and read everything. A failed look keeps what ``before`` saw."""
        member = self._settings.member
        try:
            view = self._store.observe(
                self._settings.cluster_uid, member, entry, timeout=self._timing.store_timeout
            )
        except StoreAwayError as error:
            return _failed(before, error)
        namesake = self._namesake(view.own_before, str(entry.get("instance", "")))
        return replace(self._looked(view, remembered), namesake=namesake)

    def acquire(
        self,
        entry: Mapping[str, Any],
        look: Look,
        heads: tuple[str, ...],
        floor: int,
        reason: str,
        heed_pause: bool,
    ) -> Took:
        """Mark the store as ours where that is due, then take the lease if it is as ``look`` saw it."""
        bound = self._timing.store_timeout
        try:
            incarnation = look.incarnation
            if look.owner is not None and look.owner.owner is not Owner.OURS:
                instead = look.owner.owner is Owner.FOREIGN_RELEASED
                claimed = self._store.claim_incarnation(
                    self._settings.cluster_uid, self._settings.cluster,
                    instead_of=self._foreign_uid if instead else "", timeout=bound,
                )  # fmt: skip
                if claimed.cluster != self._settings.cluster_uid:
                    return Took(why=f"the store has just become cluster {claimed.cluster_name!r}'s")
                incarnation = claimed.id
                if instead:
                    return Took(why="the store was another cluster's and has just been taken over")
            found = self._store.acquire(
                self._settings.member, str(entry["instance"]), look.token, self._record(entry, heads),
                floor=floor, reason=reason, incarnation=incarnation,
                replication_bound=bound, heed_pause=heed_pause, timeout=bound,
            )  # fmt: skip
        except StoreAwayError as error:
            return Took(why=str(error.what), unknown=True)
        if isinstance(found, Refused):
            return Took(why=found.reason)
        assert isinstance(found, Acquired)
        self._seq = found.record.seq
        return Took(found.epoch, "", incarnation, found.acknowledged)

    def renew(
        self, entry: Mapping[str, Any], epoch: int, heads: tuple[str, ...], before: Look
    ) -> tuple[Look, str, bool]:
        """Renew; returns what was seen, who holds the lease instead (empty: we do), and whether the store has
        no lease at all."""
        try:
            found = self._store.renew(
                self._settings.member, str(entry["instance"]), epoch, self._record(entry, heads),
                entry, seq=self._seq, timeout=self._timing.store_timeout,
            )  # fmt: skip
        except StoreAwayError as error:
            return _failed(before, error), "", False
        if found.outcome is RenewOutcome.LOST_STORE:
            words = (
                f"the store of namespace {self._namespace!r} came back without the lease: it lost its data"
            )
            return replace(before, standing=StoreStanding.EMPTY, fault=words), "", True
        if found.outcome is RenewOutcome.PREEMPTED:
            record = found.record
            told = f"{record.holder} holds epoch {record.epoch}" if record is not None else "it was adopted"
            return replace(before, standing=StoreStanding.GOOD, fault="", record=record), told, False
        self._seq = found.record.seq if found.record is not None else self._seq + 1
        fault = ""
        if found.forgotten > 0:
            fault = f"the store forgot its newest writes ({found.forgotten} renewals of the lease among them)"
        look = Look(
            standing=StoreStanding.GOOD,
            fault=fault,
            record=found.record,
            token=found.record.token if found.record is not None else None,
            incarnation=found.incarnation.id if found.incarnation is not None else before.incarnation,
            members=self._members(found.members),
            paused=found.control.paused,
            has_data=True,
            owner=before.owner,
        )
        return look, "", False

    def release(self, member: str, instance: str, epoch: int, successor: str) -> tuple[bool, str]:
        """Give the lease up; whether that is certain, and why not."""
        try:
            ours = self._store.release(member, instance, epoch, successor, timeout=self._timing.store_timeout)
        except StoreAwayError as error:
            return False, str(error.what)
        return ours, "" if ours else "it was not this head's any more"

    def forget_member(self, member: str) -> None:
        """A clean stop: nobody need ask this head for its word any more."""
        with contextlib.suppress(StoreAwayError):
            self._store.drop_member(member, timeout=self._timing.store_timeout)
        self._store.close()

    # -- for people: from any thread; raise StoreAwayError -----------------------------------------------

    def set_paused(self, paused: bool, by: str) -> None:
        """Switch failover by itself off or on."""
        with self._patient_lock:
            self._patient.set_paused(paused, by, timeout=_PATIENT)

    def history(self) -> list[dict[str, Any]]:
        """Every change of leader that is kept, oldest first."""
        with self._patient_lock:
            return self._patient.history(timeout=_PATIENT)

    def adopt(self, floor: int) -> tuple[str, int]:
        """Accept the store as it is; its new marker and epoch."""
        settings = self._settings
        with self._patient_lock:
            marker, epoch = self._patient.adopt(
                settings.cluster_uid, settings.cluster, floor, settings.member, timeout=_PATIENT
            )
        return marker.id, epoch

    def session_name(self) -> str:
        """The name of Ray's session in the store; empty when there is none or nobody answers in time."""
        with self._patient_lock, contextlib.suppress(StoreAwayError):
            return self._patient.session_name(timeout=self._timing.store_timeout)
        return ""

    # -- how a view becomes a look -----------------------------------------------------------------------

    def _looked(self, view: StoreView, remembered: Remembered) -> Look:
        owner = check_owner(
            view.facts(quiet=self._is_quiet(view)), self._settings.cluster_uid, self._namespace, remembered
        )
        standing, fault = _STANDINGS[owner.owner], ""
        ours = owner.owner is Owner.OURS
        if standing is not StoreStanding.GOOD:
            fault = owner.sentence
        if owner.owner is Owner.FOREIGN_LIVE and not self._foreign_changed:
            # One look cannot tell a cluster that runs from one that was switched off.
            standing = StoreStanding.UNASKED
            fault = f"{owner.sentence}; watching whether it does"
        lease = view.lease
        return Look(
            standing=standing,
            fault=fault,
            todo=owner.todo,
            transient=False,
            record=lease,
            token=lease.token if lease is not None else None,
            incarnation=view.incarnation.id if view.incarnation is not None and ours else "",
            members=self._members(view.members),
            paused=view.control.paused,
            has_data=view.has_ray_data,
            owner=owner,
        )

    def _namesake(self, before: Mapping[str, Any], instance: str) -> str:
        """The address of another agent that has written under this name since this one has: it lives. An
        entry from before this agent's first is most likely its own earlier life's."""
        other = str(before.get("instance", ""))
        now = time.monotonic()
        if self._wrote and other and other != instance:
            self._namesake_seen = (str(before.get("address", "")) or "an unknown address", now)
        self._wrote = True
        address, at = self._namesake_seen
        return address if now - at < self._timing.forget_after else ""

    def _is_quiet(self, view: StoreView) -> bool:
        """Whether a lease of another cluster has stood still for longer than a living head leaves it."""
        marker = view.incarnation
        if marker is None or marker.cluster == self._settings.cluster_uid:
            self._foreign = None
            return False
        self._foreign_uid = marker.cluster
        token = view.lease.token if view.lease is not None else None
        if self._foreign is None or self._foreign[0] != token:
            self._foreign_changed = self._foreign is not None
            self._foreign = (token, time.monotonic())
        return time.monotonic() - self._foreign[1] > self._timing.ttl * self._timing.newcomer_factor

    def _members(self, found: Mapping[str, Mapping[str, Any]]) -> Members:
        now = time.monotonic()
        rows = []
        current: dict[str, tuple[Any, float]] = {}
        for member, entry in sorted(found.items()):
            mark = (entry.get("instance"), entry.get("time"))
            before = self._seen_at.get(member)
            at = before[1] if before is not None and before[0] == mark else now
            current[member] = (mark, at)
            if now - at < self._timing.forget_after * 6:
                rows.append({**entry, "member": member, "seen_ago_s": round(now - at, 1)})
        self._seen_at = current
        return tuple(rows)

    def _record(self, entry: Mapping[str, Any], heads: tuple[str, ...]) -> dict[str, Any]:
        return {
            "address": entry["address"], "gcs": entry["gcs"], "heads": list(heads),
            "ttl": self._timing.ttl, "cluster": self._settings.cluster_uid,
            "cluster_name": self._settings.cluster,
        }  # fmt: skip


def _failed(before: Look, error: StoreAwayError) -> Look:
    standing = StoreStanding.AWAY if error.fault.transient else StoreStanding.REFUSED
    return replace(
        before, standing=standing, fault=error.fault.sentence, todo=error.fault.todo,
        transient=error.fault.transient,
    )  # fmt: skip

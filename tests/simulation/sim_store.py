"""The store of one schedule: the lease by ``rayward.store.lease_rules``, data, and what must hold.

It checks on every accepted write that it came from the newest epoch (I1) and overwrote nothing newer that was
acknowledged (I2), and on every acquisition that it was not forbidden by a pause (I6).
"""

from __future__ import annotations

from typing import NamedTuple

from sim_world import ViolationError, World

from rayward.store import lease_rules as rules
from rayward.store.lease_rules import HELD, Lease, LeaseToken, RenewOutcome

KEYS = 2


class Entry(NamedTuple):
    """What a head writes of itself into ``members``."""

    instance: str
    mark: int
    prepared: bool


class Seen(NamedTuple):
    """One look at the store, as its answer holds it."""

    lease: Lease | None
    heads: tuple[int, ...]
    incarnation: int
    paused: bool
    members: tuple[Entry | None, ...]
    at: float


class SimStore:
    """``fence_off``: writes pass unchecked, the negative control. ``unique_writer``: not the epoch alone is
    compared, for a store that forgot its newest seconds may give one epoch twice."""

    def __init__(self, world: World, fence_off: bool = False, unique_writer: bool = True) -> None:
        self.world = world
        self.unique_writer = unique_writer
        self.fence_off = fence_off
        self.lease: Lease | None = None
        self.heads: tuple[int, ...] = ()
        self.incarnation = 0
        self.next_incarnation = 1
        self.members: list[Entry | None] = [None] * world.heads
        self.paused = False
        self.paused_at = 0.0
        self.up = True
        self.slow = 0.0
        # What is known from outside, for the checks.
        self.lost = False
        self.losses = 0
        self.deposed: set[int] = set()
        self.data = [0] * KEYS
        self.acknowledged = [0] * KEYS
        self.newest_accepted = 0
        self.accepted = 0
        self.last_accepted_at = -1.0
        self.last_writer = -1
        self.snapshot: tuple[Lease | None, tuple[int, ...], int, list[int]] = (None, (), 0, [0] * KEYS)

    # the lease

    def look(self, head: int, entry: Entry) -> Seen:
        """A standby's look, which leaves its own entry."""
        self.members[head] = entry
        return self.seen()

    def seen(self) -> Seen:
        """What anybody reads."""
        return Seen(
            self.lease, self.heads, self.incarnation, self.paused, tuple(self.members), self.world.now
        )

    def acquire(
        self,
        head: int,
        instance: str,
        token: LeaseToken | None,
        floor: int,
        heads: tuple[int, ...],
        incarnation: int,
        forced: bool,
        seen_at: float,
    ) -> tuple[bool, Seen]:
        """Compare and set; the first user of a store makes its incarnation."""
        before = self.lease
        if incarnation != self.incarnation and self.incarnation:
            return False, self.seen()
        if not self.incarnation and incarnation:
            return False, self.seen()
        after, took = rules.acquire(before, str(head), instance, token, floor)
        if took:
            if forced:
                self.deposed.update(range(self.world.heads))
            self._check_pause(head, before, forced, seen_at)
            if not self.incarnation:
                self._make_incarnation()
            self.lease, self.heads = after, heads
        return took, self.seen()

    def _check_pause(self, head: int, before: Lease | None, forced: bool, seen_at: float) -> None:
        takeover = before is not None and before.state == HELD and before.holder != str(head)
        if self.paused and takeover and not forced and seen_at > self.paused_at:
            raise ViolationError("I6", f"head {head} took an unreleased lease although failover is paused")

    def renew(
        self, head: int, instance: str, epoch: int, seq: int, heads: tuple[int, ...], entry: Entry
    ) -> tuple[RenewOutcome, Seen]:
        """A leader's renewal."""
        self.lease, outcome = rules.renew(self.lease, str(head), instance, epoch, seq)
        if outcome is RenewOutcome.RENEWED:
            self.heads = heads
            self.members[head] = entry
        return outcome, self.seen()

    def release(self, head: int, instance: str, epoch: int, successor: str) -> tuple[bool, Seen]:
        """A leader gives the lease up."""
        self.lease, done = rules.release(self.lease, str(head), instance, epoch, successor)
        return done, self.seen()

    def adopt(self, head: int, floor: int) -> tuple[bool, Seen]:
        """An operator takes the store as it is."""
        self.lease = rules.adopt(self.lease, str(head), floor)
        self.heads = ()
        self._make_incarnation()
        self.newest_accepted = 0  # epochs are compared within one incarnation
        self.lost = False
        return True, self.seen()

    def _make_incarnation(self) -> None:
        self.incarnation, self.next_incarnation = self.next_incarnation, self.next_incarnation + 1

    # data

    def write(self, head: int, instance: str, epoch: int, born: int, key: int, number: int) -> str:
        """One guarded write: "ok", or why it was refused."""
        lease = self.lease
        if not self.fence_off:
            if lease is None:
                return "empty"
            # Without unique names a gateway would compare epochs alone.
            same = lease.writer and rules.epoch_of(lease.writer) == epoch
            if not (
                rules.may_write(lease, rules.writer_name(epoch, instance)) if self.unique_writer else same
            ):
                return "fenced"
        told = f"a write of head {head} with epoch {epoch}"
        if lease is None or self.lost:
            raise ViolationError("I1", f"{told} was accepted by a store that lost its data")
        if lease.epoch != epoch or epoch < self.newest_accepted:
            newest = max(lease.epoch, self.newest_accepted)
            raise ViolationError("I1", f"{told} was accepted while the newest is {newest}")
        if lease.holder != str(head):
            raise ViolationError("I1", f"{told} was accepted while {lease} is in the store")
        if born != epoch:
            raise ViolationError("I7", f"{told} came from a GCS that was started for epoch {born}")
        if number < self.data[key] <= self.acknowledged[key]:
            raise ViolationError(
                "I2", f"{told}, number {number}, overwrote the acknowledged number {self.data[key]}"
            )
        self.newest_accepted = epoch
        self.data[key] = number
        self.accepted += 1
        self.last_accepted_at = self.world.now
        self.last_writer = head
        return "ok"

    def acknowledge(self, key: int, number: int, losses: int) -> None:
        """A GCS got its answer: from now on that write may not be missing."""
        if losses != self.losses:
            return
        if number > self.data[key]:
            raise ViolationError("I2", f"number {number} was acknowledged and is not in the store")
        self.acknowledged[key] = max(self.acknowledged[key], number)

    # faults

    def take_snapshot(self) -> None:
        """What a later ``roll_back`` returns to."""
        self.snapshot = (self.lease, self.heads, self.incarnation, list(self.data))

    def lose_everything(self) -> None:
        """The store comes back empty."""
        self.lease, self.heads, self.incarnation = None, (), 0
        self.members = [None] * self.world.heads
        self.paused = False
        self._forget_data([0] * KEYS)
        self.lost = True

    def roll_back(self) -> None:
        """The store comes back as it was at the snapshot: the newest seconds are gone, and nothing in the
        store says so. What was accepted or acknowledged since is not held against anybody."""
        self.lease, self.heads, self.incarnation, data = self.snapshot
        self._forget_data(list(data))
        self.newest_accepted = min(self.newest_accepted, self.lease.epoch if self.lease else 0)
        self.lost = self.lease is None

    def _forget_data(self, data: list[int]) -> None:
        self.losses += 1
        self.data = data
        self.acknowledged = [0] * KEYS

    def set_paused(self, paused: bool) -> None:
        """``rayward pause`` and ``resume``."""
        if paused and not self.paused:
            self.paused_at = self.world.now
        self.paused = paused

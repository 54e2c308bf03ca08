"""The rules of the lease as pure values: what the scripts of ``lease_scripts`` do, for the simulator.

No I/O, no clock. A test runs the same random operations here and on a real Redis and compares the outcome.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Optional, Tuple

HELD = "held"
RELEASED = "released"


@dataclass(frozen=True)
class LeaseToken:
    """What a caller saw of the lease: a later compare-and-set succeeds only if this is still so."""

    epoch: int
    instance: str
    seq: int
    state: str


@dataclass(frozen=True)
class Lease:
    """The part of the lease that decides. ``writer`` names who may write (``writer_name``); empty: nobody."""

    epoch: int
    writer: str
    holder: str
    instance: str
    seq: int
    state: str
    successor: str = ""

    @property
    def token(self) -> LeaseToken:
        """What a compare-and-set compares."""
        return LeaseToken(self.epoch, self.instance, self.seq, self.state)


class RenewOutcome(enum.Enum):
    """How a renewal ended. LOST_STORE: there is no lease at all, so the store came back empty."""

    RENEWED = "renewed"
    PREEMPTED = "preempted"
    LOST_STORE = "lost-store"


def writer_name(epoch: int, instance: str) -> str:
    """What a gateway's writes carry, different for every acquisition: after a store has forgotten its newest
    seconds, two heads may hold one and the same epoch."""
    return f"{epoch}:{instance}"


def epoch_of(writer: str) -> int:
    """The epoch in a writer's name; 0 for anything that is none."""
    number = writer.partition(":")[0]
    return int(number) if number.isascii() and number.isdigit() else 0


def next_epoch(seen: Optional[LeaseToken], floor: int) -> int:
    """The epoch that an acquisition would carry: higher than the one seen and than any remembered."""
    return max(seen.epoch if seen is not None else 0, floor) + 1


def acquire(
    lease: Optional[Lease], member: str, instance: str, seen: Optional[LeaseToken], floor: int
) -> Tuple[Optional[Lease], bool]:
    """The lease afterwards, and whether ``member`` holds it now. Nothing changes unless ``seen`` is so."""
    if (lease.token if lease is not None else None) != seen:
        return lease, False
    epoch = next_epoch(seen, floor)
    return Lease(epoch, writer_name(epoch, instance), member, instance, 1, HELD), True


def renew(
    lease: Optional[Lease], member: str, instance: str, epoch: int, seq: int
) -> Tuple[Optional[Lease], RenewOutcome]:
    """One renewal by whoever believes to hold ``epoch``; ``seq`` is the last one that was acknowledged."""
    if lease is None:
        return None, RenewOutcome.LOST_STORE
    if not _holds(lease, member, instance, epoch):
        return lease, RenewOutcome.PREEMPTED
    return replace(lease, seq=max(lease.seq, seq) + 1), RenewOutcome.RENEWED


def release(
    lease: Optional[Lease], member: str, instance: str, epoch: int, successor: str = ""
) -> Tuple[Optional[Lease], bool]:
    """The lease afterwards, and whether it was the caller's to release."""
    if lease is None or not _holds(lease, member, instance, epoch):
        return lease, False
    return replace(lease, state=RELEASED, writer="", seq=lease.seq + 1, successor=successor), True


def adopt(lease: Optional[Lease], member: str, floor: int) -> Lease:
    """The lease after an operator's ``adopt``: held by nobody, above every epoch that ever wrote."""
    epoch = max(lease.epoch if lease is not None else 0, floor) + 1
    return Lease(epoch, "", member, "", 1, RELEASED)


def may_write(lease: Optional[Lease], writer: str) -> bool:
    """Whether a write that carries this writer's name passes the gateway's script now."""
    return lease is not None and lease.writer == writer


def _holds(lease: Lease, member: str, instance: str, epoch: int) -> bool:
    return (
        lease.state == HELD and lease.epoch == epoch and lease.instance == instance and lease.holder == member
    )

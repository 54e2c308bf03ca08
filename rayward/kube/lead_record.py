"""The Lease object as a value, and the rules by which one of several operators takes it. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

Raw = dict[str, Any]


@dataclass(frozen=True)
class Timing:
    """Seconds. A holder that could not renew for ``renew_deadline`` gives up; others take over a record that
    has stood still for ``duration``. The difference is what a slow holder may be late."""

    duration: float = 15.0
    renew_deadline: float = 10.0
    retry: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.retry < self.renew_deadline < self.duration:
            raise ValueError("lease timings must grow: retry < renew deadline < duration")


@dataclass(frozen=True)
class Record:
    """What a Lease says. ``duration`` is its holder's, in seconds; an empty ``holder``: released."""

    holder: str
    duration: float
    renewed: str
    acquired: str
    transitions: int
    version: str

    @classmethod
    def of(cls, lease: Raw) -> Record:
        """Reads a Lease object; whatever is missing or odd in it counts as not said."""
        spec = lease.get("spec") or {}
        duration, transitions = spec.get("leaseDurationSeconds"), spec.get("leaseTransitions")
        return cls(
            str(spec.get("holderIdentity") or ""),
            float(duration) if isinstance(duration, int | float) else 0.0,
            str(spec.get("renewTime") or ""),
            str(spec.get("acquireTime") or ""),
            transitions if isinstance(transitions, int) else 0,
            str(lease["metadata"].get("resourceVersion") or ""),
        )

    @property
    def word(self) -> tuple[object, ...]:
        """What moves when a holder renews; labels that somebody edits do not count."""
        return self.holder, self.renewed, self.acquired, self.transitions


class Stand(enum.Enum):
    """What a record means to a candidate: FREE may be taken now, MINE is its own, TAKEN is not over yet."""

    FREE = "free"
    MINE = "mine"
    TAKEN = "taken"


@dataclass(frozen=True)
class Sighting:
    """A record and since when (the watcher's monotonic clock) it has looked like this."""

    record: Record
    since: float

    def then(self, record: Record, now: float) -> Sighting:
        """The same with what is read now: a record that has not moved keeps its age."""
        return Sighting(record, self.since if record.word == self.record.word else now)


def judge(seen: Sighting | None, identity: str, timing: Timing, now: float) -> Stand:
    """May ``identity`` take the lease? Dates in the record are compared with nothing: clocks may be wrong."""
    if seen is None or not seen.record.holder:
        return Stand.FREE
    if seen.record.holder == identity:
        return Stand.MINE
    # The holder counts on the time it wrote down; a candidate with a shorter one of its own must not cut it.
    patience = max(seen.record.duration, timing.duration)
    return Stand.FREE if now - seen.since >= patience else Stand.TAKEN


def taken(record: Record | None, identity: str, timing: Timing, wall: float) -> Raw:
    """The spec with which ``identity`` takes or renews; ``wall``: seconds since 1970, for people to read."""
    moment = micro_time(wall)
    renews = record is not None and record.holder == identity
    before = record.transitions if record is not None else 0
    return {
        "holderIdentity": identity,
        "leaseDurationSeconds": max(1, round(timing.duration)),
        "acquireTime": record.acquired or moment if renews and record is not None else moment,
        "renewTime": moment,
        "leaseTransitions": before if renews or record is None else before + 1,
    }


def released(record: Record, wall: float) -> Raw:
    """The spec with which a holder lets go: whoever reads it may take the lease at once."""
    return {
        "holderIdentity": "",
        "leaseDurationSeconds": 1,
        "acquireTime": record.acquired or None,
        "renewTime": micro_time(wall),
        "leaseTransitions": record.transitions,
    }


def micro_time(wall: float) -> str:
    """Kubernetes' MicroTime."""
    return datetime.fromtimestamp(wall, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

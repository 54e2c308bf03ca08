"""What stands in the store beside Ray's data, as values: the lease, the members, and the answers about them.

Parsing only, no I/O. Whatever cannot be read raises ``ValueError`` with what was found.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Optional, Tuple, Union

from rayward.store.lease_rules import HELD, RELEASED, LeaseToken, RenewOutcome
from rayward.store.ownership import Incarnation, StoreFacts
from rayward.store.resp import Reply


@dataclass(frozen=True)
class LeaseRecord:
    """The lease as it stands. ``details`` is the holder's own JSON, whose usual words are properties."""

    epoch: int
    writer: str
    holder: str
    instance: str
    seq: int
    state: str
    successor: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def token(self) -> LeaseToken:
        """What ``acquire`` compares."""
        return LeaseToken(self.epoch, self.instance, self.seq, self.state)

    @property
    def held(self) -> bool:
        """Whether somebody holds it, alive or not."""
        return self.state == HELD

    @property
    def released(self) -> bool:
        """Whether it was given up, or adopted, and nobody has taken it since."""
        return not self.held

    @property
    def address(self) -> str:
        """``ip:port`` of the holder's agent, as it announced it; empty where it did not."""
        return str(self.details.get("address", ""))

    @property
    def gcs(self) -> str:
        """``ip:port`` of the holder's GCS; empty where it did not say."""
        return str(self.details.get("gcs", ""))

    @property
    def heads(self) -> Tuple[str, ...]:
        """The members that the holder asks when the store is away."""
        return heads_of(self.details)

    @property
    def ttl(self) -> float:
        """The holder's lease time in seconds; 0 where it did not say."""
        ttl = self.details.get("ttl", 0)
        return float(ttl) if isinstance(ttl, (int, float)) else 0.0


@dataclass(frozen=True)
class Control:
    """What an operator has set for the whole cluster."""

    paused: bool = False
    paused_by: str = ""
    paused_at: str = ""


@dataclass(frozen=True)
class StoreView:
    """One look at the store. ``lease`` None: nobody has ever led, or the store is empty. ``own_before``: the
    caller's own entry among the members, as it stood before this look wrote it."""

    lease: Optional[LeaseRecord]
    incarnation: Optional[Incarnation]
    members: Mapping[str, Mapping[str, Any]]
    control: Control
    has_ray_data: bool
    own_before: Mapping[str, Any] = field(default_factory=dict)

    def facts(self, quiet: bool = False) -> StoreFacts:
        """What ``ownership.check_owner`` asks for; ``quiet`` as there."""
        lease = self.lease
        return StoreFacts(
            incarnation=self.incarnation,
            has_ray_data=self.has_ray_data,
            epoch=lease.epoch if lease is not None else 0,
            held=lease is not None and lease.held,
            holder=lease.holder if lease is not None else "",
            quiet=quiet,
        )


@dataclass(frozen=True)
class Acquired:
    """The lease is ours. ``replicas`` were connected, ``acknowledged`` of them have it within the bound."""

    epoch: int
    record: LeaseRecord
    replicas: int = 0
    acknowledged: int = 0


@dataclass(frozen=True)
class Refused:
    """The lease is not ours, for certain. ``current`` is what stands there (None: no lease)."""

    reason: str
    current: Optional[LeaseRecord]


AcquireResult = Union[Acquired, Refused]


@dataclass(frozen=True)
class RenewResult:
    """How a renewal ended. The rest is what the same script saw; with LOST_STORE, nothing.

    ``forgotten`` is how many acknowledged renewals the store no longer knew (it lost its newest writes, Ray's
    among them); 0 in good times.
    """

    outcome: RenewOutcome
    record: Optional[LeaseRecord]
    members: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    control: Control = Control()
    incarnation: Optional[Incarnation] = None
    forgotten: int = 0


def fields_of(reply: Reply) -> Dict[str, str]:
    """A hash as Redis returns it (a flat list), as text."""
    words = [_text(word) for word in reply] if isinstance(reply, list) else []
    return dict(zip(words[::2], words[1::2]))


def parse_lease(reply: Reply) -> Optional[LeaseRecord]:
    """The lease from its hash; None for an empty one. Raises ``ValueError``."""
    fields = fields_of(reply)
    if not fields:
        return None
    numbers = {}
    for name in ("epoch", "seq"):
        text = fields.get(name, "")
        if not (text.isascii() and text.isdecimal()):
            raise ValueError(f"the lease's {name} is {text!r}, not a number")
        numbers[name] = int(text)
    state = fields.get("state", "")
    if state not in (HELD, RELEASED):
        raise ValueError(f"the lease's state is {state!r}")
    details = parse_json(fields.get("record", ""))
    return LeaseRecord(
        epoch=numbers["epoch"],
        writer=fields.get("writer", ""),
        holder=fields.get("holder", ""),
        instance=fields.get("instance", ""),
        seq=numbers["seq"],
        state=state,
        successor=fields.get("successor") or str(details.get("successor", "")),
        details=details,
    )


def heads_of(details: Mapping[str, Any]) -> Tuple[str, ...]:
    """The members that a lease's details name; none where they name them in another form."""
    heads = details.get("heads", ())
    return tuple(str(head) for head in heads) if isinstance(heads, list) else ()


def parse_json(text: str) -> Dict[str, Any]:
    """A JSON object; empty for anything else, since a member's own note must not stop the others."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def parse_incarnation(reply: Reply) -> Optional[Incarnation]:
    """The marker from its hash; None where there is none."""
    fields = fields_of(reply)
    if not fields:
        return None
    return Incarnation(
        fields.get("id", ""),
        fields.get("cluster", ""),
        fields.get("cluster_name", ""),
        fields.get("created", ""),
    )


def parse_members(reply: Reply) -> Dict[str, Mapping[str, Any]]:
    """Every member's own entry."""
    return {member: parse_json(entry) for member, entry in fields_of(reply).items()}


def parse_control(reply: Reply) -> Control:
    """The operator's settings from their hash."""
    fields = fields_of(reply)
    return Control(fields.get("paused") == "1", fields.get("paused_by", ""), fields.get("paused_at", ""))


def _text(word: Reply) -> str:
    return word.decode("utf-8", "surrogateescape") if isinstance(word, bytes) else str(word)

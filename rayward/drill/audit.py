"""Proves from the store that only one wrote at any time, run by run: reads what the audit stream has since.

The stream and what it proves are ``store.audit``'s; here it is read in parts, for a suite makes it long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from rayward.drill.heads import redis_of
from rayward.errors import RaywardError
from rayward.local.cluster import LocalCluster
from rayward.store import schema
from rayward.store.audit import AuditEntry, audit_verdict, entry_of, next_id

_AT_ONCE = 5000
HOW = "run the heads with RAYWARD_AUDIT=1 in their container's env"


@dataclass(frozen=True)
class Position:
    """A place in the stream (``id``) and the newest epoch that was in force there."""

    id: str
    epoch: int


@dataclass(frozen=True)
class Finding:
    """``stale``: writes accepted from an old epoch; None where it is not known, ``unknown`` says why."""

    stale: int | None
    unknown: str = ""
    writes: int = 0
    epochs: tuple[int, ...] = ()


def judge(entries: Sequence[AuditEntry], newest: int) -> Finding:
    """What these writes prove, made after ``newest`` was the epoch in force. Pure."""
    if not entries:
        return Finding(None, "no write was audited, so nothing is shown")
    older = sum(entry.epoch < newest for entry in entries)
    verdict = audit_verdict(entry for entry in entries if entry.epoch >= newest)
    return Finding(
        older + len(verdict.stale), "", len(entries), tuple(sorted({entry.epoch for entry in entries}))
    )


def position(cluster: LocalCluster, epoch: int) -> Position | None:
    """Where the stream ends now; None when there is no such stream, or no store to ask."""
    try:
        with redis_of(cluster) as (client, namespace):
            found: Any = client.xrevrange(schema.own_key(namespace, "audit"), count=1)
    except (RaywardError, RedisError, OSError, KeyError):
        return None
    return Position(_text(found[0][0]), epoch) if found else None


def since(cluster: LocalCluster, begin: Position | None) -> Finding:
    """Judge every write that the store accepted after ``begin``."""
    if begin is None:
        return Finding(None, f"the store keeps no audit of writes; {HOW}")
    entries: list[AuditEntry] = []
    after = next_id(begin.id)
    try:
        with redis_of(cluster) as (client, namespace):
            key = schema.own_key(namespace, "audit")
            while True:
                page: Any = client.xrange(key, min=after, count=_AT_ONCE)
                entries += [_entry(*item) for item in page]
                if len(page) < _AT_ONCE:
                    return judge(entries, begin.epoch)
                after = next_id(_text(page[-1][0]))
    except (RaywardError, RedisError, OSError, KeyError, ValueError) as problem:
        return Finding(None, f"the audit cannot be read: {str(problem).splitlines()[0]}")


def _entry(identity: Any, fields: dict[Any, Any]) -> AuditEntry:
    return entry_of(_text(identity), {_text(name): _text(value) for name, value in fields.items()})


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

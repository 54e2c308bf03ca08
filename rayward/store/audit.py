"""The audit stream: which epoch made each accepted write, and what that proves. For drills and tests.

The stream is written by the very script that makes the write (``lease_scripts.guarded_write``), so it misses
none. It is kept only where ``RAYWARD_AUDIT=1``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Iterable, Iterator, List, Mapping, Tuple

from rayward.store import schema
from rayward.store.channel import StoreConnection
from rayward.store.lease_rules import epoch_of
from rayward.store.resp import Reply

_PAGE = 1000


@dataclass(frozen=True)
class AuditEntry:
    """One accepted write. ``id`` is Redis' own, in the order of execution; ``field`` the first word after
    the key."""

    id: str
    writer: str
    command: str
    key: str
    field: str

    @property
    def epoch(self) -> int:
        """The writer's epoch."""
        return epoch_of(self.writer)


@dataclass(frozen=True)
class AuditVerdict:
    """What the stream proves. ``stale`` are writes of an epoch after one of a higher epoch, or of a second
    writer with one and the same epoch: none may be."""

    writes: int
    epochs: Tuple[int, ...]
    stale: Tuple[AuditEntry, ...]


def read_audit(connection: StoreConnection, namespace: str, timeout: float = 5.0) -> Iterator[AuditEntry]:
    """Every entry in order, page by page; ``timeout`` (seconds) is for each page. Raises as ``call`` does."""
    key, after = schema.own_key(namespace, "audit"), "-"
    while True:
        page = connection.call("XRANGE", key, after, "+", "COUNT", _PAGE, timeout=timeout)
        entries = page if isinstance(page, list) else []
        for entry in entries:
            yield _entry(entry)
        if len(entries) < _PAGE:
            return
        after = next_id(_entry(entries[-1]).id)


def next_id(identity: str) -> str:
    """The id after this one, to go on reading from: Redis 6.0 has no exclusive range."""
    moment, _, counter = identity.partition("-")
    return f"{moment}-{int(counter) + 1}"


def entry_of(identity: str, fields: Mapping[str, str]) -> AuditEntry:
    """One entry of the stream, from its id and its fields; what is missing is empty."""
    writer, command, key, field = (fields.get(name, "") for name in "eckf")
    return AuditEntry(identity, writer, command, key, field)


def audit_verdict(entries: Iterable[AuditEntry]) -> AuditVerdict:
    """Count the writes, name the epochs in order of their first write, and list the stale ones."""
    writes, highest = 0, 0
    epochs: List[int] = []
    stale: List[AuditEntry] = []
    writers: Dict[int, str] = {}
    for entry in entries:
        writes += 1
        if entry.epoch < highest or writers.setdefault(entry.epoch, entry.writer) != entry.writer:
            stale.append(entry)
        highest = max(highest, entry.epoch)
        if entry.epoch not in epochs:
            epochs.append(entry.epoch)
    return AuditVerdict(writes, tuple(epochs), tuple(stale))


def _entry(reply: Reply) -> AuditEntry:
    assert isinstance(reply, list)
    identity, pairs = reply
    assert isinstance(identity, bytes)
    assert isinstance(pairs, list)
    words = [word.decode("utf-8", "surrogateescape") if isinstance(word, bytes) else "" for word in pairs]
    return entry_of(identity.decode(), dict(zip(words[::2], words[1::2])))

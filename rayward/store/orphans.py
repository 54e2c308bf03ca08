"""Which namespaces of a Redis nobody uses any more, and why each is thought so.

Two looks at the store tell whether somebody lives there; who owns what is known to the caller. The verdict is
a pure function; nothing is removed here.
"""

from __future__ import annotations

import enum
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

from rayward.store import schema
from rayward.store.cleanup import is_legacy_hash, list_redis_keys
from rayward.store.lease_record import LeaseRecord, parse_incarnation, parse_lease, parse_members
from rayward.store.ownership import Incarnation

if TYPE_CHECKING:
    import redis

QUIET_FOR_S = 600.0
"""How long nothing may have been heard of a namespace before it counts as forgotten."""

_SLACK_S = 1.0
_LONGEST_TTL_S = 60.0
_DEFAULT_TTL_S = 3.0
_POLL_S = 0.2
_BATCH = 500
# The uid of a RayCluster: the namespace of all who have not chosen one.
_UID_PATTERN = "????????-????-????-????-????????????"
_UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_RECORDS = ("lease", "members", "incarnation")

Command = Tuple[str, ...]


class Verdict(enum.Enum):
    """What is known of a namespace.

    LIVE: a cluster owns it, or heads write there now. RECENT: it was used a short while ago. UNCLEAR: nothing
    is heard of it, but not all who may own it were asked. ORPHAN: nothing is heard of it, and nobody owns it.
    """

    LIVE = "live"
    RECENT = "recent"
    UNCLEAR = "unclear"
    ORPHAN = "orphan"

    @property
    def removable(self) -> bool:
        """Whether a person may have it removed by name."""
        return self in (Verdict.UNCLEAR, Verdict.ORPHAN)


@dataclass(frozen=True)
class Owners:
    """Who owns which namespace, as words. ``unasked`` are sentences about whose clusters are not known, and
    why; empty when all were asked."""

    known: Mapping[str, str] = field(default_factory=dict)
    unasked: Tuple[str, ...] = ()


@dataclass(frozen=True)
class NamespaceFacts:
    """What two looks found. ``size_bytes`` is about right, None where Redis does not tell. ``holder`` led
    last. ``changed``: heads wrote between the looks. ``silent_for``: seconds since the last sign of life,
    None when there is none to go by. ``cluster`` is the owner's own mark: its name; ``cluster_uid`` its uid,
    which on plain machines is a word of their own."""

    namespace: str
    keys: int
    size_bytes: Optional[int]
    holder: str = ""
    epoch: int = 0
    held: bool = False
    changed: bool = False
    silent_for: Optional[float] = None
    cluster: str = ""
    cluster_uid: str = ""


@dataclass(frozen=True)
class Judged:
    """A namespace with its verdict and the sentence that says why."""

    facts: NamespaceFacts
    verdict: Verdict
    reason: str


def judge(facts: NamespaceFacts, owners: Owners, quiet_for: float = QUIET_FOR_S) -> Judged:
    """Whether somebody needs this namespace. In doubt it is no orphan."""
    owner = owners.known.get(facts.namespace)
    if owner is not None:
        return Judged(facts, Verdict.LIVE, f"belongs to {owner}")
    if facts.changed:
        who = f"{facts.holder} leads with epoch {facts.epoch}" if facts.held else "heads stand by there"
        return Judged(facts, Verdict.LIVE, f"it is written to now: {who}")
    if facts.silent_for is None:
        return Judged(facts, Verdict.UNCLEAR, "nothing tells when it was last used")
    if facts.silent_for < quiet_for:
        return Judged(facts, Verdict.RECENT, f"used {spoken(facts.silent_for)} ago, by whom is not known")
    silent = f"not used for {spoken(facts.silent_for)}"
    unasked = list(owners.unasked)
    if facts.cluster_uid and not _UID.fullmatch(facts.cluster_uid):
        unasked.append(
            f"it is marked as {facts.cluster}'s, a cluster of plain machines, which may be switched off"
        )
    if unasked:
        return Judged(facts, Verdict.UNCLEAR, "; ".join((silent, *unasked)))
    return Judged(facts, Verdict.ORPHAN, f"{silent}, and no cluster that is known owns it")


def look(
    client: redis.Redis, only: Iterable[str] = (), now: Optional[float] = None
) -> Tuple[NamespaceFacts, ...]:
    """The facts of every namespace (or of ``only`` some), sorted by name.

    Takes as long as a lease holds, a little over 3 s by default, unless all that have heads are seen to live
    before. ``now`` is the wall clock, for ages that only heads' clocks tell. Ray's own keys are not touched,
    so that one look is no sign of life for the next. Lets redis-py's exceptions through.
    """
    found = _namespaces(client, set(only))
    first = _read_records(client, found)
    changed = _changed(client, first)
    moment = time.time() if now is None else now
    return tuple(
        _facts(client, namespace, keys, first[namespace], moment, changed=namespace in changed)
        for namespace, keys in sorted(found.items())
    )


def spoken(seconds: float) -> str:
    """A length of time for people: 40 s, 12 min, 3 h, 5 d."""
    for length, word in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {word}"
    return f"{max(0.0, seconds):.0f} s"


@dataclass(frozen=True)
class _Records:
    """rayward's own hashes of a namespace; heads write the first two as long as they live."""

    lease_fields: Mapping[bytes, bytes]
    members_fields: Mapping[bytes, bytes]
    incarnation_fields: Mapping[bytes, bytes]

    @property
    def any(self) -> bool:
        return bool(self.lease_fields or self.members_fields)

    def incarnation(self) -> Incarnation:
        return parse_incarnation(_flat(self.incarnation_fields)) or Incarnation("", "")

    def lease(self) -> Optional[LeaseRecord]:
        try:
            return parse_lease(_flat(self.lease_fields))
        except ValueError:
            return None

    def seen(self) -> Optional[float]:
        """When a head last said something, by its own wall clock; None when none has."""
        times = [entry.get("time") for entry in parse_members(_flat(self.members_fields)).values()]
        return max((float(moment) for moment in times if isinstance(moment, (int, float))), default=None)

    def differs(self, other: _Records) -> bool:
        return (self.lease_fields, self.members_fields) != (other.lease_fields, other.members_fields)

    def window(self) -> float:
        """Seconds within which a head that lives must have written."""
        lease = self.lease()
        ttl = lease.ttl if lease is not None and lease.ttl > 0 else _DEFAULT_TTL_S
        return min(ttl, _LONGEST_TTL_S) + _SLACK_S


def _changed(client: redis.Redis, first: Mapping[str, _Records]) -> Set[str]:
    """The namespaces whose records change within the time in which a living head must renew them."""
    changed: Set[str] = set()
    waiting = {namespace: records for namespace, records in first.items() if records.any}
    give_up = time.monotonic() + max((records.window() for records in waiting.values()), default=0.0)
    while waiting and time.monotonic() < give_up:
        time.sleep(_POLL_S)
        for namespace, records in _read_records(client, waiting).items():
            if records.differs(waiting[namespace]):
                changed.add(namespace)
                del waiting[namespace]
    return changed


def _namespaces(client: redis.Redis, only: Set[str]) -> Dict[str, List[str]]:
    """Every namespace of Ray or rayward here, with the names of its keys."""
    found: Dict[str, List[str]] = {}
    for key in sorted(set(list_redis_keys(client))):
        table, own = schema.parse_key(key), schema.parse_own_key(key)
        namespace = table.namespace if table is not None else own[0] if own is not None else ""
        if namespace and (not only or namespace in only):
            found.setdefault(namespace, []).append(key)
    # The one hash of Ray before 2.38 is named like its namespace: a uid, or one that is known otherwise.
    for namespace in sorted({*list_redis_keys(client, (_UID_PATTERN,)), *found, *only}):
        if (not only or namespace in only) and "@" not in namespace and is_legacy_hash(client, namespace):
            found.setdefault(namespace, []).append(schema.legacy_key(namespace))
    return found


def _read_records(client: redis.Redis, namespaces: Iterable[str]) -> Dict[str, _Records]:
    chosen = list(namespaces)
    commands = [("HGETALL", schema.own_key(name, what)) for name in chosen for what in _RECORDS]
    answers = [_hash(answer) for answer in _answers(client, commands)]
    return {
        name: _Records(*answers[place : place + len(_RECORDS)])
        for name, place in zip(chosen, range(0, len(answers), len(_RECORDS)))
    }


def _facts(
    client: redis.Redis, namespace: str, keys: List[str], records: _Records, now: float, *, changed: bool
) -> NamespaceFacts:
    lease, seen, owner = records.lease(), records.seen(), records.incarnation()
    signs = [max(0.0, now - seen)] if seen is not None else []
    # Only the use of Ray's tables tells: looking for the other keys counts as a use of them.
    tables = [key for key in keys if schema.parse_key(key) is not None]
    signs += [
        float(idle)
        for idle in _answers(client, [("OBJECT", "IDLETIME", key) for key in tables])
        if isinstance(idle, int)
    ]
    sizes = _answers(client, [("MEMORY", "USAGE", key) for key in keys])
    known = [size for size in sizes if isinstance(size, int)]
    return NamespaceFacts(
        namespace,
        keys=len(keys),
        size_bytes=sum(known) if len(known) == len(sizes) else None,
        holder=lease.holder if lease is not None else "",
        epoch=lease.epoch if lease is not None else 0,
        held=lease is not None and lease.held,
        changed=changed,
        silent_for=min(signs, default=None),
        cluster=owner.cluster_name or owner.cluster,
        cluster_uid=owner.cluster,
    )


def _answers(client: redis.Redis, commands: Sequence[Command]) -> List[Any]:
    """The answer to each command; an error in its place, where it is about that command alone."""
    found: List[Any] = []
    for start in range(0, len(commands), _BATCH):
        pipeline: Any = client.pipeline(transaction=False)
        for command in commands[start : start + _BATCH]:
            pipeline.execute_command(*command[:-1], command[-1].encode("utf-8", "surrogateescape"))
        found += pipeline.execute(raise_on_error=False)
    return found


def _hash(answer: Any) -> Mapping[bytes, bytes]:
    """A hash as it stands. Empty for a key of somebody else; whoever may not read it may not judge."""
    if isinstance(answer, Exception):
        if "WRONGTYPE" in str(answer):
            return {}
        raise answer
    return dict(answer)


def _flat(fields: Mapping[bytes, bytes]) -> Any:
    return [word for pair in fields.items() for word in pair]

"""How GCS names its keys in Redis, per Ray version, and how rayward names its own. Pure text, no client.

Read off Ray 2.60 with MONITOR and off the KubeRay guide for versions before 2.38. Ray refuses a namespace
that holds ``@``, so a key splits into namespace and table in one way only.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass

from rayward.errors import RaywardError

TABLES = (
    "KV",
    "NODE",
    "ACTOR",
    "ACTOR_TASK_SPEC",
    "WORKERS",
    "PLACEMENT_GROUP",
    "JOB",
    "INTERNAL_CONFIG",
)
JOB_COUNTER = "JobCounter"
DEFAULT_NAMESPACE = "default"

_GLOB = re.compile(r"([\\*?\[\]^-])")


class Schema(enum.Enum):
    """How a Ray version lays its tables out in Redis."""

    HASH_PER_TABLE = "one hash per table (Ray 2.38 and later)"
    ONE_HASH = "one hash for everything (before Ray 2.38)"


@dataclass(frozen=True)
class StoreKey:
    """One key of a GCS store. ``table`` is ``JobCounter`` for the counter, which is a string, not a hash."""

    namespace: str
    table: str

    def __str__(self) -> str:
        return f"RAY{self.namespace}@{self.table}"


def schema_for(ray_version: str) -> Schema:
    """The layout that this version of Ray writes. A text without a version in it counts as the newest."""
    found = re.match(r"v?(\d+)\.(\d+)", ray_version.strip())
    if found is None:
        return Schema.HASH_PER_TABLE
    return Schema.HASH_PER_TABLE if (int(found[1]), int(found[2])) >= (2, 38) else Schema.ONE_HASH


def check_namespace(namespace: str) -> str:
    """Return ``namespace``, or raise ``RaywardError`` where Ray itself would refuse it."""
    if not namespace:
        raise RaywardError(
            "the storage namespace is empty", todo="set RAY_external_storage_namespace or name it"
        )
    if "@" in namespace:
        raise RaywardError(
            f"the storage namespace {namespace!r} holds '@', which Ray keeps for itself",
            todo="choose a namespace without '@'",
        )
    return namespace


def table_key(namespace: str, table: str) -> str:
    """The Redis key of one table of Ray 2.38 or later."""
    return str(StoreKey(check_namespace(namespace), table))


def legacy_key(namespace: str) -> str:
    """The Redis key of the one hash that Ray wrote before 2.38."""
    return check_namespace(namespace)


def legacy_field(namespace: str, table: str, key: str) -> str:
    """The field under which Ray before 2.38 kept ``key`` of ``table`` in its one hash."""
    return f"{namespace}@{table}:{key}"


def split_legacy_field(field: str, namespace: str) -> tuple[str, str] | None:
    """``(table, key)`` of a field of the old hash, or None where Ray has not written the field."""
    prefix = f"{namespace}@"
    if not field.startswith(prefix):
        return None
    table, colon, key = field[len(prefix) :].partition(":")
    return (table, key) if colon else None


def own_key(namespace: str, what: str) -> str:
    """The key of something that rayward itself keeps beside the data of ``namespace``."""
    if not what or ":" in what:
        raise ValueError(f"{what!r} must be a word without ':'")
    return f"rayward:{check_namespace(namespace)}:{what}"


def parse_key(key: str) -> StoreKey | None:
    """The namespace and table of a key of Ray 2.38 or later; None for any other key."""
    if not key.startswith("RAY"):
        return None
    namespace, at, table = key[len("RAY") :].partition("@")
    if not at or not namespace or not table or "@" in table:
        return None
    return StoreKey(namespace, table)


def parse_own_key(key: str) -> tuple[str, str] | None:
    """``(namespace, what)`` of one of rayward's own keys; None for any other key."""
    if not key.startswith("rayward:"):
        return None
    # A namespace may hold ':', the last word may not.
    namespace, colon, what = key[len("rayward:") :].rpartition(":")
    return (namespace, what) if colon and namespace and what else None


def namespaces_of(keys: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Which namespaces the keys belong to, and the tables of each, both sorted."""
    found: dict[str, set[str]] = {}
    for key in keys:
        parsed = parse_key(key)
        if parsed is not None:
            found.setdefault(parsed.namespace, set()).add(parsed.table)
    return {namespace: tuple(sorted(tables)) for namespace, tables in sorted(found.items())}


def match_patterns(namespace: str) -> tuple[str, str]:
    """MATCH patterns of SCAN for a namespace: Ray's tables and rayward's own keys.

    They narrow what Redis returns; ``parse_key`` and ``parse_own_key`` still decide.
    """
    escaped = _GLOB.sub(r"\\\1", check_namespace(namespace))
    return f"RAY{escaped}@*", f"rayward:{escaped}:*"

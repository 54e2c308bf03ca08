"""GCS state as it rests in Redis, in the layout of Ray 2.38 and later and in the one before. Reads only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rayward.store import schema
from rayward.store.cleanup import is_legacy_hash, list_redis_keys
from rayward.store.source import StateSource, TableRow

if TYPE_CHECKING:
    import redis

OWN_PREFIX = "rayward:"
_SCAN_COUNT = 500


class RedisSource(StateSource):
    """Tables of all namespaces on one Redis; rayward's own keys appear as tables named ``rayward:<what>``.

    The old layout has no marker in its key's name, so ``legacy_namespaces`` says which keys to look at.
    Both methods let redis-py's exceptions through.
    """

    def __init__(self, client: redis.Redis, legacy_namespaces: tuple[str, ...] = ()) -> None:
        self._client: Any = client
        self._legacy_namespaces = legacy_namespaces

    @property
    def client(self) -> redis.Redis:
        """The connection that is read from, for what is not about tables (cleanup, the server's version)."""
        client: redis.Redis = self._client
        return client

    def rows(self) -> Iterator[TableRow]:
        """See ``StateSource.rows``; sizes are those of ``MEMORY USAGE``."""
        for key in sorted(set(list_redis_keys(self._client))):
            parsed = schema.parse_key(key)
            own = schema.parse_own_key(key)
            if parsed is not None:
                yield self._row(key, parsed.namespace, parsed.table)
            elif own is not None:
                yield self._row(key, own[0], OWN_PREFIX + own[1])
        for namespace in self._legacy_namespaces:
            if is_legacy_hash(self._client, namespace):
                yield from self._legacy_rows(namespace)

    def entries(self, namespace: str, table: str) -> Iterator[tuple[bytes, bytes]]:
        """See ``StateSource.entries``; a key that is one value, not a hash, has itself as its only entry."""
        if table.startswith(OWN_PREFIX):
            key = schema.own_key(namespace, table[len(OWN_PREFIX) :])
        else:
            key = schema.table_key(namespace, table)
        kind = self._type(key)
        if kind == "hash":
            yield from self._hash(key)
        elif kind == "string":
            yield table.encode(), self._client.get(_raw(key)) or b""
        elif namespace in self._legacy_namespaces and is_legacy_hash(self._client, namespace):
            yield from self._legacy_entries(namespace, table)

    def _row(self, key: str, namespace: str, table: str) -> TableRow:
        entries = int(self._client.hlen(_raw(key))) if self._type(key) == "hash" else 1
        return TableRow(namespace, table, key, entries, self._size(key))

    def _legacy_rows(self, namespace: str) -> Iterator[TableRow]:
        counts: dict[str, int] = {}
        sizes: dict[str, int] = {}
        for field, value in self._hash(schema.legacy_key(namespace)):
            table, _ = _legacy_place(field, namespace)
            counts[table] = counts.get(table, 0) + 1
            sizes[table] = sizes.get(table, 0) + len(field) + len(value)
        for table, count in counts.items():
            yield TableRow(namespace, table, schema.legacy_key(namespace), count, sizes[table])

    def _legacy_entries(self, namespace: str, table: str) -> Iterator[tuple[bytes, bytes]]:
        for field, value in self._hash(schema.legacy_key(namespace)):
            found, key = _legacy_place(field, namespace)
            if found == table:
                yield _raw(key), value

    def _hash(self, key: str) -> Iterator[tuple[bytes, bytes]]:
        # HSCAN may return a field twice while the hash grows; a reader wants each once.
        seen: set[bytes] = set()
        for field, value in self._client.hscan_iter(_raw(key), count=_SCAN_COUNT):
            if field not in seen:
                seen.add(field)
                yield field, value

    def _type(self, key: str) -> str:
        kind: bytes = self._client.type(_raw(key))
        return kind.decode()

    def _size(self, key: str) -> int | None:
        from redis.exceptions import ResponseError  # noqa: PLC0415 - redis-py loads where it is used

        try:
            # SAMPLES 0 weighs every field: a few large ones would make a sample meaningless.
            found = self._client.memory_usage(_raw(key), samples=0)
        except ResponseError:  # managed services and careful ACLs withhold MEMORY
            return None
        return None if found is None else int(found)


def _legacy_place(field: bytes, namespace: str) -> tuple[str, str]:
    place = schema.split_legacy_field(field.decode("utf-8", "surrogateescape"), namespace)
    if place is None:
        return "", ""
    table, key = place
    # The counter was kept beside the tables, under an empty table name.
    return (schema.JOB_COUNTER, key) if not table and key == schema.JOB_COUNTER else (table, key)


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")

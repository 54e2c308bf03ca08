"""What every place that holds GCS state offers to a reader: its tables and their raw entries.

Says nothing about Redis, RocksDB or protobuf; those live in ``redis_source``, ``rocksdb_source``, ``decode``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class TableRow:
    """One table as a list shows it.

    ``namespace`` is empty where the backend has none (RocksDB); ``key`` is the name under which the table
    rests; ``size_bytes`` counts what it occupies there, or is None where the backend does not tell.
    """

    namespace: str
    table: str
    key: str
    entries: int
    size_bytes: int | None


class StateSource(ABC):
    """A place that holds GCS state. Reading never changes it, also while a GCS runs on it."""

    @abstractmethod
    def rows(self) -> Iterator[TableRow]:
        """Every table that exists now, of every namespace, in no order."""

    @abstractmethod
    def entries(self, namespace: str, table: str) -> Iterator[tuple[bytes, bytes]]:
        """Key and value of each entry as GCS wrote them; nothing where the table does not exist."""


def list_keys(source: StateSource) -> tuple[TableRow, ...]:
    """The tables of ``source``, sorted by namespace and table."""
    return tuple(sorted(source.rows(), key=lambda row: (row.namespace, row.table)))

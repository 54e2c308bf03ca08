"""GCS state as Ray's embedded backend keeps it: opened beside a running GCS, or after it, without a write.

Each database is opened as a RocksDB *secondary*: it takes no lock and sees what the GCS has written up to
the moment of opening. The library still leaves a file of its own where it opens a database, so it is shown
a temporary folder of links to the files, and the store itself stays untouched (it may even be read-only).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rayward.errors import RaywardError
from rayward.store import schema
from rayward.store.rocksdb import JOB_COUNTER_KEY, inspect_directory
from rayward.store.source import StateSource, TableRow

_DEFAULT_FAMILY = "default"
# The running GCS may flush or compact, and so replace files, while they are opened; a new try sees those.
_ATTEMPTS = 20


class RocksDbSource(StateSource):
    """The store of one GCS. RocksDB has no namespaces, so ``namespace`` is the empty text everywhere."""

    def __init__(self, directory: Path) -> None:
        """Raise ``RaywardError`` where ``directory`` is no GCS store, or rocksdict is not installed."""
        facts = inspect_directory(directory)
        if not facts.is_gcs_directory:
            raise RaywardError(
                "this is not a directory in which a GCS keeps its state (tables/CURRENT is missing)",
                where=str(directory),
                todo="name the directory of RAY_gcs_storage_path",
            )
        self._facts = facts
        _rocksdict()

    def rows(self) -> Iterator[TableRow]:
        """See ``StateSource.rows``; sizes are the bytes of keys and values."""
        for database in self._facts.databases:
            with _opened(self._facts.path / database) as families:
                for name, family in families.items():
                    pairs = [(len(key), len(value)) for key, value in family.items()]
                    if name == _DEFAULT_FAMILY and not pairs:
                        continue
                    table = schema.JOB_COUNTER if name == _DEFAULT_FAMILY else name
                    yield TableRow("", table, f"{database}/{name}", len(pairs), sum(map(sum, pairs)))

    def entries(self, namespace: str, table: str) -> Iterator[tuple[bytes, bytes]]:
        """See ``StateSource.entries``; ``namespace`` is not looked at."""
        wanted = _DEFAULT_FAMILY if table == schema.JOB_COUNTER else table
        for database in self._facts.databases:
            with _opened(self._facts.path / database) as families:
                for key, value in families[wanted].items() if wanted in families else ():
                    yield (b"JobCounter" if key == JOB_COUNTER_KEY else key), value


@contextmanager
def _opened(database: Path) -> Iterator[dict[str, Any]]:
    """The column families of a database by name, for as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="rayward-store-") as scratch:
        handle, names = _open(database, scratch)
        try:
            yield {name: handle.get_column_family(name) for name in names}
        finally:
            handle.close()


def _open(database: Path, scratch: str) -> tuple[Any, list[str]]:
    rocksdict = _rocksdict()
    problem: Exception | str = ""
    for attempt in range(_ATTEMPTS):
        links, own = Path(scratch, f"links-{attempt}"), Path(scratch, f"own-{attempt}")
        files = _link_files(database, links)
        try:
            names: list[str] = rocksdict.Rdict.list_cf(str(links), _options(rocksdict))
            handle = rocksdict.Rdict(
                str(links),
                _options(rocksdict),
                column_families={name: _options(rocksdict) for name in names},
                access_type=rocksdict.AccessType.secondary(str(own)),
            )
        except Exception as error:  # rocksdict raises bare exceptions
            problem = error
            continue
        # A secondary takes a file that has gone for an older state and says nothing, so look oneself.
        if _data_files(database) == files:
            return handle, names
        handle.close()
        problem = "its files changed each time while they were opened"
    raise RaywardError(
        f"RocksDB cannot open this database: {problem}",
        where=str(database),
        todo="check that the directory can be read and belongs to a version of Ray that this rocksdict knows",
    )


def _link_files(database: Path, links: Path) -> frozenset[str]:
    """Link every file of ``database`` into ``links``; which of them hold data."""
    links.mkdir()
    files = _data_files(database)
    for path in database.resolve().iterdir():
        (links / path.name).symlink_to(path)
    return files


def _data_files(database: Path) -> frozenset[str]:
    names = (path.name for path in database.iterdir())
    return frozenset(
        name for name in names if name.endswith((".sst", ".blob", ".log")) or name.startswith("MANIFEST")
    )


def _options(rocksdict: Any) -> Any:
    # Raw: keys and values are Ray's bytes, not rocksdict's own encoding.
    return rocksdict.Options(raw_mode=True)


def _rocksdict() -> Any:
    try:
        import rocksdict  # noqa: PLC0415 - a large library that only readers of RocksDB need
    except ImportError as error:
        raise RaywardError("rocksdict is not installed", todo="pip install rocksdict") from error
    return rocksdict

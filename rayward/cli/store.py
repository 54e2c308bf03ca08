"""``rayward store``: what the GCS has written down, table by table, and getting rid of it."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rayward.cli import kinds, output
from rayward.cli.ha import target_options, told_when_lost
from rayward.errors import RaywardError
from rayward.local import cluster as local
from rayward.local import store_access
from rayward.store.address import parse_redis_address
from rayward.store.cleanup import cleanup as clean_up
from rayward.store.cleanup import plan_cleanup
from rayward.store.connection import TlsFiles, classify_redis_error, connect
from rayward.store.decode import show_table
from rayward.store.redis_source import RedisSource
from rayward.store.rocksdb_source import RocksDbSource
from rayward.store.source import StateSource, TableRow, list_keys

if TYPE_CHECKING:
    from rayward.plain.ask import Heads

_REDIS_HELP = "A Redis by address or URI instead of the cluster's; password from REDIS_PASSWORD."
_ROCKSDB_HELP = "A RocksDB directory of a GCS instead of the cluster's store."


@click.group()
def store() -> None:
    """Look into the store of a cluster's GCS, and clean it up.

    Reads the store of a cluster that is up, or any Redis or RocksDB directory that is named.
    """


def _source(
    cluster: str | None, redis: str | None, rocksdb: Path | None, namespace: str | None = None
) -> AbstractContextManager[tuple[StateSource, str]]:
    """The store to read and the namespace that is meant when none is given."""
    if rocksdb is not None:
        return nullcontext((RocksDbSource(rocksdb), ""))
    legacy = (namespace,) if namespace else ()
    if redis is not None:
        address = parse_redis_address(redis)
        client = connect(
            address, password=os.environ.get("REDIS_PASSWORD"), tls=TlsFiles.from_environment(os.environ)
        )
        return nullcontext((RedisSource(client, legacy), namespace or ""))
    return store_access.open_source(local.find(cluster))


def _where(function: kinds.Function) -> kinds.Function:
    function = click.option("--redis", help=_REDIS_HELP)(function)
    function = click.option("--rocksdb", type=click.Path(path_type=Path, exists=True), help=_ROCKSDB_HELP)(
        function
    )
    return kinds.cluster_option(function)


@store.command(epilog="example: rayward store keys --json")
@_where
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def keys(cluster: str | None, redis: str | None, rocksdb: Path | None, as_json: bool) -> None:
    """List the tables that are in the store, with their number of entries."""
    with _translated(redis), _source(cluster, redis, rocksdb) as (source, _):
        rows = list_keys(source)
    if as_json:
        output.print_json([row.__dict__ for row in rows])
    elif not rows:
        print("the store holds no keys")
    else:
        output.table(["key", "table", "entries", "bytes"], [_row(row) for row in rows])


def _row(row: TableRow) -> list[object]:
    return [row.key, row.table, row.entries, "-" if row.size_bytes is None else row.size_bytes]


@store.command(epilog="example: rayward store show ACTOR | jq .name")
@click.argument("table")
@_where
@click.option("-n", "--namespace", help="The storage namespace (default: the cluster's).")
def show(
    table: str, cluster: str | None, redis: str | None, rocksdb: Path | None, namespace: str | None
) -> None:
    """Print a table's entries as JSON, one a line, decoded with Ray's own messages."""
    with _translated(redis), _source(cluster, redis, rocksdb, namespace) as (source, default):
        rows = list_keys(source)
        chosen = namespace if namespace is not None else default
        known = sorted({row.table for row in rows if row.namespace == chosen})
        if table not in known:
            matching = [name for name in known if name.lower() == table.lower()]
            if not matching:
                raise RaywardError(
                    f"there is no table {table!r}", todo=f"tables: {', '.join(known) or 'none'}"
                )
            table = matching[0]
        for entry in show_table(source, chosen, table):
            print(json.dumps(entry))


@store.command(
    epilog="example: rayward store cleanup 864b004c-6305-42e3-ac46-adfa8eb6f752 --redis redis:6379 --yes"
)
@click.argument("namespace")
@_where
@click.option("--dry-run", is_flag=True, help="Only list the keys.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def cleanup(
    namespace: str, cluster: str | None, redis: str | None, rocksdb: Path | None, dry_run: bool, yes: bool
) -> None:
    """Remove everything that a GCS and rayward have stored under a namespace in Redis."""
    if rocksdb is not None:
        raise RaywardError("a RocksDB directory has no namespaces", todo="remove the directory")
    owner = store_access.living_owner(namespace)
    if owner is not None:
        raise RaywardError(
            f"namespace {namespace} belongs to RayCluster {owner}, which is up",
            where="rayward store cleanup",
            todo=f"`rayward delete raycluster {owner}` removes it with its keys",
        )
    with _translated(redis), _source(cluster, redis, None, namespace) as (source, _):
        if not isinstance(source, RedisSource):
            raise RaywardError("the cluster's store is no Redis", todo="name one with --redis")
        found = plan_cleanup([row.key for row in list_keys(source)], namespace)
        for key in found:
            print(key)
        if dry_run or not found:
            print(f"{len(found)} keys" if found else f"no keys under namespace {namespace}")
            return
        if not yes and not click.confirm(f"remove these {len(found)} keys?"):
            raise click.Abort
        report = clean_up(source.client, namespace)
        print(f"removed {report.deleted} keys in {report.seconds:.2f} s")


@store.command(epilog="example: rayward store adopt --yes")
@target_options
@click.option("--yes", is_flag=True, help="Do not ask.")
def adopt(heads: Heads, yes: bool) -> None:
    """Take the store as it is now for the cluster's own, after it came back empty or older.

    The heads keep every GCS away from such a store, so that nothing is lost without a word. Adopting says:
    go on with what it holds. Actors, placement groups and jobs that it does not hold are forgotten for good,
    and the workers that ran them start afresh. Restoring the store's newest data is the other choice; then
    nothing has to be adopted.
    """
    if not yes:
        store_word = "go on with the store as it is? what it does not hold is forgotten for good"
        if not sys.stdin.isatty():
            raise click.UsageError("there is no terminal to ask on: say --yes")
        print(inspect.cleandoc(adopt.help or ""))
        if not click.confirm(store_word):
            raise click.Abort
    with told_when_lost(heads):
        print(heads.post("/store/adopt", {}).body.get("message") or "adopted")


@contextlib.contextmanager
def _translated(redis: str | None) -> Iterator[None]:
    """Turn an error of redis-py into one that a person can act on."""
    try:
        yield
    except Exception as problem:
        if not type(problem).__module__.startswith("redis"):
            raise
        address = parse_redis_address(redis or "redis:6379")
        fault = classify_redis_error(problem, address, [os.environ.get("REDIS_PASSWORD")])
        raise RaywardError(fault.sentence, todo=fault.todo) from problem

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
from rayward.cli.owners import joined, kubernetes_owners, local_owners
from rayward.errors import RaywardError
from rayward.local import cluster as local
from rayward.local import store_access
from rayward.store.address import parse_redis_address
from rayward.store.cleanup import cleanup as clean_up
from rayward.store.cleanup import plan_cleanup
from rayward.store.connection import TlsFiles, classify_redis_error, connect
from rayward.store.decode import show_table
from rayward.store.orphans import QUIET_FOR_S, Judged, Owners, Verdict, judge, look, spoken
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


@store.command(epilog="example: rayward store orphans --redis redis:6379 --context production --clean-all")
@kinds.cluster_option
@click.option("--redis", help=_REDIS_HELP)
@click.option("--kubeconfig", type=click.Path(), help="Default: as kubectl finds it.")
@click.option("--context", "contexts", multiple=True, help="A Kubernetes cluster to ask; may be repeated.")
@click.option("--no-kubernetes", is_flag=True, help="No RayCluster on Kubernetes uses this Redis.")
@click.option(
    "--quiet-for", type=click.FloatRange(0), default=QUIET_FOR_S, show_default=True, metavar="SECONDS",
    help="Used within this time is in use.",
)  # fmt: skip
@click.option(
    "--clean", "named", multiple=True, metavar="NAMESPACE", help="Remove this one; may be repeated."
)
@click.option("--clean-all", is_flag=True, help="Remove all that are orphans.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def orphans(
    cluster: str | None,
    redis: str | None,
    kubeconfig: str | None,
    contexts: tuple[str, ...],
    no_kubernetes: bool,
    quiet_for: float,
    named: tuple[str, ...],
    clean_all: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """List the namespaces in a Redis that no living cluster owns, and remove them on request.

    Asked are the clusters of this machine, Kubernetes, and the store itself, where heads that live leave
    their mark every second. Takes a few seconds. A namespace that is live or was used a short while ago is
    never removed here.
    """
    asked = Owners() if no_kubernetes else kubernetes_owners(kubeconfig, contexts)
    owners = joined([local_owners(), asked])
    with _translated(redis), _source(cluster, redis, None) as (source, _):
        if not isinstance(source, RedisSource):
            raise RaywardError("the cluster's store is no Redis", todo="name one with --redis")

        def judged(only: tuple[str, ...] = ()) -> list[Judged]:
            return [judge(facts, owners, quiet_for) for facts in look(source.client, only)]

        found = judged()
        _show_orphans(found, owners, as_json=as_json)
        chosen = _to_remove(found, named, clean_all=clean_all)
        if not chosen:
            if clean_all:
                output.note("nothing is removed: none of them is an orphan")
            return
        if not yes and not sys.stdin.isatty():
            raise click.UsageError("there is no terminal to ask on: say --yes")
        if not yes and not click.confirm(f"remove all keys of {', '.join(chosen)}?"):
            raise click.Abort
        # Time has passed since the first look.
        _to_remove(judged(chosen), chosen, clean_all=False)
        for namespace in chosen:
            report = clean_up(source.client, namespace)
            output.note(f"removed {report.deleted} keys of {namespace} in {report.seconds:.2f} s")


def _show_orphans(found: list[Judged], owners: Owners, *, as_json: bool) -> None:
    if as_json:
        output.print_json(
            {
                "namespaces": [
                    {**item.facts.__dict__, "verdict": item.verdict.value, "reason": item.reason}
                    for item in found
                ],
                "unasked": owners.unasked,
            }
        )
    elif not found:
        print("no namespace of Ray is in this Redis")
    else:
        columns = ["namespace", "verdict", "keys", "bytes", "led last by", "silent for", "why"]
        output.table(columns, [_orphan_row(item) for item in found])


def _orphan_row(item: Judged) -> list[object]:
    facts = item.facts
    silent = "-" if facts.silent_for is None else spoken(facts.silent_for)
    size = "-" if facts.size_bytes is None else facts.size_bytes
    return [facts.namespace, item.verdict.value, facts.keys, size, facts.holder or "-", silent, item.reason]


def _to_remove(found: list[Judged], named: tuple[str, ...], *, clean_all: bool) -> tuple[str, ...]:
    """What is to go. Raises RaywardError when one that is named may not."""
    by_name = {item.facts.namespace: item for item in found}
    for namespace in named:
        item = by_name.get(namespace)
        if item is None:
            raise RaywardError(f"there is no namespace {namespace} in this Redis")
        if not item.verdict.removable:
            raise RaywardError(
                f"namespace {namespace} is {item.verdict.value}: {item.reason}",
                where="rayward store orphans",
                todo="nothing was removed; delete its cluster, or wait until it has been quiet for longer",
            )
    orphaned = [name for name, item in by_name.items() if clean_all and item.verdict is Verdict.ORPHAN]
    return tuple(dict.fromkeys([*named, *orphaned]))


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

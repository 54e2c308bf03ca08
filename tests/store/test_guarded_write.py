"""The script under every write of a GCS: what passes, what is refused, and what the audit stream keeps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis_kinds import cluster_of
from redis_server import Server, running

from rayward.store.audit import audit_verdict, read_audit
from rayward.store.lease import LeaseStore
from rayward.store.lease_record import Acquired
from rayward.store.lease_rules import epoch_of
from rayward.store.lease_scripts import guarded_write, inner_error
from rayward.store.resp import Part, Reply, ReplyError
from rayward.store.upstream import StoreConnection, StoreSettings, open_connection

LEASE, AUDIT, KV = "rayward:default:lease", "rayward:default:audit", "RAYdefault@KV"


def settings(port: int) -> StoreSettings:
    return StoreSettings.from_environment({"RAY_REDIS_ADDRESS": f"127.0.0.1:{port}"})


@pytest.fixture
def connection(server: Server) -> Iterator[StoreConnection]:
    connection = open_connection(settings(server.port), 5)
    yield connection
    connection.close()


def write(
    connection: StoreConnection, writer: str, *words: Part, audit: bool = True, fenced: bool = True
) -> Reply:
    command, key, *rest = words
    stream = [AUDIT] if audit else []
    script = guarded_write(audit, fenced)
    return connection.call("EVAL", script, 1, key, LEASE, writer, *stream, command, *rest, timeout=5)


def lead(port: int, member: str) -> str:
    """Take the lease; what its holder's writes carry."""
    store = LeaseStore(settings(port))
    record = store.observe("u").lease
    result = store.acquire(member, member, record.token if record is not None else None, {})
    store.close()
    assert isinstance(result, Acquired)
    return result.record.writer


@pytest.mark.parametrize("audit", [True, False])
def test_the_leader_writes_what_ray_writes_and_reads_the_same_answers(
    connection: StoreConnection, server: Server, audit: bool
) -> None:
    writer = lead(server.port, "a")

    def answer(*words: Part) -> Reply:
        return write(connection, writer, *words, audit=audit)

    assert answer("HSET", KV, b"k\x00\r\n", b"v\xff") == 1
    assert answer("HSET", KV, "k2", "") == 1
    assert answer("HSETNX", KV, "k2", "other") == 0
    assert answer("HDEL", KV, "k2", "none") == 1
    assert answer("INCRBY", "RAYdefault@JobCounter", 3) == 3
    assert answer("SET", "RAYdefault@X", "1") == b"OK"
    assert answer("DEL", "RAYdefault@X") == 1
    assert connection.call("HGETALL", KV, timeout=5) == [b"k\x00\r\n", b"v\xff"]
    assert connection.call("EXISTS", AUDIT, timeout=5) == int(audit)


@pytest.mark.parametrize("audit", [True, False])
def test_an_old_epoch_is_refused_and_leaves_nothing(
    connection: StoreConnection, server: Server, audit: bool
) -> None:
    old = lead(server.port, "a")
    new = lead(server.port, "b")

    with pytest.raises(ReplyError) as caught:
        write(connection, old, "HSET", KV, "k", "v", audit=audit)

    assert (caught.value.code, str(caught.value)) == ("FENCED", f"FENCED {new}")
    assert connection.call("EXISTS", KV, timeout=5) == 0
    assert connection.call("EXISTS", AUDIT, timeout=5) == 0


def test_nobody_writes_after_a_release_or_into_an_emptied_store(
    connection: StoreConnection, server: Server, client: redis.Redis
) -> None:
    writer = lead(server.port, "a")
    store = LeaseStore(settings(server.port))
    store.release("a", "a", epoch_of(writer))
    store.close()
    with pytest.raises(ReplyError, match=r"^FENCED released$"):
        write(connection, writer, "HSET", KV, "k", "v")
    client.flushall()
    with pytest.raises(ReplyError, match=r"^FENCED none$"):
        write(connection, writer, "HSET", KV, "k", "v")
    assert client.dbsize() == 0


def test_with_the_fence_off_an_old_epoch_writes_and_the_audit_shows_it(
    connection: StoreConnection, server: Server
) -> None:
    old = lead(server.port, "a")
    write(connection, old, "HSET", KV, "a", "1")
    new = lead(server.port, "b")
    write(connection, new, "HSET", KV, "b", "1")
    write(connection, old, "HSET", KV, "c", "1", fenced=False)

    verdict = audit_verdict(read_audit(connection, "default"))

    assert (verdict.writes, verdict.epochs) == (3, (epoch_of(old), epoch_of(new)))
    assert [(entry.writer, entry.command, entry.key, entry.field) for entry in verdict.stale] == [
        (old, "HSET", KV, "c")
    ]


def test_a_write_that_failed_is_not_in_the_audit(connection: StoreConnection, server: Server) -> None:
    writer = lead(server.port, "a")
    connection.call("SET", KV, "text", timeout=5)

    with pytest.raises(ReplyError) as caught:
        write(connection, writer, "HSET", KV, "k", "v")

    assert caught.value.code == "WRONGTYPE"
    assert connection.call("EXISTS", AUDIT, timeout=5) == 0


def test_the_audit_is_read_page_by_page(connection: StoreConnection, server: Server) -> None:
    writer = lead(server.port, "a")
    for start in range(0, 2500, 500):
        script = guarded_write(audit=True, fenced=True)
        connection.pipeline(
            [
                ("EVAL", script, 1, KV, LEASE, writer, AUDIT, "HSET", f"f{n}", "v")
                for n in range(start, start + 500)
            ],
            timeout=30,
        )

    assert [entry.field for entry in read_audit(connection, "default")] == [f"f{n}" for n in range(2500)]


def test_errors_inside_carry_their_own_code_first(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        writer = lead(server.port, "a")
        connection = open_connection(settings(server.port), 5)
        client = server.client()

        def code(script: str = "") -> str:
            guarded = guarded_write(audit=True, fenced=True)
            words = ("EVAL", script or guarded, 1, KV, LEASE, writer, AUDIT, "HSET", "k", "v")
            with pytest.raises(ReplyError) as caught:
                connection.call(*words, timeout=5)
            return inner_error(caught.value).code if script else caught.value.code

        plain = "return redis.call('HSET', KEYS[1], 'k', 'v')"
        client.config_set("maxmemory", "1")
        assert (code(), code(plain)) == ("OOM", "OOM")
        client.config_set("maxmemory", "0")
        client.config_set("min-replicas-to-write", "1")
        assert (code(), code(plain)) == ("NOREPLICAS", "NOREPLICAS")
        client.config_set("min-replicas-to-write", "0")
        client.execute_command("ACL", "SETUSER", "default", "-hset")
        assert (code(), code(plain)) == ("NOPERM", "NOPERM")
        client.execute_command("ACL", "SETUSER", "default", "+@all")
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        assert (code(), code(plain)) == ("READONLY", "READONLY")
        connection.close()


def test_one_declared_key_is_enough_in_a_cluster(tmp_path: Path) -> None:
    with cluster_of(tmp_path, nodes=1) as (node,):
        writer = lead(node.port, "a")
        connection = open_connection(settings(node.port), 5)
        for table in ("KV", "NODE", "ACTOR", "JOB"):
            assert write(connection, writer, "HSET", f"RAYdefault@{table}", "k", "v") == 1
        with pytest.raises(ReplyError, match="FENCED"):
            write(connection, "9:a", "HSET", KV, "k", "v")
        assert audit_verdict(read_audit(connection, "default")).writes == 4
        connection.close()

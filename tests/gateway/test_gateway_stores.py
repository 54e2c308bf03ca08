"""Stores that stock Ray handles poorly: Sentinel, TLS, a cluster of one shard, passwords that change."""

from __future__ import annotations

import contextlib
from pathlib import Path

import redis
from gateway_rig import gateway, set_epoch, until
from redis_kinds import ask, cluster_of, replica_of, sentinel_for, wait_until
from redis_server import Server, running
from tls_front import certificate, tls_front

from rayward.store.resp import ReplyError

KV = "RAYdefault@KV"


def test_a_failover_by_sentinel(tmp_path: Path) -> None:
    with (
        running(tmp_path / "one") as primary,
        replica_of(primary, tmp_path / "two") as replica,
        sentinel_for(primary, tmp_path / "sentinel", "mymaster") as port,
        gateway(f"redis+sentinel://127.0.0.1:{port}/mymaster") as rig,
    ):
        wait_until(lambda: len(ask(port, "SENTINEL", "replicas", "mymaster")) == 1, "the replica is known")
        rig.lead(1, primary.client())
        gcs = rig.client(timeout=60)
        assert gcs.ask("HSET", KV, "a", "1") == 1
        wait_until(lambda: replica.client().hget(KV, "a") == b"1", "replicated")
        primary.stop()
        gcs.send("HSET", KV, "b", "2")
        gcs.send("HGET", KV, "a")
        assert (gcs.answer(), gcs.answer()) == (1, b"1")
        assert replica.client().hget(KV, "b") == b"2"
        # The report may come a moment after the answer.
        until(lambda: rig.process.view.store == "ok", 30, "a store that is good again")


def test_a_primary_that_became_a_replica_under_an_open_connection(tmp_path: Path) -> None:
    """What a planned failover does: the old primary lives on. What it takes before it knows is lost, by the
    nature of asynchronous replication; the gateway's part is what comes after."""
    with (
        running(tmp_path / "one") as primary,
        replica_of(primary, tmp_path / "two") as replica,
        sentinel_for(primary, tmp_path / "sentinel", "mymaster") as port,
        gateway(f"redis+sentinel://127.0.0.1:{port}/mymaster") as rig,
    ):
        wait_until(lambda: len(ask(port, "SENTINEL", "replicas", "mymaster")) == 1, "the replica is known")
        rig.lead(1, primary.client())
        gcs = rig.client(timeout=60)
        assert gcs.ask("HSET", KV, "a", "1") == 1
        # A Sentinel moves the name without asking whether the replica has the last write, or the epoch.
        wait_until(lambda: replica.client().hget(KV, "a") == b"1", "replicated")
        until(lambda: _promoted(replica, port), 30, "failed over")
        wait_until(lambda: ask(primary.port, "ROLE")[0] == b"slave", "demoted")
        for number in range(20):
            assert gcs.ask("HSET", KV, f"f{number}", "2") == 1
        assert replica.client().hlen(KV) == 21


def _promoted(replica: Server, sentinel: int) -> bool:
    """Whether the replica leads by now; asks for it otherwise, for a Sentinel refuses (a replica of which it
    has only just heard is not good enough yet, one failover is under way) and gives up a slow one."""
    if ask(replica.port, "ROLE")[0] == b"master":
        return True
    with contextlib.suppress(ReplyError):
        ask(sentinel, "SENTINEL", "failover", "mymaster")
    return False


def test_a_replica_is_waited_out(tmp_path: Path) -> None:
    with (
        running(tmp_path / "one") as primary,
        running(tmp_path / "two") as other,
        gateway(primary.port) as rig,
    ):
        store = primary.client()
        rig.lead(1, store)
        gcs = rig.client()
        assert gcs.ask("HSET", KV, "a", "1") == 1
        ask(primary.port, "REPLICAOF", "127.0.0.1", other.port)
        set_epoch(other.client(), 1)
        gcs.send("HSET", KV, "b", "1")
        assert gcs.silent(0.5)
        assert "replica" in rig.wait_reported("store", state="away")["fault"]
        ask(primary.port, "REPLICAOF", "NO", "ONE")
        set_epoch(store, 1)
        rig.lead(1)
        assert gcs.answer() == 1


def test_tls_with_a_ca_of_our_own(server: Server, store: redis.Redis, tmp_path: Path) -> None:
    ours = certificate(tmp_path, "server")
    with (
        tls_front(ours, server.port) as port,
        gateway(f"rediss://127.0.0.1:{port}", RAY_REDIS_CA_CERT=str(ours)) as rig,
    ):
        rig.lead(1, store)
        gcs = rig.client()
        store.hset(KV, mapping={f"f{number}": "v" * 200 for number in range(10_000)})
        # More than one TLS record in both directions, in one go.
        assert gcs.ask("HSET", KV, "big", "x" * 3_000_000) == 1
        assert len(gcs.ask("HGET", KV, "big")) == 3_000_000
        assert len(gcs.ask("HGETALL", KV)) == 2 * 10_001


def test_a_wrong_ca_is_named_and_nothing_passes(server: Server, store: redis.Redis, tmp_path: Path) -> None:
    served, other = certificate(tmp_path, "server"), certificate(tmp_path, "other")
    with (
        tls_front(served, server.port) as port,
        gateway(f"rediss://127.0.0.1:{port}", RAY_REDIS_CA_CERT=str(other)) as rig,
    ):
        rig.lead(1, store)
        gcs = rig.client()
        gcs.send("HSET", KV, "a", "1")
        assert "certificate" in rig.wait_reported("store", state="refused")["fault"]
        assert gcs.silent(0.3)
        assert not store.exists(KV)


def test_a_cluster_of_one_shard(tmp_path: Path) -> None:
    with cluster_of(tmp_path, 2) as (owner, other), gateway(other.port) as rig:
        rig.lead(1, owner.client())
        gcs = rig.client()
        assert gcs.ask("INFO", "CLUSTER") == b"# Cluster\r\ncluster_enabled:0\r\n"
        assert gcs.ask("HSET", KV, "a", "1") == 1
        assert gcs.ask("INCRBY", "RAYdefault@JobCounter", "1") == 1
        assert owner.client().hget(KV, "a") == b"1"


def test_a_password_that_is_rotated(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("first\n")
    with (
        running(tmp_path / "redis", "--requirepass", "first") as server,
        gateway(server.port, RAYWARD_REDIS_PASSWORD_FILE=str(file)) as rig,
    ):
        store = server.client(password="first")
        rig.lead(1, store)
        gcs = rig.client()
        assert gcs.ask("HSET", KV, "a", "1") == 1
        store.config_set("requirepass", "second")
        store.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        gcs.send("HSET", KV, "b", "2")
        fault = rig.wait_reported("store", state="refused")["fault"]
        assert "password" in fault
        assert "first" not in fault
        file.write_text("second\n")
        assert gcs.answer() == 1
        # The report may come a moment after the answer.
        until(lambda: rig.process.view.store == "ok", 30, "a store that is good again")

"""The lease on a real Redis: who gets it, who is refused, and what is known when the store is away."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis_kinds import cluster_of, replica_of
from redis_server import Server, free_port, running
from tls_front import certificate, tls_front

from rayward.store.connection import RIGHTS, FaultKind
from rayward.store.lease import LeaseStore
from rayward.store.lease_record import Acquired, LeaseRecord, Refused
from rayward.store.lease_rules import LeaseToken, RenewOutcome
from rayward.store.lease_scripts import guarded_write
from rayward.store.ownership import Owner, Remembered, check_owner
from rayward.store.upstream import StoreAwayError, StoreSettings

LEASE = "rayward:default:lease"
RECORD = {
    "address": "10.0.0.1:8008",
    "gcs": "10.0.0.1:6379",
    "heads": ["head-0", "head-1"],
    "ttl": 3.0,
    "cluster": "uid-1",
    "cluster_name": "demo",
}


def store_at(port: int, namespace: str = "default", **environ: str) -> LeaseStore:
    where = {"RAY_REDIS_ADDRESS": f"127.0.0.1:{port}", "RAY_external_storage_namespace": namespace, **environ}
    return LeaseStore(StoreSettings.from_environment(where))


@pytest.fixture
def store(server: Server) -> Iterator[LeaseStore]:
    store = store_at(server.port)
    yield store
    store.close()


def won(
    store: LeaseStore, member: str = "head-0", seen: LeaseToken | None = None, floor: int = 0
) -> Acquired:
    result = store.acquire(member, f"{member}-a", seen, RECORD, floor=floor, reason="test")
    assert isinstance(result, Acquired), result
    return result


def seen(store: LeaseStore) -> LeaseRecord:
    record = store.observe("uid-1").lease
    assert record is not None
    return record


def test_an_empty_store_shows_nothing_but_the_caller(store: LeaseStore) -> None:
    view = store.observe("uid-1", "head-0", {"address": "10.0.0.1:8008", "seq": 1})

    assert (view.lease, view.incarnation, view.has_ray_data) == (None, None, False)
    assert view.members == {"head-0": {"address": "10.0.0.1:8008", "seq": 1}}
    assert not view.control.paused


def test_the_first_acquisition_is_written_out_in_full(store: LeaseStore, client: redis.Redis) -> None:
    result = won(store)

    record = seen(store)
    assert (result.epoch, result.record, result.replicas) == (1, record, 0)
    assert (record.epoch, record.writer, record.holder, record.seq, record.held) == (
        1,
        "1:head-0-a",
        "head-0",
        1,
        True,
    )
    assert (record.address, record.gcs, record.ttl) == ("10.0.0.1:8008", "10.0.0.1:6379", 3.0)
    assert record.heads == ("head-0", "head-1")
    assert client.hget("rayward:default:lease", "writer") == b"1:head-0-a"
    assert [(line["epoch"], line["member"], line["reason"]) for line in store.history()] == [
        (1, "head-0", "test")
    ]


def test_only_who_saw_the_lease_as_it_is_gets_it(store: LeaseStore) -> None:
    won(store)
    stale = seen(store).token
    store.renew("head-0", "head-0-a", 1, RECORD)

    for token in (None, stale, LeaseToken(1, "other", 2, "held"), LeaseToken(1, "head-0-a", 2, "released")):
        refused = store.acquire("head-1", "head-1-a", token, RECORD)
        assert isinstance(refused, Refused)
        assert refused.current == seen(store)
    assert "epoch 1 is held by head-0, renewal 2" in refused.reason

    taken = won(store, "head-1", seen(store).token)
    assert (taken.epoch, taken.record.writer) == (2, "2:head-1-a")


def test_the_epoch_passes_over_everything_that_is_remembered(store: LeaseStore) -> None:
    assert won(store, floor=41).epoch == 42
    assert won(store, "head-1", seen(store).token, floor=3).epoch == 43


def test_of_many_that_ask_at_once_one_gets_it(server: Server, store: LeaseStore) -> None:
    won(store)
    token = seen(store).token
    results: list[object] = []

    def ask(number: int) -> None:
        own = store_at(server.port)
        results.append(own.acquire(f"head-{number}", f"i{number}", token, RECORD))
        own.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    winners = [result for result in results if isinstance(result, Acquired)]
    assert (len(results), len(winners), winners[0].epoch) == (8, 1, 2)


def test_a_renewal_counts_up_and_brings_the_news(store: LeaseStore, server: Server) -> None:
    won(store)
    store.claim_incarnation("uid-1", "demo")
    other = store_at(server.port)
    other.observe("uid-1", "head-1", {"role": "standby"})
    other.set_paused(True, by="alice")
    other.close()

    result = store.renew("head-0", "head-0-a", 1, {**RECORD, "ttl": 5}, {"role": "leader"}, seq=1)

    assert result.outcome is RenewOutcome.RENEWED
    assert result.record is not None
    assert (result.record.seq, result.record.ttl, result.forgotten) == (2, 5.0, 0)
    assert result.members == {"head-0": {"role": "leader"}, "head-1": {"role": "standby"}}
    assert (result.control.paused, result.control.paused_by) == (True, "alice")
    assert result.incarnation is not None
    store.set_paused(False)
    assert not store.observe("uid-1").control.paused


def test_a_renewal_after_a_takeover_is_preempted_and_changes_nothing(store: LeaseStore) -> None:
    won(store)
    won(store, "head-1", seen(store).token)
    before = seen(store)

    result = store.renew("head-0", "head-0-a", 1, RECORD, {"role": "leader"})

    assert (result.outcome, result.record) == (RenewOutcome.PREEMPTED, before)
    assert seen(store) == before
    assert "head-0" not in store.observe("uid-1").members


def test_an_earlier_process_of_the_same_member_is_preempted_too(store: LeaseStore) -> None:
    won(store)

    assert store.renew("head-0", "head-0-b", 1, RECORD).outcome is RenewOutcome.PREEMPTED
    assert store.renew("head-1", "head-0-a", 1, RECORD).outcome is RenewOutcome.PREEMPTED


def test_a_store_that_lost_the_lease_is_said_so_and_stays_empty(
    store: LeaseStore, client: redis.Redis
) -> None:
    won(store)
    client.flushall()

    assert store.renew("head-0", "head-0-a", 1, RECORD).outcome is RenewOutcome.LOST_STORE
    assert client.dbsize() == 0


def test_a_store_that_forgot_its_newest_writes_shows(store: LeaseStore, client: redis.Redis) -> None:
    won(store)
    client.hset("rayward:default:lease", "seq", "4")

    result = store.renew("head-0", "head-0-a", 1, RECORD, seq=9)

    assert result.forgotten == 5
    assert seen(store).seq == 10


def test_a_release_takes_the_right_to_write_and_names_the_successor(
    store: LeaseStore, client: redis.Redis
) -> None:
    won(store)

    assert not store.release("head-1", "head-1-a", 1)
    assert store.release("head-0", "head-0-a", 1, successor="head-1")

    record = seen(store)
    assert (record.state, record.writer, record.successor, record.epoch) == ("released", "", "head-1", 1)
    assert client.hget("rayward:default:lease", "writer") == b""
    assert not store.release("head-0", "head-0-a", 1)
    assert store.renew("head-0", "head-0-a", 1, RECORD).outcome is RenewOutcome.PREEMPTED
    assert won(store, "head-1", record.token).record.successor == ""


def test_of_two_clusters_that_claim_one_namespace_one_gets_it(store: LeaseStore, server: Server) -> None:
    ours = store.claim_incarnation("uid-1", "demo")
    other = store_at(server.port)
    theirs = other.claim_incarnation("uid-2", "other")

    assert theirs == ours
    assert (theirs.cluster, theirs.cluster_name) == ("uid-1", "demo")
    won(store)
    view = other.observe("uid-2", "head-0", {"address": "of another cluster"})
    assert view.members == {}
    found = check_owner(view.facts(), "uid-2", "default", Remembered())
    assert found.owner is Owner.FOREIGN_LIVE
    assert "'demo' (uid uid-1), which runs: its head head-0 leads" in found.sentence
    other.close()


def test_a_namespace_that_another_cluster_left_is_taken_over(store: LeaseStore) -> None:
    before = store.claim_incarnation("uid-1", "demo")
    won(store)
    store.release("head-0", "head-0-a", 1)
    found = check_owner(store.observe("uid-2").facts(), "uid-2", "default", Remembered())
    assert found.owner is Owner.FOREIGN_RELEASED

    assert store.claim_incarnation("uid-2", "next", instead_of="uid-7") == before
    after = store.claim_incarnation("uid-2", "next", instead_of="uid-1")

    assert (after.cluster, after.id != before.id) == ("uid-2", True)
    assert won(store, "head-0", seen(store).token).epoch == 2


def test_a_foreign_lease_that_is_taken_over_while_held_cannot_be_renewed(store: LeaseStore) -> None:
    store.claim_incarnation("uid-1", "demo")
    won(store)

    store.claim_incarnation("uid-2", "next", instead_of="uid-1")

    assert store.renew("head-0", "head-0-a", 1, RECORD).outcome is RenewOutcome.PREEMPTED


def test_the_lease_of_another_life_of_the_store_is_not_taken(store: LeaseStore) -> None:
    ours = store.claim_incarnation("uid-1", "demo")

    refused = store.acquire("head-0", "i", None, RECORD, incarnation="of-yesterday")
    assert isinstance(refused, Refused)
    assert "incarnation" in refused.reason
    assert isinstance(store.acquire("head-0", "i", None, RECORD, incarnation=ours.id), Acquired)


def test_adopting_an_emptied_store_starts_above_every_epoch(store: LeaseStore, client: redis.Redis) -> None:
    before = store.claim_incarnation("uid-1", "demo")
    won(store, floor=6)
    client.flushall()
    lost = check_owner(store.observe("uid-1").facts(), "uid-1", "default", Remembered(before.id, 7))
    assert lost.owner is Owner.EMPTY

    after, epoch = store.adopt("uid-1", "demo", floor=7, member="head-1")

    assert (epoch, after.id != before.id) == (8, True)
    assert store.renew("head-0", "head-0-a", 7, RECORD).outcome is RenewOutcome.PREEMPTED
    assert check_owner(store.observe("uid-1").facts(), "uid-1", "default", Remembered()).owner is Owner.OURS
    assert won(store, "head-1", seen(store).token).epoch == 9
    assert [(line["epoch"], line["member"]) for line in store.history()] == [(8, "head-1"), (9, "head-1")]


def test_rays_data_is_noticed_in_both_layouts(server: Server, client: redis.Redis) -> None:
    store = store_at(server.port, "team:a")
    client.hset("RAYteam:ab@KV", "k", "v")
    client.set("team:a", "not Ray's")
    assert not store.observe("uid-1").has_ray_data
    client.delete("team:a")
    client.hset("team:a", "somebody", "else's")
    assert not store.observe("uid-1").has_ray_data
    client.delete("team:a")
    client.hset("team:a", "team:a@KV:x", "v")
    assert store.observe("uid-1").has_ray_data
    client.delete("team:a")
    client.set("RAYteam:a@JobCounter", 1)
    assert store.observe("uid-1").has_ray_data
    store.close()


def test_history_keeps_the_last_ones_and_members_can_be_dropped(store: LeaseStore) -> None:
    token = None
    for _ in range(205):
        token = won(store, seen=token).record.token
    history = store.history()
    assert (len(history), history[0]["epoch"], history[-1]["epoch"]) == (200, 6, 205)

    store.observe("uid-1", "head-9", {})
    assert store.drop_member("head-9")
    assert not store.drop_member("head-9")
    assert store.observe("uid-1").members == {}


def test_a_store_that_is_away_is_no_refusal(tmp_path: Path) -> None:
    port = free_port()
    store = store_at(port)
    with pytest.raises(StoreAwayError) as caught:
        store.observe("uid-1")
    assert (caught.value.fault.kind, caught.value.fault.transient) == (FaultKind.REFUSED, True)
    with running(tmp_path, port=port):
        won(store)
    with pytest.raises(StoreAwayError):
        store.renew("head-0", "head-0-a", 1, RECORD)
    with running(tmp_path, port=port):
        # A connection that broke is not kept; the store came back without its data.
        assert store.renew("head-0", "head-0-a", 1, RECORD).outcome is RenewOutcome.LOST_STORE
    store.close()


def test_a_connection_that_the_server_closed_while_idle_costs_no_call(
    store: LeaseStore, client: redis.Redis
) -> None:
    won(store)
    # Whether it is alive is asked without waiting, however long the caller would wait for an answer.
    assert store.renew("head-0", "head-0-a", 1, RECORD, timeout=1000).outcome is RenewOutcome.RENEWED
    assert store.renew("head-0", "head-0-a", 1, RECORD, timeout=1000).outcome is RenewOutcome.RENEWED
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    assert store.renew("head-0", "head-0-a", 1, RECORD).outcome is RenewOutcome.RENEWED


def test_a_frozen_store_is_bounded_by_the_timeout(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        store = store_at(server.port)
        won(store)
        server.client().execute_command("CLIENT", "PAUSE", "5000")
        started = time.monotonic()
        with pytest.raises(StoreAwayError) as caught:
            store.renew("head-0", "head-0-a", 1, RECORD, timeout=0.3)
        assert caught.value.fault.kind is FaultKind.TIMEOUT
        assert time.monotonic() - started < 4
        store.close()


def test_a_lease_is_believed_once_a_replica_has_it(server: Server, tmp_path: Path) -> None:
    with replica_of(server, tmp_path) as replica:
        store = store_at(server.port)
        result = won(store)
        assert (result.replicas, result.acknowledged) == (1, 1)
        assert replica.client().hget("rayward:default:lease", "writer") == b"1:head-0-a"
        store.close()


def test_a_lease_that_no_replica_confirms_is_given_back(server: Server, tmp_path: Path) -> None:
    with replica_of(server, tmp_path) as replica:
        store = store_at(server.port)
        replica.process.send_signal(19)
        try:
            refused = store.acquire("head-0", "i", None, RECORD, replication_bound=0.2)
        finally:
            replica.process.send_signal(18)
        assert isinstance(refused, Refused)
        assert "0 of 1 replicas had the lease within 0.2 s" in refused.reason
        record = seen(store)
        assert (record.state, record.writer) == ("released", "")
        store.close()


@pytest.mark.parametrize("forbidden", ["-wait", "-info"])
def test_a_server_that_says_nothing_of_replicas_counts_as_one_without(
    server: Server, tmp_path: Path, forbidden: str
) -> None:
    with replica_of(server, tmp_path):
        server.client().execute_command("ACL", "SETUSER", "few", "on", ">x", "~*", "+@all", forbidden)
        store = store_at(server.port, REDIS_USERNAME="few", REDIS_PASSWORD="x")
        assert won(store).acknowledged == 0
        store.close()


@pytest.mark.parametrize("rule", ["-eval", "-@scripting"])
def test_a_user_without_eval_reads_its_name(server: Server, client: redis.Redis, rule: str) -> None:
    client.execute_command("ACL", "SETUSER", "few", "on", ">x", "~*", "+@all", rule)
    store = store_at(server.port, REDIS_USERNAME="few", REDIS_PASSWORD="x")
    with pytest.raises(StoreAwayError) as caught:
        store.observe("uid-1")
    fault = caught.value.fault
    assert (fault.kind, fault.transient) == (FaultKind.NO_PERMISSION, False)
    assert "refuses EVAL" in fault.sentence
    store.close()


def test_a_server_whose_eval_was_renamed_reads_the_same(tmp_path: Path) -> None:
    with running(tmp_path, "--rename-command", "EVAL", "") as server:
        store = store_at(server.port)
        with pytest.raises(StoreAwayError, match="refuses EVAL") as caught:
            won(store)
        assert not caught.value.fault.transient
        store.close()


def test_a_right_that_is_missing_inside_a_script_is_a_right(server: Server, client: redis.Redis) -> None:
    client.execute_command("ACL", "SETUSER", "few", "on", ">x", "~*", "+@all", "-hset")
    store = store_at(server.port, REDIS_USERNAME="few", REDIS_PASSWORD="x")
    with pytest.raises(StoreAwayError) as caught:
        won(store)
    assert caught.value.fault.kind is FaultKind.NO_PERMISSION
    store.close()


def test_a_primary_that_becomes_a_replica_is_left(server: Server, tmp_path: Path) -> None:
    with running(tmp_path / "a") as first, running(tmp_path / "b") as second:
        address = f"127.0.0.1:{first.port},127.0.0.1:{second.port}"
        store = LeaseStore(StoreSettings.from_environment({"RAY_REDIS_ADDRESS": address}))
        won(store)
        first.client().execute_command("REPLICAOF", "127.0.0.1", str(second.port))
        with pytest.raises(StoreAwayError) as caught:
            store.renew("head-0", "head-0-a", 1, RECORD)
        assert caught.value.fault.transient
        # The next call finds the server that is a primary; it has not got the lease.
        assert store.renew("head-0", "head-0-a", 1, RECORD).outcome is RenewOutcome.LOST_STORE
        store.close()


def test_a_full_server_refuses_and_stays_known(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        store = store_at(server.port)
        won(store)
        server.client().config_set("maxmemory", "1")
        with pytest.raises(StoreAwayError) as caught:
            store.renew("head-0", "head-0-a", 1, RECORD)
        assert caught.value.fault.kind is FaultKind.OOM
        store.close()


def test_a_lease_that_somebody_spoiled_is_said_so(store: LeaseStore, client: redis.Redis) -> None:
    client.hset("rayward:default:lease", "epoch", "many")
    with pytest.raises(StoreAwayError, match="the lease's epoch is 'many'"):
        store.observe("uid-1")
    store.adopt("uid-1", "demo", floor=3)
    assert seen(store).epoch == 4
    client.delete("rayward:default:lease")
    client.set("rayward:default:lease", "text")
    with pytest.raises(StoreAwayError, match="WRONGTYPE"):
        store.observe("uid-1")


def test_everything_works_in_a_cluster_of_one_shard(tmp_path: Path) -> None:
    with cluster_of(tmp_path, nodes=2) as (owner, other):
        store = store_at(other.port)
        store.claim_incarnation("uid-1", "demo")
        won(store)
        assert (
            store.renew("head-0", "head-0-a", 1, RECORD, {"role": "leader"}).outcome is RenewOutcome.RENEWED
        )
        assert store.observe("uid-1", "head-1", {}).members.keys() == {"head-0", "head-1"}
        assert store.release("head-0", "head-0-a", 1)
        store.set_paused(True)
        assert len(store.history()) == 1
        assert store.adopt("uid-1", "demo", floor=5)[1] == 6
        # The configured node dies; the others are known from it.
        other.stop()
        store.close()
        assert seen(store).epoch == 6
        assert owner.process.poll() is None
        store.close()


def test_a_peer_that_is_no_redis_raises_only_what_is_promised() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        store = store_at(listener.getsockname()[1])
        with pytest.raises(StoreAwayError):
            store.observe("uid-1", timeout=0.2)


def test_a_lease_over_tls(server: Server, tmp_path: Path) -> None:
    cert = certificate(tmp_path, "server")
    with tls_front(cert, server.port) as port:
        store = store_at(port, RAY_REDIS_ADDRESS=f"rediss://127.0.0.1:{port}", RAY_REDIS_CA_CERT=str(cert))
        won(store)
        assert store.renew("head-0", "head-0-a", 1, RECORD).outcome is RenewOutcome.RENEWED
        store.close()


def test_the_rights_that_a_fault_advises_are_enough(server: Server, client: redis.Redis) -> None:
    client.execute_command("ACL", "SETUSER", "ray", "reset", "on", ">x", *RIGHTS)
    client.hset("default", "default@KV:x", "v")
    store = store_at(server.port, REDIS_USERNAME="ray", REDIS_PASSWORD="x")

    # The one hash of an old Ray has a name that this user may not look at: it cannot be that user's data.
    assert not store.observe("uid-1", "head-0", {}).has_ray_data
    marker = store.claim_incarnation("uid-1", "demo")
    won(store)
    assert store.renew("head-0", "head-0-a", 1, RECORD).outcome is RenewOutcome.RENEWED
    words = (LEASE, "1:head-0-a", "rayward:default:audit", "HSET", "k", "v")
    guarded = guarded_write(audit=True, fenced=True)
    assert store.connection().call("EVAL", guarded, 1, "RAYdefault@KV", *words, timeout=5) == 1
    assert store.release("head-0", "head-0-a", 1)
    assert store.adopt("uid-1", "demo", 1)[0] != marker
    store.set_paused(True)
    assert len(store.history()) == 2
    store.close()

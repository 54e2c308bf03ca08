"""Who may write: only the holder of the epoch that the lease carries, and nobody before that."""

from __future__ import annotations

import redis
from gateway_rig import LEASE, Rig, gateway, is_error, set_epoch, until
from redis_server import Server

from rayward.store.resp import encode

KV = "RAYdefault@KV"
SESSION = "@namespace_session:session_name"


def test_a_held_gateway_lets_nothing_pass(rig: Rig, store: redis.Redis) -> None:
    store.hset(KV, "stale", "1")
    before = store.info("commandstats")
    writer, reader = rig.client(), rig.client()
    writer.send("HSET", KV, "gcs_pid", "1")
    reader.send("HSCAN", KV, "0", "COUNT", "1000")
    reader.send("HGET", KV, "@namespace_cluster:ray_cluster_id")
    reader.send("PING")
    rig.wait_counter(parked=4)
    assert writer.silent(0.3)
    assert reader.silent(0.3)
    after = store.info("commandstats")
    for command in ("cmdstat_hset", "cmdstat_hscan", "cmdstat_evalsha"):
        assert after.get(command) == before.get(command), command

    rig.lead(1, store)
    assert writer.answer() == 1
    assert reader.answer() == [b"0", [b"stale", b"1", b"gcs_pid", b"1"]] or store.hlen(KV) == 2
    assert reader.answer() is None
    assert reader.answer() == b"PONG"


def test_a_standby_may_ask_for_the_session_name_only_and_waits_for_it(rig: Rig, store: redis.Redis) -> None:
    standby = rig.client()
    standby.send("HGET", KV, SESSION)
    assert standby.silent(0.5)
    store.hset(KV, SESSION, "session_1")
    assert standby.answer() == b"session_1"
    assert standby.ask("HGET", KV, SESSION) == b"session_1"
    standby.send("HGET", KV, "other")
    assert standby.silent(0.3)


def test_an_empty_session_name_passes_once_we_lead(rig: Rig, store: redis.Redis) -> None:
    first = rig.client()
    first.send("HGET", KV, SESSION)
    first.send("PING")
    assert first.silent(0.4)
    rig.lead(1, store)
    assert (first.answer(), first.answer()) == (None, b"PONG")


def test_a_write_after_another_took_the_lease_is_refused(rig: Rig, store: redis.Redis) -> None:
    rig.lead(4, store)
    gcs, other = rig.client(), rig.client()
    assert gcs.ask("HSET", KV, "a", "old") == 1
    set_epoch(store, 5)
    gcs.send("HSET", KV, "a", "stale")
    assert gcs.is_closed()
    assert other.is_closed()
    assert store.hget(KV, "a") == b"old"
    report = rig.wait_reported("fenced")
    assert (report["epoch"], report["found"]) == (4, 5)
    assert rig.process.view.fenced_by == 5

    # From then on it holds, whoever connects.
    late = rig.client()
    late.send("HSET", KV, "a", "stale")
    assert late.silent(0.4)
    assert store.hget(KV, "a") == b"old"


def test_no_write_of_a_pipeline_passes_behind_the_fence(rig: Rig, store: redis.Redis) -> None:
    rig.lead(4, store)
    gcs = rig.client()
    assert gcs.ask("HSET", KV, "a", "1") == 1
    set_epoch(store, 5)
    stale = []
    for number in range(200):
        stale += [encode("HSET", KV, f"f{number}", "stale"), encode("HDEL", KV, "a")]
        stale.append(encode("INCRBY", "RAYdefault@JobCounter", "1"))
    gcs.socket.sendall(b"".join(stale))
    assert gcs.is_closed()
    assert store.hgetall(KV) == {b"a": b"1"}
    assert store.get("RAYdefault@JobCounter") is None


def test_a_released_lease_fences_too(rig: Rig, store: redis.Redis) -> None:
    rig.lead(4, store)
    gcs = rig.client()
    assert gcs.ask("HSET", KV, "a", "1") == 1
    store.hset(LEASE, "writer", "")
    gcs.send("HSET", KV, "a", "2")
    assert gcs.is_closed()
    assert rig.wait_reported("fenced")["found"] == 0
    assert store.hget(KV, "a") == b"1"


def test_leading_again_with_a_new_epoch_goes_on(rig: Rig, store: redis.Redis) -> None:
    rig.lead(4, store)
    gcs = rig.client()
    assert gcs.ask("HSET", KV, "a", "1") == 1
    rig.lead(5, store)
    until(lambda: gcs.ask("HSET", KV, "a", "2") == 0, 5, "an answer")
    assert store.hget(KV, "a") == b"2"


def test_what_the_lease_said_before_we_lead_is_not_held_against_us(rig: Rig, store: redis.Redis) -> None:
    """Connections are opened beside the loop; what they found may be older than the order to lead."""
    set_epoch(store, 1)
    for epoch in range(2, 60):
        gcs = rig.client()
        gcs.send("HSET", KV, "a", str(epoch))
        rig.lead(epoch, store)
        assert gcs.answer() in (0, 1)
        rig.process.hold()
        assert gcs.is_closed()
    assert not rig.reported("lost")
    assert not rig.reported("fenced")


def test_an_empty_store_is_reported_and_not_shown_to_the_gcs(rig: Rig, store: redis.Redis) -> None:
    rig.lead(4, store)
    gcs = rig.client()
    assert gcs.ask("HSET", KV, "a", "1") == 1
    store.flushall()
    gcs.send("HSET", KV, "b", "1")
    assert rig.wait_reported("lost")["what"] == "empty"
    gcs.send("HGET", KV, "a")
    assert gcs.silent(0.4)
    assert store.keys() == []
    assert rig.process.view.lost == "empty"

    rig.lead(5, store)
    assert (gcs.answer(), gcs.answer()) == (1, None)
    assert rig.process.view.lost == ""


def test_a_store_with_an_older_lease_is_reported(rig: Rig, store: redis.Redis) -> None:
    rig.lead(4, store)
    gcs = rig.client()
    assert gcs.ask("HSET", KV, "a", "1") == 1
    set_epoch(store, 3)
    gcs.send("HSET", KV, "a", "2")
    assert rig.wait_reported("lost")["what"] == "older"
    assert gcs.silent(0.4)
    assert store.hget(KV, "a") == b"1"


def test_a_gcs_that_led_never_goes_on_after_hold(rig: Rig, store: redis.Redis) -> None:
    rig.lead(4, store)
    gcs = rig.client()
    assert gcs.ask("HSET", KV, "a", "1") == 1
    rig.process.hold()
    assert gcs.is_closed()
    parked = rig.client()
    parked.send("HSET", KV, "a", "2")
    assert parked.silent(0.3)
    assert store.hget(KV, "a") == b"1"


def test_the_gateway_ends_with_its_agent(rig: Rig) -> None:
    process = rig.process._process
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()
    until(lambda: not rig.process.alive, 5, "the gateway's end")


def test_a_restarted_gateway_leads_on_the_same_port(rig: Rig, store: redis.Redis) -> None:
    rig.lead(4, store)
    port = rig.port
    assert rig.client().ask("HSET", KV, "a", "1") == 1
    assert rig.process.pid is not None
    rig.process._process.kill()  # type: ignore[union-attr]
    until(lambda: not rig.process.alive, 5, "its death")
    assert rig.process.restart() == port
    assert rig.client().ask("HSET", KV, "a", "2") == 0


def test_without_the_fence_a_stale_write_passes(server: Server, store: redis.Redis) -> None:
    """The negative control: what the fence is for."""
    with gateway(server.port, RAYWARD_FENCE="off") as rig:
        rig.lead(4, store)
        gcs = rig.client()
        assert gcs.ask("HSET", KV, "a", "1") == 1
        set_epoch(store, 5)
        assert gcs.ask("HSET", KV, "a", "stale") == 0
        assert store.hget(KV, "a") == b"stale"


def test_the_audit_names_each_write_and_its_epoch(server: Server, store: redis.Redis) -> None:
    with gateway(server.port, RAYWARD_AUDIT="1") as rig:
        rig.lead(4, store)
        gcs = rig.client()
        gcs.ask("HSET", KV, "a", "1")
        gcs.ask("HGET", KV, "a")
        # A write that overtakes the order on its way to the gateway is refused, and its client with it.
        rig.process.hold()
        assert gcs.is_closed()
        rig.lead(5, store)
        gcs = rig.client()
        gcs.ask("INCRBY", "RAYdefault@JobCounter", "1")
        set_epoch(store, 6)
        gcs.send("HSET", KV, "a", "2")
        assert gcs.is_closed()
        entries = [entry for _, entry in store.xrange("rayward:default:audit")]
        assert [(entry[b"e"], entry[b"c"], entry[b"k"]) for entry in entries] == [
            (b"4", b"HSET", KV.encode()),
            (b"5", b"INCRBY", b"RAYdefault@JobCounter"),
        ]


def test_a_refused_command_is_named(rig: Rig, store: redis.Redis) -> None:
    rig.lead(1, store)
    gcs = rig.client()
    for words in (("FLUSHALL",), ("EVAL", "return 1", "0"), ("CONFIG", "GET", "*"), ("HELLO", "3")):
        assert is_error(gcs.ask(*words), "ERR")
    assert rig.wait_counter(refused=3)

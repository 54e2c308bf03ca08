"""The store goes away in every way that it can: clients wait, nothing acknowledged is lost or done twice."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import redis
from chaos import chaos_before
from gateway_rig import Client, Rig, gateway, set_epoch, until
from redis_server import Server, free_port, running

from rayward.store.resp import encode

KV = "RAYdefault@KV"
COUNTER = "RAYdefault@JobCounter"
# What is acknowledged has to survive kill -9 of the server here.
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


class Writer(threading.Thread):
    """Puts numbered fields, one after the other; ``acknowledged`` are those that were answered."""

    def __init__(self, client: Client, name: str) -> None:
        super().__init__(daemon=True)
        self.client = client
        self.prefix = name
        self.acknowledged = 0
        self.problem: object = None
        self.stop = threading.Event()

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                answer = self.client.ask("HSET", KV, f"{self.prefix}{self.acknowledged}", "x")
                if answer not in (0, 1):
                    raise AssertionError(answer)
                self.acknowledged += 1
        except Exception as error:
            self.problem = error


@pytest.mark.parametrize("seconds", [1, 3, 10])
def test_redis_killed_and_started_again(tmp_path: Path, seconds: float) -> None:
    port = free_port()
    with running(tmp_path, *DURABLE, port=port) as first, gateway(port) as rig:
        rig.lead(1, first.client())
        writers = [Writer(rig.client(timeout=60), f"w{number}-") for number in range(2)]
        for writer in writers:
            writer.start()
        until(lambda: all(writer.acknowledged > 50 for writer in writers), 30, "writes before the outage")
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
        assert rig.wait_reported("store", state="away")["fault"]
        rig.wait_counter(parked=2)
        # The length of the outage is the subject, not a wait for something.
        time.sleep(seconds)
        at_outage = [writer.acknowledged for writer in writers]
        with running(tmp_path, *DURABLE, port=port) as second:
            until(
                lambda: all(w.acknowledged > old + 50 for w, old in zip(writers, at_outage, strict=True)),
                30,
                "writes after the outage",
            )
            for writer in writers:
                writer.stop.set()
                writer.join(20)
                assert writer.problem is None
            stored = {field.decode() for field in second.client().hkeys(KV)}
            promised = {f"{w.prefix}{number}" for w in writers for number in range(w.acknowledged)}
            assert promised <= stored
            assert rig.process.view.store == "ok"
            assert rig.wait_counter(retried=1)["parked"] == 0 or rig.process.counters["parked"] <= 2


def test_a_parked_hscan_and_pings_keep_their_order(tmp_path: Path) -> None:
    port = free_port()
    with running(tmp_path, *DURABLE, port=port) as first, gateway(port) as rig:
        rig.lead(1, first.client())
        gcs = rig.client()
        assert gcs.ask("HSET", KV, "a", "1") == 1
        first.stop()
        gcs.send("PING", "before")
        for words in (("HSET", KV, "b", "2"), ("PING", "one"), ("HSCAN", KV, "0"), ("PING", "two")):
            gcs.send(*words)
        assert gcs.answer() == b"before"
        rig.wait_counter(parked=4)
        with running(tmp_path, *DURABLE, port=port):
            answers = [gcs.answer() for _ in range(4)]
        assert answers == [1, b"one", [b"0", [b"a", b"1", b"b", b"2"]], b"two"]


def test_a_reset_in_the_middle_of_an_answer(server: Server, store: redis.Redis) -> None:
    big = {f"field-{number}": "v" * 50 for number in range(5000)}
    store.hset(KV, mapping=big)
    with chaos_before(server.port) as chaos, gateway(chaos.port) as rig:
        rig.lead(1, store)
        gcs = rig.client()
        for keep in (0, 1, 1000):
            chaos.reset_after(b"HGETALL", keep)
            flat = gcs.ask("HGETALL", KV)
            found = {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}
            assert found == big
            assert gcs.ask("HGET", KV, "field-1") == b"v" * 50
        assert chaos.resets == 3
        assert rig.wait_counter(retried=3)


def test_hsetnx_whose_outcome_is_unknown(server: Server, store: redis.Redis) -> None:
    with chaos_before(server.port) as chaos, gateway(chaos.port) as rig:
        rig.lead(1, store)
        gcs = rig.client()
        chaos.reset_after(b"ours")
        assert gcs.ask("HSETNX", KV, "id", "ours") == 1, "it was set by us, the answer was lost"
        assert store.hget(KV, "id") == b"ours"
        assert gcs.ask("HSETNX", KV, "id", "ours") == 0, "asked anew, it is there"

        chaos.reset_before(b"theirs")
        assert gcs.ask("HSETNX", KV, "id", "theirs") == 0, "never executed, and somebody else's is there"
        chaos.reset_before(b"first")
        assert gcs.ask("HSETNX", KV, "new", "first") == 1, "never executed, so executed now"
        assert chaos.resets == 3


def test_incrby_whose_outcome_is_unknown_gives_no_number_twice(server: Server, store: redis.Redis) -> None:
    with chaos_before(server.port) as chaos, gateway(chaos.port) as rig:
        rig.lead(1, store)
        gcs = rig.client()
        given = [gcs.ask("INCRBY", COUNTER, "1")]
        for number in range(3):
            chaos.reset_after(b"INCRBY")
            given += [gcs.ask("INCRBY", COUNTER, "1") for _ in range(3)]
            assert chaos.resets == number + 1
        assert len(set(given)) == len(given)
        assert given == sorted(given)
        assert int(store.get(COUNTER) or 0) == given[-1]


def test_what_was_sent_behind_a_lost_answer_is_repeated_in_order(server: Server, store: redis.Redis) -> None:
    with chaos_before(server.port) as chaos, gateway(chaos.port) as rig:
        rig.lead(1, store)
        gcs = rig.client()
        assert gcs.ask("HSET", KV, "a", "0") == 1
        chaos.reset_after(b"one")
        commands = [("HSET", KV, "a", "one"), ("HSET", KV, "a", "two"), ("HGET", KV, "a"), ("HDEL", KV, "a")]
        commands += [("HSET", KV, "a", "three"), ("HGET", KV, "a")]
        gcs.socket.sendall(b"".join(encode(*words) for words in commands))
        answers = [gcs.answer() for _ in commands]
        assert (answers[2], answers[5]) == (b"two", b"three")
        assert store.hget(KV, "a") == b"three"


def test_a_frozen_redis_is_waited_for(tmp_path: Path) -> None:
    with running(tmp_path) as server, gateway(server.port, RAYWARD_GATEWAY_SILENCE="0.7") as rig:
        rig.lead(1, server.client())
        gcs = rig.client(timeout=30)
        assert gcs.ask("HSET", KV, "a", "1") == 1
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            gcs.send("HSET", KV, "a", "2")
            gcs.send("HSET", KV, "a", "3")
            gcs.send("HGET", KV, "a")
            fault = rig.wait_reported("store", state="away")["fault"]
            assert "no answer for 0.7 s" in fault
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        assert [gcs.answer() for _ in range(3)] == [0, 0, b"3"]
        assert server.client().hget(KV, "a") == b"3"


def test_an_idle_connection_that_went_dead_is_found(tmp_path: Path) -> None:
    with running(tmp_path) as server, gateway(server.port, RAYWARD_GATEWAY_SILENCE="0.7") as rig:
        rig.lead(1, server.client())
        assert rig.client().ask("HSET", KV, "a", "1") == 1
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            rig.wait_reported("store", state="away")
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        rig.wait_reported("store", state="ok")
        until(lambda: rig.process.view.store == "ok", 30, "the store back")


def test_connections_killed_by_the_store(rig: Rig, store: redis.Redis) -> None:
    rig.lead(1, store)
    gcs = rig.client()
    for number in range(5):
        assert gcs.ask("HSET", KV, f"f{number}", "1") == 1
        store.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert gcs.ask("HLEN", KV) == 5
    store.execute_command("SCRIPT", "FLUSH")
    assert gcs.ask("HSET", KV, "g", "1") == 1, "the script is loaded again"


def test_a_store_without_memory_is_waited_for(tmp_path: Path) -> None:
    with running(tmp_path, "--maxmemory", "4mb", "--maxmemory-policy", "noeviction") as server:
        store = server.client()
        with gateway(server.port) as rig:
            rig.lead(1, store)
            gcs = rig.client()
            for number in range(6):
                store.config_set("maxmemory", "1gb")
                store.set(f"filler{number}", "x" * 1_000_000)
            store.config_set("maxmemory", "4mb")
            gcs.send("HSET", KV, "a", "1")
            assert "OOM" in rig.wait_reported("store", state="refused")["fault"]
            assert gcs.silent(0.5)
            assert rig.process.counters["reconnects"] < 60, "with pauses, not in a tight loop"
            store.config_set("maxmemory", "1gb")
            assert gcs.answer() == 1


def test_patience_ends(tmp_path: Path) -> None:
    with running(tmp_path) as server, gateway(server.port, RAYWARD_STORE_PATIENCE="1") as rig:
        rig.lead(1, server.client())
        gcs = rig.client()
        assert gcs.ask("HSET", KV, "a", "1") == 1
        server.stop()
        gcs.send("HSET", KV, "a", "2")
        assert gcs.is_closed()


def test_what_is_parked_is_bounded_and_nothing_is_dropped(tmp_path: Path) -> None:
    """A client that goes on sending while the store is away feels it as a connection that takes no more."""
    port, limit, value = free_port(), 8 * 1024 * 1024, "v" * 100_000
    environment = {"RAYWARD_GATEWAY_PARK_BYTES": str(limit)}
    with running(tmp_path, *DURABLE, port=port) as first, gateway(port, **environment) as rig:
        rig.lead(1, first.client())
        gcs = rig.client(timeout=60)
        assert gcs.ask("HSET", KV, "a", "1") == 1
        first.stop()
        total = 600  # 60 MB

        def send() -> None:
            for number in range(total):
                gcs.send("HSET", KV, f"f{number}", value)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        rig.wait_counter(parked_bytes=limit - 200_000)
        rig.wait_reported("store", state="away")
        # Two reports later it would have grown, had it gone on reading.
        seen = len(rig.reported("counters"))
        until(lambda: len(rig.reported("counters")) > seen + 2, 30, "reports")
        assert rig.process.counters["held_bytes"] < limit + 3 * 200_000
        assert _resident(rig) < 25 * 1024 * 1024 + 3 * limit
        assert sender.is_alive(), "the client waits"
        with running(tmp_path, *DURABLE, port=port) as second:
            assert [gcs.answer() for _ in range(total)] == [1] * total
            assert second.client().hlen(KV) == total + 1
        sender.join(10)


def test_a_store_that_was_wiped_while_it_was_away(tmp_path: Path) -> None:
    port = free_port()
    with gateway(port) as rig:
        with running(tmp_path / "first", port=port) as first:
            rig.lead(3, first.client())
            gcs = rig.client()
            assert gcs.ask("HSET", KV, "a", "1") == 1
        gcs.send("HGET", KV, "a")
        with running(tmp_path / "second", port=port) as second:
            assert rig.wait_reported("lost")["what"] == "empty"
            assert gcs.silent(0.4), "an empty store would look like a cluster that never was"
            set_epoch(second.client(), 4)
            rig.lead(4)
            assert gcs.answer() is None


def _resident(rig: Rig) -> int:
    pages = int(Path(f"/proc/{rig.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")

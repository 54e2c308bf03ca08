"""Real gcs_servers behind the gateway: of the oldest layout, one between, and the Ray that is installed."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import redis
from gateway_rig import Rig, gateway, set_epoch, until
from gcs_servers import INSTALLED, OLDER, gcs
from redis_server import free_port, running

pytestmark = [pytest.mark.ray]
VERSIONS = (*OLDER, INSTALLED)
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


def fields(store: redis.Redis) -> list[bytes]:
    """Every field of GCS in the store, in whatever layout."""
    return [field for key in ("default", "RAYdefault@KV") for field in store.hkeys(key)]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_gcs_works_and_sends_nothing_unknown(
    rig: Rig, store: redis.Redis, tmp_path: Path, version: str
) -> None:
    rig.lead(1, store)
    with gcs(tmp_path / "one", rig.port, version) as first:
        first.wait_serves()
        client = first.client()
        for number in range(20):
            assert client.internal_kv_put(b"k%d" % number, b"v%d" % number, True, b"test") == 1
        assert client.internal_kv_put(b"k1", b"w", True, b"test") == 0
        assert client.internal_kv_put(b"k2", b"no", False, b"test") == 0
        assert client.internal_kv_del(b"k3", False, b"test") == 1
        assert sorted(client.internal_kv_keys(b"k1", b"test")) == sorted(
            b"k1%s" % rest for rest in (b"", *(b"%d" % number for number in range(10)))
        )
        cluster = client.cluster_id.hex()
    with gcs(tmp_path / "two", rig.port, version) as second:
        second.wait_serves()
        client = second.client()
        assert client.cluster_id.hex() == cluster, "the same cluster, from the store"
        assert client.internal_kv_get(b"k1", b"test") == b"w"
        assert client.internal_kv_get(b"k3", b"test") is None
    rig.wait_counter(writes=20)
    assert rig.process.counters["refused"] == 0, "a command that the gateway does not know"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_held_gcs_reads_nothing_and_serves_when_we_lead(
    rig: Rig, store: redis.Redis, tmp_path: Path, version: str
) -> None:
    with gcs(tmp_path, rig.port, version) as standby:
        rig.wait_counter(parked=2)
        os.kill(standby.process.pid, signal.SIGSTOP)
        time.sleep(2)  # as long as nothing happens to it, nothing should
        os.kill(standby.process.pid, signal.SIGCONT)
        assert not standby.serves
        assert rig.process.counters["latency"]["count"] == 0, "not one answer of the store"
        rig.lead(1, store)
        standby.wait_serves()
        assert standby.client().internal_kv_put(b"k", b"v", True, b"test") == 1
    assert any(field.endswith(b"test:k") for field in fields(store))


@pytest.mark.parametrize("version", VERSIONS)
def test_redis_goes_and_comes_and_the_gcs_stays(tmp_path: Path, version: str) -> None:
    port = free_port()
    with running(tmp_path / "r", *DURABLE, port=port) as first, gateway(port) as rig:
        rig.lead(1, first.client())
        with gcs(tmp_path / "g", rig.port, version) as server:
            server.wait_serves()
            client, written = server.client(), []
            assert client.internal_kv_put(b"before", b"1", True, b"test") == 1
            first.process.send_signal(signal.SIGKILL)
            first.process.wait()

            def put() -> None:
                written.append(client.internal_kv_put(b"during", b"2", True, b"test", timeout=60))

            during = threading.Thread(target=put, daemon=True)
            during.start()
            rig.wait_counter(parked=1)
            time.sleep(6)  # longer than a GCS without a gateway lives
            with running(tmp_path / "r", *DURABLE, port=port) as second:
                during.join(30)
                assert written == [1]
                assert client.internal_kv_get(b"before", b"test") == b"1"
                assert server.process.poll() is None, "the same process"
                stored = fields(second.client())
                assert any(field.endswith(b"test:during") for field in stored)


def test_a_fenced_gcs_cannot_write(rig: Rig, store: redis.Redis, tmp_path: Path) -> None:
    rig.lead(1, store)
    with gcs(tmp_path, rig.port) as server:
        server.wait_serves()
        client = server.client()
        assert client.internal_kv_put(b"k", b"ours", True, b"test") == 1
        os.kill(server.process.pid, signal.SIGSTOP)
        set_epoch(store, 2)  # somebody else leads meanwhile
        os.kill(server.process.pid, signal.SIGCONT)
        with pytest.raises(Exception, match=r"(?s).*"):
            client.internal_kv_put(b"k", b"stale", True, b"test", timeout=3)
        assert rig.wait_reported("fenced")["found"] == 2
        assert store.hget("RAYdefault@KV", "@namespace_test:k") == b"ours"


def test_after_a_crash_of_the_gateway_a_new_gcs_goes_on(rig: Rig, store: redis.Redis, tmp_path: Path) -> None:
    rig.lead(1, store)
    with gcs(tmp_path / "one", rig.port) as first:
        first.wait_serves()
        assert first.client().internal_kv_put(b"k", b"v", True, b"test") == 1
        assert rig.process.pid is not None
        os.kill(rig.process.pid, signal.SIGKILL)
        until(lambda: not rig.process.alive, 5, "its death")
        rig.process.restart()
        # It never connects again by itself (it ends after some seconds), so the agent ends it at once.
        first.process.kill()
    with gcs(tmp_path / "two", rig.port) as second:
        second.wait_serves()
        assert second.client().internal_kv_get(b"k", b"test") == b"v"

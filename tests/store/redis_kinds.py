"""Other shapes of Redis than one plain server: replicas, Sentinels, a cluster of one shard. All real."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from redis_server import BINARY, Server, free_port, running

from rayward.store.address import RedisAddress
from rayward.store.channel import open_channel
from rayward.store.connection import TlsFiles

BOUND_S = 30.0


def wait_until(true: Callable[[], object], what: str) -> None:
    give_up = time.monotonic() + BOUND_S
    while not true():
        assert time.monotonic() < give_up, what
        time.sleep(0.02)


@contextlib.contextmanager
def replica_of(primary: Server, directory: Path, *options: str) -> Iterator[Server]:
    """A replica that has its primary's data."""
    with running(directory, "--replicaof", "127.0.0.1", str(primary.port), *options) as server:
        wait_until(lambda: b"master_link_status:up" in ask(server.port, "INFO", "replication"), "not in step")
        wait_until(
            lambda: b"state=online" in ask(primary.port, "INFO", "replication"), "the primary has no replica"
        )
        yield server


@contextlib.contextmanager
def sentinel_for(primary: Server, directory: Path, name: str, password: str = "") -> Iterator[int]:
    """The port of one Sentinel that watches ``primary`` alone and moves it after half a second."""
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    lines = [
        f"port {port}",
        "bind 127.0.0.1",
        f"dir {directory}",
        f"sentinel monitor {name} 127.0.0.1 {primary.port} 1",
        f"sentinel down-after-milliseconds {name} 500",
        f"sentinel failover-timeout {name} 3000",
        *([f"requirepass {password}"] if password else []),
    ]
    config = directory / "sentinel.conf"
    config.write_text("\n".join(lines) + "\n")
    with (directory / "sentinel.log").open("ab") as log:
        process = subprocess.Popen([BINARY, str(config), "--sentinel"], stdout=log, stderr=log)
    try:
        wait_until(lambda: _listens(port), "the Sentinel does not answer")
        yield port
    finally:
        process.kill()
        process.wait(10)


@contextlib.contextmanager
def cluster_of(directory: Path, nodes: int, shards: int = 1) -> Iterator[list[Server]]:
    """Nodes of one Redis Cluster; the first ``shards`` of them share the slots, the others own none."""
    with contextlib.ExitStack() as stack:
        servers = []
        for number in range(nodes):
            port = 10_000 + free_port() % 20_000  # its bus listens 10,000 above
            folder = directory / f"node{number}"
            options = ("--cluster-enabled", "yes", "--cluster-config-file", str(folder / "nodes.conf"))
            servers.append(stack.enter_context(running(folder, *options, port=port)))
        for number in range(shards):
            slots = range(16384 * number // shards, 16384 * (number + 1) // shards)
            ask(servers[number].port, "CLUSTER", "ADDSLOTS", *slots)
        for server in servers[1:]:
            ask(servers[0].port, "CLUSTER", "MEET", "127.0.0.1", server.port)
        for server in servers:
            wait_until(lambda port=server.port: _formed(port, nodes), "the cluster does not form")  # type: ignore[misc]
        yield servers


def ask(port: int, *words: str | int, password: str = "") -> Any:
    """One command to one server, without following anything."""
    deadline = time.monotonic() + 10
    connection = open_channel(RedisAddress("127.0.0.1", port), deadline, TlsFiles())
    try:
        if password:
            connection.call("AUTH", password, timeout=10)
        return connection.call(*words, timeout=10)
    finally:
        connection.close()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        open_channel(RedisAddress("127.0.0.1", port), time.monotonic() + 1, TlsFiles()).close()
        return True
    return False


def _formed(port: int, nodes: int) -> bool:
    info = ask(port, "CLUSTER", "INFO")
    return b"cluster_state:ok" in info and b"cluster_known_nodes:%d\r" % nodes in info

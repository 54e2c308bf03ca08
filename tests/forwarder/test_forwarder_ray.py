"""A stock Ray worker behind the forwarder: it joins, works on through a change of GCS, and is in the table.

The head is stock Ray on Redis. The second GCS is the first one's command on another port, as a standby would
run it, with the same store behind it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis_server
from agent_node import (
    MARKER,
    RAY,
    clean_environment,
    free_ports,
    processes_of,
    ray_ports,
    short_directory,
    until,
)

from rayward.agent import gcs_nodes, gcs_probe
from rayward.agent.forwarder import Forwarder
from rayward.agent.gcs_probe import Serving
from rayward.agent.heads import Choice, HeadView, Link
from rayward.agent.recycle import NodeState

HOST = "127.0.0.1"
# Ray takes 127.0.0.1 in an address for the host's outer address, and any other loopback address as it is.
WORKER = "127.0.0.2"


class Leads:
    """Who leads, set by hand; tells the forwarder as HeadsWatch does."""

    def __init__(self) -> None:
        self.now = Choice(None, "no head is known yet")
        self.listeners: list[Any] = []

    def choice(self) -> Choice:
        return self.now

    def subscribe(self, on_change: Any) -> None:
        self.listeners.append(on_change)

    def set(self, port: int, epoch: int, serving: bool = True) -> None:
        view = HeadView(
            f"{HOST}:8008", Link.CONNECTED, True, epoch, serving, f"{HOST}:{port}", f"head-{epoch}"
        )
        self.now = Choice(view, f"head-{epoch} leads with epoch {epoch}")
        for listener in self.listeners:
            listener()


@dataclass
class Cluster:
    directory: Path
    environment: dict[str, str]
    marker: str
    leads: Leads
    forwarder: Forwarder
    gcs_port: int
    port: int

    def run(self, *words: str) -> None:
        done = subprocess.run(
            [RAY, "start", *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def pid_of(self, program: str, *having: str) -> int:
        """The process whose program has that name, with these words in its command line."""
        for pid in processes_of(self.marker, self.directory):
            with contextlib.suppress(OSError):
                argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
                if argv[0].endswith(f"/{program}") and all(word in " ".join(argv) for word in having):
                    return pid
        raise AssertionError(f"no {program} with {having}")

    def gcs_serves(self, port: int) -> bool:
        return gcs_probe.check(HOST, port, 1.0).serving is Serving.SERVING


def option(pid: int, name: str) -> str:
    for word in Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0"):
        if word.startswith(f"--{name}="):
            return word.partition("=")[2]
    raise AssertionError(f"process {pid} has no --{name}")


def common(host: str, ports: Sequence[int]) -> list[str]:
    return [
        f"--node-ip-address={host}", "--num-cpus=1", "--object-store-memory=80000000",
        "--disable-usage-stats", *ray_ports(ports),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    marker, leads = uuid.uuid4().hex, Leads()
    with short_directory() as directory, redis_server.running(directory / "store") as store:
        ports = free_ports(90)
        forwarder = Forwarder(WORKER, ports[0], leads, print)
        forwarder.start()
        environment = {
            **clean_environment(),
            MARKER: marker,
            "RAY_REDIS_ADDRESS": f"{HOST}:{store.port}",
            "RAY_external_storage_namespace": "forwarder",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "120",
            "PATH": f"{Path(RAY).parent}:{os.environ['PATH']}",
        }
        made = Cluster(directory, environment, marker, leads, forwarder, ports[1], ports[0])
        try:
            made.run("--head", f"--port={ports[1]}", "--include-dashboard=false", f"--temp-dir={directory}/h",
                     f"--ray-client-server-port={ports[2]}", *common(HOST, ports[3:10]))  # fmt: skip
            leads.set(ports[1], epoch=1)
            made.run(
                f"--address={WORKER}:{ports[0]}", '--resources={"here": 9}', *common(WORKER, ports[79:86])
            )
            yield made
        finally:
            forwarder.stop()
            for _ in range(100):
                left = processes_of(marker, directory)
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                if not left:
                    break
                time.sleep(0.05)


@pytest.mark.ray
def test_a_worker_joins_and_works_on_through_a_change_of_gcs(cluster: Cluster) -> None:
    import ray  # noqa: PLC0415 - its import takes a second that not every test needs

    address = f"{WORKER}:{cluster.port}"
    raylet = cluster.pid_of("raylet", f"--gcs-address={address}")
    ray.init(address=address, namespace="t", log_to_driver=False, logging_level="ERROR")
    try:

        @ray.remote(num_cpus=0, resources={"here": 1})
        class Counter:
            def __init__(self) -> None:
                self.count = 0

            def add(self) -> int:
                self.count += 1
                return self.count

        first = Counter.remote()
        assert ray.get(first.add.remote(), timeout=60) == 1
        _switch(cluster)
        second = Counter.remote()
        assert ray.get(second.add.remote(), timeout=60) == 1
        assert ray.get(first.add.remote(), timeout=60) == 2
    finally:
        ray.shutdown()
    assert cluster.pid_of("raylet", f"--gcs-address={address}") == raylet
    assert cluster.forwarder.status().cuts > 0


def _switch(cluster: Cluster) -> None:
    """Kill the GCS, run its command on another port, and let the forwarder know."""
    old = cluster.pid_of("gcs_server")
    root = Path(f"/proc/{old}")
    argv = root.joinpath("cmdline").read_bytes().decode().rstrip("\0").split("\0")
    environ = dict(
        word.split("=", 1)
        for word in root.joinpath("environ").read_bytes().decode().split("\0")
        if "=" in word
    )
    port = free_ports(95)[94]
    moved = [f"--gcs_server_port={port}" if "gcs_server_port" in word else word for word in argv]
    assert moved != argv
    os.kill(old, signal.SIGKILL)
    subprocess.Popen(moved, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    cluster.leads.set(port, epoch=2, serving=False)
    until(lambda: cluster.gcs_serves(port), 30, "the second GCS serves")
    cluster.leads.set(port, epoch=2)
    cluster.gcs_port = port


@pytest.mark.ray
def test_the_node_table_says_what_became_of_a_raylet(cluster: Cluster) -> None:
    raylet = cluster.pid_of("raylet", f"--gcs-address={WORKER}:{cluster.port}")
    node_id, raylet_socket = option(raylet, "node_id"), option(raylet, "raylet_socket_name")

    def state() -> NodeState:
        return gcs_nodes.ask_node(HOST, cluster.gcs_port, node_id, 5.0)[0]

    assert state() is NodeState.ALIVE
    by_socket = gcs_nodes.ask_raylet(HOST, cluster.gcs_port, WORKER, raylet_socket, 5.0)
    assert by_socket == (NodeState.ALIVE, "alive in the node table")
    # Through the forwarder as well, which is how a worker asks.
    assert gcs_nodes.ask_node(WORKER, cluster.port, node_id, 5.0)[0] is NodeState.ALIVE
    assert gcs_nodes.ask_node(HOST, cluster.gcs_port, "ab" * 28, 5.0)[0] is NodeState.ABSENT
    # The filter works: one row, not the whole table. Without one, all rows come.
    one = gcs_nodes.ask_nodes(HOST, cluster.gcs_port, gcs_nodes._one_node(bytes.fromhex(node_id), 1, 1), 5.0)
    every = gcs_nodes.ask_nodes(HOST, cluster.gcs_port, b"", 5.0)
    assert one.nodes is not None
    assert every.nodes is not None
    assert len(one.nodes) == 1 < len(every.nodes)
    os.kill(raylet, signal.SIGKILL)
    until(lambda: state() is NodeState.DEAD, 60, "the GCS calls it dead")

"""What takes the whole node down and up again: raylets, their agents, worker nodes, lost memory."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_node import (
    NODE_ADDRESS,
    RAY,
    AgentNode,
    free_ports,
    head_arguments,
    ray_ports,
    run_agent,
    short_directory,
    until,
)


def put(node: AgentNode, key: bytes) -> None:
    with node.connected():
        from ray.experimental.internal_kv import _internal_kv_put  # noqa: PLC0415

        _internal_kv_put(key, b"kept", namespace=b"t")


def value_of(node: AgentNode, key: bytes) -> Any:
    with node.connected():
        from ray.experimental.internal_kv import _internal_kv_get  # noqa: PLC0415

        return _internal_kv_get(key, namespace=b"t")


@pytest.mark.parametrize("role", ["raylet", "dashboard_agent", "runtime_env_agent"])
def test_loss_of_the_raylet_restarts_the_node_and_keeps_the_state(shared_head: AgentNode, role: str) -> None:
    key = role.encode()
    put(shared_head, key)
    starts, old = len(shared_head.events("NodeStarted")), shared_head.pid_of("raylet")
    os.kill(shared_head.pid_of(role), signal.SIGKILL)
    shared_head.wait_back("raylet", old, 60)
    death = shared_head.deaths_of(role)[-1]
    assert ("(Ray ends the raylet with it)" in death["message"]) == (role != "raylet")
    assert len(shared_head.deaths_of(role)) >= 1
    assert "raylet is gone" in shared_head.events("NodeRestarting")[-1]["message"]
    assert len(shared_head.events("NodeStarted")) == starts + 1
    assert value_of(shared_head, key) == b"kept"


def test_a_raylet_that_stays_stopped_is_ended_and_the_node_restarts(shared_head: AgentNode) -> None:
    put(shared_head, b"stopped")
    old = shared_head.pid_of("raylet")
    os.kill(old, signal.SIGSTOP)
    shared_head.wait_back("raylet", old, 90)
    assert "ended by rayward: raylet has been stopped for" in shared_head.deaths_of("raylet")[-1]["message"]
    assert value_of(shared_head, b"stopped") == b"kept"


@pytest.fixture(scope="module")
def late_pair(agent_zip: Path) -> Iterator[tuple[AgentNode, AgentNode]]:
    """A worker that was there before its head, whose store is memory only."""
    ports = free_ports(40)
    address = f"127.0.0.1:{ports[0]}"
    with short_directory() as of_head, short_directory() as of_worker:
        worker = ["worker", "--", RAY, "start", f"--address={address}", "--num-cpus=1",
                  f"--node-ip-address={NODE_ADDRESS}", "--object-store-memory=80000000",
                  *ray_ports(ports[14:])]  # fmt: skip
        environ = {"RAYWARD_AGENT_PORT": str(ports[30])}
        with run_agent(agent_zip, of_worker, worker, environ, address) as second:
            second.wait(lambda seen: "waiting for the GCS" in seen["reason"], 10, "waiting for its head")
            assert second.get("/readyz")[0] == 503
            assert second.status()["processes"] == {}
            arguments = head_arguments(of_head, ports)
            environ = {"RAYWARD_AGENT_PORT": str(ports[31])}
            with run_agent(agent_zip, of_head, arguments, environ, address) as first:
                yield first, second
                assert second.stop() == 0
                assert first.stop() == 0
                second.assert_nothing_left()
                first.assert_nothing_left()


def alive_nodes(node: AgentNode) -> int:
    with node.connected() as ray:
        return sum(bool(found["Alive"]) for found in ray.nodes())


def test_worker_joins_when_its_head_appears(late_pair: tuple[AgentNode, AgentNode]) -> None:
    first, second = late_pair
    first.wait_ready()
    second.wait_ready()
    until(lambda: alive_nodes(first) == 2, 30, "both nodes alive")
    assert second.get("/leader")[0] == 503
    assert set(second.pids()) == {"raylet", "dashboard_agent", "runtime_env_agent", "log_monitor"}


def test_worker_whose_raylet_died_joins_again(late_pair: tuple[AgentNode, AgentNode]) -> None:
    first, second = late_pair
    old = second.pid_of("raylet")
    gcs = first.pid_of("gcs_server")
    os.kill(old, signal.SIGKILL)
    second.wait_back("raylet", old, 60)
    until(lambda: alive_nodes(first) == 2, 30, "both nodes alive again")
    assert first.pid_of("gcs_server") == gcs


def test_head_without_a_store_starts_afresh_and_says_so(late_pair: tuple[AgentNode, AgentNode]) -> None:
    first, _second = late_pair
    put(first, b"forgotten")
    old = first.pid_of("gcs_server")
    os.kill(old, signal.SIGKILL)
    first.wait_back("gcs_server", old, 60)
    said = first.events("NodeRestarting")[-1]["message"]
    assert "its state was in memory only: the head restarts and the workers start afresh" in said
    assert value_of(first, b"forgotten") is None


def test_node_stops_within_seconds_while_its_gcs_is_stopped(shared_head: AgentNode) -> None:
    """The last test of this module: it ends the shared head."""
    shared_head.wait_ready()
    os.kill(shared_head.pid_of("gcs_server"), signal.SIGSTOP)
    assert shared_head.stop(8) == 0
    assert "NodeStopped: all of its processes are gone" in shared_head.text()
    shared_head.assert_nothing_left()

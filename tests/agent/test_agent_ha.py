"""Two heads on one Redis with a real Ray: prepared, fenced, promoted, and back as a standby.

The heads share this host and differ in their ports. The tests of this file use one pair of heads in turn;
each asks first who leads.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_node import (
    AgentNode,
    end_everything,
    free_ports,
    head_arguments,
    run_agent,
    short_directory,
    until,
)
from redis_server import Server, running

from rayward.agent.processes import all_stats, read_argv, read_stat


class Pair:
    """Two heads; ``start`` brings one (back) on the ports that are its own."""

    def __init__(self, zip_path: Path, folder: Path, server: Server, resources: contextlib.ExitStack) -> None:
        self._zip, self._folder, self._server, self._resources = zip_path, folder, server, resources
        ports = free_ports(300)
        # Twelve named ports each, the last for the agent; workers' ports begin at the tenth.
        self._ports = {
            "a": [*ports[:10], ports[90], ports[91]],
            "b": [*ports[150:160], ports[240], ports[241]],
        }
        self.heads: dict[str, AgentNode] = {}

    def start(self, member: str) -> AgentNode:
        ports = self._ports[member]
        folder = self._folder / member
        folder.mkdir(exist_ok=True)
        environ = {
            "RAY_REDIS_ADDRESS": f"127.0.0.1:{self._server.port}",
            "RAY_external_storage_namespace": "ha",
            "RAYWARD_CLUSTER": "ha",
            "RAYWARD_POD": member,
            "RAYWARD_HEADS": ",".join(f"127.0.0.1:{each[11]}" for each in self._ports.values()),
            "RAYWARD_AGENT_PORT": str(ports[11]),
            "RAYWARD_STATE_DIR": str(folder / "state"),
        }
        arguments = head_arguments(folder, ports)
        node = run_agent(self._zip, folder, arguments, environ, f"127.0.0.1:{ports[0]}")
        self.heads[member] = self._resources.enter_context(node)
        return self.heads[member]

    def roles(self) -> tuple[AgentNode, AgentNode]:
        """The leader, whose GCS serves, and the standby, which is prepared."""

        def look() -> tuple[AgentNode, AgentNode] | None:
            seen = [(head, head.status()) for head in self.heads.values()]
            leaders = [
                head for head, status in seen if status["lead"]["role"] == "leader" and status["ready"]
            ]
            warm = [head for head, status in seen if status["phase"] == "prepared"]
            return (leaders[0], warm[0]) if len(leaders) == len(warm) == 1 else None

        return patiently(look, 60, "one head leads, the other is prepared", *self.heads.values())


def patiently(look: Any, seconds: float, what: str, *nodes: AgentNode) -> Any:
    """``until`` for looks that may meet an agent that does not answer."""

    def once() -> Any:
        with contextlib.suppress(OSError):
            return look()
        return None

    try:
        return until(once, seconds, what)
    except AssertionError as error:
        logs = "\n".join(f"--- {node.log.parent.name}\n{node.text()[-4000:]}" for node in nodes)
        raise AssertionError(f"{error}\n{logs}") from None


@pytest.fixture(scope="module")
def pair(agent_zip: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with contextlib.ExitStack() as resources:
        folder = resources.enter_context(short_directory())
        server = resources.enter_context(running(tmp_path_factory.mktemp("redis")))
        found = Pair(agent_zip, folder, server, resources)
        found.start("a")
        found.start("b")
        yield found


def child(node: AgentNode, word: str, but: int = 0) -> int:
    """The pid of the agent's own process that was started with ``word``, another one than ``but``."""

    def look() -> int:
        for pid, stat in all_stats().items():
            if stat.parent == node.process.pid and stat.state != "Z" and list(read_argv(pid))[-1:] == [word]:
                return pid if pid != but else 0
        return 0

    found = until(look, 20, f"the agent has a {word}")
    assert found > 1, "a signal to 0 or 1 would hit far more than the agent"
    return found


def state_of(pid: int) -> str:
    """Its state as in /proc, empty when it is gone."""
    stat = read_stat(pid)
    return stat.state if stat is not None and stat.state != "Z" else ""


def epoch_of(node: AgentNode) -> int:
    return int(node.status()["lead"]["epoch"])


def serves(node: AgentNode) -> bool:
    return node.get("/leader")[0] == 200


def test_a_standby_is_prepared_and_stands_still(pair: Pair) -> None:
    leader, standby = pair.roles()
    seen = standby.status()
    assert (seen["lead"]["role"], seen["lead"]["state"]) == ("standby", "warm")
    assert seen["gcs"]["serving"] is False
    assert "raylet" not in seen["processes"]
    assert state_of(standby.pid_of("gcs_server")) == "T"
    assert standby.get("/leader")[0] == 503
    assert standby.get("/readyz")[0] == 503
    assert standby.get("/livez")[0] == 200
    assert serves(leader)
    rows = {row["member"]: (row["role"], row["state"]) for row in leader_members(leader)}
    patiently(
        lambda: prepared_row(leader, standby), 20, "the leader knows that the other is prepared", leader
    )
    assert set(rows) == {"a", "b"}
    metrics = leader.get("/metrics")[1].decode()
    assert "\nrayward_leader 1\n" in metrics
    assert "\nrayward_gateway_writes_total " in metrics


def leader_members(leader: AgentNode) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(leader.get("/members")[1])["members"]
    return found


def prepared_row(leader: AgentNode, standby: AgentNode) -> bool:
    name = standby.status()["pod"]
    return any(row["member"] == name and row["state"] == "prepared" for row in leader_members(leader))


def test_a_gateway_that_dies_takes_its_gcs_along_and_both_are_back_in_place(pair: Pair) -> None:
    leader, _ = pair.roles()
    epoch, gcs, raylet = epoch_of(leader), leader.pid_of("gcs_server"), leader.pid_of("raylet")
    old = child(leader, "gateway")
    os.kill(old, signal.SIGKILL)
    leader.wait_back("gcs_server", gcs)
    assert child(leader, "gateway", but=old)
    assert (epoch_of(leader), leader.pid_of("raylet")) == (epoch, raylet)
    assert leader.events("GatewayDied")
    assert "its store gateway died" in leader.deaths_of("gcs_server")[-1]["message"]
    patiently(lambda: serves(leader), 20, "it serves", leader)


def test_a_fence_that_dies_is_replaced_and_nothing_else_happens(pair: Pair) -> None:
    leader, standby = pair.roles()
    epoch, gcs = epoch_of(leader), leader.pid_of("gcs_server")
    for node in (leader, standby):
        old = child(node, "fence")
        os.kill(old, signal.SIGKILL)
        assert child(node, "fence", but=old)
    patiently(lambda: leader.status()["lead"]["lease_left_s"] > 2.0, 20, "the lease is renewed", leader)
    assert (epoch_of(leader), leader.pid_of("gcs_server")) == (epoch, gcs)
    assert leader.status()["lead"]["role"] == "leader"


def test_a_frozen_agents_gcs_is_ended_by_the_fence_and_the_standby_leads(pair: Pair) -> None:
    leader, standby = pair.roles()
    epoch, old_gcs, prepared = epoch_of(leader), leader.pid_of("gcs_server"), standby.pid_of("gcs_server")
    leader.process.send_signal(signal.SIGSTOP)
    try:
        until(lambda: not state_of(old_gcs), 20, "the fence ends the GCS")
        patiently(lambda: serves(standby), 30, "the standby serves", standby)
    finally:
        leader.process.send_signal(signal.SIGCONT)
    assert standby.pid_of("gcs_server") == prepared, "the very process that stood by"
    assert epoch_of(standby) == epoch + 1
    ended = patiently(lambda: leader.events("SteppedDown"), 20, "the thawed one steps down", leader)
    assert f"epoch {epoch} ends here" in ended[-1]["message"]
    leads, stands_by = pair.roles()
    assert (leads, stands_by) == (standby, leader)
    assert state_of(leader.pid_of("gcs_server")) == "T"


def test_a_killed_agents_gcs_is_ended_by_the_fence_and_it_comes_back_as_a_standby(pair: Pair) -> None:
    leader, standby = pair.roles()
    epoch, gcs, prepared = epoch_of(leader), leader.pid_of("gcs_server"), standby.pid_of("gcs_server")
    raylet = leader.pid_of("raylet")
    name = leader.status()["pod"]
    leader.process.kill()
    until(lambda: not state_of(gcs), 20, "the fence ends the GCS")
    assert state_of(raylet), "nobody else ended anything"
    patiently(lambda: serves(standby), 30, "the standby serves", standby)
    assert standby.pid_of("gcs_server") == prepared
    assert epoch_of(standby) == epoch + 1
    taken = standby.events("LeaseAcquired")[-1]["message"]
    assert taken == (
        f"leads with epoch {epoch + 1}: the agent of {name} is gone: its host refuses connections"
    )
    assert standby.events("Promoted")
    standby.wait_ready()
    end_everything(leader)  # what systemd or the kubelet does with the rest
    leader.assert_nothing_left()
    pair.start(name)
    leads, stands_by = pair.roles()
    assert (leads, stands_by) == (standby, pair.heads[name])
    assert epoch_of(leads) == epoch + 1


def test_a_clean_stop_hands_over_to_the_prepared_head_and_leaves_nothing(pair: Pair) -> None:
    leader, standby = pair.roles()
    epoch, name = epoch_of(leader), leader.status()["pod"]
    prepared_row_seen = patiently(
        lambda: prepared_row(leader, standby), 20, "it is known to be prepared", leader
    )
    assert prepared_row_seen
    assert leader.stop(20) == 0
    leader.assert_nothing_left()
    patiently(lambda: serves(standby), 30, "the standby serves", standby)
    assert epoch_of(standby) == epoch + 1
    assert f"{name} released the lease" in standby.events("LeaseAcquired")[-1]["message"]
    standby.wait_ready()
    assert standby.stop(20) == 0
    standby.assert_nothing_left()

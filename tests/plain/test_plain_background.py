"""An agent in the background, from one command that returns: a worker-less head with its state in memory."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from machines import Machine, Network, network, until

from rayward.plain.background import LOG_FILE, PID_FILE, running


@pytest.fixture
def net() -> Iterator[Network]:
    with network() as made:
        yield made


def head(net: Network) -> Machine:
    return net.add("head-1", 11, f"role: head\ncluster: p\nheads: [{net.address(11)}]")


def words(machine: Machine) -> list[str]:
    return ["--config", str(machine.config)]


def test_detach_returns_when_the_node_is_up_and_stop_ends_all_of_it(net: Network) -> None:
    machine = head(net)
    started = machine.rayward("agent", "run", "--detach", *words(machine))
    assert started.returncode == 0, started.stderr
    assert "head is up after " in started.stdout
    state = machine.folder / "state"
    pid = running(state)
    assert pid is not None
    assert os.getsid(pid) == pid
    assert "NodeStarted" in (state / LOG_FILE).read_text()

    again = machine.rayward("agent", "run", "--detach", *words(machine))
    assert (again.returncode, f"an agent runs already as pid {pid}" in again.stderr) == (1, True)

    stopped = machine.rayward("agent", "stop", *words(machine))
    assert (stopped.returncode, stopped.stdout) == (0, f"the agent (pid {pid}) has ended\n")
    assert running(state) is None
    until(lambda: not machine.processes(), 5, machine.processes)
    none = machine.rayward("agent", "stop", *words(machine))
    assert (none.returncode, none.stdout) == (0, "no agent was started in the background here\n")


def test_an_agent_that_does_not_end_is_ended_by_force_with_its_node(net: Network) -> None:
    machine = head(net)
    assert machine.rayward("agent", "run", "--detach", *words(machine)).returncode == 0
    pid = running(machine.folder / "state")
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    stopped = machine.rayward("agent", "stop", "--timeout", "1", *words(machine))
    assert stopped.returncode == 0, stopped.stderr
    assert "ending it by force" in stopped.stderr
    until(lambda: not machine.processes(), 5, machine.processes)


def test_an_agent_that_ends_is_no_success_and_its_last_words_are_shown(net: Network) -> None:
    machine = head(net)
    elsewhere = net.address(99)
    machine.config.write_text(f"{machine.config.read_text()}agent: {{host: {elsewhere}}}\n")
    started = machine.rayward("agent", "run", "--detach", *words(machine))
    assert started.returncode == 1
    assert "the agent ended with exit code 2" in started.stderr
    assert f"agent port {elsewhere}:8008: cannot listen" in started.stderr
    assert running(machine.folder / "state") is None
    until(lambda: not machine.processes(), 5, machine.processes)


def test_a_worker_without_a_head_is_told_to_wait_and_the_command_returns(net: Network) -> None:
    machine = net.add("worker-1", 21, f"role: worker\ncluster: p\nheads: [{net.address(11)}]")
    started = machine.rayward("agent", "run", "--detach", "--timeout", "4", *words(machine))
    assert started.returncode == 1, started.stdout
    assert "not up after 4 s" in started.stderr
    assert "goes on trying" in started.stderr
    assert running(machine.folder / "state") is not None
    assert machine.rayward("agent", "stop", *words(machine)).returncode == 0
    until(lambda: not machine.processes(), 5, machine.processes)


def test_a_pid_that_is_somebody_elses_now_is_not_taken_for_the_agent(tmp_path: Path) -> None:
    (tmp_path / PID_FILE).write_text(f"{os.getpid()} 1\n")
    assert running(tmp_path) is None
    (tmp_path / PID_FILE).write_text("rubbish")
    assert running(tmp_path) is None

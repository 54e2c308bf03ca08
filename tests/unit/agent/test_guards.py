"""The elector's hands with a real fence process: it is replaced when it dies or stops, armed as before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from agent_node import until

from rayward.agent.elector import boot_seconds
from rayward.agent.gateway_process import GatewayProcess
from rayward.agent.guards import Guards
from rayward.agent.processes import read_stat

FENCE = [sys.executable, "-m", "rayward.agent", "fence"]
FAR = 600.0


class Rig:
    """Guards, and a process that they are to kill."""

    def __init__(self, command: list[str]) -> None:
        self.woken = threading.Event()
        self.gateway = GatewayProcess(["false"], {})  # its own tests are tests/gateway
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self.guards = Guards(self.gateway, command, environ, self.woken.set)
        self.gcs = subprocess.Popen(["sleep", "600"], start_new_session=True)

    def watch(self) -> None:
        stat = read_stat(self.gcs.pid)
        assert stat is not None
        self.guards.watch(((stat.pid, stat.start_time),))

    def fence(self) -> int:
        assert self.guards.fence_pid is not None
        return self.guards.fence_pid

    def replaced(self, old: int) -> bool:
        """Asked as the elector does, again and again; whether another fence is in force."""
        return self.guards.ready() and self.fence() != old

    def dies(self) -> int:
        return self.gcs.wait(20)


@pytest.fixture
def rig() -> Iterator[Rig]:
    found = Rig(FENCE)
    found.guards.start()
    yield found
    found.guards.stop()
    found.gcs.kill()
    found.gcs.wait(10)


@pytest.fixture
def ready(rig: Rig) -> Rig:
    until(rig.guards.ready, 30, "the fence is there")
    rig.watch()
    return rig


def test_without_a_fence_nothing_is_ready(rig: Rig) -> None:
    assert not rig.guards.ready(), "it has not said so yet, and nothing was armed"
    until(rig.guards.ready, 30, "the fence is there")
    assert rig.guards.fired() == ""
    assert rig.guards.epoch == 0


def test_a_deadline_ends_the_gcs_and_it_is_said(ready: Rig) -> None:
    ready.guards.arm(boot_seconds() + FAR)
    ready.woken.clear()
    ready.guards.arm(boot_seconds() + 0.05)
    assert ready.dies() == -signal.SIGKILL
    until(ready.guards.fired, 30, "it says so")
    assert ready.guards.fired() == "deadline"
    assert ready.woken.wait(10)
    ready.guards.arm(boot_seconds() + FAR)
    assert ready.guards.fired() == ""


def test_a_disarmed_fence_ends_nothing_even_when_it_is_stopped(ready: Rig) -> None:
    ready.guards.arm(boot_seconds() + FAR)
    ready.guards.disarm()
    ready.guards.stop()
    assert ready.gcs.poll() is None


def test_a_fence_that_died_is_replaced_and_armed_as_before(ready: Rig) -> None:
    deadline = boot_seconds() + 4.0
    ready.guards.arm(deadline)
    old = ready.fence()
    until(lambda: ready.guards.ready() and ready.guards._fence.silent_for() == 0, 30, "armed")
    os.kill(old, signal.SIGKILL)
    until(lambda: ready.replaced(old), 30, "another fence")
    assert ready.gcs.poll() is None or boot_seconds() >= deadline
    assert ready.dies() == -signal.SIGKILL, "nobody armed the new one: it has the old deadline and process"
    assert boot_seconds() >= deadline


def test_a_fence_that_is_stopped_is_replaced_before_the_lease_is_lost(ready: Rig) -> None:
    """The elector renews once a second and must not be held up by the one that does not answer."""
    ready.guards.arm(boot_seconds() + FAR)
    old = ready.fence()
    until(lambda: ready.guards._fence.silent_for() == 0, 30, "armed")
    os.kill(old, signal.SIGSTOP)
    deadline = boot_seconds() + 2.5
    ready.guards.arm(deadline)
    until(lambda: ready.replaced(old), 30, "another fence")
    assert boot_seconds() < deadline, "there was time for the next renewal"
    ready.guards.arm(boot_seconds() + FAR)
    until(lambda: ready.guards._fence.alive and ready.guards._fence.silent_for() == 0, 30, "armed anew")
    assert ready.guards.fired() == ""
    assert ready.gcs.poll() is None
    assert read_stat(old) is None, "the stopped one is gone"


@pytest.mark.parametrize("command", [["/no/such/program"], ["false"]])
def test_a_fence_that_cannot_run_is_never_ready(command: list[str]) -> None:
    rig = Rig(command)
    try:
        rig.guards.start()
        assert not rig.guards.ready()
        rig.guards.arm(boot_seconds() + FAR)  # as if it had been armed once
        until(lambda: not rig.guards.ready(), 30, "it does not count as there for long")
    finally:
        rig.guards.stop()
        rig.gcs.kill()
        rig.gcs.wait(10)


def test_open_and_close_follow_the_epoch(ready: Rig) -> None:
    ready.guards.open(7, "7:x")
    assert ready.guards.epoch == 7
    ready.guards.close()
    assert ready.guards.epoch == 0

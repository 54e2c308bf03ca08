"""A GCS that dies, hangs or works hard, and the processes beside it, on one head with a RocksDB store."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_node import AgentNode, listens, until

from rayward.agent import processes
from rayward.agent.processes import Role
from rayward.agent.timing import Timing


@pytest.fixture(scope="module")
def ray(shared_head: AgentNode) -> Iterator[Any]:
    """This process as a driver of the shared head, with one detached actor that counts."""
    with shared_head.connected() as module:
        yield module


@pytest.fixture(scope="module")
def counter(ray: Any) -> Any:
    @ray.remote(num_cpus=0)
    class Counter:
        def __init__(self) -> None:
            self.count = 0

        def increment(self) -> int:
            self.count += 1
            return self.count

    actor = Counter.options(name="counter", lifetime="detached").remote()
    ray.get(actor.increment.remote(), timeout=30)
    return actor


def new_actor_answers(ray: Any) -> bool:
    @ray.remote(num_cpus=0)
    class Fresh:
        def answer(self) -> bool:
            return True

    actor = Fresh.remote()
    return bool(ray.get(actor.answer.remote(), timeout=30))


def launch_of(pid: int, role: Role) -> processes.Launch:
    found = processes.capture(pid, role)
    assert found is not None
    return found


def assert_only_gcs_was_replaced(before: dict[str, int | None], after: dict[str, int | None]) -> None:
    assert {role: pid for role, pid in before.items() if role != "gcs_server"} == {
        role: pid for role, pid in after.items() if role != "gcs_server"
    }
    assert before["gcs_server"] != after["gcs_server"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_gcs_is_back_as_it_was(
    shared_head: AgentNode, ray: Any, counter: Any, number: signal.Signals
) -> None:
    before, deaths = shared_head.pids(), len(shared_head.deaths_of("gcs_server"))
    old = shared_head.pid_of("gcs_server")
    launch, count = launch_of(old, Role.GCS), ray.get(counter.increment.remote(), timeout=10)
    os.kill(old, number)
    new = shared_head.wait_back("gcs_server", old)
    assert launch_of(new, Role.GCS) == launch, "same argv, environment, directory and log files"
    assert_only_gcs_was_replaced(before, shared_head.pids())
    death = shared_head.deaths_of("gcs_server")[deaths:]
    assert len(death) == 1
    cause = death[0]["details"]["cause"]
    if number == signal.SIGKILL:
        assert cause == "killed by SIGKILL"
    else:
        # A GCS that is told to end closes its port first, and now and then hangs for good after that.
        stuck = cause.startswith("ended by rayward: gcs_server has given no answer") and "(refused)" in cause
        assert cause == "exit code 0" or stuck, cause
    assert death[0]["details"]["last_lines"]
    assert ray.get(counter.increment.remote(), timeout=10) == count + 1
    found = ray.get_actor("counter")
    assert ray.get(found.increment.remote(), timeout=10) == count + 2
    assert new_actor_answers(ray)


def test_stopped_gcs_is_killed_and_back(shared_head: AgentNode, ray: Any, counter: Any) -> None:
    before, old = shared_head.pids(), shared_head.pid_of("gcs_server")
    os.kill(old, signal.SIGSTOP)
    shared_head.wait_back("gcs_server", old)
    cause = shared_head.deaths_of("gcs_server")[-1]["details"]["cause"]
    assert cause.startswith("ended by rayward: gcs_server has been stopped for "), cause
    assert_only_gcs_was_replaced(before, shared_head.pids())
    assert ray.get(counter.increment.remote(), timeout=10)
    assert new_actor_answers(ray)


def test_gcs_killed_again_and_again_is_never_given_up(shared_head: AgentNode, ray: Any) -> None:
    """Kills from outside, as drills and operators make them, are no crash loop: none is delayed."""
    said = len(shared_head.events("State"))
    for _ in range(len(Timing().restart_delays) + 2):
        old = shared_head.pid_of("gcs_server")
        os.kill(old, signal.SIGKILL)
        shared_head.wait_back("gcs_server", old)
    assert not [event for event in shared_head.events("State")[said:] if "next start" in event["message"]]
    assert new_actor_answers(ray)


HOLD = """
import ctypes, os, sys
pid, libc = int(sys.argv[1]), ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
SEIZE, INTERRUPT, ALL_THREADS = 0x4206, 0x4207, 0x40000000
assert libc.ptrace(SEIZE, pid, None, None) == 0, os.strerror(ctypes.get_errno())
assert libc.ptrace(INTERRUPT, pid, None, None) == 0, os.strerror(ctypes.get_errno())
os.waitpid(pid, ALL_THREADS)
print("held", flush=True)
while not os.WIFSIGNALED(os.waitpid(pid, ALL_THREADS)[1]):  # a tracer hears of the end first
    pass
"""


@contextlib.contextmanager
def held_main_thread(pid: int) -> Iterator[None]:
    """Keep the main thread of a process from running; its other threads go on."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(pid)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        if holder.stdout.readline() != "held\n":
            _, error = holder.communicate()
            if "permitted" in error:
                pytest.skip("ptrace is not permitted here")
            raise AssertionError(error)
        yield
    finally:
        holder.kill()
        holder.communicate()


def test_gcs_with_a_blocked_main_loop_is_found_and_back(
    shared_head: AgentNode, ray: Any, counter: Any
) -> None:
    before, old = shared_head.pids(), shared_head.pid_of("gcs_server")
    with held_main_thread(old):
        stat = processes.read_stat(old)
        assert stat is not None
        assert stat.state == "t", "only the loop read can find this: the process is not stopped"
        shared_head.wait_back("gcs_server", old)
    cause = shared_head.deaths_of("gcs_server")[-1]["details"]["cause"]
    assert "(main loop silent) and its main thread does nothing" in cause
    assert_only_gcs_was_replaced(before, shared_head.pids())
    assert new_actor_answers(ray)


CPU_GROUPS = Path("/sys/fs/cgroup/cpu")


@contextlib.contextmanager
def starved(pid: int) -> Iterator[None]:
    """Give a process 1 % of one processor (cgroup v1 quota), as a throttled container has it."""
    group = CPU_GROUPS / f"rayward-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "cpu.cfs_quota_us").write_text("1000")
    except OSError as error:
        pytest.skip(f"no cgroup v1 cpu quota here: {error}")
    try:
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        (group / "cpu.cfs_quota_us").write_text("-1")
        for left in (group / "cgroup.procs").read_text().split():
            (CPU_GROUPS / "cgroup.procs").write_text(left)
        group.rmdir()


def test_starved_gcs_is_left_alone(shared_head: AgentNode, ray: Any) -> None:
    """It answers nobody for longer than a hung one may, but it wants to work all that time."""
    old, starts = shared_head.pid_of("gcs_server"), shared_head.starts("gcs_server")

    @ray.remote(num_cpus=0, resources={"nowhere": 1})
    class Waiting:
        pass

    kept = []
    with starved(old):
        deadline = time.monotonic() + 30
        while "left alone" not in shared_head.status()["reason"]:
            kept.append(Waiting.remote())
            assert time.monotonic() < deadline, "the GCS never fell silent"
            assert shared_head.pids()["gcs_server"] == old, shared_head.text()[-3000:]
        end = time.monotonic() + 3
        until(lambda: time.monotonic() > end or shared_head.pids()["gcs_server"] != old, 30, "watched")
        assert shared_head.pids()["gcs_server"] == old, shared_head.text()[-3000:]
    shared_head.wait(lambda seen: seen["reason"] == "gcs_server serves", 30, "serving again")
    assert (shared_head.pid_of("gcs_server"), shared_head.starts("gcs_server")) == (old, starts)
    del kept
    assert new_actor_answers(ray)


@pytest.mark.parametrize("role", ["dashboard", "monitor", "log_monitor", "client_server"])
def test_each_companion_comes_back_alone(shared_head: AgentNode, role: str) -> None:
    before = shared_head.pids()
    old = before[role]
    assert old is not None
    below = processes.descendants(old, processes.all_stats())
    launch = launch_of(old, Role(role))
    os.kill(old, signal.SIGKILL)
    new = shared_head.wait_back(role, old)
    assert launch_of(new, Role(role)) == launch
    assert shared_head.deaths_of(role)[-1]["details"]["cause"] == "killed by SIGKILL"
    after = shared_head.pids()
    assert {name: pid for name, pid in before.items() if name != role} == {
        name: pid for name, pid in after.items() if name != role
    }
    assert below or role != "dashboard", "the dashboard has module subprocesses"
    until(lambda: not any(map(processes.read_stat, below)), 20, f"{role}'s old subprocesses gone")
    if role in ("dashboard", "client_server"):
        port = int(processes.option(launch.argv, "port") or 0)
        until(lambda: listens(port), 30, f"{role} listens on {port} again")


def test_metrics_count_what_happened(shared_head: AgentNode) -> None:
    starts = shared_head.starts("gcs_server")
    code, text = shared_head.get("/metrics")
    assert code == 200
    lines = text.decode().splitlines()
    assert f'rayward_process_starts_total{{process="gcs_server"}} {starts}' in lines
    assert 'rayward_process_up{process="raylet"} 1' in lines
    assert "rayward_gcs_serving 1" in lines
    assert [shared_head.get(path)[0] for path in ("/livez", "/readyz", "/leader", "/nowhere")] == [
        200, 200, 200, 404,
    ]  # fmt: skip


ACTORS = 10_000


def test_gcs_that_loads_ten_thousand_actors_is_left_alone(shared_head: AgentNode, ray: Any) -> None:
    from ray._private.state import actors  # noqa: PLC0415 - only known once the driver is connected

    @ray.remote(num_cpus=0, resources={"nowhere": 1})
    class Waiting:
        pass

    existing = len(actors())
    kept = [Waiting.options(lifetime="detached").remote() for _ in range(ACTORS)]
    until(lambda: len(actors()) >= existing + ACTORS, 60, f"{ACTORS} actors registered")
    known = set(actors())
    old, starts = shared_head.pid_of("gcs_server"), shared_head.starts("gcs_server")
    os.kill(old, signal.SIGKILL)
    new = shared_head.wait_back("gcs_server", old, 60)
    assert shared_head.starts("gcs_server") == starts + 1
    assert set(actors()) == known
    assert new_actor_answers(ray)
    assert shared_head.pid_of("gcs_server") == new
    del kept


def test_companions_that_came_back_have_stayed(shared_head: AgentNode) -> None:
    for role in ("dashboard", "monitor", "log_monitor", "client_server"):
        causes = [death["details"]["cause"] for death in shared_head.deaths_of(role)]
        assert causes == ["killed by SIGKILL"], f"{role} died again: {causes}"

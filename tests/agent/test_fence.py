"""The fence timer with real processes: it kills in time whatever became of the agent, and nobody else."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import rayward
from rayward.agent.fence_handle import FenceTimer
from rayward.agent.processes import read_stat

BOUND_S = 20.0
ROOT = str(Path(rayward.__file__).parents[1])
CODE = f"import sys; sys.path.insert(0, {ROOT!r}); from rayward.agent.fence import fence_main; "
CODE += "sys.exit(fence_main(0))"
FENCE = [sys.executable, "-S", "-c", CODE]
SLEEP = "import time; print(1, flush=True); time.sleep(600)"


def start_of(pid: int) -> int:
    found = read_stat(pid)
    assert found is not None
    return found.start_time


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wait_until(true: Callable[[], object], what: str) -> None:
    give_up = time.monotonic() + BOUND_S
    while not true():
        assert time.monotonic() < give_up, what
        time.sleep(0.01)


@contextlib.contextmanager
def victim(leads_group: bool = False, code: str = SLEEP) -> Iterator[subprocess.Popen[bytes]]:
    """A process to be watched, in a group of its own where it should lead one."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", code], stdout=subprocess.PIPE, start_new_session=leads_group
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


class Woken:
    """What a caller of FenceTimer hears."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.times = 0

    def __call__(self) -> None:
        self.times += 1
        self.event.set()


@pytest.fixture
def woken() -> Woken:
    return Woken()


@pytest.fixture
def fence(woken: Woken) -> Iterator[FenceTimer]:
    timer = FenceTimer(woken)
    timer.start(FENCE)
    wait_until(lambda: timer.alive, "the fence is not ready")
    yield timer
    timer.close()
    assert not timer.alive


def confirmed(fence: FenceTimer) -> None:
    wait_until(lambda: fence.silent_for() == 0, "the fence does not confirm")


def test_it_kills_at_the_deadline_and_says_so(fence: FenceTimer, woken: Woken) -> None:
    with victim() as first, victim() as second, victim() as other:
        fence.watch([(process.pid, start_of(process.pid)) for process in (first, second)])
        woken.event.clear()
        deadline = now() + 0.3
        assert fence.arm(deadline)

        assert (first.wait(BOUND_S), second.wait(BOUND_S)) == (-signal.SIGKILL, -signal.SIGKILL)
        assert now() >= deadline
        assert woken.event.wait(BOUND_S)
        wait_until(lambda: fence.fired == "deadline", "nothing was reported")
        assert set(fence.killed) == {first.pid, second.pid}
        assert other.poll() is None
        assert fence.alive


def test_arming_anew_in_time_prevents_it_and_a_clean_stop_too(fence: FenceTimer) -> None:
    with victim() as gcs:
        fence.watch([(gcs.pid, start_of(gcs.pid))])
        end = now() + 2.5
        while now() < end:
            assert fence.arm(now() + 1.5)
            time.sleep(0.02)
        assert fence.disarm()
        passed = now() + 1.7
        wait_until(lambda: now() > passed, "the clock stands still")
        assert gcs.poll() is None
        assert fence.fired == ""


def test_after_it_fired_it_serves_the_next_gcs(fence: FenceTimer) -> None:
    for _ in range(2):
        with victim() as gcs:
            fence.watch([(gcs.pid, start_of(gcs.pid))])
            fence.arm(now() + 0.1)
            assert gcs.wait(BOUND_S) == -signal.SIGKILL
            wait_until(lambda: fence.fired == "deadline", "nothing was reported")


GROUP = (
    "import subprocess, sys; "
    "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)']); "
    "print(child.pid, flush=True); child.wait()"
)


@pytest.mark.parametrize("leads_group", [True, False])
def test_the_group_goes_only_with_its_leader(fence: FenceTimer, leads_group: bool) -> None:
    gcs = subprocess.Popen(
        [sys.executable, "-S", "-c", GROUP], stdout=subprocess.PIPE, start_new_session=leads_group
    )
    assert gcs.stdout is not None
    child = int(gcs.stdout.readline())
    pidfd = os.pidfd_open(child)
    try:
        fence.watch([(gcs.pid, start_of(gcs.pid))])
        fence.arm(now() + 0.1)
        assert gcs.wait(BOUND_S) == -signal.SIGKILL
        if leads_group:
            assert select.select([pidfd], [], [], BOUND_S)[0], "the leader's group lives on"
        else:
            wait_until(lambda: fence.fired, "nothing was reported")
            assert not select.select([pidfd], [], [], 0)[0], "a group was killed that is not the victim's"
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
        gcs.stdout.close()


def test_a_number_that_now_names_another_process_is_spared(fence: FenceTimer) -> None:
    with victim() as innocent:
        fence.watch([(innocent.pid, start_of(innocent.pid) - 1)])
        fence.arm(now() + 0.05)
        wait_until(lambda: fence.fired, "nothing was reported")
        assert fence.killed == ()
        assert innocent.poll() is None


# An agent for the faults that cannot be done to the test itself: it arms the fence and then does nothing.
AGENT = """
import sys, time
from rayward.agent.fence_handle import FenceTimer
command, pid, start, seconds = sys.argv[1:2], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
fence = FenceTimer()
fence.start([sys.executable, "-S", "-c", command[0]])
while not fence.alive:
    time.sleep(0.01)
fence.watch([(pid, start)])
if seconds:
    fence.arm(time.clock_gettime(time.CLOCK_BOOTTIME) + seconds)
    while fence.silent_for():
        time.sleep(0.01)
print(fence.pid, flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def agent(gcs: subprocess.Popen[bytes], seconds: float) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """An agent and the pidfd of its fence; ``seconds`` 0: it never arms it."""
    words = [FENCE[-1], str(gcs.pid), str(start_of(gcs.pid)), str(seconds)]
    process = subprocess.Popen([sys.executable, "-c", AGENT, *words], stdout=subprocess.PIPE)
    assert process.stdout is not None
    fence = os.pidfd_open(int(process.stdout.readline()))
    try:
        yield process, fence
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()
        if not select.select([fence], [], [], BOUND_S)[0]:
            signal.pidfd_send_signal(fence, signal.SIGKILL)
        os.close(fence)


def test_it_kills_at_the_deadline_while_the_agent_is_stopped() -> None:
    with victim() as gcs, agent(gcs, 1.0) as (process, _):
        process.send_signal(signal.SIGSTOP)
        assert gcs.wait(BOUND_S) == -signal.SIGKILL


def test_it_kills_at_once_when_the_agent_is_killed() -> None:
    with victim() as gcs, agent(gcs, 500.0) as (process, fence):
        process.kill()
        assert gcs.wait(BOUND_S) == -signal.SIGKILL
        assert select.select([fence], [], [], BOUND_S)[0], "the fence outlives its agent"


def test_an_agent_that_never_armed_it_takes_nobody_along() -> None:
    with victim() as gcs, agent(gcs, 0.0) as (process, fence):
        process.kill()
        assert select.select([fence], [], [], BOUND_S)[0], "the fence outlives its agent"
        assert gcs.poll() is None


def test_signals_of_a_terminal_or_a_clean_stop_do_not_end_it(fence: FenceTimer) -> None:
    assert fence.pid is not None
    with victim() as gcs:
        fence.watch([(gcs.pid, start_of(gcs.pid))])
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
            os.kill(fence.pid, number)
        fence.arm(now() + 0.2)
        assert gcs.wait(BOUND_S) == -signal.SIGKILL
        assert fence.alive


def test_it_has_a_session_of_its_own(fence: FenceTimer) -> None:
    assert fence.pid is not None
    assert os.getsid(fence.pid) == fence.pid


def test_it_kills_though_nobody_reads_its_reports() -> None:
    process = subprocess.Popen(FENCE, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    with victim() as gcs:
        process.stdin.write(f"watch {gcs.pid}:{start_of(gcs.pid)}\narm {now() + 0.1}\n".encode())
        process.stdin.flush()
        assert gcs.wait(BOUND_S) == -signal.SIGKILL
    process.stdin.close()
    assert process.wait(BOUND_S) == 0


def test_the_deadline_is_on_the_clock_that_counts_a_suspended_machine() -> None:
    # The two clocks of a machine that never slept agree, so the process gets a clock that jumps.
    jump = "import time; real = time.clock_gettime; shift = [0.0]; "
    jump += "time.clock_gettime = lambda clock: real(clock) + (5000 if clock == time.CLOCK_BOOTTIME else 0); "
    process = subprocess.Popen([*FENCE[:-1], jump + FENCE[-1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    with victim() as gcs:
        process.stdin.write(f"watch {gcs.pid}:{start_of(gcs.pid)}\narm {now() + 4000}\n".encode())
        process.stdin.flush()
        assert gcs.wait(BOUND_S) == -signal.SIGKILL
    process.stdin.close()
    assert process.wait(BOUND_S) == 0
    process.stdout.close()


@pytest.mark.parametrize(
    "line", ["arm soon", "arm nan", "arm inf", "arm", "watch 1:1", "watch x:y", "hello", "arm 1 2"]
)
def test_a_line_that_cannot_be_read_changes_nothing(line: str) -> None:
    process = subprocess.Popen(FENCE, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    with victim() as gcs:
        words = f"watch {gcs.pid}:{start_of(gcs.pid)}\narm {now() + 0.3}\n{line}\n"
        process.stdin.write(words.encode())
        process.stdin.flush()
        assert gcs.wait(BOUND_S) == -signal.SIGKILL
    process.stdin.close()
    assert b'"confused"' in process.stdout.read()
    process.stdout.close()
    assert process.wait(BOUND_S) == 0


def test_a_fence_that_is_killed_is_known_at_once(fence: FenceTimer, woken: Woken) -> None:
    assert fence.pid is not None
    woken.event.clear()
    os.kill(fence.pid, signal.SIGKILL)

    assert woken.event.wait(BOUND_S)
    assert not fence.alive
    assert not fence.arm(now() + 100)
    assert not fence.watch([])
    assert not fence.disarm()


def test_a_fence_that_is_stopped_shows_and_catches_up(fence: FenceTimer) -> None:
    assert fence.pid is not None
    with victim() as gcs:
        fence.watch([(gcs.pid, start_of(gcs.pid))])
        deadline = now() + 1.5
        fence.arm(deadline)
        confirmed(fence)
        os.kill(fence.pid, signal.SIGSTOP)
        fence.arm(now() + 500)
        wait_until(lambda: fence.silent_for() > 0.5 and now() > deadline, "a stopped fence seems to answer")
        os.kill(fence.pid, signal.SIGCONT)
        confirmed(fence)
        # The old deadline has passed, but the renewal was waiting in the pipe.
        assert gcs.poll() is None
        assert fence.fired == ""


def test_sending_to_a_stopped_fence_never_blocks(fence: FenceTimer) -> None:
    assert fence.pid is not None
    os.kill(fence.pid, signal.SIGSTOP)
    try:
        sent = [fence.disarm() for _ in range(20_000)]
    finally:
        os.kill(fence.pid, signal.SIGCONT)
    assert sent[0]
    assert not sent[-1]


def test_it_can_be_started_again(fence: FenceTimer) -> None:
    fence.close()
    fence.start(FENCE)
    wait_until(lambda: fence.alive, "the fence is not ready")
    assert fence.arm(now() + 100)


def test_closing_spares_the_gcs(woken: Woken) -> None:
    timer = FenceTimer(woken)
    timer.start(FENCE)
    with victim() as gcs:
        wait_until(lambda: timer.alive, "the fence is not ready")
        timer.watch([(gcs.pid, start_of(gcs.pid))])
        timer.arm(now() + 300)
        timer.close()
        assert not timer.alive
        assert gcs.poll() is None


def test_a_command_that_cannot_be_run_raises() -> None:
    with pytest.raises(OSError, match="no-such-program"):
        FenceTimer().start(["/no-such-program"])

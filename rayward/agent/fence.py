"""The fence timer: a process of its own that kills the GCS when nobody has said in time that it may live.

It survives whatever stops the agent's loop: a hang, SIGSTOP, SIGKILL. It imports next to nothing and touches
no file or lock on its way to the kill. Its only input is text on stdin, a line each:

``arm SECONDS``           kill when CLOCK_BOOTTIME (which counts a suspended machine) reaches this; replaces
                          an earlier deadline
``watch PID:START ...``   the processes to kill, each with its start time (field 22 of /proc/PID/stat);
                          replaces the earlier ones
``disarm``                a clean stop: nothing is killed, neither at a deadline nor when stdin ends

A line that cannot be read changes nothing. The end of stdin while armed means that the agent is gone, and
kills at once. Reports are JSON lines on stdout; nobody has to read them.
"""

from __future__ import annotations

# Nothing but what the interpreter has at hand: each head pays for this process all the time. Hence no
# contextlib either, and try/except/pass where it would be shorter.
import gc
import os
import select
import signal
import time

# poll counts CLOCK_MONOTONIC, which stands still while the machine sleeps: look at the other clock so often.
_LOOK_S = 0.2
_READ_SIZE = 65536
_IGNORED = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGPIPE", "SIGUSR1", "SIGUSR2", "SIGTSTP", "SIGTTIN")


def fence_main(stdin_fd: int, stdout_fd: int = 1) -> int:
    """Run the fence until stdin ends. Returns 0, or 3 when the end of stdin found it armed."""
    for name in _IGNORED:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    _prefer_this_process()
    # Nothing here makes cycles, and a collection must not come between the deadline and the kill.
    gc.disable()
    fence = _Fence(stdout_fd)
    fence.say('{"is":"ready"}')
    poll = select.poll()
    poll.register(stdin_fd, select.POLLIN)
    held = b""
    while True:
        wait = fence.seconds_left()
        ready = poll.poll(None if wait is None else max(0.0, min(wait, _LOOK_S)) * 1000)
        if ready:
            data = _read(stdin_fd)
            if not data:
                return fence.agent_gone()
            *lines, held = (held + data).split(b"\n")
            held = held[-_READ_SIZE:]
            for line in lines:
                fence.obey(line.decode("ascii", "replace").split())
        # After the lines: a fence that was frozen finds the newer deadlines waiting for it.
        left = fence.seconds_left()
        if left is not None and left <= 0:
            fence.fire("deadline")


class _Fence:
    def __init__(self, stdout_fd: int) -> None:
        self._stdout = stdout_fd
        self._deadline: float | None = None
        # pid -> start time and pidfd (-1 where the kernel has none).
        self._watched: dict[int, tuple[int, int]] = {}

    def seconds_left(self) -> float | None:
        if self._deadline is None:
            return None
        return self._deadline - time.clock_gettime(time.CLOCK_BOOTTIME)

    def obey(self, words: list[str]) -> None:
        if words == ["disarm"]:
            self._deadline = None
            self.say('{"is":"disarmed"}')
        elif len(words) == 2 and words[0] == "arm":
            self._arm(words[1])
        elif words[:1] == ["watch"]:
            self._watch(words[1:])
        elif words:
            self.say('{"is":"confused"}')

    def fire(self, why: str) -> None:
        self._deadline = None
        killed = [pid for pid, (start, pidfd) in self._watched.items() if _kill(pid, start, pidfd)]
        self._forget()
        self.say(f'{{"is":"fired","why":"{why}","killed":{killed}}}')

    def agent_gone(self) -> int:
        if self._deadline is None:
            return 0
        self.fire("agent gone")
        return 3

    def say(self, line: str) -> None:
        try:
            os.write(self._stdout, line.encode() + b"\n")
        except OSError:
            return  # nobody listens, or not fast enough: the kill counts, not the report

    def _arm(self, text: str) -> None:
        try:
            deadline = float(text)
        except ValueError:
            deadline = -1.0
        if 0.0 < deadline < 1e12:  # neither NaN nor infinity
            self._deadline = deadline
            self.say(f'{{"is":"armed","deadline":{deadline!r}}}')
        else:
            self.say('{"is":"confused"}')

    def _watch(self, words: list[str]) -> None:
        wanted: dict[int, int] = {}
        for word in words:
            pid, _, start = word.partition(":")
            if not (pid.isdigit() and start.isdigit() and int(pid) > 1):
                self.say('{"is":"confused"}')
                return
            wanted[int(pid)] = int(start)
        self._forget()
        self._watched = {pid: (start, _open_pidfd(pid)) for pid, start in wanted.items()}
        self.say(f'{{"is":"watching","pids":{sorted(wanted)}}}')

    def _forget(self) -> None:
        for _, pidfd in self._watched.values():
            if pidfd >= 0:
                os.close(pidfd)
        self._watched = {}


def _kill(pid: int, start: int, pidfd: int) -> bool:
    """SIGKILL to this very process, and to its group where it leads one; False when it is gone."""
    if _start_time(pid) != start:
        return False
    try:
        # While this process exists, as a zombie too, its number cannot name another group.
        if os.getpgid(pid) == pid and pid != os.getpgrp():
            os.killpg(pid, signal.SIGKILL)
        elif pidfd >= 0:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)
    except OSError:
        return False
    return True


def _start_time(pid: int) -> int:
    """Field 22 of /proc/PID/stat; -1 when the process is gone."""
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    except OSError:
        return -1
    try:
        # The name in brackets may hold spaces and brackets itself.
        return int(os.read(descriptor, 4096).rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return -1
    finally:
        os.close(descriptor)


def _open_pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        return -1


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, _READ_SIZE)
    except OSError:
        return b""


def _prefer_this_process() -> None:
    """Ahead of others for the processor and, when memory runs out, behind them; where that is allowed."""
    try:
        descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        try:
            os.write(descriptor, b"-900")
        finally:
            os.close(descriptor)
    except OSError:
        ...
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except (OSError, AttributeError):
        return

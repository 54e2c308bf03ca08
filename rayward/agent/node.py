"""The node's processes: starts ``ray start``, adopts what it leaves behind, reaps, restarts, stops.

This is the hand of the agent, not its head: it does what it is told and says what it found. The agent is
the subreaper of everything that ``ray start`` leaves, so Ray's daemons become its own children.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rayward.agent import deaths, processes
from rayward.agent.deaths import Death
from rayward.agent.processes import Launch, Role

_PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    """Make orphans below this process its children instead of init's (prctl(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot become a subreaper")


@dataclass
class Tracked:
    """One of Ray's processes under watch. ``pid`` is None while it is dead; times are monotonic.
    ``had_served``: it has answered since it started (the loop sets this; False where nobody asks)."""

    launch: Launch
    pid: int | None
    pidfd: int | None
    started: float
    child: bool
    starts: int = 1
    quick_deaths: int = 0
    died: float = 0.0
    cause: str = ""
    kill_reason: str = ""
    from_outside: bool = False
    had_served: bool = False


@dataclass(frozen=True)
class Ended:
    """A watched process's death, as found by ``NodeProcesses.reap``."""

    role: Role
    pid: int
    death: Death
    cause: str
    exit_code: int | None


@dataclass
class RayStart:
    """One run of the ``ray start`` command."""

    pid: int
    started: float
    exit_code: int | None = None
    output: list[str] = field(default_factory=list)


class NodeProcesses:
    """All processes of one Ray node. Not thread-safe: only the agent's loop may call it.

    ``environment`` is what ``ray start`` gets (None: the agent's own); ``spared`` are processes below the
    agent that are not Ray's and outlive the node.
    """

    def __init__(self, command: Sequence[str], stable_after: float) -> None:
        self._command = list(command)
        self.environment: Mapping[str, str] | None = None
        self.spared: frozenset[int] = frozenset()
        self._stable_after = stable_after
        self._out_of_memory = deaths.out_of_memory_kills()
        self.tracked: dict[Role, Tracked] = {}
        self.ray_start: RayStart | None = None
        self._held: tuple[processes.ProcStat, ...] = ()

    def start_node(self) -> RayStart:
        """Run the ``ray start`` command; its output goes where the agent's own goes."""
        child = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, env=self.environment)
        _leave_reaping_to_us(child)
        self.ray_start = RayStart(child.pid, time.monotonic())
        return self.ray_start

    def set_command(self, command: Sequence[str]) -> None:
        """Run this ``ray start`` from the next start on."""
        self._command = list(command)

    def adopt(self, only: Role | None = None) -> list[Role]:
        """Take every Ray process below the agent (or the one in the role ``only``) under watch; returns the
        roles found so far."""
        stats = processes.all_stats()
        for pid in processes.descendants(os.getpid(), stats):
            role = processes.classify(processes.read_argv(pid))
            if role is None or role in self.tracked or stats[pid].state == "Z":
                continue
            if only not in (None, role):
                continue
            launch = processes.capture(pid, role)
            if launch is not None:
                is_child = stats[pid].parent == os.getpid()
                started = time.monotonic() - processes.age(stats[pid])
                self.tracked[role] = Tracked(launch, pid, _open_pidfd(pid), started, is_child)
        return list(self.tracked)

    def watch_descriptors(self) -> list[int]:
        """The pidfds of all living processes under watch."""
        return [tracked.pidfd for tracked in self.tracked.values() if tracked.pidfd is not None]

    def reap(self) -> list[Ended]:
        """Collect every dead child, orphans included, and report those that were under watch."""
        ended: list[Ended] = []
        for pid, status in _dead_children():
            if self.ray_start is not None and pid == self.ray_start.pid:
                self.ray_start.exit_code = deaths.exit_code(status)
                continue
            ended.extend(self._note_death(role, status) for role in self._roles_of(pid))
        for role, tracked in self.tracked.items():
            if tracked.pidfd is not None and not tracked.child and _is_readable(tracked.pidfd):
                ended.append(self._note_death(role, None))
        return ended

    def _roles_of(self, pid: int) -> list[Role]:
        return [role for role, tracked in self.tracked.items() if tracked.pid == pid]

    def _note_death(self, role: Role, status: int | None) -> Ended:
        tracked = self.tracked[role]
        now, pid = time.monotonic(), tracked.pid or 0
        kills = deaths.out_of_memory_kills()
        death = Death(
            status=status,
            lived=now - tracked.started,
            ended_by_agent=tracked.kill_reason,
            from_outside=tracked.from_outside,
            out_of_memory=kills > self._out_of_memory,
            last_lines=deaths.last_lines(tracked.launch.log_paths, secrets=tracked.launch.secrets),
        )
        self._out_of_memory = kills
        if tracked.pidfd is not None:
            os.close(tracked.pidfd)
        quick = death.lived < self._stable_after and deaths.is_crash(death, tracked.had_served)
        tracked.quick_deaths = tracked.quick_deaths + 1 if quick else 1
        tracked.pid, tracked.pidfd, tracked.kill_reason = None, None, ""
        tracked.from_outside = tracked.had_served = False
        tracked.died, tracked.cause = now, deaths.explain(death)
        return Ended(role, pid, death, tracked.cause, deaths.exit_code(status))

    def start_again(self, role: Role) -> int:
        """Start a dead process just as it was started: same argv, environment, directory and log files."""
        tracked = self.tracked[role]
        launch = tracked.launch
        with contextlib.ExitStack() as files:
            stdout, stderr = (
                files.enter_context(open(path, "ab", buffering=0)) for path in (launch.stdout, launch.stderr)
            )
            child = subprocess.Popen(
                launch.argv,
                env=dict(launch.environment),
                cwd=launch.directory if os.path.isdir(launch.directory) else "/",
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        _leave_reaping_to_us(child)
        tracked.pid, tracked.pidfd, tracked.child = child.pid, _open_pidfd(child.pid), True
        tracked.started, tracked.starts = time.monotonic(), tracked.starts + 1
        return child.pid

    def kill(self, role: Role, reason: str, from_outside: bool = False) -> None:
        """SIGKILL a watched process; works on a stopped one too. ``reason`` ends up in its death event."""
        tracked = self.tracked.get(role)
        if tracked is not None and tracked.pid is not None:
            tracked.kill_reason, tracked.from_outside = reason, from_outside
            _send(tracked.pid, signal.SIGKILL)

    def await_death(self, role: Role, limit: float) -> None:
        """Wait until a process that was killed is gone, ``limit`` seconds at the most; the next ``reap``
        reports it."""
        tracked = self.tracked.get(role)
        if tracked is not None and tracked.pidfd is not None:
            _is_readable(tracked.pidfd, limit)

    def hold(self, role: Role) -> None:
        """Stop a watched process and all below it (SIGSTOP) until ``release``."""
        tracked = self.tracked.get(role)
        if self._held or tracked is None or tracked.pid is None:
            return
        self._hold_family(tracked.pid)

    def hold_start(self) -> None:
        """Stop ``ray start`` and all that it has started (SIGSTOP) until ``release``."""
        if not self._held and self.ray_start is not None:
            self._hold_family(self.ray_start.pid)

    def _hold_family(self, first: int) -> None:
        stats = processes.all_stats()
        family = [pid for pid in (first, *processes.descendants(first, stats)) if pid in stats]
        self._held = tuple(stats[pid] for pid in family)
        for pid in family:
            _send(pid, signal.SIGSTOP)

    def release(self) -> None:
        """Let everything that ``hold`` stopped go on."""
        for held in self._held:
            now = processes.read_stat(held.pid)
            if now is not None and now.start_time == held.start_time:
                _send(held.pid, signal.SIGCONT)
        self._held = ()

    def forward(self, number: int) -> None:
        """Pass a signal on to the processes under watch, as an init does."""
        for tracked in self.tracked.values():
            if tracked.pid is not None:
                _send(tracked.pid, number)

    def stop(self, grace: float) -> None:
        """End every process below the agent: raylet first, so that it can drain (``grace`` seconds at the
        most), then the rest, then by force; returns when none is left or nothing more can be done.

        The rest gets half a second only: without raylet and GCS there is nothing that it could still do,
        and Ray's monitor waits for minutes for a GCS that is gone.
        """
        self.release()  # what is stopped cannot end by itself
        self._end(Role.RAYLET, time.monotonic() + grace)
        for pid in self._below_us():
            _send(pid, signal.SIGTERM)
        self._wait_until_gone(time.monotonic() + 0.5)
        by_force_until = time.monotonic() + 3.0
        while self._below_us() and time.monotonic() < by_force_until:
            for pid in self._below_us():
                _send(pid, signal.SIGKILL)
            self._wait_until_gone(time.monotonic() + 0.1)
        for tracked in self.tracked.values():
            if tracked.pidfd is not None:
                os.close(tracked.pidfd)
        _forget_cluster_address(self._command, self.tracked.get(Role.GCS))
        self.tracked.clear()
        self.ray_start = None

    def _below_us(self) -> list[int]:
        stats: Mapping[int, processes.ProcStat] = processes.all_stats()
        below = processes.descendants(os.getpid(), stats)
        return [pid for pid in below if stats[pid].state != "Z" and pid not in self.spared]

    def _wait_until_gone(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            _dead_children()
            if not self._below_us():
                return
            time.sleep(0.02)

    def _end(self, role: Role, deadline: float) -> None:
        tracked = self.tracked.get(role)
        if tracked is None or tracked.pid is None:
            return
        _send(tracked.pid, signal.SIGTERM)
        while time.monotonic() < deadline and processes.read_stat(tracked.pid) is not None:
            if not _dead_children() and tracked.pidfd is not None:
                _is_readable(tracked.pidfd, 0.02)


def _forget_cluster_address(command: Sequence[str], gcs: Tracked | None) -> None:
    """Remove the file in which ``ray start --head`` leaves its address, as ``ray stop`` does.

    With that file and another node's raylet on the same machine the next ``ray start --head`` would
    refuse to run ("already running"). A file that names another GCS stays.
    """
    port = processes.option(gcs.launch.argv, "gcs_server_port") if gcs is not None else None
    root = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    folder = processes.option(command, "temp-dir") or os.path.join(root, "ray")
    path = os.path.join(folder, "ray_current_cluster")
    with contextlib.suppress(OSError):
        with open(path, encoding="utf-8") as file:
            ours = port is not None and file.read().strip().endswith(f":{port}")
        if ours:
            os.unlink(path)


def _leave_reaping_to_us(child: subprocess.Popen[bytes]) -> None:
    """Keep subprocess from waiting for this child: the loop reaps every child itself."""
    child.returncode = 0


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _is_readable(descriptor: int, timeout: float = 0.0) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(timeout * 1000))


def _dead_children() -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        found.append((pid, status))


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)

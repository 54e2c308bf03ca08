"""The agent in the background, for those who start Ray by commands that must return (``ray up``, cron, hand).

One agent per state folder: a locked file there names its process. Waiting is bounded, and every end is said.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rayward.agent import processes
from rayward.errors import RaywardError
from rayward.plain import ask
from rayward.plain.command import Launch

PID_FILE = "agent.pid"
LOG_FILE = "agent.log"
_POLL_S = 0.1
_END_BY_FORCE_S = 5.0


@dataclass(frozen=True)
class Started:
    """How a start in the background ended. ``up``: the node takes work, or stands by; otherwise the agent
    goes on trying, and ``reason`` says what it waits for."""

    pid: int
    up: bool
    reason: str
    seconds: float


def arguments(launch: Launch) -> list[str]:
    """The agent's whole command: a fresh interpreter, so that nothing of this program stays in memory."""
    return [sys.executable, "-m", "rayward.agent", *launch.argv]


def node_is_up(status: Mapping[str, Any]) -> bool:
    """Whether a ``/status`` is that of a node that takes work, or of a head that stands by."""
    lead = status.get("lead") or {}
    return bool(status.get("ready")) or lead.get("role") == "standby"


def running(state_dir: Path) -> int | None:
    """The pid of the agent that was started in the background with this state folder, while it lives."""
    try:
        pid_text, start_text = (state_dir / PID_FILE).read_text(encoding="ascii").split()
        pid, start_time = int(pid_text), int(start_text)
    except (OSError, ValueError):
        return None
    stat = processes.read_stat(pid)
    # A pid alone may belong to somebody else by now; with its start time it cannot.
    alive = stat is not None and stat.start_time == start_time and stat.state != "Z"
    return pid if alive else None


@contextlib.contextmanager
def _locked(state_dir: Path) -> Iterator[IO[str]]:
    """The state folder's pid file, open and locked: two starts at once would be two agents."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        file = open(state_dir / PID_FILE, "a+", encoding="ascii")  # noqa: SIM115 - closed below
    except OSError as error:
        raise RaywardError(
            f"cannot be written: {(error.strerror or str(error)).lower()}", where=f"stateDir {state_dir}"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RaywardError(
                "another start or stop of this agent is under way", where=str(state_dir)
            ) from None
        yield file


def start(
    launch: Launch,
    state_dir: Path,
    status_place: tuple[str, int],
    timeout: float,
    report: Callable[[str], None],
    environ: Mapping[str, str] = os.environ,
) -> Started:
    """Start the agent in a session of its own and wait, ``timeout`` s at the most, until its node is up.

    Raises RaywardError when the agent ends before that, with the last lines of its log, and when one runs
    already.
    """
    began = time.monotonic()
    log_path = state_dir / LOG_FILE
    with _locked(state_dir) as file:
        found = running(state_dir)
        if found is not None:
            raise RaywardError(
                f"an agent runs already as pid {found}", where=str(state_dir), todo="rayward agent stop"
            )
        with open(log_path, "ab") as log:
            offset = log.tell()
            child = subprocess.Popen(
                arguments(launch),
                env=launch.environment(environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        stat = processes.read_stat(child.pid)
        file.truncate(0)
        file.write(f"{child.pid} {stat.start_time if stat else 0}\n")
        file.flush()
    reason = "it has not answered yet"
    while True:
        if child.poll() is not None:
            raise RaywardError(
                f"the agent ended with exit code {child.returncode}\n{_tail(log_path, offset)}",
                where="rayward agent run --detach",
                todo=f"its log: {log_path}",
            )
        status = ask.status_of(status_place)
        seconds = time.monotonic() - began
        if status is not None and _is_child(status, child.pid):
            reason = str(status.get("reason", reason))
            if node_is_up(status):
                return Started(child.pid, True, reason, seconds)
        if seconds > timeout:
            return Started(child.pid, False, reason, seconds)
        report(reason)
        time.sleep(_POLL_S)


def _is_child(status: Mapping[str, Any], pid: int) -> bool:
    """Whether this very agent answered, not an older one on the same port."""
    return bool((status.get("agent") or {}).get("pid") == pid)


def _tail(path: Path, offset: int) -> str:
    with path.open("rb") as file:
        file.seek(offset)
        lines = file.read()[-4000:].decode(errors="replace").splitlines()
    return "\n".join(f"  | {line}" for line in lines[-8:]) or "  | it has written nothing"


def stop(state_dir: Path, timeout: float, report: Callable[[str], None]) -> int | None:
    """End the agent of this state folder with its node: as asked, by force after ``timeout`` seconds.

    Returns its pid, or None when none runs. Raises RaywardError when it belongs to somebody else.
    """
    if not (state_dir / PID_FILE).exists():
        return None
    with _locked(state_dir) as file:
        pid = running(state_dir)
        if pid is not None:
            try:
                _end(pid, timeout, report)
            except PermissionError:
                raise RaywardError(
                    f"the agent (pid {pid}) belongs to another user",
                    where=str(state_dir),
                    todo="stop it as that one",
                ) from None
        file.truncate(0)
    return pid


def _end(pid: int, timeout: float, report: Callable[[str], None]) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        report(f"waiting for the agent (pid {pid}) to end its node")
        if _gone(descriptor, timeout):
            return
        # What it leaves by force would go on as init's: its processes are ended with it.
        report(f"the agent (pid {pid}) is not done after {timeout:g} s: ending it by force")
        family = [pid, *processes.descendants(pid, processes.all_stats())]
        for each in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        if not _gone(descriptor, _END_BY_FORCE_S):
            raise RaywardError(
                f"the agent (pid {pid}) does not end, not even by SIGKILL", todo=f"ps -o stat {pid}"
            )
    finally:
        os.close(descriptor)


def _gone(descriptor: int, timeout: float) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(timeout * 1000))

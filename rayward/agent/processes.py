"""What the agent knows of the processes around it: who they are, how they were started, how they fare.

Reads /proc and nothing else. Which process is which of Ray's is decided from its command line by
``classify``, so it can be tested on command lines alone.
"""

from __future__ import annotations

import enum
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


class Role(enum.Enum):
    """One of Ray's processes on a node, by the name that people and metrics use for it."""

    GCS = "gcs_server"
    RAYLET = "raylet"
    DASHBOARD = "dashboard"
    MONITOR = "monitor"
    LOG_MONITOR = "log_monitor"
    CLIENT_SERVER = "client_server"
    DASHBOARD_AGENT = "dashboard_agent"
    RUNTIME_ENV_AGENT = "runtime_env_agent"

    @property
    def tied_to_raylet(self) -> bool:
        """Whether Ray itself ends the raylet when this process dies (seen on Ray 2.60, whose raylet
        starts both agents and exits with them)."""
        return self in (Role.DASHBOARD_AGENT, Role.RUNTIME_ENV_AGENT)


def classify(argv: Sequence[str]) -> Role | None:
    """Which of Ray's processes a command line belongs to; None for anything else.

    The two agents rename themselves once they run (setproctitle), so both forms are known.
    """
    if not argv:
        return None
    program = os.path.basename(argv[0])
    if program in ("gcs_server", "raylet"):
        return Role(program)
    title = argv[0].strip()
    if title == "ray::DashboardAgent":
        return Role.DASHBOARD_AGENT
    if title == "ray::RuntimeEnvAgent":
        return Role.RUNTIME_ENV_AGENT
    return _classify_script(argv[1:]) if program.startswith("python") else None


_SCRIPTS = (
    ("/dashboard/dashboard.py", Role.DASHBOARD),
    ("/dashboard/agent.py", Role.DASHBOARD_AGENT),
    ("/runtime_env/agent/main.py", Role.RUNTIME_ENV_AGENT),
    ("/_private/log_monitor.py", Role.LOG_MONITOR),
    ("/_private/monitor.py", Role.MONITOR),
    ("/autoscaler/v2/monitor.py", Role.MONITOR),
)


def _classify_script(arguments: Sequence[str]) -> Role | None:
    for position, argument in enumerate(arguments):
        if argument == "-c":
            return None
        if argument == "-m":
            module = arguments[position + 1 : position + 2]
            is_proxy = "--mode=proxy" in arguments
            return Role.CLIENT_SERVER if list(module) == ["ray.util.client.server"] and is_proxy else None
        if not argument.startswith("-"):
            return next((role for ending, role in _SCRIPTS if argument.endswith(ending)), None)
    return None


def option(argv: Sequence[str], name: str) -> str | None:
    """The last value of ``--name=value`` or ``--name value`` on a command line, as click reads it."""
    found = None
    for position, argument in enumerate(argv):
        if argument.startswith(f"--{name}="):
            found = argument.split("=", 1)[1]
        elif argument == f"--{name}" and position + 1 < len(argv):
            found = argv[position + 1]
    return found


@dataclass(frozen=True)
class ProcStat:
    """The fields of /proc/PID/stat that matter. ``start_time`` is in clock ticks since boot and, with the
    pid, names a process for good; ``state`` is the kernel's letter (R, S, D, T, t, Z ...)."""

    pid: int
    name: str
    state: str
    parent: int
    start_time: int


def parse_stat(text: str) -> ProcStat:
    """Parse one /proc/PID/stat line; the name may hold spaces and brackets."""
    opened, closed = text.index("("), text.rindex(")")
    fields = text[closed + 2 :].split()
    return ProcStat(
        pid=int(text[:opened]),
        name=text[opened + 1 : closed],
        state=fields[0],
        parent=int(fields[1]),
        start_time=int(fields[19]),
    )


def _read(path: str) -> bytes | None:
    """A /proc file's content, None when the process is gone or not ours to read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


def read_stat(pid: int) -> ProcStat | None:
    """The process's state now, None when it is gone."""
    raw = _read(f"/proc/{pid}/stat")
    return None if not raw else parse_stat(raw.decode(errors="replace"))


def age(stat: ProcStat) -> float:
    """Seconds since the process was started, to a clock tick (10 ms)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - stat.start_time / os.sysconf("SC_CLK_TCK")


def read_argv(pid: int) -> list[str]:
    """The process's command line; empty when it is gone or a zombie."""
    raw = _read(f"/proc/{pid}/cmdline") or b""
    return [part.decode(errors="replace") for part in raw.rstrip(b"\0").split(b"\0")] if raw else []


def main_thread_demand(pid: int) -> float | None:
    """Seconds that the process's main thread has run or has waited for a processor since it started.

    Waiting counts: on a starved machine a thread that wants to work but may not is busy, not hung.
    None when the kernel keeps no such figure.
    """
    raw = _read(f"/proc/{pid}/task/{pid}/schedstat")
    if not raw:
        return None
    ran, waited = raw.split()[:2]
    return (int(ran) + int(waited)) / 1e9


def waits_for_disk(pid: int) -> bool:
    """Whether any thread of the process is in state D, which is what waiting for a disk looks like."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return False
    stats = (_read(f"/proc/{pid}/task/{thread}/stat") for thread in threads)
    return any(raw and parse_stat(raw.decode(errors="replace")).state == "D" for raw in stats)


def resident_bytes(pid: int) -> int:
    """Resident memory of a process in bytes, 0 when it is gone."""
    raw = _read(f"/proc/{pid}/statm")
    return int(raw.split()[1]) * os.sysconf("SC_PAGE_SIZE") if raw else 0


def all_stats() -> dict[int, ProcStat]:
    """Every process that this one can see."""
    stats = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            stat = read_stat(int(entry))
            if stat is not None:
                stats[stat.pid] = stat
    return stats


def descendants(of: int, stats: Mapping[int, ProcStat]) -> list[int]:
    """All processes below ``of``, parents before their children."""
    children: dict[int, list[int]] = {}
    for stat in stats.values():
        children.setdefault(stat.parent, []).append(stat.pid)
    found: list[int] = []
    queue = [of]
    while queue:
        below = children.get(queue.pop(0), [])
        found.extend(below)
        queue.extend(below)
    return found


@dataclass(frozen=True)
class Launch:
    """All it takes to start a process again just as it was started: Ray puts nothing else into it."""

    role: Role
    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    directory: str
    stdout: str
    stderr: str

    @property
    def secrets(self) -> tuple[str, ...]:
        """Passwords that its command line and environment hold; they must not show in its last words."""
        return secrets_of(self.argv, dict(self.environment))

    @property
    def log_paths(self) -> tuple[str, ...]:
        """Files that may hold the process's last words, most telling first."""
        named = [
            option(self.argv, name) for name in ("stderr_filepath", "stdout_filepath", "stderr-filepath")
        ]
        logs_dir = option(self.argv, "logs-dir") or option(self.argv, "log-dir")
        stem = {Role.CLIENT_SERVER: "ray_client_server"}.get(self.role, self.role.value)
        guessed = (
            [os.path.join(logs_dir, f"{stem}.{kind}") for kind in ("err", "log", "out")] if logs_dir else []
        )
        paths: Iterable[str | None] = [*named, self.stderr, *guessed, self.stdout]
        return tuple(dict.fromkeys(path for path in paths if path and path != os.devnull))


def secrets_of(argv: Sequence[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """The passwords that a process was given, by the names that Ray gives them."""
    given = [option(argv, name) for name in ("redis_password", "redis-password")]
    given += [environment.get(name) for name in ("REDIS_PASSWORD", "RAY_REDIS_PASSWORD")]
    return tuple(dict.fromkeys(secret for secret in given if secret))


def capture(pid: int, role: Role) -> Launch | None:
    """Read how a running process was started; None when it is gone already."""
    argv = read_argv(pid)
    environment = _read(f"/proc/{pid}/environ")
    if not argv or environment is None:
        return None
    pairs = [entry.split("=", 1) for entry in environment.decode(errors="surrogateescape").split("\0")]

    def target(what: str) -> str:
        try:
            path = os.readlink(f"/proc/{pid}/{what}")
        except OSError:
            return os.devnull
        return path if path.startswith("/") else os.devnull

    return Launch(
        role=role,
        argv=tuple(argv),
        environment=tuple((pair[0], pair[1]) for pair in pairs if len(pair) == 2),
        directory=target("cwd"),
        stdout=target("fd/1"),
        stderr=target("fd/2"),
    )

"""Why a process died, in one event that a person can act on.

``explain`` is pure: exit status, what the agent itself did, whether the kernel's out-of-memory counter
moved and the last log lines go in, one sentence comes out. Users of stock Ray find a head that vanished
without a word; here no death goes without its cause.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_COUNTERS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
_TAIL_BYTES = 16_384
_SECRET = re.compile(
    r"(rediss?://)[^\s/]*(?=@)"  # up to the last @, for a password may hold one
    r"|(--[\w-]*password\s+|password[\"']?\s*[=:]\s*|requirepass\s+)(\"[^\"]*\"|'[^']*'|[^\s,;]+)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Death:
    """One process's end. ``status`` is what waitpid gave, None where the process was not our child;
    ``from_outside``: the agent ended it because somebody had stopped it, or told it to end."""

    status: int | None
    lived: float
    ended_by_agent: str = ""
    from_outside: bool = False
    out_of_memory: bool = False
    last_lines: tuple[str, ...] = ()


def explain(death: Death) -> str:
    """The cause of a death as a clause: "killed by SIGKILL, out of memory", "exit code 1" ..."""
    if death.ended_by_agent:
        return f"ended by rayward: {death.ended_by_agent}"
    if death.status is None:
        return "ended, exit status unknown (not a child of the agent)"
    if os.WIFSIGNALED(death.status):
        number = os.WTERMSIG(death.status)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        core = " (core dumped)" if os.WCOREDUMP(death.status) else ""
        if number == signal.SIGKILL and death.out_of_memory:
            return f"killed by {name}: the kernel's out-of-memory killer struck in this container"
        return f"killed by {name}{core}"
    return f"exit code {os.WEXITSTATUS(death.status)}"


def is_crash(death: Death, had_served: bool) -> bool:
    """Whether a death counts towards a crash loop.

    A process that did its work and was then killed or stopped from outside is not crashing, however often
    that happens (drills and operators do it in a row): only starts that fail, aborts, faults, exits, lack
    of memory and hangs tell of a process that will not live.
    """
    if not had_served:
        return True
    if death.ended_by_agent:
        return not death.from_outside
    if death.status is None or death.out_of_memory:
        return True
    if os.WIFEXITED(death.status):
        return os.WEXITSTATUS(death.status) != 0  # a GCS ends well only when it is told to
    return os.WTERMSIG(death.status) not in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def exit_code(status: int | None) -> int | None:
    """The exit code as a shell would show it (128 + signal), None where it is unknown."""
    if status is None:
        return None
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def without_secrets(line: str, secrets: Sequence[str] = ()) -> str:
    """A log line with passwords taken out: events are shown to people and kept in status output.

    ``secrets`` are the passwords that are known; what looks like one is taken out besides.
    """
    for secret in secrets:
        line = line.replace(secret, "***")
    return _SECRET.sub(lambda found: (found.group(1) or found.group(2)) + "***", line)


def last_lines(paths: Iterable[str], count: int = 5, secrets: Sequence[str] = ()) -> tuple[str, ...]:
    """The last non-empty lines of the first file that has any, without secrets."""
    for path in paths:
        try:
            with open(path, "rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - _TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except OSError:
            continue
        lines = [line.rstrip() for line in text.splitlines() if line.strip() and _is_text(line)]
        if lines:
            return tuple(without_secrets(line, secrets) for line in lines[-count:])
    return ()


def _is_text(line: str) -> bool:
    """A log that two processes write to, or one cut off in mid-write, holds bytes that nobody can read."""
    unreadable = sum(letter == "\ufffd" or not (letter.isprintable() or letter == "\t") for letter in line)
    return unreadable * 4 <= len(line)


def out_of_memory_kills() -> int:
    """How often the kernel's out-of-memory killer has struck in this container's cgroup (v2, then v1)."""
    for path in _COUNTERS:
        try:
            with open(path, encoding="ascii") as file:
                for line in file:
                    if line.startswith("oom_kill "):
                        return int(line.split()[1])
        except (OSError, ValueError):
            continue
    return 0

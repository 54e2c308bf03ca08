"""Runs ``rayward`` as a user would, showing each command and, as it comes, what it prints."""

from __future__ import annotations

import shlex
import subprocess
import sys
import threading

from rayward.errors import RaywardError
from rayward.local.pod_process import package_environment

_INDENT = "    "
_SHOWN_LINES = 30


class CommandFailedError(RaywardError):
    """A command ended with an exit status other than 0."""


def show(text: str = "") -> None:
    """Print a line now, also into a pipe."""
    print(text, flush=True)


def guide(command: str) -> None:
    """Show the guide's own command for what comes next."""
    show(f"  # in the guide: {command}")


def rayward(*words: str, limit: float = 240.0, quiet: bool = False, may_fail: bool = False) -> str:
    """Run one ``rayward`` command and return what it printed to stdout.

    ``quiet`` shows the command and not what it prints. Raises CommandFailedError for an exit status other
    than 0 (unless ``may_fail``) and when it takes longer than ``limit`` seconds.
    """
    typed = "rayward " + shlex.join(words)
    show(f"  $ {typed}")
    child = subprocess.Popen(
        [sys.executable, "-m", "rayward", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=package_environment(),
    )
    said: dict[str, list[str]] = {"out": [], "err": []}
    assert child.stdout is not None
    assert child.stderr is not None
    readers = [
        threading.Thread(target=_read, args=(stream, lines, quiet), daemon=True)
        for stream, lines in ((child.stdout, said["out"]), (child.stderr, said["err"]))
    ]
    for reader in readers:
        reader.start()
    try:
        child.wait(limit)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
        raise CommandFailedError(f"took longer than {limit:g} s", where=typed) from None
    except BaseException:
        # Ctrl-C has reached the child too; let it clean up after itself.
        _end(child)
        raise
    finally:
        for reader in readers:
            reader.join(5)
    if child.returncode and not may_fail:
        words_of_it = [line for line in said["err"] if line.strip()] or ["no message"]
        raise CommandFailedError(f"exit status {child.returncode}: {words_of_it[-1].strip()}", where=typed)
    return "".join(said["out"])


def _end(child: subprocess.Popen[str]) -> None:
    try:
        child.wait(45)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _read(stream: object, lines: list[str], quiet: bool) -> None:
    for line in stream:  # type: ignore[attr-defined]
        lines.append(line)
        if not quiet and len(lines) <= _SHOWN_LINES:
            show(_INDENT + line.rstrip())
    if not quiet and len(lines) > _SHOWN_LINES:
        show(f"{_INDENT}... {len(lines) - _SHOWN_LINES} more lines")

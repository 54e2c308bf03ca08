"""A container's log as the API server asks for it: the end of it, all of it, or on and on while it grows.

Lines carry no time on disk, so `timestamps` and `sinceSeconds` are not served.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayward.local.pod_process import PodProcess

_LOOK_S = 0.1
_CHUNK = 1 << 16


@dataclass(frozen=True)
class LogRequest:
    """What is asked for. ``tail`` is a number of lines, ``limit`` one of bytes."""

    container: str
    follow: bool = False
    previous: bool = False
    tail: int | None = None
    limit: int | None = None


def _path(process: PodProcess, wanted: LogRequest) -> Path:
    return process.folder / "logs" / f"{wanted.container}{'.previous' if wanted.previous else ''}.log"


def _entry(process: PodProcess, container: str) -> dict[str, Any] | None:
    status = process.status()
    for key in ("containerStatuses", "initContainerStatuses"):
        for entry in status.get(key) or ():
            if entry["name"] == container:
                found: dict[str, Any] = entry
                return found
    return None


def log_problem(process: PodProcess, wanted: LogRequest) -> str:
    """Why there is no such log, in the words that kubectl shows; empty when there is one."""
    if _path(process, wanted).exists():
        return ""
    if wanted.previous:
        return "has no previous run"
    entry = _entry(process, wanted.container) or {"state": {}}
    waiting = entry["state"].get("waiting") or {"reason": "ContainerCreating"}
    return f"is waiting to start: {waiting['reason']}"


def tail_offset(path: Path, lines: int) -> int:
    """Where the last so many lines of a file begin."""
    with open(path, "rb") as file:
        position = file.seek(0, os.SEEK_END)
        if position == 0 or lines <= 0:
            return position
        position -= 1  # the newline at the very end ends the last line and begins none
        left = lines
        while position > 0:
            start = max(0, position - _CHUNK)
            file.seek(start)
            block = file.read(position - start)
            while (found := block.rfind(b"\n")) >= 0:
                left -= 1
                if left == 0:
                    return start + found + 1
                block = block[:found]
            position = start
    return 0


def _runs(process: PodProcess, wanted: LogRequest, run: tuple[int, int]) -> bool:
    """Whether this very run of the container may still write."""
    entry = _entry(process, wanted.container)
    try:
        stat = os.stat(_path(process, wanted))
    except FileNotFoundError:
        return False
    same = (stat.st_dev, stat.st_ino) == run
    return same and process.alive() and entry is not None and "running" in entry["state"]


async def stream_log(process: PodProcess, wanted: LogRequest, writer: asyncio.StreamWriter) -> None:
    """Write the log in chunks of HTTP/1.1, and the last one. Raises OSError when the asker went."""
    path, left = _path(process, wanted), wanted.limit
    with open(path, "rb") as file:
        if wanted.tail is not None:
            file.seek(tail_offset(path, wanted.tail))
        stat = os.fstat(file.fileno())
        run = stat.st_dev, stat.st_ino
        while left is None or left > 0:
            # Asked before the read: what was written up to the end is read then.
            more = wanted.follow and not wanted.previous and _runs(process, wanted, run)
            data = file.read(_CHUNK if left is None else min(left, _CHUNK))
            if data:
                left = None if left is None else left - len(data)
                writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                await writer.drain()
            elif not more or writer.is_closing():
                break
            else:
                await writer.drain()
                await asyncio.sleep(_LOOK_S)
    writer.write(b"0\r\n\r\n")
    await writer.drain()

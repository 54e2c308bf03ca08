"""The process that stands where Ray's heads would be, as a benchmark sees it: what it was asked so far."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import click

from benchmarks import common
from benchmarks.serve_lateness import SILENT, Asked, read_line

_BEGIN_S = 30.0


class StandInHeads:
    """``ports`` are those of dashboard and Serve, ``asked`` is everything so far in order of time, ``silent``
    are the addresses that answer nothing any more."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.ports = (0, 0)
        self.asked: list[Asked] = []
        self.silent: set[str] = set()
        self._newest: dict[tuple[str, str], float] = {}
        self._news = asyncio.Event()
        self._ended = False

    async def begin(self) -> None:
        """Until it listens."""
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), _BEGIN_S)
        dashboard, serve = map(int, line.split())
        self.ports = (dashboard, serve)

    async def follow(self) -> None:
        """Read what it is asked, until it ends."""
        assert self.process.stdout is not None
        try:
            async for line in self.process.stdout:
                found = read_line(line)
                self.asked.append(found)
                self._newest[found.address, found.question] = found.at
                self._news.set()
        finally:
            self._ended = True
            self._news.set()

    async def silence(self, address: str) -> None:
        """From now on this head takes connections and questions and never answers."""
        assert self.process.stdin is not None
        since = time.monotonic()
        self.process.stdin.write(f"silent {address}\n".encode())
        await self.until(f"{address} is silent", lambda: bool(self.since(address, SILENT, since)), _BEGIN_S)
        self.silent.add(address)

    def since(self, address: str, question: str, moment: float) -> float | None:
        """When this was asked last, if that was after ``moment``."""
        at = self._newest.get((address, question), 0.0)
        return at if at > moment else None

    async def until(self, what: str, condition: Callable[[], bool], bound_s: float) -> None:
        """Wait for what the questions show; ClickException after ``bound_s``."""
        deadline = time.monotonic() + bound_s
        while not condition():
            self._news.clear()
            if self._ended or time.monotonic() > deadline:
                why = "the stand-in has ended" if self._ended else f"not within {bound_s:.0f} s"
                raise click.ClickException(f"{what}: {why}")
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), max(0.0, deadline - time.monotonic()))

    async def until_all(self, addresses: set[str], question: str, moment: float, bound_s: float) -> None:
        """Wait until each of these was asked this after ``moment``."""
        waiting = set(addresses)

        def all_asked() -> bool:
            waiting.difference_update([found for found in waiting if self.since(found, question, moment)])
            return not waiting

        await self.until(f"every head is asked: {question}", all_asked, bound_s)


@asynccontextmanager
async def stand_in_heads() -> AsyncIterator[StandInHeads]:
    """The process, for the time of the context."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.stand_in_heads_process"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=common.ROOT,
    )
    heads = StandInHeads(process)
    following: asyncio.Task[None] | None = None
    try:
        await heads.begin()
        following = asyncio.create_task(heads.follow())
        yield heads
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        if following is not None:
            await asyncio.gather(following, return_exceptions=True)

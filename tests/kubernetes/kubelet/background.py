"""Jobs that go on until the process is to stop: one that breaks ends all of them, instead of being missed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any

Job = Coroutine[Any, Any, None]


class Background:
    """The jobs of one process. ``stop`` is set when it is to end, from outside or by a job that broke."""

    def __init__(self, stop: asyncio.Event) -> None:
        self.stop = stop
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, jobs: Iterable[Job]) -> None:
        """Begin jobs that never end by themselves."""
        for job in jobs:
            task = asyncio.create_task(job)
            task.add_done_callback(self._ended)
            self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not self.stop.is_set():
            print(f"a job ended: {task}", flush=True)
            self.stop.set()

    async def end(self) -> None:
        """Cancel what runs; raises what broke one of them."""
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome


@asynccontextmanager
async def background(stop: asyncio.Event) -> AsyncIterator[Background]:
    """Jobs for the length of a block."""
    jobs = Background(stop)
    try:
        yield jobs
    finally:
        await jobs.end()

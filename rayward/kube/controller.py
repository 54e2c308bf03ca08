"""Runs a reconcile function over a work queue: workers, a deadline for each run, back-off, a graceful end."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import async_timeout

from rayward.kube.rate import HEAD_FIRST, urgency
from rayward.kube.work_queue import QueueShutDown, WorkQueue

Key = TypeVar("Key", bound=Hashable)
Reconcile = Callable[[Key], Awaitable[float | None]]
Observe = Callable[[float, str], None]

DEADLINE_S = 60.0
RETRY_CAP_S = 30.0
GRACE_S = 20.0
SUCCESS, REQUEUED, ERROR = "success", "requeue_after", "error"

run_id: contextvars.ContextVar[str] = contextvars.ContextVar("run_id", default="")
"""Which run of which controller a log line belongs to; empty outside of runs."""

_log = logging.getLogger("rayward.controller")
_numbers = itertools.count(1)


class Controller(Generic[Key]):
    """Gives each key of ``queue`` to ``reconcile``, ``workers`` at a time, and ``urgent_workers`` beside them
    that take only keys of priority ``urgent`` or more. A run's requests are as urgent as its key.

    ``reconcile`` returns the seconds until it wants the key again, or None. What it raises brings the key
    back after a pause (``WorkQueue.retry``, at most ``RETRY_CAP_S``), and so does a run longer than
    ``deadline_s``. ``observe(seconds, result)``, if set, is called after each run: success, requeue_after or
    error.
    """

    def __init__(
        self,
        name: str,
        queue: WorkQueue[Key],
        reconcile: Reconcile[Key],
        workers: int,
        *,
        urgent_workers: int = 0,
        urgent: int = HEAD_FIRST,
        deadline_s: float = DEADLINE_S,
        observe: Observe | None = None,
    ) -> None:
        self.name = name
        self.queue = queue
        self.runs = 0
        self.errors = 0
        self.seconds = 0.0
        self.observe = observe
        self.running: dict[Key, float] = {}
        self._reconcile = reconcile
        self._least: list[int | None] = [*[None] * workers, *[urgent] * urgent_workers]
        self._deadline_s = deadline_s
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Sets the workers to work, as tasks of the running loop, until ``stop``."""
        self._tasks = [
            asyncio.create_task(self._work(at_least), name=f"{self.name}-{number}")
            for number, at_least in enumerate(self._least)
        ]

    async def stop(self, grace_s: float = GRACE_S) -> bool:
        """Takes no more keys and waits for the runs under way, ``grace_s`` at most; whether that was enough.

        Those that need longer are cancelled where they are.
        """
        self.queue.shutdown()
        if not self._tasks:
            return True
        _, left = await asyncio.wait(self._tasks, timeout=grace_s)
        if left:
            _log.warning("%s: %d reconciles did not end within %g s", self.name, len(self.running), grace_s)
        for task in left:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return not left

    async def _work(self, at_least: int | None) -> None:
        with contextlib.suppress(QueueShutDown):
            while True:
                key = await self.queue.get(at_least)
                urgency.set(self.queue.priority(key))
                try:
                    await self._run(key)
                finally:
                    self.queue.done(key)

    async def _run(self, key: Key) -> None:
        started = self.running[key] = time.monotonic()
        token = run_id.set(f"{self.name}-{next(_numbers)}")
        result = ERROR
        try:
            async with async_timeout.timeout(self._deadline_s) as limit:
                again = await self._reconcile(key)
            self.queue.forget(key)
            result = SUCCESS
            if again is not None:
                result = REQUEUED
                self.queue.add_after(key, again)
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            self._failed(key, "something that it waited for was cancelled")
        except Exception as error:
            late = limit.expired and isinstance(error, asyncio.TimeoutError)
            self._failed(key, f"not done within {self._deadline_s:g} s" if late else error)
        finally:
            run_id.reset(token)
            del self.running[key]
            self._count(time.monotonic() - started, result)

    def _failed(self, key: Key, error: object) -> None:
        pause = self.queue.retry(key, RETRY_CAP_S)
        # The API server's refusals and broken connections are the weather; anything else is a defect of ours.
        expected = isinstance(error, str | OSError) or hasattr(error, "status")
        _log.warning(
            "%s: reconcile of %s failed, again in %.1f s: %s",
            self.name, _words(key), pause, str(error) or type(error).__name__, exc_info=not expected,
        )  # fmt: skip

    def _count(self, seconds: float, result: str) -> None:
        self.runs += 1
        self.errors += result == ERROR
        self.seconds += seconds
        if self.observe is not None:
            self.observe(seconds, result)


def _words(key: object) -> str:
    return "/".join(str(part) for part in key) if isinstance(key, tuple) else str(key)


def _is_cancelled() -> bool:
    """Whether it is this worker that is to end. Python 3.10 cannot tell: then yes."""
    cancelling = getattr(asyncio.current_task(), "cancelling", None)
    return cancelling is None or cancelling() > 0

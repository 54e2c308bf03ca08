"""Bounds what the operator asks of an API server: requests at once, and requests per second with a burst.

Who waits is served by urgency, then in order: a head that is missing must not stand behind a thousand
clusters that are being made, and nothing stands behind an Event. Every tenth turn is for the least urgent, so
that what happens under a long load is told while it lasts.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

LEASE, HEAD_FIRST, ORDINARY, WHENEVER = 20, 10, 0, -20
"""Urgencies: to go on leading, to replace a head, everything else, Events."""

_FOR_THE_LAST = 10

urgency: contextvars.ContextVar[int] = contextvars.ContextVar("urgency", default=ORDINARY)
"""How urgent the requests of this task are; a task inherits it from the one that made it."""


class TokenBucket:
    """``rate`` tokens per second, at most ``burst`` saved up; pure arithmetic on a given clock. A ``rate`` of
    0 means no bound."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = max(1, burst)
        self._clock = clock
        self._tokens = float(self._burst)
        self._at = clock()

    def take(self) -> float:
        """Takes a token if there is one: 0; else the seconds until there will be one."""
        if self._rate <= 0:
            return 0.0
        now = self._clock()
        self._tokens = min(float(self._burst), self._tokens + (now - self._at) * self._rate)
        self._at = now
        # A wait that ends a rounding error early would be followed by another.
        if self._tokens < 1.0 - 1e-6:
            return (1.0 - self._tokens) / self._rate
        self._tokens -= 1.0
        return 0.0


class Pace:
    """Requests at once and per second; ``async with pace.turn():`` around each request."""

    def __init__(self, qps: float, burst: int, at_once: int) -> None:
        self._bucket = TokenBucket(qps, burst)
        self._places = at_once
        self._order = itertools.count()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._granted = 0

    @asynccontextmanager
    async def turn(self, urgent: int | None = None) -> AsyncIterator[None]:
        """Waits for a token and a place; the place is given back at the end. As urgent as ``urgency`` says,
        unless ``urgent`` does."""
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(
            self._waiting, (-(urgency.get() if urgent is None else urgent), next(self._order), granted)
        )
        self._serve()
        try:
            await granted
            yield
        finally:
            if granted.done() and not granted.cancelled():
                self._places += 1
                self._serve()

    def _serve(self) -> None:
        """Lets in whoever may go now; comes back by itself when there is a token."""
        while self._waiting and self._places > 0:
            if self._waiting[0][2].done():  # cancelled while it waited
                heapq.heappop(self._waiting)
                continue
            wait = self._bucket.take()
            if wait > 0:
                if self._timer is None:
                    self._timer = asyncio.get_running_loop().call_later(wait, self._rung)
                return
            self._places -= 1
            self._granted += 1
            self._next().set_result(None)

    def _next(self) -> asyncio.Future[None]:
        if self._granted % _FOR_THE_LAST == 0:
            # Of those that are as little urgent, the one that has waited longest.
            lowest = max(item[0] for item in self._waiting if not item[2].done())
            chosen = min(item for item in self._waiting if item[0] == lowest and not item[2].done())
            self._waiting.remove(chosen)
            heapq.heapify(self._waiting)
            return chosen[2]
        return heapq.heappop(self._waiting)[2]

    def _rung(self) -> None:
        self._timer = None
        self._serve()

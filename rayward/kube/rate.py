"""Bounds what the operator asks of an API server: requests at once, and requests per second with a burst."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class TokenBucket:
    """``rate`` tokens per second, at most ``burst`` saved up; pure arithmetic on a given clock.

    Tokens may be taken ahead: whoever takes one is told how many seconds to wait for it, so that callers are
    served in the order in which they asked. A ``rate`` of 0 means no bound.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = max(1, burst)
        self._clock = clock
        self._tokens = float(self._burst)
        self._at = clock()

    def take(self) -> float:
        """Takes one token; the seconds until it may be used."""
        if self._rate <= 0:
            return 0.0
        now = self._clock()
        self._tokens = min(float(self._burst), self._tokens + (now - self._at) * self._rate)
        self._at = now
        self._tokens -= 1.0
        return max(0.0, -self._tokens / self._rate)


class Pace:
    """Requests at once and per second; ``async with pace.turn():`` around each request."""

    def __init__(self, qps: float, burst: int, at_once: int) -> None:
        self._bucket = TokenBucket(qps, burst)
        self._places = asyncio.Semaphore(at_once)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for a token and a place; the place is given back at the end."""
        wait = self._bucket.take()
        if wait > 0:
            await asyncio.sleep(wait)
        async with self._places:
            yield

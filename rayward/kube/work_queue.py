"""Hands out keys to reconcile: each once, however often it was added, and never to two workers at a time."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

FIRST_RETRY_S = 0.1


class QueueShutDown(Exception):
    """The queue was shut down and holds nothing more."""


class WorkQueue(Generic[Key]):
    """For one event loop. ``clock`` is monotonic, in seconds; ``chance`` is uniform in [0, 1).

    ``adds`` and ``retries`` count, ``waited`` (if set) is called with the seconds from add to take.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, chance: Callable[[], float] = random.random
    ) -> None:
        self.adds = 0
        self.retries = 0
        self.waited: Callable[[float], None] | None = None
        self._clock = clock
        self._chance = chance
        self._order = itertools.count()
        # What is in both is what counts: an entry of a heap whose mark is not in the dictionary is stale.
        self._ready: dict[Key, tuple[int, int, float]] = {}
        self._ready_heap: list[tuple[int, int, Key]] = []
        self._due: dict[Key, tuple[float, int, int]] = {}
        self._due_heap: list[tuple[float, int, Key]] = []
        self._running: dict[Key, int] = {}
        self._again: dict[Key, int] = {}
        self._failures: dict[Key, int] = {}
        self._waiters: deque[tuple[int | None, asyncio.Future[None]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._down = False

    def __len__(self) -> int:
        """Keys that could be taken now."""
        return len(self._ready)

    @property
    def running(self) -> int:
        """Keys that workers have now."""
        return len(self._running)

    def priority(self, key: Key) -> int:
        """With which priority a worker has ``key`` now; 0 when none has it."""
        return self._running.get(key, 0)

    def failures(self, key: Key) -> int:
        """Retries of a key in a row."""
        return self._failures.get(key, 0)

    def add(self, key: Key, priority: int = 0) -> None:
        """Wants ``key`` reconciled: higher priorities first, else in order. While it runs: once more then."""
        if self._down:
            return
        self.adds += 1
        if key in self._running:
            self._again[key] = max(priority, self._again.get(key, priority))
            return
        self._due.pop(key, None)
        self._make_ready(key, priority)

    def add_after(self, key: Key, seconds: float, priority: int = 0) -> None:
        """Adds ``key`` when ``seconds`` have passed; of several such wishes the earliest holds."""
        if self._down:
            return
        if seconds <= 0:
            self.add(key, priority)
            return
        if key in self._ready:
            return
        due = self._clock() + seconds
        waiting = self._due.get(key)
        if waiting is not None and waiting[0] <= due:
            return
        mark = next(self._order)
        self._due[key] = (due, mark, priority)
        heapq.heappush(self._due_heap, (due, mark, key))
        if len(self._due_heap) > 2 * len(self._due) + 64:
            # Wishes that an add made needless would otherwise stay until their time.
            self._due_heap = [(due, mark, key) for key, (due, mark, _) in self._due.items()]
            heapq.heapify(self._due_heap)
        self._set_timer()

    def retry(self, key: Key, cap: float = 30.0) -> float:
        """Adds ``key`` again after a pause that doubles with each failure in a row, at most ``cap`` seconds,
        and differs from key to key; a key that a worker has keeps its priority. The seconds."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        self.retries += 1
        ceiling = min(cap, FIRST_RETRY_S * 2.0 ** min(failures - 1, 32))
        pause = ceiling * (0.5 + 0.5 * self._chance())
        self.add_after(key, pause, self.priority(key))
        return pause

    def forget(self, key: Key) -> None:
        """It went well: the next failure counts as the first."""
        self._failures.pop(key, None)

    def take(self, at_least: int | None = None) -> Key | None:
        """The next key that is ready now, if any; it is the caller's until ``done``. With ``at_least``, only
        one of that priority or a higher one."""
        self._promote()
        while self._ready_heap:
            negative, mark, key = self._ready_heap[0]
            found = self._ready.get(key)
            fresh = found is not None and found[1] == mark
            if fresh and at_least is not None and -negative < at_least:
                return None
            heapq.heappop(self._ready_heap)
            if found is None or not fresh:
                continue
            del self._ready[key]
            self._running[key] = found[0]
            if self.waited is not None:
                self.waited(max(0.0, self._clock() - found[2]))
            return key
        return None

    async def get(self, at_least: int | None = None) -> Key:
        """The next key, waiting for one; ``at_least`` as for ``take``. Raises QueueShutDown when none will
        come."""
        while True:
            key = self.take(at_least)
            if key is not None:
                return key
            if self._down:
                raise QueueShutDown
            waiter = asyncio.get_running_loop().create_future()
            waiting = (at_least, waiter)
            self._waiters.append(waiting)
            self._set_timer()
            try:
                await waiter
            except asyncio.CancelledError:
                # A wake-up that this one got and cannot use is another's.
                if waiter.done() and not waiter.cancelled():
                    self._wake_for_ready()
                raise
            finally:
                if waiting in self._waiters:
                    self._waiters.remove(waiting)

    def done(self, key: Key) -> None:
        """The worker is through with ``key``; what was added meanwhile is ready now."""
        self._running.pop(key, None)
        if key in self._again:
            priority = self._again.pop(key)
            self._due.pop(key, None)
            if not self._down:
                self._make_ready(key, priority)
        elif key in self._due:
            self._set_timer()

    def shutdown(self) -> None:
        """Drops what waits and takes nothing more; every ``get`` raises QueueShutDown."""
        self._down = True
        self._ready.clear()
        self._ready_heap.clear()
        self._due.clear()
        self._due_heap.clear()
        self._again.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for _, waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    def next_due(self) -> float | None:
        """When (on the clock) the next timed key is due."""
        while self._due_heap:
            due, mark, key = self._due_heap[0]
            found = self._due.get(key)
            if found is not None and found[1] == mark:
                return due
            heapq.heappop(self._due_heap)
        return None

    def _make_ready(self, key: Key, priority: int) -> None:
        before = self._ready.get(key)
        if before is not None and before[0] >= priority:
            return
        mark = next(self._order)
        since = before[2] if before is not None else self._clock()
        self._ready[key] = (priority, mark, since)
        heapq.heappush(self._ready_heap, (-priority, mark, key))
        self._wake(priority)

    def _promote(self) -> None:
        """Moves what is due to what is ready."""
        now = self._clock()
        due = self.next_due()
        while due is not None and due <= now:
            _, _, key = heapq.heappop(self._due_heap)
            _, _, priority = self._due.pop(key)
            if key in self._running:
                self._again[key] = max(priority, self._again.get(key, priority))
            else:
                self._make_ready(key, priority)
            due = self.next_due()

    def _wake(self, priority: int) -> None:
        """Wakes one who may take a key of this priority, first those who may take no other."""
        fitting = [
            item for item in self._waiters if not item[1].done() and (item[0] is None or item[0] <= priority)
        ]
        if fitting:
            chosen = next((item for item in fitting if item[0] is not None), fitting[0])
            self._waiters.remove(chosen)
            chosen[1].set_result(None)

    def _wake_for_ready(self) -> None:
        if self._ready:
            self._wake(max(priority for priority, _, _ in self._ready.values()))

    def _set_timer(self) -> None:
        """One timer for the earliest time that anybody waits for."""
        due = self.next_due()
        if due is None or not self._waiters:
            return
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer_due = due
        self._timer = loop.call_later(max(0.0, due - self._clock()), self._rung)

    def _rung(self) -> None:
        self._timer = None
        self._promote()
        self._set_timer()

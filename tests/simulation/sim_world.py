"""The world of one schedule: a queue of events, clocks that drift and stop, links that fail, and a trace.

Nothing here knows leases. Everything that happens is an event with an owner (a process); a frozen owner's
events wait until it thaws, a dead one's are dropped. All chance comes from one seeded generator, so that a
seed replays exactly.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

TRACE_LENGTH = 40
Event = tuple[float, int, int, int, Callable[..., None], tuple[Any, ...]]


class ViolationError(Exception):
    """An invariant does not hold. ``name`` is the invariant's (I1 ... I7)."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"{name}: {what}")
        self.name = name


class World:
    """Owners are numbered: 3 for each head (agent, fence, node), then the store, then the operator."""

    def __init__(self, seed: int, heads: int, traced: bool) -> None:
        self.rng = random.Random(seed)
        self.random = self.rng.random
        self.now = 0.0
        self.heads = heads
        self.store = heads  # the store's place in `links`
        self.store_owner = 3 * heads
        self.operator = 3 * heads + 1
        owners = 3 * heads + 2
        self.life = [0] * owners
        self.frozen = [False] * owners
        self.waiting: list[list[Event]] = [[] for _ in range(owners)]
        self.links = [[True] * (heads + 1) for _ in range(heads + 1)]
        self.rate = [1.0] * heads
        self.slept = [0.0] * heads  # what the monotonic clock of a suspended head missed
        self.stood = [0.0] * heads  # what both clocks of a paused virtual machine missed
        self.late_share = 0.3
        self.latency = 0.002
        self.loss = 0.0
        self.queue: list[Event] = []
        self.count = 0
        self.steps = 0
        self.trace: deque[str] | None = deque(maxlen=TRACE_LENGTH) if traced else None

    # clocks

    def mono(self, head: int) -> float:
        """What CLOCK_MONOTONIC says on a head: it stands still while the machine sleeps."""
        return 100.0 + self.rate[head] * (self.now - self.slept[head] - self.stood[head])

    def boot(self, head: int) -> float:
        """What CLOCK_BOOTTIME says on a head: only a paused virtual machine stops it."""
        return 100.0 + self.rate[head] * (self.now - self.stood[head])

    def between(self, low: float, high: float) -> float:
        """A random duration."""
        return low + (high - low) * self.random()

    # events

    def after(self, delay: float, owner: int, step: Callable[..., None], *words: Any) -> None:
        """``step`` happens in ``delay`` seconds, if its owner then lives and runs."""
        self.count += 1
        heappush(self.queue, (self.now + delay, self.count, owner, self.life[owner], step, words))

    def run(self, until: float, done: Callable[[], bool] | None = None) -> None:
        """Let things happen until ``until``, or until ``done()`` is true."""
        queue, life, frozen = self.queue, self.life, self.frozen
        while queue and queue[0][0] <= until:
            event = heappop(queue)
            owner = event[2]
            if event[3] != life[owner]:
                continue
            if frozen[owner]:
                self.waiting[owner].append(event)
                continue
            self.now = event[0]
            self.steps += 1
            event[4](*event[5])
            if done is not None and done():
                return
        self.now = max(self.now, until)

    def freeze(self, owner: int) -> None:
        """The owner's events wait from now on."""
        self.frozen[owner] = True

    def thaw(self, owner: int) -> None:
        """The owner goes on: what waited happens now, in an order that nobody promised."""
        if not self.frozen[owner]:
            return
        self.frozen[owner] = False
        waiting, self.waiting[owner] = self.waiting[owner], []
        for event in waiting:
            if event[3] == self.life[owner]:
                self.after(self.random() * 0.02, owner, event[4], *event[5])

    def end(self, owner: int) -> None:
        """The process dies; what it had in hand never happens."""
        self.life[owner] += 1
        self.frozen[owner] = False
        self.waiting[owner].clear()

    # messages

    def message(self, source: int, target: int, owner: int, step: Callable[..., None], *words: Any) -> None:
        """``step`` happens at ``owner`` when the message arrives, if it does; it may arrive late: a kernel
        goes on to send what a closed connection still held."""
        delay = self.latency * (0.5 + self.random())
        if self.loss and self.random() < self.loss:
            delay += 0.2 * (1 + int(4 * self.random()))
        self.count += 1
        # The way is looked at on arrival, and by nobody who could be frozen.
        arrival = (self.now + delay, self.count, self.operator, self.life[self.operator], self._arrive)
        heappush(self.queue, (*arrival, (source, target, owner, self.life[owner], step, words, 0)))

    def _arrive(
        self,
        source: int,
        target: int,
        owner: int,
        life: int,
        step: Callable[..., None],
        words: tuple[Any, ...],
        tries: int,
    ) -> None:
        if not self.links[source][target]:
            if tries < 3 and self.random() < self.late_share:
                again = (source, target, owner, life, step, words, tries + 1)
                self.after(self.between(0.2, 4.0), self.operator, self._arrive, *again)
            return
        if life != self.life[owner]:
            return
        if self.frozen[owner]:
            self.waiting[owner].append((self.now, 0, owner, life, step, words))
            return
        step(*words)

    def says(self, who: str, what: str) -> None:
        """One line of the trace; callers ask ``trace is not None`` first, for most runs keep none."""
        if self.trace is not None:
            self.trace.append(f"{self.now:9.4f}  {who:<9} {what}")

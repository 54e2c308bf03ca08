"""Watches one GCS from a thread of its own, so that a silent GCS never delays the agent's loop.

It knows an address and asks; what an answer means is for ``decide``.
"""

from __future__ import annotations

import collections
import threading
import time
from typing import Callable

from rayward.agent import gcs_probe
from rayward.agent.gcs_probe import Health, Serving
from rayward.agent.timing import Timing


class GcsWatch:
    """Probes ``host:port`` for ever: fast until the first answer after ``reset``, then once a second.

    ``on_change`` is called from the watch's thread each time that the finding differs from the last.
    """

    def __init__(self, host: str, port: int, timing: Timing, on_change: Callable[[], None]) -> None:
        self.host = host
        self.port = port
        self._timing = timing
        self._on_change = on_change
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._last: Health | None = None
        self._answered_at = time.monotonic()
        self._served_at: float | None = None
        self._refused_at: float | None = None
        self._generation = 0
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="gcs-watch", daemon=True)

    def start(self) -> None:
        """Begin to probe."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; returns at once, a probe under way is left to its time-out."""
        self._ended = True
        self._wake.set()

    @property
    def ended(self) -> bool:
        """Whether it was stopped: what it found last is history."""
        return self._ended

    def reset(self) -> None:
        """Forget what was seen: another process stands behind the address from now on."""
        with self._lock:
            self._generation += 1
            self._last, self._served_at, self._answered_at = None, None, time.monotonic()
            self._refused_at = None
        self._wake.set()

    @property
    def last(self) -> Health | None:
        """The newest finding since the last reset."""
        with self._lock:
            return self._last

    @property
    def served_at(self) -> float | None:
        """When this GCS first served since the last reset (monotonic), None when it has not."""
        with self._lock:
            return self._served_at

    def silent_for(self) -> float:
        """Seconds since the GCS last served (or since the last reset)."""
        with self._lock:
            return time.monotonic() - self._answered_at

    def refused_for(self) -> float:
        """Seconds since the port was first found closed; 0 while the last probe got through to it."""
        with self._lock:
            return 0.0 if self._refused_at is None else time.monotonic() - self._refused_at

    def _run(self) -> None:
        while not self._ended:
            with self._lock:
                generation = self._generation
            asked = time.monotonic()
            health = gcs_probe.check(self.host, self.port, self._timing.probe_timeout)
            self._take(health, generation, asked)
            self._wake.wait(self._pause())
            self._wake.clear()

    def _take(self, health: Health, generation: int, asked: float) -> None:
        with self._lock:
            if generation != self._generation:
                return
            changed = self._last is None or self._last.serving is not health.serving
            self._last = health
            refused = health.serving is Serving.REFUSED
            self._refused_at = (self._refused_at or asked) if refused else None
            if health.serving is Serving.SERVING:
                self._answered_at = asked
                if self._served_at is None:
                    self._served_at = time.monotonic()
        if changed:
            self._on_change()

    def _pause(self) -> float:
        settled = self.served_at is not None and self.refused_for() == 0.0
        return self._timing.probe_interval if settled else self._timing.probe_interval_until_served


class DemandWindow:
    """How much processor time a thread wanted lately, from samples of its ever-growing total."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._samples: collections.deque[tuple[float, float]] = collections.deque()

    def add(self, now: float, demand: float) -> None:
        """Add a sample: the total demand in seconds at ``now``."""
        self._samples.append((now, demand))
        while len(self._samples) > 2 and self._samples[1][0] <= now - self._seconds:
            self._samples.popleft()

    def clear(self) -> None:
        """Forget all samples: another thread is watched from now on."""
        self._samples.clear()

    def share(self) -> float:
        """The part of the window that the thread ran or wanted to run; 1 while too little is known."""
        if len(self._samples) < 2:
            return 1.0
        (first, before), (last, after) = self._samples[0], self._samples[-1]
        if last - first < self._seconds / 2:
            return 1.0
        return min(1.0, max(0.0, (after - before) / (last - first)))

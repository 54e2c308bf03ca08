"""The agent's event log: what happened, kept for ``/status`` and printed for ``kubectl logs``.

One line an event, the last ones in memory, never a secret (callers strip them).
"""

from __future__ import annotations

import collections
import contextlib
import datetime
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

KEPT = 200


@dataclass(frozen=True)
class Event:
    """One thing that happened. ``monotonic`` is seconds on CLOCK_MONOTONIC, which all network namespaces
    of a machine share, so that a drill can put events of several Pods on one line of time."""

    reason: str
    message: str
    time: str
    monotonic: float
    details: dict[str, Any] = field(default_factory=dict)


class EventLog:
    """Keeps the last events and writes each as one line; safe to use from several threads."""

    def __init__(self, prefix: str, stream: TextIO | None = None) -> None:
        self._prefix = prefix
        self._stream = stream or sys.stdout
        self._events: collections.deque[Event] = collections.deque(maxlen=KEPT)
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()

    def add(self, reason: str, message: str, **details: Any) -> Event:
        """Record an event under a CamelCase ``reason``, as Kubernetes names them."""
        now = datetime.datetime.now(datetime.timezone.utc)
        stamp = now.strftime("%Y-%m-%dT%H:%M:%S.") + f"{now.microsecond // 1000:03d}Z"
        event = Event(reason, message, stamp, time.monotonic(), details)
        with self._lock:
            self._events.append(event)
            self._counts[reason] = self._counts.get(reason, 0) + 1
            # A log that cannot be written (reader gone, disk full) must not end the node.
            with contextlib.suppress(OSError, ValueError):
                print(f"{stamp} {self._prefix} {reason}: {message}", file=self._stream, flush=True)
        return event

    def recent(self) -> list[dict[str, Any]]:
        """The kept events, oldest first, as plain data."""
        with self._lock:
            return [asdict(event) for event in self._events]

    def counts(self) -> dict[str, int]:
        """How many events of each reason there were since the agent started."""
        with self._lock:
            return dict(self._counts)

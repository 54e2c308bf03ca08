"""Wakes everybody who waits for news of this agent: the streams of ``/leader?watch=1``."""

from __future__ import annotations

import threading


class News:
    """A bell with a count, so that news that came between two waits is not missed."""

    def __init__(self) -> None:
        self._bell = threading.Condition()
        self._count = 0

    def tell(self) -> None:
        """There is news; safe from any thread."""
        with self._bell:
            self._count += 1
            self._bell.notify_all()

    def wait(self, known: int, seconds: float) -> int:
        """Wait until there is news after ``known``, ``seconds`` at the most; returns the count to wait with
        next."""
        with self._bell:
            self._bell.wait_for(lambda: self._count != known, seconds)
            return self._count

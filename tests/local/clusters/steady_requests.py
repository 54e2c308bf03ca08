"""Requests to a RayService that keep coming while a test does something, of which none may fail."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from command_line import eventually

from rayward.drill.serve_load import ServeLoad
from rayward.drill.serve_requests import missing_requests

_MAX_S = 900.0


@contextmanager
def steady_requests(url: str, rate: float) -> Iterator[ServeLoad]:
    """On kept connections, some before and some after; all that were due must have been answered rightly."""
    with ServeLoad(url, rate, max_s=_MAX_S) as load:
        answered(load, 2)
        yield load
        answered(load, 5)
        due = load.reported(time.monotonic())
        lost = missing_requests(load.requests, 0, due, load.begun, rate)
        failed = [request for request in load.requests if not request.ok]
        assert not [*failed, *lost], f"of {due} requests {len(failed)} failed: {[*failed, *lost][:5]}"


def answered(load: ServeLoad, seconds: float) -> None:
    """Wait until as many more requests have ended as come in so many seconds."""
    assert load.rate is not None
    wanted = len(load.requests) + seconds * load.rate

    def enough() -> bool:
        load.read()
        return len(load.requests) >= wanted

    eventually(enough, timeout=seconds + 60)

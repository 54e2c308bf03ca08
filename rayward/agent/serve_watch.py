"""Watches this node's Ray Serve proxy from a thread of its own, about once a second.

It asks and remembers; what an answer means is for ``serve_rules``.
"""

from __future__ import annotations

import threading
import time
from typing import Callable

from rayward.agent import connections
from rayward.agent.serve_probe import ServeProbe
from rayward.agent.serve_rules import ServeState, judge, next_pause
from rayward.agent.timing import Timing


class ServeWatch:
    """Asks the proxy on ``port`` for ever. ``state`` may be read from any thread.

    ``tell(reason, message)`` hears, in the watch's thread, each time that the proxy becomes healthy or stops
    being so. ``keep`` is called about once a minute.
    """

    def __init__(
        self,
        port: int,
        timing: Timing,
        tell: Callable[[str, str], object],
        keep: Callable[[], object] = lambda: None,
    ) -> None:
        self.port = port
        self.state = ServeState(since=time.monotonic())
        self._timing = timing
        self._tell = tell
        self._keep = keep
        self._probe = ServeProbe(port, timing.serve_timeout)
        self._routes_at = self._kept_at = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="serve-watch", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more, and keep nothing; a question that is under way is not waited for."""
        self._ended.set()

    def connections(self) -> int:
        """Connections that clients elsewhere have to the proxy now. Reads the kernel's table of them all."""
        return connections.look(self.port).from_elsewhere

    def _run(self) -> None:
        hung_up = False
        while not self._ended.is_set():
            asked = time.monotonic()
            self._take(asked)
            pause = next_pause(self.state, time.monotonic() - asked, self._timing)
            if self.state.healthy and not hung_up:
                hung_up = self._probe.wait(pause)
            else:
                # One that hangs up each time is not asked the more often for it.
                hung_up = False
                self._ended.wait(pause)
            due = time.monotonic() - self._kept_at > self._timing.serve_keep_interval
            if due and not self._ended.is_set():
                self._kept_at = time.monotonic()
                self._keep()
        self._probe.close()

    def _take(self, now: float) -> None:
        before = self.state
        # What the routes are matters most while there are none; later it is a question now and then.
        routes = not before.routes or now - self._routes_at >= self._timing.serve_routes_interval
        answer = self._probe.ask(routes)
        if answer.routes is not None:
            self._routes_at = now
        self.state = judge(before, answer, time.monotonic())
        if self.state.healthy is not before.healthy:
            self._tell("ServeAnswers" if self.state.healthy else "ServeSilent", self.state.reason)

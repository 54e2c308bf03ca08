"""The load of the drills on Ray Serve, run by locust: requests that start when they are due, whatever became
of those before them, each answer checked.

Settings come as JSON in the environment variable ``RAYWARD_LOAD`` (see `serve_load.ServeLoad`); each request
is a line on a descriptor that the starter gave.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from typing import Any

import gevent
from gevent.pool import Pool
from locust import FastHttpUser, task
from locust.contrib.fasthttp import FastHttpSession
from locust.exception import StopUser

from rayward.drill.serve_requests import Request, request_line

SETTINGS: dict[str, Any] = json.loads(os.environ["RAYWARD_LOAD"])
_IN_FLIGHT = 2000
_LOOK_S = 0.5
_LATE = f"not answered within {SETTINGS['limit_s']:g} s"


class Customer(FastHttpUser):
    """The only user: it plans all requests, and each has a greenlet of its own."""

    network_timeout = connection_timeout = float(SETTINGS["limit_s"])

    @task
    def run_load(self) -> None:
        """All of the load, until its time is up or its starter is gone."""
        # Each session keeps connections of its own: one pool for all would hand out the newest one again and
        # again, and nearly everything would go through one connection to one node.
        self._sessions = [self._session() for _ in range(int(SETTINGS["sessions"]))]
        self._pool = Pool(_IN_FLIGHT)
        begun = time.monotonic()
        until = begun + float(SETTINGS["max_s"])
        os.write(SETTINGS["fd"], f"begin {begun:.6f}\n".encode())
        if SETTINGS["rate"]:
            self._plan(begun, float(SETTINGS["rate"]), until)
        else:
            for _ in range(int(SETTINGS["closed"])):
                self._pool.spawn(self._again_and_again, until)
        self._pool.join(max(0.0, until - time.monotonic()) + float(SETTINGS["limit_s"]))
        self.environment.runner.quit()
        raise StopUser

    def _session(self) -> FastHttpSession:
        return FastHttpSession(
            base_url=self.host,
            request_event=self.environment.events.request,
            user=None,
            network_timeout=self.network_timeout,
            connection_timeout=self.connection_timeout,
            max_redirects=0,
            # A request that is lost is a failure; asking again would hide it.
            max_retries=0,
            concurrency=_IN_FLIGHT,
        )

    def _plan(self, begun: float, rate: float, until: float) -> None:
        look_at = begun
        for number in itertools.count():
            due = begun + number / rate
            now = time.monotonic()
            if due > until or (now >= look_at and os.getppid() != SETTINGS["starter"]):
                return
            if now >= look_at:
                look_at = now + _LOOK_S
            if due > now:
                gevent.sleep(due - now)
            self._pool.spawn(self._ask, number, due)

    def _again_and_again(self, until: float) -> None:
        for number in itertools.count():
            now = time.monotonic()
            if now >= until or os.getppid() != SETTINGS["starter"]:
                return
            self._ask(number, now)

    def _ask(self, number: int, due: float) -> None:
        sent = time.monotonic()
        words = _LATE
        with gevent.Timeout(float(SETTINGS["limit_s"]), False):
            words = self._answer(self._sessions[number % len(self._sessions)])
        ended = time.monotonic()
        request = Request(number, due, (sent - due) * 1000, (ended - due) * 1000, not words, words)
        os.write(SETTINGS["fd"], request_line(request).encode())

    def _answer(self, session: FastHttpSession) -> str:
        """What is wrong with the answer; empty when it is right."""
        headers = {"Content-Type": "application/json"}
        if SETTINGS["new_connections"]:
            headers["Connection"] = "close"
        # What went wrong is told apart from the answer, which may be there in part and look right.
        response = session.post(SETTINGS["path"], data=SETTINGS["body"], headers=headers, catch_response=True)
        error = response.request_meta["exception"]
        if error is not None and response.status_code in (0, 200):
            error = getattr(error, "original", None) or error
            late = isinstance(error, (gevent.Timeout, TimeoutError))
            return _LATE if late else f"{type(error).__name__}: {error}"
        body = (response.content or b"").decode(errors="replace")
        if response.status_code != 200:
            return f"status {response.status_code}: {body[:200]}"
        return "" if body == SETTINGS["expect"] else f"wrong answer: {body[:200]}"

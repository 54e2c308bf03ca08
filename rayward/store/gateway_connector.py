"""Opens connections to the store beside the gateway's loop, one at a time, with growing pauses after faults.

A thread of its own, because resolvers, Sentinels, TLS and log-in block. What it opens is ready for use: it
leads to the server that takes writes, which knows the script of guarded writes and has said who leads.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Callable, Deque, List, Optional, Tuple

from rayward.store.connection import StoreFault
from rayward.store.resp import Part, ReplyError
from rayward.store.upstream import StoreConnection, StoreSettings, fault_of, open_connection

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
# A first try that is short finds a moved server soon; later ones leave time for one that is slow.
_FIRST_TIMEOUT_S = 2.0
_LONGEST_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class Opened:
    """A connection, or why there is none. ``writer``: the epoch in the lease, ``released`` or ``none``, asked
    when the gateway had been told to lead ``term`` times.
    """

    connection: Optional[StoreConnection] = None
    writer: str = ""
    fault: Optional[StoreFault] = None
    term: int = 0


class Connector:
    """``want(n)`` says how many connections are wanted now; ``take`` hands out what has become of it.

    ``wake`` is called from the thread when there is something to take.
    """

    def __init__(
        self, settings: StoreSettings, script: str, lease_key: str, wake: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._script = script.encode()
        self._lease_key = lease_key
        self._wake = wake
        self._wanted = 0
        self._term = 0
        self._pause = 0.0
        self._raised_at = 0.0
        self._timeout = _FIRST_TIMEOUT_S
        self._change = threading.Condition()
        self._results: Deque[Opened] = deque()
        threading.Thread(target=self._run, name="store-connector", daemon=True).start()

    @property
    def digest(self) -> str:
        """What EVALSHA calls the script by; empty when there is none."""
        return hashlib.sha1(self._script, usedforsecurity=False).hexdigest() if self._script else ""

    def want(self, count: int) -> None:
        """That many connections are wanted, not counting those that wait in ``take``."""
        with self._change:
            if count != self._wanted:
                self._wanted = count
                self._change.notify()

    def lead(self, term: int) -> None:
        """The gateway has been told to lead for the ``term``-th time."""
        with self._change:
            self._term = term

    def take(self) -> List[Opened]:
        """What has been opened, and which tries have failed, since the last call."""
        with self._change:
            found = list(self._results)
            self._results.clear()
            return found

    def failed_in_use(self) -> None:
        """A connection has broken, or the store has refused commands on it: wait longer before the next.

        All connections that break in one moment count once.
        """
        now = time.monotonic()
        with self._change:
            if now - self._raised_at >= self._pause:
                self._raised_at = now
                self._pause = min(LONGEST_PAUSE_S, self._pause * 2 or FIRST_PAUSE_S)

    def worked(self) -> None:
        """The store has answered: the next fault begins with the shortest pause again."""
        if self._pause:
            with self._change:
                self._pause = 0.0

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._wanted > len(self._ready()))
                pause = self._pause
            if pause:
                time.sleep(pause)
            with self._change:
                term = self._term
            result = replace(self._try(), term=term)
            with self._change:
                self._results.append(result)
            if result.fault is not None:
                self.failed_in_use()
            self._wake()

    def _ready(self) -> List[Opened]:
        return [result for result in self._results if result.connection is not None]

    def _try(self) -> Opened:
        deadline = time.monotonic() + self._timeout
        connection: Optional[StoreConnection] = None
        try:
            connection = open_connection(self._settings, self._timeout)
            writer = self._prepare(connection, deadline)
        except Exception as error:
            if connection is not None:
                connection.close()
            self._timeout = min(_LONGEST_TIMEOUT_S, self._timeout * 2)
            return Opened(fault=fault_of(error, self._settings))
        self._timeout = _FIRST_TIMEOUT_S
        return Opened(connection, writer)

    def _prepare(self, connection: StoreConnection, deadline: float) -> str:
        commands: List[Tuple[Part, ...]] = [("HGET", self._lease_key, "writer")]
        if self._script:
            commands.append(("SCRIPT", "LOAD", self._script))
        replies = connection.pipeline(commands, timeout=max(0.001, deadline - time.monotonic()))
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise reply
        writer = replies[0]
        if writer is None:
            return "none"
        return (writer.decode("utf-8", "replace") if isinstance(writer, bytes) else "") or "released"

"""Injects one fault into one gcs_server, by pid, and watches from outside when the next one serves.

Knows processes and a port; knows nothing of agents, so that plain Ray is measured by the same means.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
import time
from dataclasses import dataclass

from rayward.agent import gcs_probe
from rayward.agent.gcs_probe import Serving
from rayward.drill.census import Identity
from rayward.drill.faults import Fault
from rayward.errors import RaywardError
from rayward.local.state import is_alive

_LOOK_AGAIN = 0.01
_LOOK_OFTEN = 0.002
_PROBE_TIMEOUT = 1.0


@dataclass(frozen=True)
class Seen:
    """Moments on CLOCK_MONOTONIC; None for what has not happened within the watch's limit."""

    injected: float
    died: float | None
    served: float | None


class Injection:
    """``start`` injects and returns at once; ``finish`` waits for the watch and returns what it saw."""

    def __init__(self, fault: Fault, process: Identity, address: tuple[str, int], limit: float) -> None:
        self._fault = fault
        self._process = process
        self._address = address
        self._limit = limit
        self._enough = threading.Event()
        self._injected = 0.0
        self._died: float | None = None
        self._served: float | None = None
        self._descriptor = -1
        self._thread = threading.Thread(target=self._watch, name="gcs-watch", daemon=True)

    def start(self) -> float:
        """Inject the fault; returns the moment right before the signal was sent."""
        pid, start_time = self._process
        try:
            self._descriptor = os.pidfd_open(pid)
            if not is_alive(pid, start_time):
                raise ProcessLookupError
            self._injected = time.monotonic()
            signal.pidfd_send_signal(self._descriptor, self._fault.signal)
        except ProcessLookupError:
            self._close()
            raise RaywardError(
                "gcs_server ended by itself before the fault was injected",
                where=f"pid {pid}",
                todo="`rayward status`, `rayward logs HEAD_POD`",
            ) from None
        self._thread.start()
        return self._injected

    def wait_closed(self, limit: float) -> None:
        """Wait until nothing listens on the GCS's port, ``limit`` seconds at the most."""
        deadline = self._injected + limit
        while time.monotonic() < deadline:
            try:
                socket.create_connection(self._address, timeout=0.1).close()
            except OSError:
                return
            time.sleep(_LOOK_OFTEN)

    def _watch(self) -> None:
        deadline = self._injected + self._limit
        poller = select.poll()
        poller.register(self._descriptor, select.POLLIN)
        while not self._enough.is_set() and time.monotonic() < deadline:
            if self._died is None:
                if poller.poll(20):
                    self._died = time.monotonic()
                continue
            if gcs_probe.check(*self._address, _PROBE_TIMEOUT).serving is Serving.SERVING:
                self._served = time.monotonic()
                return
            self._enough.wait(_LOOK_AGAIN)

    def finish(self, wait: float) -> Seen:
        """What was seen, waiting up to ``wait`` seconds for the rest. A process that only was stopped and is
        still there is ended, for nothing frozen may stay behind."""
        self._thread.join(max(0.0, wait))
        self._enough.set()
        self._thread.join(2 * _PROBE_TIMEOUT)
        if self._died is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)
        self._close()
        return Seen(self._injected, self._died, self._served)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

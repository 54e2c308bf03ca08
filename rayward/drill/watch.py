"""Watches from outside when the old GCS is gone and when one serves again, on whichever head that is.

Knows processes and ports; believes no agent, so that plain Ray is measured by the same means.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from dataclasses import dataclass

from rayward.agent import gcs_probe
from rayward.agent.gcs_probe import Serving
from rayward.drill import census
from rayward.drill.faults import Asking
from rayward.drill.heads import HeadView
from rayward.errors import RaywardError
from rayward.local.cluster import LocalCluster
from rayward.local.state import is_alive

_LOOK_AGAIN = 0.01
_LOOK_OFTEN = 0.002
_LIST_AGAIN = 0.2
_PROBE_TIMEOUT = 1.0

Address = tuple[str, int]


@dataclass(frozen=True)
class Seen:
    """Moments on CLOCK_MONOTONIC; None for what has not happened within the watch's limit."""

    injected: float
    died: float | None
    served: float | None


class GcsWatch:
    """``start`` begins, right after the fault; ``finish`` waits for the watch and returns what it saw.

    On the head that led, a GCS counts once the old process is gone; on every other head, at once.
    """

    def __init__(self, cluster: LocalCluster, lead: HeadView, limit: float) -> None:
        if lead.gcs is None:
            raise RaywardError("no gcs_server runs in the head Pod", where=f"Pod {lead.name}")
        self._cluster = cluster
        self._limit = limit
        self._enough = threading.Event()
        self._gone = threading.Event()
        self._injected = 0.0
        self._died: float | None = None
        self._served: float | None = None
        self._old = census.gcs_address(cluster, lead.pod)
        self._threads: list[threading.Thread] = []
        pid, start_time = lead.gcs
        try:
            self._descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            self._descriptor = -1
        if self._descriptor < 0 or not is_alive(pid, start_time):
            self._close()
            raise RaywardError(
                "gcs_server ended by itself before the fault was injected",
                where=f"Pod {lead.name}",
                todo="`rayward status`, `rayward logs HEAD_POD`",
            )

    def start(self, injected: float) -> None:
        """Begin; ``injected`` is the fault's moment."""
        self._injected = injected
        for work in (self._await_death, self._find_heads):
            self._spawn(work)

    def _spawn(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, name="gcs-watch", daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def wait_for(self, moment: Asking, limit: float) -> None:
        """Wait until the drill may ask, ``limit`` seconds from the fault at the most."""
        deadline = self._injected + limit
        if moment is Asking.GCS_ENDED:
            self._gone.wait(max(0.0, deadline - time.monotonic()))
        elif moment is Asking.PORT_CLOSED:
            self._wait_closed(deadline)

    def _wait_closed(self, deadline: float) -> None:
        while self._old and time.monotonic() < deadline:
            try:
                socket.create_connection(self._old, timeout=0.1).close()
            except OSError:
                return
            time.sleep(_LOOK_OFTEN)

    def _over(self) -> bool:
        return self._enough.is_set() or time.monotonic() > self._injected + self._limit

    def _await_death(self) -> None:
        poller = select.poll()
        poller.register(self._descriptor, select.POLLIN)
        while not self._over():
            if poller.poll(20):
                self._died = time.monotonic()
                self._gone.set()
                return

    def _find_heads(self) -> None:
        """One prober for each address at which a GCS may come up, also of heads that are new."""
        known: set[Address] = set()
        while not self._over() and self._served is None:
            with contextlib.suppress(RaywardError):
                for pod in census.head_pods(self._cluster):
                    address = census.gcs_address(self._cluster, pod)
                    if address is not None and address not in known:
                        known.add(address)
                        self._spawn(self._probe, address)
            self._enough.wait(_LIST_AGAIN)

    def _probe(self, address: Address) -> None:
        while not self._over() and self._served is None:
            if address == self._old and not self._gone.wait(0.05):
                continue
            if gcs_probe.check(*address, _PROBE_TIMEOUT).serving is Serving.SERVING:
                self._served = self._served or time.monotonic()
                return
            self._enough.wait(_LOOK_AGAIN)

    def finish(self, wait: float) -> Seen:
        """What was seen. When the old GCS is gone, the next one is waited for, up to ``wait`` seconds."""
        deadline = time.monotonic() + max(0.0, wait)
        while self._died is not None and self._served is None and time.monotonic() < deadline:
            time.sleep(_LOOK_AGAIN)
        self._enough.set()
        for thread in list(self._threads):
            thread.join(2 * _PROBE_TIMEOUT)
        self._close()
        return Seen(self._injected, self._died, self._served)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

"""Keeps the proxy of a cluster's Services: its table current, its addresses on the bridge, its process alive.

The node process calls this in every cycle; nothing is remembered here that could not be read again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

from rayward.local import linux
from rayward.local.hosts import AddressBook
from rayward.local.network import Fabric
from rayward.local.pod_process import package_environment
from rayward.local.service_rules import TABLE_FILE, Table
from rayward.local.service_table import addressed, table_of
from rayward.local.state import ClusterFolder, Manifest, is_alive, read_json, write_json

PROCESS_FILE = "service-proxy.json"
LOG_FILE = "service-proxy.log"
_START_PAUSE_S, _TROUBLE_PAUSE_S = 0.5, 1.0


class ProxyKeeper:
    """The proxy process of one folder, and what it needs. One at a time per folder may work."""

    def __init__(self, folder: ClusterFolder, fabric: Fabric) -> None:
        self._folder = folder
        self._fabric = fabric
        self._child: subprocess.Popen[bytes] | None = None
        self._start_at = 0.0
        self._held: frozenset[str] | None = None
        self._written: Any = read_json(folder.path / TABLE_FILE)

    def keep(self, table: Table) -> None:
        """Let the proxy lead where ``table`` says, from a moment after the return. Without any Service there
        is no proxy. Raises OSError or pyroute2's NetlinkError; call again then."""
        wanted = table.to_json()
        if wanted != self._written and (table.ready or self._written is not None):
            write_json(self._folder.path / TABLE_FILE, wanted)
            self._written = wanted
        if table.addresses != self._held and (table.ready or self._written is not None):
            self._fabric.hold(table.addresses)
            self._held = table.addresses
        runs = self._runs()
        if table.ready and not runs and time.monotonic() >= self._start_at:
            self._start()
        elif runs and not table.ready:
            end_proxy(self._folder)

    def _runs(self) -> bool:
        if self._child is not None and self._child.poll() is not None:
            self._child = None
        return proxy_runs(self._folder)

    def _start(self) -> None:
        self._start_at = time.monotonic() + _START_PAUSE_S
        with open(self._folder.path / LOG_FILE, "ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "rayward.local.service_proxy", str(self._folder.path)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env=package_environment(),
            )
        self._child = child
        # A child that has ended already has no start time any more; 0 is nobody's.
        identity = {"pid": child.pid, "start_time": linux.process_start_time(child.pid) or 0}
        write_json(self._folder.path / PROCESS_FILE, identity)
        # Only now: if this process is killed before, the child finds no word and ends.
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError), child.stdin as pipe:
            pipe.write(b"go\n")


class ServiceAddresses:
    """The Services of a cluster on this machine that have an address of their own."""

    def __init__(self, folder: ClusterFolder, fabric: Fabric, book: AddressBook) -> None:
        self._folder = folder
        self._book = book
        self._keeper = ProxyKeeper(folder, fabric)
        self._resume_at = 0.0

    def keep(self, pods: Sequence[Manifest]) -> bool:
        """Give new Services an address, and lead all to their ready ``pods`` (which come with their status);
        whether an object changed. Under the folder's lock.

        What fails is said on stderr and tried again a second later: it must not hold up a head.
        """
        if time.monotonic() < self._resume_at:
            return False
        try:
            services = self._folder.list("Service")
            changed = addressed(services, str(self._folder.setting("subnet")), self._book.known().values())
            for service in changed:
                self._folder.put(service)
            self._keeper.keep(table_of(self._folder.list("Service") if changed else services, pods))
        except Exception:
            traceback.print_exc()
            self._resume_at = time.monotonic() + _TROUBLE_PAUSE_S
            return False
        return bool(changed)


def proxy_identity(folder: ClusterFolder) -> tuple[int, int] | None:
    """Pid and start time of the proxy that was started last; None when none ever was."""
    found = read_json(folder.path / PROCESS_FILE)
    return (int(found["pid"]), int(found["start_time"])) if found else None


def proxy_runs(folder: ClusterFolder) -> bool:
    """Whether the folder's proxy is there."""
    identity = proxy_identity(folder)
    return identity is not None and is_alive(*identity)


def end_proxy(folder: ClusterFolder) -> None:
    """End it if it is there: it has nothing to save."""
    identity = proxy_identity(folder)
    if identity is not None and is_alive(*identity):
        with contextlib.suppress(ProcessLookupError):
            os.kill(identity[0], signal.SIGKILL)

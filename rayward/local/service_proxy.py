"""The proxy of one cluster's Services: their addresses are its own, and it spreads what comes over the ready
endpoints, connection by connection.

Run as ``python -m rayward.local.service_proxy FOLDER`` by whoever keeps the cluster; see `service_keeper`. It
lives in the network of the cluster's bridge, goes on when its starter dies, and knows nothing but the table
in the cluster's folder. It ends when that folder goes.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from rayward.agent.relay import new_scratch
from rayward.local import linux
from rayward.local.network import Fabric
from rayward.local.service_front import Front
from rayward.local.service_rules import TABLE_FILE, Place, Table
from rayward.local.state import ClusterFolder

_WATCHED = linux.IN_MOVED_TO | linux.IN_DELETE_SELF


class ServiceProxy:
    """All ports of all Services of one table. Lives in one event loop."""

    def __init__(self) -> None:
        self._scratch = new_scratch()
        self._fronts: dict[Place, Front] = {}

    def take(self, table: Table) -> None:
        """Serve what the table says, from now on."""
        for place in set(self._fronts) - set(table.ready):
            self._fronts.pop(place).close()
        for place in sorted(set(table.ready) - set(self._fronts)):
            self._fronts[place] = Front(place, self._scratch)
            self._fronts[place].open()
        for front in self._fronts.values():
            front.take(table)

    def close(self) -> None:
        """Serve nothing any more."""
        self.take(Table({}))


class TableFile:
    """The table as a file of a folder, read again whenever another one takes its place."""

    def __init__(self, folder: Path, take: Callable[[Table], None]) -> None:
        self._path = folder / TABLE_FILE
        self._take = take
        self._inotify = linux.inotify()
        os.set_blocking(self._inotify, False)

    async def follow(self) -> None:
        """Hand on the table there is and every later one, until the folder goes."""
        loop, gone = asyncio.get_running_loop(), asyncio.Event()
        try:
            try:
                linux.inotify_add(self._inotify, str(self._path.parent), _WATCHED)
            except FileNotFoundError:
                return
            loop.add_reader(self._inotify, self._changed, gone)
            self._read()
            await gone.wait()
        finally:
            loop.remove_reader(self._inotify)
            os.close(self._inotify)

    def _changed(self, gone: asyncio.Event) -> None:
        read = False
        for event in linux.inotify_events(self._inotify):
            if event.mask & (linux.IN_DELETE_SELF | linux.IN_IGNORED):
                gone.set()
            read = read or event.name == TABLE_FILE or bool(event.mask & linux.IN_Q_OVERFLOW)
        if read:
            self._read()

    def _read(self) -> None:
        try:
            table = Table.from_json(json.loads(self._path.read_bytes()))
        except FileNotFoundError:
            return
        except (OSError, KeyError, TypeError, ValueError):  # what was true before is better than nothing
            traceback.print_exc()
            return
        self._take(table)


async def serve(folder: Path) -> None:
    """Serve a folder's table until the folder goes."""
    proxy = ServiceProxy()
    try:
        await TableFile(folder, proxy.take).follow()
    finally:
        proxy.close()


def _enter_network(folder: ClusterFolder) -> None:
    namespace = os.open(Fabric(folder.name, str(folder.setting("subnet"))).path, os.O_RDONLY)
    try:
        linux.setns(namespace, linux.CLONE_NEWNET)
    finally:
        os.close(namespace)


def main() -> int:
    """Entry point of the process; the status to exit with."""
    # Whoever started this notes it first, and says so: a proxy that nobody has noted would never be ended.
    if sys.stdin.readline() != "go\n":
        return 0
    folder = ClusterFolder(Path(sys.argv[1]))
    _enter_network(folder)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(serve(folder.path))
    return 0


if __name__ == "__main__":
    sys.exit(main())

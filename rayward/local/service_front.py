"""One port of one Service: takes connections and finds an endpoint for each.

Until an endpoint has taken a connection nothing is read from its client, so another one can be tried without
anything happening twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import sys

from rayward.agent.relay import is_itself, prepare, reset, still_there
from rayward.local import service_rules as rules
from rayward.local.service_link import Link
from rayward.local.service_rules import Endpoint, Place, Standing, Table, Turn

MOST_WAITING = 4096
"""Connections of one port for which an endpoint is being looked for; one more is reset."""
LOOK_AGAIN_S = 0.1
"""Seconds after which endpoints that took no connection are tried again, if nothing new is heard before."""
_ACCEPTS_A_TURN = 256
_BACKLOG = 1024
_LISTEN_AGAIN_S = 0.5
_OUT_OF_FILES_S = 0.1
_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# Linux' own numbers: not in every Python's socket module.
_IP_FREEBIND, _IP_BIND_ADDRESS_NO_PORT = 15, 24


class Front:
    """Listens on ``place`` from `open` to `close`. ``scratch`` is the buffer that all links read into."""

    def __init__(self, place: Place, scratch: memoryview) -> None:
        self.place = place
        self._scratch = scratch
        self._loop = asyncio.get_running_loop()
        self._listener: socket.socket | None = None
        self._later: asyncio.TimerHandle | None = None
        self._table = Table({})
        self._turn = Turn()
        self._suspects: dict[Endpoint, float] = {}
        self._links: set[Link] = set()
        self._waiting: set[asyncio.Task[None]] = set()
        self._sleepers: set[asyncio.Future[None]] = set()

    def open(self) -> None:
        """Listen; again after a moment when that cannot be."""
        self._later = None
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # The address may be given to the bridge a moment later than the table says it.
            listener.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            listener.bind(self.place)
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            print(f"{self.place[0]}:{self.place[1]}: cannot listen: {error}", file=sys.stderr, flush=True)
            self._later = self._loop.call_later(_LISTEN_AGAIN_S, self.open)
            return
        self._listener = listener
        self._loop.add_reader(listener, self._accept)

    def close(self) -> None:
        """Listen no more and cut every connection: the Service is gone."""
        if self._later is not None:
            self._later.cancel()
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for task in self._waiting:
            task.cancel()
        for link in list(self._links):
            link.cut()

    def take(self, table: Table) -> None:
        """What is true from now on, for those who wait and for those who are connected."""
        self._table = table
        for link in list(self._links):
            self._place(link)
        for sleeper in self._sleepers:
            _wake(sleeper)

    def _place(self, link: Link) -> None:
        standing = self._table.standing(self.place, link.endpoint)
        if standing is Standing.GONE:
            link.cut()
        else:
            # While there is no other endpoint, this one is better than none.
            link.leave(standing is Standing.WITHDRAWN and bool(self._ready()))

    def _ready(self) -> tuple[Endpoint, ...]:
        return self._table.ready.get(self.place, ())

    # -- new connections -------------------------------------------------------------------------------

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_A_TURN):
            if self._listener is None:
                return
            try:
                client, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OUT_OF_FILES:
                    # They wait in the kernel's own queue until files are free again.
                    self._loop.remove_reader(self._listener)
                    self._later = self._loop.call_later(_OUT_OF_FILES_S, self._accept_again)
                    return
                continue  # that client has gone already
            if len(self._waiting) >= MOST_WAITING:
                reset(client)
            else:
                self._lead(client)

    def _accept_again(self) -> None:
        self._later = None
        if self._listener is not None:
            self._loop.add_reader(self._listener, self._accept)

    def _lead(self, client: socket.socket) -> None:
        """Have an endpoint found for a client."""
        task = self._loop.create_task(self._connect(client))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    def _left(self, link: Link, client: socket.socket | None) -> None:
        """A connection has ended; its client may be there still, and goes to another endpoint then."""
        self._links.discard(link)
        if client is not None:
            self._lead(client)

    async def _connect(self, client: socket.socket) -> None:
        found = None
        try:
            with contextlib.suppress(OSError):  # gone already
                prepare(client)
                found = await self._find(client)
        finally:
            if found is None:
                reset(client)
        if found is None:
            return
        server, endpoint = found
        link = Link(client, server, endpoint, self._scratch, self._left)
        self._links.add(link)
        link.start()

    async def _find(self, client: socket.socket) -> tuple[socket.socket, Endpoint] | None:
        """A connection to the next endpoint that takes one; None when there was none for too long."""
        tried: set[Endpoint] = set()
        give_up: float | None = None
        while True:
            endpoint = self._turn.next(self._ready(), tried, self._suspected())
            if endpoint is None:
                now = self._loop.time()
                give_up = give_up or now + rules.WAIT_S
                if now >= give_up:
                    return None
                await self._wait(min(LOOK_AGAIN_S, give_up - now))
                if not still_there(client):
                    return None
                tried.clear()
                continue
            server = await self._dial(endpoint)
            if server is not None and endpoint in self._ready():
                return server, endpoint
            tried.add(endpoint)
            if server is not None:
                reset(server)  # withdrawn meanwhile

    def _suspected(self) -> set[Endpoint]:
        now = self._loop.time()
        self._suspects = {endpoint: until for endpoint, until in self._suspects.items() if until > now}
        return set(self._suspects)

    async def _wait(self, seconds: float) -> None:
        """Until the next news, but no longer than that."""
        sleeper: asyncio.Future[None] = self._loop.create_future()
        timer = self._loop.call_later(seconds, _wake, sleeper)
        self._sleepers.add(sleeper)
        try:
            await sleeper
        finally:
            self._sleepers.discard(sleeper)
            timer.cancel()

    async def _dial(self, endpoint: Endpoint) -> socket.socket | None:
        """A socket that is connected to an endpoint; None if it takes none, and it is a suspect then."""
        try:
            server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        except OSError:  # out of files: no fault of the endpoint
            return None
        try:
            prepare(server)
            # From the Service's own address, which stays as long as the connection has a reason to.
            server.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            server.bind((self.place[0], 0))
            code = server.connect_ex((endpoint.address, endpoint.port))
            if code == errno.EINPROGRESS:
                code = await self._connected(server)
            if code or is_itself(server):
                raise OSError(code or errno.ECONNREFUSED, "no connection")
        except OSError:
            server.close()
            self._suspects[endpoint] = self._loop.time() + rules.SUSPECT_S
            return None
        except BaseException:
            server.close()
            raise
        self._suspects.pop(endpoint, None)
        return server

    async def _connected(self, server: socket.socket) -> int:
        """0 once it is connected, else the number of the error."""
        done: asyncio.Future[int] = self._loop.create_future()

        def finish(code: int | None) -> None:
            if not done.done():
                done.set_result(
                    server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if code is None else code
                )

        self._loop.add_writer(server.fileno(), finish, None)
        timer = self._loop.call_later(rules.CONNECT_S, finish, errno.ETIMEDOUT)
        try:
            return await done
        finally:
            timer.cancel()
            self._loop.remove_writer(server.fileno())


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)

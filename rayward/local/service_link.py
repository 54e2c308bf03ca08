"""One connection through the proxy of Services: a client, an endpoint, and what passes between them.

Sockets in an event loop; when it may end is said by `service_rules.Exchange`.
"""

from __future__ import annotations

import asyncio
import fcntl
import select
import socket
import struct
import termios
from collections.abc import Callable

from rayward.agent.relay import Relay, reset
from rayward.local.service_rules import Endpoint, Exchange


class Link:
    """``client`` and ``server`` are connected and non-blocking; ``scratch`` is the buffer to read into, which
    all links of one loop share; ``ended`` is called once: with the client when it is to be led to another
    endpoint, with None when both sockets are closed."""

    def __init__(
        self,
        client: socket.socket,
        server: socket.socket,
        endpoint: Endpoint,
        scratch: memoryview,
        ended: Callable[[Link, socket.socket | None], None],
    ) -> None:
        self.endpoint = endpoint
        self._loop = asyncio.get_running_loop()
        self._sides = (client, server)
        self._masks = {client: 0, server: 0}
        self._scratch = scratch
        self._relay = Relay(client, server, scratch)
        self._exchange = Exchange()
        self._ended = ended
        self._leaving = False
        self._timer: asyncio.TimerHandle | None = None
        self._over = False

    def start(self) -> None:
        """Pass on what comes from either side."""
        self._watch()

    def leave(self, leaving: bool) -> None:
        """Whether to end at the next quiet moment, for the endpoint is not to be used any more."""
        if leaving != self._leaving:
            self._leaving = leaving
            self._consider(self._loop.time())

    def cut(self) -> None:
        """End at once and let both sides know that this was no regular end."""
        self._end(reset)

    # -- bytes -----------------------------------------------------------------------------------------

    def _pump(self, side: socket.socket, events: int) -> None:
        try:
            asked, answered = self._relay.pump(side, events)
        except OSError:
            self.cut()
            return
        if asked:
            self._exchange.client_spoke()
        now = self._loop.time() if answered or self._leaving else 0.0
        if answered:
            self._exchange.server_spoke(self._scratch[:answered], now)
        if self._relay.finished:
            self._end(socket.socket.close)
            return
        if self._leaving:
            # Right behind an answer is the first moment at which nothing is owed to the client.
            if self._exchange.answered and self._nothing_under_way():
                self._let_go()
                return
            self._consider(now)
        self._watch()

    def _watch(self) -> None:
        if self._over:
            return
        for side in self._sides:
            mask, known = self._relay.interest(side), self._masks[side]
            if mask == known:
                continue
            self._masks[side] = mask
            # The number, not the socket: the loop prints whatever it does not know yet, which for a socket
            # takes four calls to the kernel.
            number, changed = side.fileno(), mask ^ known
            if changed & select.EPOLLIN:
                if mask & select.EPOLLIN:
                    self._loop.add_reader(number, self._pump, side, select.EPOLLIN)
                else:
                    self._loop.remove_reader(number)
            if changed & select.EPOLLOUT:
                if mask & select.EPOLLOUT:
                    self._loop.add_writer(number, self._pump, side, select.EPOLLOUT)
                else:
                    self._loop.remove_writer(number)

    # -- the end ---------------------------------------------------------------------------------------

    def _consider(self, now: float) -> None:
        """End now, or see when it may be."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._leaving or self._over:
            return
        wait = self._exchange.quiet_in(now)
        if wait is None:
            return
        if wait == 0.0 and self._nothing_under_way():
            self._let_go()
            return
        self._timer = self._loop.call_later(max(wait, 0.001), self._later)

    def _later(self) -> None:
        self._timer = None
        self._consider(self._loop.time())

    def _nothing_under_way(self) -> bool:
        """Whether all that was read is passed on, and the client has not just begun to ask."""
        client = self._sides[0]
        return not any(mask & select.EPOLLOUT for mask in map(self._relay.interest, self._sides)) and (
            _waiting_bytes(client) == 0
        )

    def _let_go(self) -> None:
        """Leave the endpoint at a quiet moment; with a client that may ask again, the client stays."""
        moves = self._exchange.may_move and self._relay.both_speak
        self._end(socket.socket.close, keep=self._sides[0] if moves else None)

    def _end(self, close: Callable[[socket.socket], None], keep: socket.socket | None = None) -> None:
        if self._over:
            return
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        for side in self._sides:
            self._loop.remove_reader(side.fileno())
            self._loop.remove_writer(side.fileno())
            if side is not keep:
                close(side)
        self._ended(self, keep)


def _waiting_bytes(sock: socket.socket) -> int:
    """Bytes that have come and were not read yet; 0 for a socket that is broken."""
    try:
        answer = fcntl.ioctl(sock, termios.FIONREAD, struct.pack("i", 0))
    except OSError:
        return 0
    return int(struct.unpack("i", answer)[0])

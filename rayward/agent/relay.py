"""Passes bytes between two connected sockets, both ways, until both sides are done.

Half-closed stays half-closed, a slow reader slows its writer down, and a break on one side is for the caller
to pass on. Sockets are non-blocking; ``interest`` says what to wait for.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct

from rayward.agent.forwarder_rules import BUFFER

_CHUNK = 64 * 1024
_NO_LINGER = struct.pack("ii", 1, 0)
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))


def prepare(sock: socket.socket) -> None:
    """What every socket of the forwarder gets: no blocking, no delay, keepalive after 30 s."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, name, value)


def reset(sock: socket.socket) -> None:
    """Close at once with a RST: the peer learns now, not after its own time-outs."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    sock.close()


def still_there(client: socket.socket) -> bool:
    """Whether a client that has waited is still there; looks without taking anything."""
    try:
        return bool(client.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False


def is_itself(sock: socket.socket) -> bool:
    """Whether ``sock`` is connected to itself, as happens on a port of the kernel's own range that nobody
    listens on."""
    try:
        return bool(sock.getsockname() == sock.getpeername())
    except OSError:
        return True


class _Flow:
    """One direction. ``pending`` is what the reader has not taken yet."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.pending = bytearray()
        self.ended = False
        self.done = False

    def wants_to_read(self) -> bool:
        return not self.ended and len(self.pending) < BUFFER

    def read(self, scratch: memoryview) -> int:
        """Read once and pass on what the reader takes; gives the number of bytes read."""
        room = min(len(scratch), BUFFER - len(self.pending))
        try:
            count = self.source.recv_into(scratch, room)
        except BlockingIOError:
            return 0
        if not count:
            self.ended = True
        elif self.pending:
            self.pending += scratch[:count]
        else:
            sent = self._send(scratch[:count])
            self.pending += scratch[sent:count]
        self._finish()
        return count

    def write(self) -> None:
        """Pass on what is pending, as far as the reader takes it."""
        if self.pending:
            with memoryview(self.pending) as view:
                sent = self._send(view)
            del self.pending[:sent]
        self._finish()

    def _send(self, data: memoryview) -> int:
        try:
            return self.sink.send(data)
        except BlockingIOError:
            return 0

    def _finish(self) -> None:
        if self.ended and not self.pending and not self.done:
            self.done = True
            with contextlib.suppress(OSError):  # the other side has gone already
                self.sink.shutdown(socket.SHUT_WR)


class Relay:
    """The two directions between ``client`` and ``server``."""

    def __init__(self, client: socket.socket, server: socket.socket, scratch: memoryview) -> None:
        self.client = client
        self.server = server
        self._scratch = scratch
        self._up = _Flow(client, server)
        self._down = _Flow(server, client)

    @property
    def finished(self) -> bool:
        """Both sides have said all that they had to say, and it was passed on."""
        return self._up.done and self._down.done

    @property
    def both_speak(self) -> bool:
        """Neither side has said that it is done."""
        return not (self._up.ended or self._down.ended)

    def pump(self, sock: socket.socket, events: int) -> tuple[int, int]:
        """Do what ``events`` of ``sock`` allow; gives the bytes read from the client and from the server.

        Raises OSError when one side is broken.
        """
        reading, writing = (self._up, self._down) if sock is self.client else (self._down, self._up)
        if events & (select.EPOLLOUT | select.EPOLLERR):
            writing.write()
        count = 0
        if events & ~select.EPOLLOUT and reading.wants_to_read():
            count = reading.read(self._scratch)
        return (count, 0) if reading is self._up else (0, count)

    def interest(self, sock: socket.socket) -> int:
        """The epoll events to wait for on ``sock``; 0: none, take it out of the poll (a hang-up would
        be reported again and again otherwise)."""
        reading, writing = (self._up, self._down) if sock is self.client else (self._down, self._up)
        return (select.EPOLLIN if reading.wants_to_read() else 0) | (
            select.EPOLLOUT if writing.pending else 0
        )


def new_scratch() -> memoryview:
    """The buffer that all relays of one thread read into."""
    return memoryview(bytearray(_CHUNK))

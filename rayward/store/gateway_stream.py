"""One end of a TCP connection that never blocks: out as far as the peer takes it, in as it comes."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections import deque
from typing import Deque, Optional, Tuple, Type

_READ_SIZE = 256 * 1024
_LATER: Tuple[Type[OSError], ...] = (BlockingIOError, InterruptedError)
_NO_LINGER = struct.pack("ii", 1, 0)


class Stream:
    """A socket and what has not been sent on it. Every method but ``close`` raises ``OSError`` when the
    connection is broken.
    """

    __slots__ = ("_later", "_out", "_poller", "_reading", "_watched", "fd", "out_bytes", "sock")

    def __init__(self, sock: socket.socket, poller: select.epoll) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.fd = sock.fileno()
        self.out_bytes = 0
        self._poller = poller
        self._later = _LATER if type(sock) is socket.socket else _later_with_tls()
        self._out: Deque[memoryview] = deque()
        self._reading = True
        self._watched = select.EPOLLIN
        poller.register(self.fd, select.EPOLLIN)

    def write(self, data: bytes) -> None:
        """Send what the peer takes now and keep the rest for ``flush``."""
        view: Optional[memoryview] = None
        if not self._out:
            try:
                sent = self.sock.send(data)
            except self._later:
                sent = 0
            if sent == len(data):
                return
            view = memoryview(data)[sent:]
        view = memoryview(data) if view is None else view
        self._out.append(view)
        self.out_bytes += len(view)
        self._watch()

    def flush(self) -> None:
        """Send more of what is kept; to be called when the socket takes bytes."""
        while self._out:
            try:
                sent = self.sock.send(self._out[0])
            except self._later:
                return
            self.out_bytes -= sent
            if sent < len(self._out[0]):
                self._out[0] = self._out[0][sent:]
                return
            self._out.popleft()
        self._watch()

    def read(self) -> Optional[bytes]:
        """What has come; None when nothing is there, empty when the peer has closed."""
        # A TLS record (16 KiB) always fits, so nothing that is decrypted stays behind epoll's back.
        try:
            return self.sock.recv(_READ_SIZE)
        except self._later:
            return None

    @property
    def paused(self) -> bool:
        """Whether nothing is read from it now."""
        return not self._reading

    def pause(self, paused: bool) -> None:
        """Stop or go on reading: the peer then feels it as a full TCP window."""
        if self._reading == paused:
            self._reading = not paused
            self._watch()

    def close(self, reset: bool = False) -> None:
        """Close it. ``reset``: throw away what is on its way, so that it cannot arrive after what comes later
        on another connection.
        """
        with contextlib.suppress(OSError, ValueError):
            self._poller.unregister(self.fd)
        with contextlib.suppress(OSError):
            if reset:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            self.sock.close()
        self._out.clear()
        self.out_bytes = 0

    def _watch(self) -> None:
        wanted = (select.EPOLLIN if self._reading else 0) | (select.EPOLLOUT if self._out else 0)
        if wanted != self._watched:
            self._watched = wanted
            self._poller.modify(self.fd, wanted)


def _later_with_tls() -> Tuple[Type[OSError], ...]:
    import ssl  # noqa: PLC0415 - 4.5 MB that only those with TLS pay

    return (*_LATER, ssl.SSLWantReadError, ssl.SSLWantWriteError)

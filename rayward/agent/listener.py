"""One listening socket in an epoll that survives its troubles: out of files, or lost and bound anew."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
from collections.abc import Iterator
from typing import Callable

REBIND_EVERY = 0.5
OUT_OF_FILES_PAUSE = 0.1
_BACKLOG = 1024
_ACCEPTS_A_TURN = 256
_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# Errors of one connection that accept() hands on, as accept(2) lists them.
_PASSING = (
    errno.EAGAIN,
    errno.EINTR,
    errno.ECONNABORTED,
    errno.EPROTO,
    errno.EPERM,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENOPROTOOPT,
    errno.EOPNOTSUPP,
    errno.ENONET,
)


class Listener:
    """Listens on ``host:port`` in ``poll``. ``tell(reason, message)`` hears of loss and return."""

    def __init__(self, host: str, port: int, poll: select.epoll, tell: Callable[[str, str], None]) -> None:
        self._place = (host, port)
        self._poll = poll
        self._tell = tell
        self._sock: socket.socket | None = None
        self._open_at = 0.0
        self._resume_at: float | None = None
        self.out_of_files = 0

    @property
    def open(self) -> bool:
        """Whether it listens now."""
        return self._sock is not None

    def number(self) -> int:
        """The file number to find in the poll's answers; -1 while it does not listen."""
        return -1 if self._sock is None else self._sock.fileno()

    def listen(self) -> None:
        """Begin to listen; raises OSError when the address cannot be had."""
        family = socket.AF_INET6 if ":" in self._place[0] else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setblocking(False)
            sock.bind(self._place)
            sock.listen(_BACKLOG)
            self._poll.register(sock.fileno(), select.EPOLLIN)
        except OSError:
            sock.close()
            raise
        self._sock = sock

    def close(self) -> None:
        """Listen no more."""
        if self._sock is not None:
            with contextlib.suppress(OSError, ValueError):
                self._poll.unregister(self._sock.fileno())
            self._sock.close()
            self._sock = None
        self._resume_at = None

    def keep(self, now: float) -> None:
        """Do what is due: bind again after a loss, go on after a pause."""
        if self._sock is None and now >= self._open_at:
            self._open_at = now + REBIND_EVERY
            with contextlib.suppress(OSError):
                self.listen()
                self._tell("ForwarderListens", "listening again")
        elif self._sock is not None and self._resume_at is not None and now >= self._resume_at:
            self._resume_at = None
            self._poll.modify(self._sock.fileno(), select.EPOLLIN)

    def next_look(self) -> float | None:
        """When ``keep`` has something to do (monotonic seconds)."""
        return self._open_at if self._sock is None else self._resume_at

    def accept(self, now: float) -> Iterator[socket.socket]:
        """The clients that have come, a few hundred at a time."""
        for _ in range(_ACCEPTS_A_TURN):
            if self._sock is None:
                return
            try:
                client, _address = self._sock.accept()
            except OSError as error:
                self._failed(error, now)
                return
            yield client

    def _failed(self, error: OSError, now: float) -> None:
        if error.errno in _OUT_OF_FILES:
            # They wait in the kernel's own queue until files are free again.
            self.out_of_files += 1
            self._resume_at = now + OUT_OF_FILES_PAUSE
            if self._sock is not None:
                self._poll.modify(self._sock.fileno(), 0)
        elif error.errno not in _PASSING:
            self._tell("ForwarderListenLost", (error.strerror or str(error)).lower())
            self.close()
            self._open_at = now

"""A TCP proxy between gateway and Redis that does what networks do at a bad moment."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Iterator

from rayward.store.resp import request_end, split_request


class Chaos:
    """Passes bytes both ways; commands one by one, so that a fault can be aimed at one of them.

    ``reset_after(word)``: the next command that holds ``word`` is executed, and while its answer comes back,
    after ``keep`` bytes of it, both sides get a RST. ``reset_before``: the same without executing it.
    """

    def __init__(self, backend: int) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._after: tuple[bytes, int] | None = None
        self._before: bytes | None = None
        self.resets = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def reset_after(self, word: bytes, keep: int = 0) -> None:
        with self._lock:
            self._after = (word, keep)

    def reset_before(self, word: bytes) -> None:
        with self._lock:
            self._before = word

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._backend), 10)
                self._sockets += [near, far]
                thread = threading.Thread(target=self._serve, args=(near, far), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, near: socket.socket, far: socket.socket) -> None:
        # One thread for both directions: a socket in which another thread waits is not closed by close().
        held = b""
        armed: int | None = None
        with contextlib.suppress(OSError, ValueError):
            while True:
                ready, _, _ = select.select([near, far], [], [])
                if near in ready:
                    data = near.recv(1 << 18)
                    if not data:
                        break
                    held += data
                    while held and (end := request_end(held)) > 0:
                        command, held = held[:end], held[end:]
                        if self._is_aimed_before(command):
                            self._reset(near, far)
                            return
                        armed = self._aimed_after(command) if armed is None else armed
                        far.sendall(command)
                if far in ready:
                    data = far.recv(1 << 18)
                    if armed is not None:
                        near.sendall(data[:armed])
                        self._reset(near, far)
                        return
                    if not data:
                        break
                    near.sendall(data)
        near.close()
        far.close()

    def _is_aimed_before(self, command: bytes) -> bool:
        with self._lock:
            if self._before is None or self._before not in split_request(command):
                return False
            self._before = None
            return True

    def _aimed_after(self, command: bytes) -> int | None:
        with self._lock:
            if self._after is None or self._after[0] not in split_request(command):
                return None
            keep, self._after = self._after[1], None
            return keep

    def _reset(self, near: socket.socket, far: socket.socket) -> None:
        self.resets += 1
        for sock in (near, far):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()


@contextlib.contextmanager
def chaos_before(backend: int) -> Iterator[Chaos]:
    proxy = Chaos(backend)
    try:
        yield proxy
    finally:
        proxy.close()

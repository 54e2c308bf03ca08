"""The processes of a control plane: each has a log, and none outlives the test process that started it."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

# In the environment of every process, for tools/leftovers.py.
MARK = "RAYWARD_CONTROL_PLANE"
START_S = 90.0
_SUPERVISE = str(Path(__file__).with_name("supervise.py"))
# What an API server says of each of its many connections to etcd.
_NOISE = ("parsed scheme:", "ccResolverWrapper:", "ClientConn switching balancer")
Answer = TypeVar("Answer")


def until(what: str, condition: Callable[[], Answer], bound_s: float = START_S) -> Answer:
    """The first true answer of ``condition``, asked again and again; AssertionError after ``bound_s``."""
    deadline = time.monotonic() + bound_s
    while time.monotonic() < deadline:
        if answer := condition():
            return answer
        time.sleep(0.03)
    raise AssertionError(f"not within {bound_s:.0f} s: {what}")


def free_port() -> int:
    """A loopback port that no outgoing connection can take meanwhile, as one of the ephemeral range could."""
    first_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(100):
        port = random.randrange(11000, first_ephemeral) if first_ephemeral > 12000 else 0
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise AssertionError("100 ports tried, none is free")


class Program:
    """One process of the control plane and its log, which goes on through restarts."""

    def __init__(self, name: str, command: Sequence[str], folder: Path) -> None:
        self.name = name
        self.command = list(command)
        self.log = folder / "logs" / f"{name}.log"
        self.log.touch()
        self.pid = 0
        self._environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(folder / "home"),
            MARK: str(folder),
        }
        self._supervisor: subprocess.Popen[bytes] | None = None

    @property
    def started(self) -> bool:
        """It was, whatever became of it."""
        return self._supervisor is not None

    def flag(self, name: str) -> str:
        """The value of one of its flags."""
        return next(word.partition("=")[2] for word in self.command if word.startswith(f"{name}="))

    def start(self) -> None:
        """Starts it, without waiting for anything but its pid."""
        assert not self.alive(), f"{self.name} runs already"
        with self.log.open("ab") as log:
            # A session of its own: an interrupt at the terminal is for the tests, which end this in order.
            self._supervisor = subprocess.Popen(
                [sys.executable, "-I", "-S", _SUPERVISE, *self.command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        assert self._supervisor.stdout is not None
        self.pid = int(self._supervisor.stdout.readline() or 0)

    def alive(self) -> bool:
        return self._supervisor is not None and self._supervisor.poll() is None

    def check(self) -> None:
        """Fails with the log's end if the process is gone."""
        if not self.alive():
            raise AssertionError(f"{self.name} has ended:\n{self.tail(0, 30)}")

    def signal(self, number: int) -> None:
        """Sends a signal to the program itself."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends it at once, as a crash would."""
        if self._supervisor is None:
            return
        for stream in (self._supervisor.stdin, self._supervisor.stdout):
            assert stream is not None
            stream.close()
        self._supervisor.wait(30)

    def tail(self, offset: int, lines: int) -> str:
        """The last lines of what it said after ``offset`` bytes."""
        try:
            with self.log.open("rb") as stream:
                stream.seek(offset)
                said = stream.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        telling = [line[:400] for line in said if not any(noise in line for noise in _NOISE)]
        return "\n".join(telling[-lines:])


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def healthy(address: str) -> bool:
    """Whether a program says so; its certificate is its own, made at its start."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection(address, timeout=5, context=context)
    with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    return False

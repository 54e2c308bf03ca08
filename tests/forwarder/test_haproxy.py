"""The HAProxy example for clients outside, with a real haproxy and stand-in heads.

haproxy is taken from the PATH or from ``RAYWARD_HAPROXY`` (a program; its libraries may lie beside it,
as ``dpkg -x`` leaves it); without one the test is skipped.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "haproxy" / "haproxy.cfg"
STAND_IN = Path(__file__).with_name("stand_in_agent.py")
LOOPBACK = f"127.{20 + os.getpid() % 200}.{os.getpid() // 200 % 250}"
FRONT, HEAD_A, HEAD_B = (f"{LOOPBACK}.{last}" for last in (30, 31, 32))
SERVICES = (6379, 8265, 10001)


def until(look: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
    return found


def haproxy() -> tuple[str, dict[str, str]]:
    program = os.environ.get("RAYWARD_HAPROXY") or shutil.which("haproxy")
    if not program:
        pytest.skip("no haproxy here (set RAYWARD_HAPROXY to one)")
    libraries = Path(program).resolve().parents[2] / "usr" / "lib" / f"{os.uname().machine}-linux-gnu"
    return program, {"LD_LIBRARY_PATH": str(libraries)} if libraries.is_dir() else {}


class Service:
    """A service of a head: greets each connection with the head's name and holds it."""

    def __init__(self, host: str, port: int, name: bytes) -> None:
        self.listener = socket.create_server((host, port))
        self.name = name
        self.held: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                self.held.append(sock)
                with contextlib.suppress(OSError):
                    sock.sendall(self.name)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        for sock in (self.listener, *self.held):
            sock.close()


@contextlib.contextmanager
def agent(host: str) -> Iterator[Callable[[bool], None]]:
    process = subprocess.Popen(
        [sys.executable, str(STAND_IN), host, "8008"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    pipe = process.stdin

    def leads(now: bool) -> None:
        pipe.write(json.dumps({"leader": now, "serving": now}) + "\n")
        pipe.flush()

    try:
        assert process.stdout.readline() == "ready\n"
        yield leads
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()
        with contextlib.suppress(OSError):
            pipe.close()


def name_at(port: int) -> bytes:
    with contextlib.suppress(OSError), socket.create_connection((FRONT, port), timeout=2) as sock:
        return sock.recv(1)
    return b""


def settled(port: int, name: bytes) -> bool:
    """Only this head answers. HAProxy takes every head for good until its checks say otherwise."""
    return all(name_at(port) == name for _ in range(4))


def test_clients_outside_follow_the_leader(tmp_path: Path) -> None:
    program, environment = haproxy()
    text = EXAMPLE.read_text().replace("10.0.0.1:", f"{HEAD_A}:").replace("10.0.0.2:", f"{HEAD_B}:")
    config = tmp_path / "haproxy.cfg"
    config.write_text(text.replace("bind :", f"bind {FRONT}:"))
    environ = {**os.environ, **environment}
    checked = subprocess.run(
        [program, "-c", "-f", str(config)], env=environ, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr
    with contextlib.ExitStack() as stack:
        for host, name in ((HEAD_A, b"a"), (HEAD_B, b"b")):
            for port in SERVICES:
                stack.callback(Service(host, port, name).close)
        a_leads, b_leads = stack.enter_context(agent(HEAD_A)), stack.enter_context(agent(HEAD_B))
        a_leads(True)
        proxy = subprocess.Popen([program, "-db", "-f", str(config)], env=environ, stderr=subprocess.DEVNULL)
        stack.callback(proxy.wait, 10)
        stack.callback(proxy.kill)
        for port in SERVICES:
            until(lambda port=port: settled(port, b"a"), f"the leader on port {port}")
        with socket.create_connection((FRONT, 6379), timeout=20) as old:
            assert old.recv(1) == b"a"
            a_leads(False)
            b_leads(True)
            # The one that went to the old leader is cut, new ones go to the new one.
            with contextlib.suppress(ConnectionResetError):
                assert old.recv(1) == b""
        for port in SERVICES:
            until(lambda port=port: settled(port, b"b"), f"the new leader on port {port}")
        b_leads(False)
        until(lambda: name_at(6379) == b"", "nobody leads")

"""The tools that break a network, on a real bridge with three small namespaces: silence is silence, one way
is one way, late is late and whole, and afterwards everything is as it was."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rayward.drill.cut import Cut, alone, between, one_way
from rayward.drill.delay import Delay
from rayward.local import linux
from rayward.local.network import Fabric, free_subnet, host_routes, in_network_at

pytestmark = pytest.mark.namespaces

# Gives itself a network namespace, sets eth0 up once it is there, and waits.
_PEER = """
import sys
from rayward.local import linux
linux.unshare(linux.CLONE_NEWNET)
print("ready", flush=True)
sys.stdin.readline()
linux.interface_up("lo")
linux.interface_up("eth0", sys.argv[1])
print("up", flush=True)
sys.stdin.read()
"""


@dataclass
class Peer:
    """A namespace with an address on the bridge."""

    address: str
    child: subprocess.Popen[str]

    @property
    def path(self) -> Path:
        return Path(f"/proc/{self.child.pid}/ns/net")

    def listen(self) -> socket.socket:
        return in_network_at(self.path, lambda: socket.create_server((self.address, 0)))

    def dial(self, other: socket.socket, timeout: float) -> socket.socket:
        return in_network_at(self.path, lambda: socket.create_connection(other.getsockname(), timeout))


@pytest.fixture
def fabric() -> Iterator[Fabric]:
    reason = linux.namespaces_available()
    if reason is not None:
        pytest.skip(f"no namespaces here: {reason}")
    made = Fabric(f"drillnet{os.getpid()}", free_subnet([], host_routes()))
    made.create()
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture
def peers(fabric: Fabric) -> Iterator[list[Peer]]:
    made: list[Peer] = []
    with contextlib.ExitStack() as stack:
        for number in (2, 3, 4):
            address = str(fabric.subnet.network_address + number)
            child = subprocess.Popen(
                [sys.executable, "-c", _PEER, address],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )
            stack.callback(child.wait)
            stack.callback(child.kill)
            assert child.stdin is not None
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            fabric.attach(child.pid, address)
            child.stdin.write("go\n")
            child.stdin.flush()
            assert child.stdout.readline() == "up\n"
            made.append(Peer(address, child))
        yield made


@contextlib.contextmanager
def connected(one: Peer, other: Peer) -> Iterator[tuple[socket.socket, socket.socket]]:
    with other.listen() as server, one.dial(server, 5) as near:
        far, _ = server.accept()
        with far:
            for end in (near, far):
                end.settimeout(5)
            yield near, far


def _hears(end: socket.socket, seconds: float) -> bytes | None:
    end.settimeout(seconds)
    try:
        return end.recv(100)
    except TimeoutError:
        return None


def test_a_cut_is_silent_for_old_and_new_connections_and_heals(fabric: Fabric, peers: list[Peer]) -> None:
    one, other, third = peers
    cut = Cut(fabric.path)
    with connected(one, other) as (near, far), connected(third, other) as (near3, far3):
        cut.apply(between([one.address], [other.address]))
        assert cut.in_force()
        near.sendall(b"lost")  # no error: it vanishes
        far.sendall(b"lost too")
        assert _hears(far, 0.5) is None
        assert _hears(near, 0.1) is None
        with other.listen() as server, pytest.raises(TimeoutError):
            one.dial(server, 0.7)
        near3.sendall(b"others pass")
        assert _hears(far3, 5) == b"others pass"
        assert cut.heal()
        # TCP sends again what was lost: nothing was refused or reset.
        assert _hears(far, 10) == b"lost"
        assert _hears(near, 10) == b"lost too"
        assert not cut.in_force()
    assert not cut.heal(), "nothing is left to heal"


def test_one_way_loses_one_direction_only(fabric: Fabric, peers: list[Peer]) -> None:
    one, other, _ = peers
    in_network_at(one.path, lambda: None)

    def datagrams(peer: Peer) -> socket.socket:
        made = in_network_at(peer.path, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        made.bind((peer.address, 0))
        return made

    with datagrams(one) as near, datagrams(other) as far:
        Cut(fabric.path).apply(one_way([one.address], [other.address]))
        near.sendto(b"gone", far.getsockname())
        far.sendto(b"arrives", near.getsockname())
        assert _hears(near, 5) == b"arrives"
        assert _hears(far, 0.3) is None
        Cut(fabric.path).heal()
        near.sendto(b"again", far.getsockname())
        assert _hears(far, 5) == b"again"


def test_a_pod_that_is_alone_still_answers_the_spared_host(fabric: Fabric, peers: list[Peer]) -> None:
    one, other, third = peers
    Cut(fabric.path).apply(alone(one.address, [fabric.gateway]))
    with one.listen() as server:
        socket.create_connection(server.getsockname(), 5).close()  # from this host
        for cut_off in (other, third):
            with pytest.raises(TimeoutError):
                cut_off.dial(server, 0.5)
    with other.listen() as server:
        third.dial(server, 5).close()
    Cut(fabric.path).heal()
    with one.listen() as server:
        other.dial(server, 5).close()


def test_delay_is_late_and_loses_nothing(fabric: Fabric, peers: list[Peer]) -> None:
    one, other, _ = peers
    with connected(one, other) as (near, far):
        near.sendall(b"ping")
        assert far.recv(10) == b"ping"
        delay = Delay(fabric, other.address, 0.4)
        delay.start()
        try:
            started = time.monotonic()
            far.sendall(b"pong")
            assert _hears(near, 5) == b"pong"
            assert time.monotonic() - started >= 0.4
            # Large segments travel with unfinished checksums: all of it must arrive as it was sent.
            blob = os.urandom(3_000_000)
            sender = threading.Thread(target=far.sendall, args=(blob,))
            far.settimeout(60)
            sender.start()
            received = hashlib.sha256()
            left = len(blob)
            near.settimeout(60)
            while left:
                part = near.recv(1 << 16)
                assert part
                received.update(part)
                left -= len(part)
            sender.join()
            assert received.digest() == hashlib.sha256(blob).digest()
            assert delay.held_back > 3
        finally:
            delay.stop()
        started = time.monotonic()
        far.sendall(b"soon")
        assert _hears(near, 5) == b"soon"
        assert time.monotonic() - started < 0.4
    assert not Cut(fabric.path).heal()

"""A head that is gone, frozen or cut off, told apart over a real link, and the forwarder that acts on it.

Stand-in agents are processes, one in a network namespace of its own, so that they can be frozen, killed,
and lose their link or their address.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rayward.agent.forwarder import Forwarder
from rayward.agent.heads_watch import HeadsWatch, Link

STAND_IN = Path(__file__).with_name("stand_in_agent.py")
PORT, GCS_PORT = 18008, 16379
# Loopback addresses of this process alone, so that tests may run side by side.
LOOPBACK = f"127.{20 + os.getpid() % 200}.{os.getpid() // 200 % 250}"


def until(look: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.005)
    return found


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


class Head:
    """A stand-in agent in a namespace (or in this one), at ``host``."""

    def __init__(self, host: str, namespace: str = "") -> None:
        self.host = host
        self.inside = ["ip", "netns", "exec", namespace] if namespace else []
        self.process: subprocess.Popen[str]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [*self.inside, sys.executable, str(STAND_IN), self.host, str(PORT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def say(self, **said: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(said) + "\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


@pytest.fixture
def namespace() -> Iterator[tuple[str, str]]:
    """A namespace with one link to this one: its name and its address."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("needs root and ip")
    name, number = f"rwf{os.getpid()}", os.getpid() % 200
    try:
        ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr}")
    try:
        ip("link", "add", f"{name}a", "type", "veth", "peer", "name", "inner0", "netns", name)
        ip("address", "add", f"10.213.{number}.1/30", "dev", f"{name}a")
        ip("link", "set", f"{name}a", "up")
        ip("-n", name, "address", "add", f"10.213.{number}.2/30", "dev", "inner0")
        ip("-n", name, "link", "set", "inner0", "up")
        ip("-n", name, "link", "set", "lo", "up")
        yield name, f"10.213.{number}.2"
    finally:
        subprocess.run(["ip", "link", "del", f"{name}a"], capture_output=True, check=False)
        ip("netns", "del", name)


@pytest.fixture
def head(namespace: tuple[str, str]) -> Iterator[Head]:
    made = Head(namespace[1], namespace[0])
    made.say(leader=True, epoch=3, serving=True, member="head-a", gcs=f"{made.host}:{GCS_PORT}")
    yield made
    with contextlib.suppress(ProcessLookupError):
        os.kill(made.process.pid, signal.SIGCONT)
    made.kill()


@pytest.fixture
def watch(head: Head) -> Iterator[HeadsWatch]:
    made = HeadsWatch([head.host], default_port=PORT)
    made.start()
    yield made
    made.stop()


def links_seen(watch: HeadsWatch) -> list[Link]:
    """Every link of the one head from now on, in order."""
    seen = [watch.heads()[0].link]

    def note() -> None:
        if watch.heads()[0].link is not seen[-1]:
            seen.append(watch.heads()[0].link)

    watch.subscribe(note)
    return seen


@pytest.mark.namespaces
def test_a_killed_agent_is_refused_and_never_silent(head: Head, watch: HeadsWatch) -> None:
    until(watch.leader, "a leader")
    seen = links_seen(watch)
    head.kill()
    until(lambda: seen[-1] is Link.REFUSED, "refused")
    assert seen == [Link.CONNECTED, Link.REFUSED]
    head.start()
    head.say(leader=True, epoch=4, serving=True, member="head-a")
    until(watch.leader, "the next agent at the same address")


@pytest.mark.namespaces
def test_a_frozen_agent_is_silent_and_heard_again_when_it_thaws(head: Head, watch: HeadsWatch) -> None:
    until(watch.leader, "a leader")
    seen = links_seen(watch)
    os.kill(_inner(head), signal.SIGSTOP)
    until(lambda: seen[-1] is Link.SILENT, "silent")
    os.kill(_inner(head), signal.SIGCONT)
    until(lambda: seen[-1] is Link.CONNECTED, "heard again")
    assert seen == [Link.CONNECTED, Link.SILENT, Link.CONNECTED]


@pytest.mark.namespaces
@pytest.mark.parametrize("fault", ["link down", "address gone", "silent loss"])
def test_a_head_that_is_cut_off_is_silent_and_never_refused(
    fault: str, head: Head, watch: HeadsWatch, namespace: tuple[str, str]
) -> None:
    name, host = namespace
    until(watch.leader, "a leader")
    seen = links_seen(watch)
    if fault == "link down":
        ip("-n", name, "link", "set", "inner0", "down")
    elif fault == "address gone":
        ip("-n", name, "address", "del", f"{host}/30", "dev", "inner0")
    else:
        ip("-n", name, "route", "del", f"{host[:-1]}0/30", "dev", "inner0")
    until(lambda: seen[-1] is Link.SILENT, "silent")
    # Longer than the kernel looks for a neighbour: from then on it says that the host is unreachable.
    time.sleep(4.0)
    assert seen == [Link.CONNECTED, Link.SILENT]
    if fault == "address gone":
        ip("-n", name, "address", "add", f"{host}/30", "dev", "inner0")
    else:
        ip("-n", name, "link", "set", "inner0", "up")
        if fault == "silent loss":
            ip("-n", name, "route", "add", f"{host[:-1]}0/30", "dev", "inner0", "src", host)
    until(lambda: seen[-1] is Link.CONNECTED, "heard again")


@pytest.mark.namespaces
def test_a_head_that_starts_up_cut_off_then_comes_is_found(head: Head, namespace: tuple[str, str]) -> None:
    name, _ = namespace
    ip("-n", name, "link", "set", "inner0", "down")
    watch = HeadsWatch([head.host], default_port=PORT)
    watch.start()
    try:
        until(lambda: watch.heads()[0].link is Link.SILENT, "silent")
        assert watch.heads()[0].heard_at is None
        ip("-n", name, "link", "set", "inner0", "up")
        until(watch.leader, "a leader")
    finally:
        watch.stop()


def _inner(head: Head) -> int:
    """The stand-in itself: ``ip netns exec`` becomes it, with the same pid."""
    assert (
        Path(f"/proc/{head.process.pid}/cmdline").read_bytes().split(b"\0")[1].endswith(b"stand_in_agent.py")
    )
    return head.process.pid


@contextlib.contextmanager
def greeting(host: str, name: bytes) -> Iterator[None]:
    """A GCS that greets every connection and holds it."""
    listener = socket.create_server((host, GCS_PORT))
    held: list[socket.socket] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                held.append(sock)
                sock.sendall(name)

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        for sock in (listener, *held):
            sock.close()


@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_a_worker_goes_from_one_head_to_the_next(fault: str) -> None:
    """Two heads on two loopback addresses, watch and forwarder as a worker runs them."""
    heads = [Head(f"{LOOPBACK}.11"), Head(f"{LOOPBACK}.12")]
    watch = HeadsWatch([head.host for head in heads], default_port=PORT)
    forwarder = Forwarder(f"{LOOPBACK}.10", GCS_PORT, watch, lambda reason, message: None)
    try:
        with greeting(f"{LOOPBACK}.11", b"one"), greeting(f"{LOOPBACK}.12", b"two"):
            heads[0].say(leader=True, epoch=1, serving=True, member="a", gcs=f"{LOOPBACK}.11:{GCS_PORT}")
            heads[1].say(leader=False, epoch=1, serving=False, member="b", gcs="")
            watch.start()
            forwarder.start()
            place = (f"{LOOPBACK}.10", GCS_PORT)
            with socket.create_connection(place, timeout=15) as old:
                assert old.recv(3) == b"one"
                if fault == "killed":
                    heads[0].kill()
                else:
                    os.kill(heads[0].process.pid, signal.SIGSTOP)
                until(lambda: "no head says" in forwarder.status().reason, "nobody leads")
                with socket.create_connection(place, timeout=15) as waiting:
                    until(lambda: forwarder.status().parked == 1, "parked")
                    said = {"epoch": 2, "serving": True, "member": "b", "gcs": f"{LOOPBACK}.12:{GCS_PORT}"}
                    heads[1].say(leader=True, **said)
                    assert waiting.recv(3) == b"two"
                with pytest.raises(ConnectionResetError):
                    old.recv(1)
                # A thawed old leader that does not know better is not believed again.
                if fault == "frozen":
                    os.kill(heads[0].process.pid, signal.SIGCONT)
                    until(lambda: _link(watch, "a") is Link.CONNECTED, "the old one speaks again")
                    heads[1].kill()
                    until(lambda: _link(watch, "b") is Link.REFUSED, "the new one is gone")
                    assert watch.leader() is None
                    assert watch.choice().reason == "a leads with epoch 1, but epoch 2 has led since"
    finally:
        forwarder.stop()
        watch.stop()
        for head in heads:
            with contextlib.suppress(ProcessLookupError):
                os.kill(head.process.pid, signal.SIGCONT)
            head.kill()


def _link(watch: HeadsWatch, member: str) -> Link | None:
    view = watch.view_of(member)
    return None if view is None else view.link

"""The forwarder between real sockets: waiting, going on, cutting, half-closed, slow, many."""

from __future__ import annotations

import contextlib
import hashlib
import resource
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rayward.agent import forwarder_rules as rules
from rayward.agent.forwarder import Forwarder
from rayward.agent.heads import Choice, HeadView, Link
from rayward.agent.peer_call import join_address
from rayward.errors import RaywardError

LOCAL = "127.0.0.1"


def until(look: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.005)
    return found


def exactly(sock: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count and (data := sock.recv(count - len(found))):
        found += data
    return found


class Leads:
    """Who leads, set by hand; tells the forwarder as HeadsWatch does."""

    def __init__(self) -> None:
        self._choice = Choice(None, "no head is known yet")
        self._listeners: list[Callable[[], None]] = []

    def choice(self) -> Choice:
        return self._choice

    def subscribe(self, on_change: Callable[[], None]) -> None:
        self._listeners.append(on_change)

    def set(self, port: int | None, epoch: int = 1, serving: bool = True, host: str = LOCAL) -> None:
        if port is None:
            self._choice = Choice(None, "nobody leads")
        else:
            gcs = join_address(host, port)
            view = HeadView(
                f"{host}:8008", Link.CONNECTED, True, epoch, serving, gcs, f"head-{epoch}", heard_at=1.0
            )
            self._choice = Choice(view, f"{view.member} leads with epoch {epoch}")
        for listener in self._listeners:
            listener()


class Gcs:
    """A server that greets with its name; ``serve`` does what comes after, each in a thread."""

    def __init__(self, name: bytes, serve: Callable[[socket.socket], None], port: int = 0) -> None:
        self.name = name
        self._serve = serve
        self.listener = socket.create_server((LOCAL, port), backlog=1024)
        self.port = self.listener.getsockname()[1]
        self.held: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                self.held.append(sock)
                threading.Thread(target=self._take, args=(sock,), daemon=True).start()

    def _take(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock.sendall(self.name)
            self._serve(sock)

    def end(self) -> None:
        """As a process that is killed: the listener and all connections go."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for sock in self.held:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


def echo(sock: socket.socket) -> None:
    while data := sock.recv(65_536):
        sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


class Way:
    """A forwarder under test with all that belongs to it."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.stack = stack
        self.leads = Leads()
        self.events: list[tuple[str, str]] = []
        with socket.create_server((LOCAL, 0)) as free:
            self.port = free.getsockname()[1]
        self.forwarder = Forwarder(LOCAL, self.port, self.leads, lambda *event: self.events.append(event))
        self.forwarder.start()
        stack.callback(self.forwarder.stop)

    def gcs(self, name: bytes, serve: Callable[[socket.socket], None] = echo, port: int = 0) -> Gcs:
        made = Gcs(name, serve, port)
        self.stack.callback(made.end)
        return made

    def connect(self) -> socket.socket:
        sock = self.stack.enter_context(socket.create_connection((LOCAL, self.port), timeout=15))
        return sock

    def status(self) -> rules.ForwarderStatus:
        return self.forwarder.status()


@pytest.fixture
def way() -> Iterator[Way]:
    with contextlib.ExitStack() as stack:
        yield Way(stack)


def test_bytes_pass_both_ways(way: Way) -> None:
    way.leads.set(way.gcs(b"one").port)
    client = way.connect()
    assert client.recv(3) == b"one"
    client.sendall(b"hello")
    assert client.recv(5) == b"hello"
    status = until(lambda: way.status() if way.status().bytes_from_gcs == 8 else None, "counted")
    assert (status.connections, status.parked, status.bytes_to_gcs, status.epoch) == (1, 0, 5, 1)
    assert status.listening == f"{LOCAL}:{way.port}"


def test_connections_wait_unread_until_a_leader_serves(way: Way) -> None:
    client = way.connect()
    client.sendall(b"early")
    until(lambda: way.status().parked == 1, "parked")
    told = ("ForwarderWaits", "connections to the GCS wait: no head is known yet")
    until(lambda: told in way.events, "told")
    gcs = way.gcs(b"one")
    way.leads.set(gcs.port, serving=False)
    until(lambda: "does not serve yet" in way.status().reason, "the reason")
    assert (way.status().parked, way.status().bytes_to_gcs) == (1, 0)
    way.leads.set(gcs.port)
    assert client.recv(3) == b"one"
    assert client.recv(5) == b"early"
    until(lambda: [name for name, _ in way.events][-1] == "ForwarderGoesOn", "told")


def test_a_gcs_that_refuses_is_tried_until_it_takes_them(way: Way) -> None:
    with socket.create_server((LOCAL, 0)) as free:
        port = free.getsockname()[1]
    way.leads.set(port)
    clients = [way.connect() for _ in range(20)]
    until(lambda: way.status().refused[rules.GCS_REFUSED] >= 3, "tries")
    assert way.status().parked >= 19
    until(lambda: way.events[-1][0] == "ForwarderWaits", "told")
    assert way.events[-1][1].endswith("head-1 leads with epoch 1, its GCS does not answer")
    tries = way.status().refused[rules.GCS_REFUSED]
    until(lambda: way.status().refused[rules.GCS_REFUSED] >= tries + 3, "more tries")
    # One tries for all: twenty clients are no twenty tries each time.
    assert way.status().refused[rules.GCS_REFUSED] <= tries + 20
    way.gcs(b"one", port=port)
    assert all(client.recv(3) == b"one" for client in clients)


def test_a_change_of_leader_cuts_at_once_and_what_waits_goes_to_the_new_one(way: Way) -> None:
    first, second = way.gcs(b"one"), way.gcs(b"two")
    way.leads.set(first.port)
    old = [way.connect() for _ in range(5)]
    assert {client.recv(3) for client in old} == {b"one"}
    way.leads.set(second.port, epoch=2, serving=False)
    for client in old:
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    waiting = way.connect()
    until(lambda: way.status().parked == 1, "parked")
    way.leads.set(second.port, epoch=2)
    assert waiting.recv(3) == b"two"
    assert way.status().cuts == 5
    assert any("5 connections to the last GCS were cut" in message for _, message in way.events)
    # The old GCS hears of it too.
    for sock in first.held:
        until(lambda sock=sock: sock.fileno() < 0 or _ended(sock), "the old GCS's side")


def _ended(sock: socket.socket) -> bool:
    try:
        return sock.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_while_nobody_leads_connections_that_are_there_stay(way: Way) -> None:
    way.leads.set(way.gcs(b"one").port)
    client = way.connect()
    assert client.recv(3) == b"one"
    way.leads.set(None)
    until(lambda: way.status().reason == "nobody leads", "the reason")
    client.sendall(b"still")
    assert client.recv(5) == b"still"
    assert way.status().cuts == 0


def test_a_break_of_the_gcs_is_passed_on_and_the_next_one_on_its_address_serves(way: Way) -> None:
    gcs = way.gcs(b"one")
    way.leads.set(gcs.port)
    client = way.connect()
    assert client.recv(3) == b"one"
    gcs.end()
    with contextlib.suppress(ConnectionError):
        assert client.recv(1) == b""
    client.close()
    again = way.connect()
    until(lambda: way.status().parked + way.status().connecting == 1, "waiting")
    way.gcs(b"new", port=gcs.port)
    assert again.recv(3) == b"new"


def test_a_reset_on_one_side_is_a_reset_on_the_other(way: Way) -> None:
    gcs = way.gcs(b"one", lambda sock: None)
    way.leads.set(gcs.port)
    client = way.connect()
    assert client.recv(3) == b"one"
    gcs.held[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    gcs.held[0].close()
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_half_closed_stays_half_closed(way: Way) -> None:
    def answer_after_the_end(sock: socket.socket) -> None:
        whole = b""
        while data := sock.recv(65_536):
            whole += data
        sock.sendall(whole[::-1])
        sock.shutdown(socket.SHUT_WR)

    way.leads.set(way.gcs(b"one", answer_after_the_end).port)
    client = way.connect()
    assert client.recv(3) == b"one"
    client.sendall(b"abc")
    client.shutdown(socket.SHUT_WR)
    assert client.recv(3) == b"cba"
    assert client.recv(1) == b""
    until(lambda: way.status().connections == 0, "ended")


def test_those_that_wait_and_hang_up_are_forgotten(way: Way) -> None:
    gone, reset, stays = way.connect(), way.connect(), way.connect()
    gone.sendall(b"preface")
    until(lambda: way.status().parked == 3, "parked")
    gone.close()
    reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    reset.close()
    until(lambda: way.status().parked == 1, "one left")
    gcs = way.gcs(b"one")
    way.leads.set(gcs.port)
    assert stays.recv(3) == b"one"
    assert (len(gcs.held), way.status().hung_up) == (1, 2)


def test_fifty_megabytes_arrive_byte_for_byte(way: Way) -> None:
    block = bytes(range(256)) * 4096
    blocks = 50

    def send(sock: socket.socket) -> None:
        for number in range(blocks):
            sock.sendall(struct.pack(">I", number) + block)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65_536):
            pass

    way.leads.set(way.gcs(b"one", send).port)
    client = way.connect()
    assert exactly(client, 3) == b"one"
    found = hashlib.sha256()
    while data := client.recv(1 << 20):
        found.update(data)
    wanted = hashlib.sha256(b"".join(struct.pack(">I", number) + block for number in range(blocks)))
    assert found.digest() == wanted.digest()


def test_a_slow_reader_slows_its_writer_and_nobody_else(way: Way) -> None:
    sent = [0]

    def flood(sock: socket.socket) -> None:
        while True:
            sent[0] += sock.send(b"x" * 65_536)

    way.leads.set(way.gcs(b"one", flood).port)
    slow = way.connect()
    # Until the kernel's buffers and the forwarder's are full.
    last = [-1, 0.0]

    def stuck() -> bool:
        if sent[0] != last[0]:
            last[:] = [sent[0], time.monotonic()]
        return sent[0] > 0 and time.monotonic() - last[1] > 0.5

    until(stuck, "the writer stands still")
    taken = way.status().bytes_from_gcs
    other = way.connect()
    assert other.recv(3) == b"one"
    other.close()
    assert exactly(slow, 3) == b"one"
    got = 3
    while got < taken:
        got += len(slow.recv(1 << 20))
    until(lambda: way.status().bytes_from_gcs > taken + 1_000_000 or not slow.recv(1 << 20), "it goes on")


def test_a_stuck_connection_costs_no_processor_time(way: Way) -> None:
    """Its GCS has gone (both ways shut) while the reader takes nothing: a hang-up epoll would repeat."""

    def much_then_gone(sock: socket.socket) -> None:
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.send(b"x" * 65_536)
        time.sleep(0.2)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    gcs = way.gcs(b"one", much_then_gone)
    way.leads.set(gcs.port)
    client = way.connect()
    assert client.recv(3) == b"one"
    client.shutdown(socket.SHUT_WR)
    until(lambda: gcs.held and gcs.held[0].fileno() < 0, "the GCS's side is gone")
    before, started = time.process_time(), time.monotonic()
    select.select([], [], [], 0.5)
    assert time.process_time() - before < 0.5 * (time.monotonic() - started)


def test_five_hundred_wait_and_all_go_on(way: Way) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))
    try:
        clients = [way.connect() for _ in range(500)]
        for number, client in enumerate(clients):
            client.sendall(struct.pack(">I", number))
        until(lambda: way.status().parked == 500, "parked")
        way.leads.set(way.gcs(b"one").port)
        for number, client in enumerate(clients):
            assert exactly(client, 7) == b"one" + struct.pack(">I", number)
        assert (way.status().connections, way.status().parked) == (500, 0)
    finally:
        for client in clients:
            client.close()
        until(lambda: way.status().connections == 0, "all gone")
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_more_than_may_wait_are_turned_away_and_counted(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MOST_PARKED", 3)
    kept = [way.connect() for _ in range(3)]
    until(lambda: way.status().parked == 3, "parked")
    for _ in range(2):
        # The reset may come while connect() still returns, or after it.
        with pytest.raises(ConnectionResetError):
            way.connect().recv(1)
    until(lambda: way.status().refused[rules.TOO_MANY_PARKED] == 2, "turned away")
    assert way.status().parked == len(kept)


def test_without_files_left_clients_wait_in_the_kernel(way: Way) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    first = way.connect()
    until(lambda: way.status().parked == 1, "parked")
    sock = way.stack.enter_context(socket.socket())
    sock.settimeout(15)
    resource.setrlimit(resource.RLIMIT_NOFILE, (sock.fileno() + 1, hard))
    try:
        sock.connect((LOCAL, way.port))
        until(lambda: way.status().refused[rules.NO_FILES_LEFT] >= 1, "counted")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    way.leads.set(way.gcs(b"one").port)
    assert first.recv(3) == b"one"
    assert sock.recv(3) == b"one"


def test_a_lost_listening_socket_is_bound_again(way: Way) -> None:
    way.leads.set(way.gcs(b"one").port)
    assert way.connect().recv(3) == b"one"
    lost = socket.socket(fileno=way.forwarder._listener.number())
    with contextlib.suppress(OSError):
        lost.shutdown(socket.SHUT_RDWR)
    lost.detach()
    until(lambda: "ForwarderListens" in [name for name, _ in way.events], "bound again")
    assert way.connect().recv(3) == b"one"


def test_a_taken_address_is_named_with_what_to_do(way: Way) -> None:
    second = Forwarder(LOCAL, way.port, way.leads, lambda *event: None)
    with pytest.raises(RaywardError) as caught:
        second.start()
    second.stop()
    assert str(caught.value).startswith(
        f"address of the forwarder to the GCS, {LOCAL}:{way.port}: cannot listen: address already in use"
    )
    assert "ray start --address" in str(caught.value)


def test_an_event_log_that_raises_stops_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(reason: str, message: str) -> None:
        raise OSError("disk full")

    with contextlib.ExitStack() as stack:
        way = Way(stack)
        way.forwarder._on_event = broken
        way.leads.set(way.gcs(b"one").port)
        assert way.connect().recv(3) == b"one"
    assert "disk full" in capsys.readouterr().err


def test_it_stops_and_leaves_nothing_open(way: Way) -> None:
    way.leads.set(way.gcs(b"one").port)
    client = way.connect()
    assert client.recv(3) == b"one"
    way.forwarder.stop()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((LOCAL, way.port), timeout=5)

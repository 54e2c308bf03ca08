"""The proxy of Services between real sockets, told by a real file: spreading, finding another endpoint,
leaving one that is withdrawn, half-closed, slow, large."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import select
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rayward.agent.relay import new_scratch
from rayward.local import service_front
from rayward.local.service_front import Front
from rayward.local.service_proxy import serve
from rayward.local.service_rules import OPAQUE_QUIET_S, TABLE_FILE, WAIT_S, Endpoint, Place, Table
from rayward.local.state import write_json

HOST = "127.66.0.1"
BOUND_S = 10.0
ASK = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def until(what: str, look: Callable[[], Any], bound_s: float = BOUND_S) -> Any:
    deadline = time.monotonic() + bound_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {bound_s:g} s: {what}"
        time.sleep(0.005)
    return found


def exactly(sock: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count and (data := sock.recv(count - len(found))):
        found += data
    return found


def is_quiet(sock: socket.socket, seconds: float = 0.3) -> bool:
    """Whether nothing comes for so long: no byte, no end."""
    return not select.select([sock], [], [], seconds)[0]


class Server:
    """A Pod's port: a listener whose connections the test accepts itself, or that greets with its name."""

    def __init__(self, address: str, port: int, greets: bool = True, backlog: int = 128) -> None:
        self.endpoint = Endpoint(address, port, f"uid-{address}")
        self._greets = greets
        self.listener = socket.create_server((address, port), backlog=backlog)
        self.listener.settimeout(BOUND_S)
        self.taken: list[socket.socket] = []
        if greets:
            threading.Thread(target=self._greet, daemon=True).start()

    def _greet(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                found = self.listener.accept()[0]
                self.taken.append(found)
                found.sendall(self.endpoint.address.encode())
                found.shutdown(socket.SHUT_WR)

    def accept(self) -> socket.socket:
        found = self.listener.accept()[0]
        found.settimeout(BOUND_S)
        self.taken.append(found)
        return found

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for sock in self.taken:
            sock.close()


class Rig:
    """A proxy of one Service in a thread of its own, and the servers behind it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server((HOST, 0)) as free:
            self.port = int(free.getsockname()[1])
        self.place: Place = (HOST, self.port)
        self.pods: set[str] = set()
        self._mark = Server("127.66.0.200", self.port)
        self._servers = [self._mark]
        self._clients: list[socket.socket] = []
        self._thread = threading.Thread(target=lambda: asyncio.run(serve(folder)))
        self._thread.start()

    def server(self, number: int, **options: Any) -> Server:
        """A server of a running Pod; not offered yet."""
        made = Server(f"127.66.0.{number}", self.port, **options)
        self._servers.append(made)
        self.pods.add(made.endpoint.pod)
        return made

    def offer(self, *ready: Server | Endpoint) -> None:
        """What is ready from now on; returns when the proxy has read it."""
        endpoints = tuple(sorted(item if isinstance(item, Endpoint) else item.endpoint for item in ready))
        self.write({self.place: endpoints})

    def write(self, ready: dict[Place, tuple[Endpoint, ...]]) -> None:
        # A place of its own for each version: whoever is led on from there finds the version in force.
        with socket.create_server((HOST, 0)) as free:
            mark = free.getsockname()
        pods = {*self.pods, self._mark.endpoint.pod}
        table = Table({**ready, mark: (self._mark.endpoint,)}, frozenset(pods))
        write_json(self.folder / TABLE_FILE, table.to_json())
        until("the table is read", lambda: self._leads_on(mark))

    def _leads_on(self, place: Place) -> bool:
        with contextlib.closing(socket.socket()) as asking:
            asking.settimeout(BOUND_S)
            return asking.connect_ex(place) == 0 and exactly(asking, 99).decode() == "127.66.0.200"

    def client(self) -> socket.socket:
        made = socket.create_connection(self.place, BOUND_S)
        self._clients.append(made)
        return made

    def pair(self, server: Server) -> tuple[socket.socket, socket.socket]:
        """A client's connection, and its other end at a server that accepts by hand."""
        client, end = self.client(), server.accept()
        client.sendall(b"\n")
        # Until something has passed, the proxy may still choose another endpoint.
        assert exactly(end, 1) == b"\n"
        return client, end

    def greeting(self) -> str:
        """The name of the server that a new connection is led to."""
        return exactly(self.client(), 99).decode()

    def close(self) -> None:
        shutil.rmtree(self.folder)
        self._thread.join(BOUND_S)
        alive = self._thread.is_alive()
        for item in (*self._clients, *self._servers):
            item.close()
        assert not alive, "the proxy did not end with its folder"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    folder = tmp_path / "cluster"
    folder.mkdir()
    made = Rig(folder)
    yield made
    made.close()


# -- new connections ---------------------------------------------------------------------------------------


def test_connections_go_to_the_ready_endpoints_in_turn(rig: Rig) -> None:
    servers = [rig.server(number) for number in (2, 3, 4)]
    rig.offer(*servers)
    assert [rig.greeting() for _ in range(6)] == ["127.66.0.2", "127.66.0.3", "127.66.0.4"] * 2
    rig.offer(*servers[1:])
    assert {rig.greeting() for _ in range(4)} == {"127.66.0.3", "127.66.0.4"}


def test_an_endpoint_that_refuses_is_passed_over(rig: Rig) -> None:
    rig.offer(Endpoint("127.66.0.2", rig.port, "uid-127.66.0.2"), rig.server(3))
    assert {rig.greeting() for _ in range(6)} == {"127.66.0.3"}


def test_an_endpoint_that_does_not_answer_is_given_up_and_then_asked_last(rig: Rig) -> None:
    silent, other = rig.server(2, greets=False, backlog=0), rig.server(3)
    # Its queue is full: the kernel drops every further attempt, as a host that is gone would.
    full = [socket.socket() for _ in range(4)]
    for sock in full:
        sock.setblocking(False)
        sock.connect_ex((silent.endpoint.address, rig.port))
    rig.offer(silent, other)
    begun = time.monotonic()
    assert rig.greeting() == "127.66.0.3"
    assert 0.4 < time.monotonic() - begun < 2
    begun = time.monotonic()
    assert [rig.greeting() for _ in range(4)] == ["127.66.0.3"] * 4
    assert time.monotonic() - begun < 0.4
    for sock in full:
        sock.close()


def test_without_an_endpoint_a_client_waits_a_second_and_is_reset(rig: Rig) -> None:
    rig.offer()
    begun = time.monotonic()
    client = rig.client()
    client.sendall(ASK)
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert WAIT_S * 0.9 < time.monotonic() - begun < WAIT_S * 3


def test_a_client_that_waits_goes_to_the_first_endpoint_that_comes_with_all_it_said(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_front, "LOOK_AGAIN_S", 60.0)  # the news alone
    server = rig.server(2, greets=False)
    rig.offer()
    client = rig.client()
    client.sendall(ASK)
    assert is_quiet(client, 0.2)
    rig.offer(server)
    assert exactly(server.accept(), len(ASK)) == ASK


def test_an_endpoint_that_is_withdrawn_while_it_is_connected_to_is_not_taken(rig: Rig) -> None:
    old, new = rig.server(2, greets=False), rig.server(3, greets=False)
    with socket.create_server((HOST, 0)) as free:
        place: Place = free.getsockname()
    pods = frozenset(rig.pods)

    async def story() -> None:
        loop = asyncio.get_running_loop()
        front = Front(place, new_scratch())
        front.open()
        front.take(Table({place: (old.endpoint,)}, pods))
        with socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, place)
            client.send(ASK)
            # The kernel has connected it; the loop turns once more before the proxy learns so.
            while is_quiet(old.listener, 0):
                await asyncio.sleep(0)
            front.take(Table({place: (new.endpoint,)}, pods))
            new.listener.setblocking(False)
            end, _ = await asyncio.wait_for(loop.sock_accept(new.listener), BOUND_S)
            assert await asyncio.wait_for(loop.sock_recv(end, 99), BOUND_S) == ASK
            front.close()
            end.close()

    asyncio.run(story())


def test_a_client_that_does_not_wait_costs_no_endpoint_a_connection(rig: Rig) -> None:
    server = rig.server(2, greets=False)
    rig.offer()
    rig.client().close()
    rig.offer()  # by now that client has been taken
    asking = rig.client()
    asking.sendall(ASK)
    rig.offer(server)
    assert exactly(server.accept(), len(ASK)) == ASK
    assert is_quiet(server.listener)


# -- endpoints that go -------------------------------------------------------------------------------------


def test_when_a_pod_is_gone_its_connections_are_reset(rig: Rig) -> None:
    gone, stays = rig.server(2, greets=False), rig.server(3, greets=False)
    rig.offer(gone, stays)
    (first, _), (second, other) = rig.pair(gone), rig.pair(stays)
    rig.pods.discard(gone.endpoint.pod)
    begun = time.monotonic()
    rig.offer(stays)
    with pytest.raises(ConnectionResetError):
        first.recv(1)
    assert time.monotonic() - begun < 1
    second.sendall(b"still")
    assert exactly(other, 5) == b"still"


def test_a_new_pod_at_an_old_address_does_not_get_the_old_connections(rig: Rig) -> None:
    server = rig.server(2, greets=False)
    rig.offer(server)
    client, _ = rig.pair(server)
    rig.pods = {"uid-later"}
    rig.offer(server.endpoint._replace(pod="uid-later"))
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    rig.pair(server)


def test_what_the_server_breaks_is_broken_for_the_client(rig: Rig) -> None:
    server = rig.server(2, greets=False)
    rig.offer(server)
    client, other = rig.pair(server)
    client.sendall(b"x" * 10)
    until("it has come", lambda: not is_quiet(other, 0))
    other.close()  # with bytes unread: a reset
    with pytest.raises(ConnectionResetError):
        client.recv(1)


@pytest.mark.parametrize("used", [True, False])
def test_an_idle_client_goes_on_with_another_endpoint(rig: Rig, used: bool) -> None:
    leaving, stays = rig.server(2, greets=False), rig.server(3, greets=False)
    rig.offer(leaving)
    client = rig.client()
    server = leaving.accept()
    if used:
        talk(client, server)
        assert is_quiet(client, 0.1)
    rig.offer(stays)
    with contextlib.suppress(ConnectionResetError):  # withdrawn while it was connected to
        assert server.recv(1) == b""
    talk(client, stays.accept())
    assert is_quiet(client, 0.1)


def test_an_idle_client_goes_from_one_to_the_next(rig: Rig) -> None:
    servers = [rig.server(number, greets=False) for number in (2, 3, 4)]
    rig.offer(servers[0])
    client = rig.client()
    talk(client, servers[0].accept())
    for server in servers[1:]:
        rig.offer(server)
        end = server.accept()
    talk(client, end)


def test_a_client_that_was_told_to_close_gets_its_end(rig: Rig) -> None:
    leaving, stays = rig.server(2, greets=False), rig.server(3, greets=False)
    rig.offer(leaving)
    client = rig.client()
    server = leaving.accept()
    talk(client, server, ANSWER.replace(b"\r\n", b"\r\nconnection: close\r\n", 1))
    rig.offer(stays)
    begun = time.monotonic()
    assert client.recv(1) == b""
    assert time.monotonic() - begun < 0.5
    assert server.recv(1) == b""


def talk(client: socket.socket, server: socket.socket, answer: bytes = ANSWER) -> None:
    """One question and its answer."""
    client.sendall(ASK)
    assert exactly(server, len(ASK)) == ASK
    server.sendall(answer)
    assert exactly(client, len(answer)) == answer


def test_a_question_under_way_is_answered_before_the_client_goes_on_elsewhere(rig: Rig) -> None:
    leaving, stays = rig.server(2, greets=False), rig.server(3, greets=False)
    rig.offer(leaving, stays)
    client, server = rig.pair(leaving)
    client.sendall(ASK)
    assert exactly(server, len(ASK)) == ASK
    rig.offer(stays)
    assert is_quiet(client)
    server.sendall(ANSWER)
    assert exactly(client, len(ANSWER)) == ANSWER
    assert server.recv(1) == b""
    talk(client, stays.accept())


def test_a_stream_with_pauses_is_not_cut(rig: Rig) -> None:
    leaving, stays = rig.server(2, greets=False), rig.server(3, greets=False)
    rig.offer(leaving, stays)
    client, server = rig.pair(leaving)
    client.sendall(ASK)
    assert exactly(server, len(ASK)) == ASK
    begun = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
    server.sendall(begun)
    assert exactly(client, len(begun)) == begun
    rig.offer(stays)
    assert is_quiet(client, OPAQUE_QUIET_S * 1.5)
    rest = b"5\r\nworld\r\n0\r\n\r\n"
    server.sendall(rest)
    assert exactly(client, len(rest)) == rest
    assert server.recv(1) == b""
    talk(client, stays.accept())


def test_what_is_not_http_ends_after_a_longer_silence(rig: Rig) -> None:
    leaving, stays = rig.server(2, greets=False), rig.server(3, greets=False)
    rig.offer(leaving, stays)
    client, server = rig.pair(leaving)
    client.sendall(b"PING\r\n")
    assert exactly(server, 6) == b"PING\r\n"
    server.sendall(b"+PONG\r\n")
    assert exactly(client, 7) == b"+PONG\r\n"
    rig.offer(stays)
    assert is_quiet(client, OPAQUE_QUIET_S / 2)
    assert client.recv(1) == b""


def test_a_connection_stays_where_it_is_while_there_is_no_other_endpoint(rig: Rig) -> None:
    only, later = rig.server(2, greets=False), rig.server(3, greets=False)
    rig.offer(only)
    client, server = rig.pair(only)
    for ready in ((), (only,), (), (later,)):
        client.sendall(ASK)
        assert exactly(server, len(ASK)) == ASK
        rig.offer(*ready)
        server.sendall(ANSWER)
        assert exactly(client, len(ANSWER)) == ANSWER
        assert is_quiet(server) is (ready != (later,))


def test_an_endpoint_that_is_ready_again_keeps_its_connections(rig: Rig) -> None:
    flaps, stays = rig.server(2, greets=False), rig.server(3, greets=False)
    rig.offer(flaps, stays)
    client, server = rig.pair(flaps)
    client.sendall(ASK)
    assert exactly(server, len(ASK)) == ASK
    rig.offer(stays)
    rig.offer(flaps, stays)
    server.sendall(ANSWER)
    assert exactly(client, len(ANSWER)) == ANSWER
    assert is_quiet(client)


def test_with_its_service_a_connection_goes_and_nobody_listens(rig: Rig) -> None:
    server = rig.server(2, greets=False)
    rig.offer(server)
    client, _ = rig.pair(server)
    rig.write({})
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        rig.client()


def test_a_file_that_is_no_table_changes_nothing(rig: Rig, capfd: pytest.CaptureFixture[str]) -> None:
    rig.offer(rig.server(2))
    write_json(rig.folder / TABLE_FILE, {"services": "none"})
    until("it was read", lambda: "KeyError" in (said := capfd.readouterr().err) or "TypeError" in said)
    assert rig.greeting() == "127.66.0.2"


# -- bytes -------------------------------------------------------------------------------------------------


def test_a_client_that_has_ended_still_gets_its_answer(rig: Rig) -> None:
    server = rig.server(2, greets=False)
    rig.offer(server)
    client, other = rig.pair(server)
    client.sendall(b"all I have")
    client.shutdown(socket.SHUT_WR)
    assert exactly(other, 99) == b"all I have"
    other.sendall(b"and my answer")
    other.close()
    assert exactly(client, 99) == b"and my answer"


def test_a_server_that_has_ended_still_hears_its_client(rig: Rig) -> None:
    server = rig.server(2, greets=False)
    rig.offer(server)
    client, other = rig.pair(server)
    other.sendall(b"goodbye")
    other.shutdown(socket.SHUT_WR)
    assert exactly(client, 99) == b"goodbye"
    client.sendall(b"one more thing")
    client.close()
    assert exactly(other, 99) == b"one more thing"


def test_much_passes_both_ways_at_once_unharmed(rig: Rig) -> None:
    server = rig.server(2, greets=False)
    rig.offer(server)
    ends = rig.pair(server)
    data = [random.Random(number).randbytes(16 * 1024 * 1024) for number in (1, 2)]
    found: list[str] = ["", ""]

    def send(number: int) -> None:
        ends[number].sendall(data[number])
        ends[number].shutdown(socket.SHUT_WR)

    def take(number: int) -> None:
        seen = hashlib.sha256()
        while part := ends[number].recv(65536):
            seen.update(part)
        found[1 - number] = seen.hexdigest()

    threads = [threading.Thread(target=work, args=(number,)) for work in (send, take) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [hashlib.sha256(part).hexdigest() for part in data]


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_reader_that_does_not_read_holds_its_writer_up(rig: Rig, way: str) -> None:
    server = rig.server(2, greets=False)
    rig.offer(server)
    client, other = rig.pair(server)
    writer, reader = (client, other) if way == "up" else (other, client)
    writer.setblocking(False)
    part, sent = os.urandom(65536), 0
    seen = hashlib.sha256()
    while select.select([], [writer], [], 0.5)[1]:
        with contextlib.suppress(BlockingIOError):
            count = writer.send(part)
            seen.update(part[:count])
            sent += count
        assert sent < 64 * 1024 * 1024, "nobody holds it up"
    writer.shutdown(socket.SHUT_WR)
    got = hashlib.sha256()
    while data := reader.recv(65536):
        got.update(data)
    assert got.digest() == seen.digest()


def test_many_connections_live_side_by_side(rig: Rig) -> None:
    servers = [rig.server(number, greets=False) for number in (2, 3)]
    rig.offer(*servers)
    pairs = [rig.pair(servers[number % 2]) for number in range(200)]
    for number, (client, _) in enumerate(pairs):
        client.sendall(b"%03d" % number)
    for number, (client, server) in enumerate(pairs):
        assert exactly(server, 3) == b"%03d" % number
        server.sendall(b"!")
        assert exactly(client, 1) == b"!"

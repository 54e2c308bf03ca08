"""Which head leads, and what the way to each head says: the rules, and the streams against real sockets."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from rayward.agent import heads as rules
from rayward.agent.heads import Contact, Floor, HeadView, Link, choose_leader, judge
from rayward.agent.heads_watch import HeadsWatch, ask
from rayward.agent.peer_call import host_and_port
from rayward.errors import RaywardError

A = HeadView("10.0.0.1:8008", Link.CONNECTED, True, 5, True, "10.0.0.1:6379", "head-a", "blue", "i1", 1.0)
B = replace(A, address="10.0.0.2:8008", gcs="10.0.0.2:6379", member="head-b", epoch=6)


def test_the_highest_epoch_of_those_connected_leads() -> None:
    assert choose_leader([A, B]).leader is B
    silent = replace(B, link=Link.SILENT)
    assert choose_leader([A, silent]).leader is A
    assert choose_leader([replace(A, leader=False), silent]).reason == (
        "no head says that it leads (head-a connected, head-b silent)"
    )
    assert choose_leader([]).reason == "no head is known yet"


def test_two_leaders_at_one_epoch_are_none_and_it_says_so() -> None:
    found = choose_leader([A, replace(B, epoch=5)])
    assert found.leader is None
    assert found.reason == "head-a and head-b both say that they lead with epoch 5"


def test_one_head_under_two_addresses_is_one_leader() -> None:
    found = choose_leader([replace(A, address="[fd00::1]:8008"), A])
    assert found.leader is not None
    assert found.leader.member == "head-a"


def test_a_leader_that_was_followed_by_another_is_not_chosen_again() -> None:
    floor = Floor().raised(A).raised(B)
    found = choose_leader([A, replace(B, link=Link.SILENT)], floor)
    assert found.leader is None
    assert found.reason == "head-a leads with epoch 5, but epoch 6 has led since"
    fresh_store = replace(A, incarnation="i2", epoch=1)
    assert choose_leader([fresh_store], floor).leader is fresh_store
    assert Floor().raised(B).raised(A) == Floor("i1", 6)


def test_the_leader_of_another_cluster_is_not_ours() -> None:
    found = choose_leader([A], cluster="green")
    assert (found.leader, found.reason) == (None, "head-a leads another cluster, 'blue'")
    assert choose_leader([A], cluster="blue").leader is A


@pytest.mark.parametrize(
    ("contact", "now", "link"),
    [
        (Contact(since=10.0), 11.0, Link.UNKNOWN),
        (Contact(since=10.0), 11.6, Link.SILENT),
        (Contact(since=10.0, heard_at=20.0), 21.4, Link.CONNECTED),
        (Contact(since=10.0, heard_at=20.0), 21.6, Link.SILENT),
        (Contact(since=10.0, heard_at=20.0, refused_at=20.1, refusals=1), 20.2, Link.CONNECTED),
        (Contact(since=10.0, heard_at=20.0, refused_at=20.1, refusals=2), 20.2, Link.REFUSED),
        (Contact(since=10.0, refused_at=10.1, refusals=1), 10.2, Link.UNKNOWN),
        (Contact(since=10.0, refused_at=10.1, refusals=2), 10.2, Link.REFUSED),
        # It refused once and falls silent then: the host may be gone by now.
        (Contact(since=10.0, heard_at=20.0, refused_at=20.1, refusals=2), 21.7, Link.SILENT),
    ],
)
def test_what_the_way_to_a_head_says(contact: Contact, now: float, link: Link) -> None:
    assert judge(contact, now) is link


def test_pace_starts_at_once_and_is_capped() -> None:
    assert [rules.pace(tries) for tries in (1, 2, 3, 4, 5, 500)] == [0.0, 0.02, 0.05, 0.1, 0.2, 0.2]


@pytest.mark.parametrize(
    "line",
    [b"", b"hello", b"[]", b"{}", b'{"leader": 1}', b"\xff\xfe", b"[" * 60_000, b'{"leader": true', b"null"],
)
def test_a_line_that_says_nothing_of_a_leader_is_refused(line: bytes) -> None:
    assert rules.read_line(A, line, 2.0) is None


def test_fields_of_the_wrong_kind_count_as_not_said() -> None:
    said = {"leader": True, "epoch": True, "serving": "yes", "gcs": 7, "member": "x" * 600, "cluster": None}
    view = rules.read_line(A, json.dumps(said).encode(), 2.0)
    assert view == HeadView(A.address, A.link, leader=True, heard_at=2.0)
    assert rules.read_line(A, b'{"leader": true, "epoch": -3}', 2.0) == view
    assert rules.read_line(A, b'{"leader": true, "epoch": 1%s}' % (b"0" * 30), 2.0) == view


def test_a_head_without_a_lease_says_only_the_port_of_its_gcs() -> None:
    said = {"leader": True, "serving": True, "gcs_port": 6380}
    view = rules.read_line(A, json.dumps(said).encode(), 2.0)
    assert view is not None
    assert view.gcs == "10.0.0.1:6380", "it is where its agent is"
    other = rules.read_line(A, json.dumps({**said, "gcs": "10.0.0.9:6379"}).encode(), 2.0)
    assert other is not None
    assert other.gcs == "10.0.0.9:6379"
    odd = rules.read_line(A, json.dumps({**said, "gcs_port": "6380"}).encode(), 2.0)
    assert odd is not None
    assert odd.gcs == ""


def test_addresses() -> None:
    assert host_and_port("head-0", 8008) == ("head-0", 8008)
    assert host_and_port(" head-0:9 ", 8008) == ("head-0", 9)
    assert host_and_port("[fd00::1]:9", 8008) == ("fd00::1", 9)
    assert host_and_port("[fd00::1]", 8008) == ("fd00::1", 8008)
    assert host_and_port("fd00::1", 8008) == ("fd00::1", 8008)
    for wrong in ("", ":8008", "head:", "head:x", "head:0", "head:70000", "[fd00::1]x"):
        with pytest.raises(RaywardError, match="not HOST"):
            host_and_port(wrong, 8008)


# Streams, against sockets of this process.


def until(look: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.005)
    return found


@contextlib.contextmanager
def serving(answer: Callable[[socket.socket], None], host: str = "127.0.0.1") -> Iterator[int]:
    """A listener that hands each connection, its request read, to ``answer`` in a thread of its own."""
    listener = socket.create_server((host, 0), backlog=64)
    ended = threading.Event()
    held: list[socket.socket] = []

    def take(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock.recv(4096)
            answer(sock)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while not ended.is_set():
                sock, _ = listener.accept()
                held.append(sock)
                threading.Thread(target=take, args=(sock,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        ended.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for sock in held:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


@contextlib.contextmanager
def watching(*heads: str, **more: Any) -> Iterator[HeadsWatch]:
    watch = HeadsWatch(heads, **more)
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()


def line(**said: object) -> bytes:
    return (json.dumps({"leader": True, "epoch": 1, "serving": True, "member": "a", **said}) + "\n").encode()


OK = b"HTTP/1.1 200 OK\r\n\r\n"


def stream(sock: socket.socket, each: Callable[[], bytes]) -> None:
    sock.sendall(OK)
    while True:
        sock.sendall(each())
        time.sleep(0.1)


def test_a_stream_is_heard_and_its_end_is_known_at_once() -> None:
    changes: list[float] = []
    with contextlib.ExitStack() as server:
        port = server.enter_context(serving(lambda sock: stream(sock, line)))
        with watching(f"127.0.0.1:{port}", on_change=lambda: changes.append(time.monotonic())) as watch:
            view = until(watch.leader, "a leader")
            assert (view.link, view.member, view.epoch) == (Link.CONNECTED, "a", 1)
            assert watch.view_of("a") is not None
            assert watch.view_of("b") is None
            before = len(changes)
            server.close()
            until(lambda: watch.heads()[0].link is Link.REFUSED, "refused")
            assert watch.leader() is None
            assert len(changes) > before
            # What it said last is still there to be told.
            assert watch.heads()[0].member == "a"


def test_a_change_that_is_said_is_passed_on() -> None:
    epochs = [1]
    seen: list[int] = []
    with (
        serving(lambda sock: stream(sock, lambda: line(epoch=epochs[0]))) as port,
        watching(f"127.0.0.1:{port}") as watch,
    ):
        watch.subscribe(lambda: seen.append(watch.heads()[0].epoch))
        until(watch.leader, "a leader")
        epochs[0] = 2
        until(lambda: seen[-1:] == [2], "the new epoch in the callback")


def test_an_agent_that_accepts_and_says_nothing_is_silent() -> None:
    with serving(lambda sock: None) as port, watching(f"127.0.0.1:{port}") as watch:
        until(lambda: watch.heads()[0].address.endswith(str(port)), "resolved")
        assert watch.heads()[0].link is Link.UNKNOWN
        until(lambda: watch.heads()[0].link is Link.SILENT, "silent")


def test_a_port_that_nobody_opened_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with watching(f"127.0.0.1:{port}") as watch:
        until(lambda: watch.heads()[0].link is Link.REFUSED, "refused")
        assert watch.heads()[0].heard_at is None


def test_names_without_an_address_are_listed_and_do_not_stall_the_rest() -> None:
    with (
        serving(lambda sock: stream(sock, line)) as port,
        watching("no-such-head.invalid", f"127.0.0.1:{port}") as watch,
    ):
        until(watch.leader, "a leader")
        listed = {view.address: view.link for view in watch.heads()}
        assert listed["no-such-head.invalid:8008"] is Link.UNKNOWN


def test_a_slow_resolver_stalls_neither_streams_nor_other_names(monkeypatch: pytest.MonkeyPatch) -> None:
    real, hang = socket.getaddrinfo, threading.Event()

    def slow(host: str, *rest: Any, **more: Any) -> Any:
        if host == "slow.test":
            hang.wait(30)
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with (
        serving(lambda sock: stream(sock, line)) as port,
        watching("slow.test", f"127.0.0.1:{port}") as watch,
    ):
        until(watch.leader, "a leader")
        hang.set()


def test_a_name_that_moves_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    places = {"moving.test": "127.0.0.2"}
    real = socket.getaddrinfo

    def moving(host: str, *rest: Any, **more: Any) -> Any:
        return real(places.get(host, host), *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", moving)
    with (
        serving(lambda sock: stream(sock, line), "0.0.0.0") as port,
        watching(f"moving.test:{port}") as watch,
    ):
        until(lambda: watch.leader() and watch.heads()[0].address == f"127.0.0.2:{port}", "the first place")
        places["moving.test"] = "127.0.0.3"
        until(lambda: any(v.address == f"127.0.0.3:{port}" for v in watch.heads()), "the second place")


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 404 Not Found\r\n\r\n",
        OK + b"x" * 300_000,
        OK + b'{"leader": "perhaps"}\n',
        OK + b"\0" * 200_000 + b"\n",
        b"A" * 300_000,
        b"",
    ],
    ids=["ssh", "404", "endless line", "wrong type", "zeros", "no header", "nothing"],
)
def test_garbage_is_dropped_and_asked_again_at_a_pace(garbage: bytes) -> None:
    asked: list[float] = []

    def answer(sock: socket.socket) -> None:
        asked.append(time.monotonic())
        sock.sendall(garbage)
        sock.close()

    with serving(answer) as port, watching(f"127.0.0.1:{port}") as watch:
        until(lambda: watch.heads()[0].link is Link.SILENT, "silent")
        assert watch.leader() is None
        until(lambda: len(asked) >= 5, "asked again")
        # 1.5 s at the capped pace of 0.2 s.
        assert len(asked) < 40


def test_endless_garbage_takes_no_memory() -> None:
    def answer(sock: socket.socket) -> None:
        sock.sendall(OK)
        while True:
            sock.sendall(b"x" * 65_536)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with serving(answer) as port, watching(f"127.0.0.1:{port}") as watch:
        until(lambda: watch.heads()[0].link is Link.SILENT, "silent")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


def test_one_s_own_agent_is_left_out() -> None:
    with serving(lambda sock: stream(sock, lambda: line(member="me"))) as port:
        with watching(f"127.0.0.1:{port}", own="me") as watch:
            until(lambda: not watch.heads(), "left out by its name")
            assert watch.leader() is None
        assert HeadsWatch([f"127.0.0.1:{port}"], own=f"127.0.0.1:{port}").heads() == ()


def test_a_listener_that_raises_does_not_end_the_watch(capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> None:
        raise ValueError("a listener with a fault")

    epochs = [1]
    with (
        serving(lambda sock: stream(sock, lambda: line(epoch=epochs[0]))) as port,
        watching(f"127.0.0.1:{port}", on_change=broken) as watch,
    ):
        until(watch.leader, "a leader")
        epochs[0] = 7
        until(lambda: (watch.leader() or A).epoch == 7, "the new epoch")
    assert "a listener with a fault" in capsys.readouterr().err


def test_a_stream_that_falls_silent_is_replaced_by_a_new_one() -> None:
    """Its host may have been replaced: nothing comes on the old connection then, not even its end."""
    asked: list[int] = []

    def answer(sock: socket.socket) -> None:
        asked.append(1)
        if len(asked) == 1:
            sock.sendall(OK + line())
        else:
            stream(sock, line)

    seen: list[Link] = []
    with serving(answer) as port:
        watch = HeadsWatch([f"127.0.0.1:{port}"], on_change=lambda: seen.append(watch.heads()[0].link))
        watch.start()
        try:
            until(lambda: Link.SILENT in seen, "silent")
            until(lambda: watch.heads()[0].link is Link.CONNECTED, "heard again, over a new stream")
        finally:
            watch.stop()
    assert Link.REFUSED not in seen


def test_the_watch_at_rest_does_not_spin() -> None:
    began = time.monotonic()
    with (
        serving(lambda sock: None) as silent,
        serving(lambda sock: stream(sock, line)) as talking,
        watching(f"127.0.0.1:{silent}", f"127.0.0.1:{talking}", "127.0.0.1:1") as watch,
    ):
        links = {Link.SILENT, Link.CONNECTED, Link.REFUSED}
        until(lambda: {view.link for view in watch.heads()} == links, "one of each")
        until(lambda: time.monotonic() - began > 2.0, "older than every time-out")
        before = time.process_time()
        time.sleep(1.0)  # what is measured: a second at rest
        assert time.process_time() - before < 0.5


# One question.


def test_ask_gets_and_posts_json() -> None:
    answer = b'HTTP/1.1 409 Conflict\r\nContent-Length: 14\r\n\r\n{"error":"no"}'
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(2):
                sock, _address = listener.accept()
                with sock:
                    seen.append(sock.recv(65_536))
                    sock.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        assert ask(address, "/failsafe", {"epoch": 3}, 2.0, token="t0ken") == (409, {"error": "no"})
        assert ask(address, "/leader", None, 2.0) == (409, {"error": "no"})
        thread.join()
    assert seen[0].startswith(b"POST /failsafe HTTP/1.0\r\n")
    assert b"Authorization: Bearer t0ken\r\n" in seen[0]
    assert seen[0].endswith(b'Content-Length: 12\r\n\r\n{"epoch": 3}')
    assert seen[1].startswith(b"GET /leader HTTP/1.0\r\n")


@pytest.mark.parametrize(
    "raw", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}", b"what\r\n\r\nx"]
)
def test_ask_takes_half_an_answer_for_none(raw: bytes) -> None:
    def answer(sock: socket.socket) -> None:
        sock.sendall(raw)
        sock.close()

    with serving(answer) as port, pytest.raises(ConnectionError):
        ask(f"127.0.0.1:{port}", "/leader", None, 2.0)


def test_ask_has_one_deadline_for_all_of_a_dripping_answer() -> None:
    def answer(sock: socket.socket) -> None:
        while True:
            sock.sendall(b"H")
            time.sleep(0.05)

    with serving(answer) as port, pytest.raises(TimeoutError):
        ask(f"127.0.0.1:{port}", "/leader", None, 0.5)

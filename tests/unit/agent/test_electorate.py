"""The other heads as an electorate sees them, over real sockets: links, who is prepared, who vouches."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from agent_node import until

from rayward.agent.electorate import Electorate, Question
from rayward.agent.heads_watch import HeadsWatch
from rayward.agent.lead import LeaderLink
from rayward.agent.timing import LeaseTiming

TIMING = LeaseTiming()
QUESTION = Question(5, "a", 1.5, "uid-blue")


class OtherHead:
    """A small agent: says ``line`` on the stream, answers a question with ``answer``."""

    def __init__(self, member: str, port: int = 0) -> None:
        self.line: dict[str, Any] = {"leader": False, "member": member}
        self.answer: tuple[int, Any] = (200, {"given": True, "reason": "yes"})
        self.asked: list[tuple[str, dict[str, Any], str | None]] = []
        self.ended = threading.Event()
        head = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                while not head.ended.wait(0.1):
                    self.wfile.write((json.dumps(head.line) + "\n").encode())

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                head.asked.append((self.path, body, self.headers["Authorization"]))
                code, answer = head.answer
                self.send_response(code)
                self.end_headers()
                self.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # the other side hung up

        self.server = Server(("127.0.0.1", port), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def entry(self, **changes: Any) -> dict[str, Any]:
        said = {"member": self.line["member"], "address": self.address, "instance": "i", "time": 1.0}
        return {**said, "state": "prepared", **changes}

    def end(self) -> None:
        """Its process is gone: nothing listens, and what was open is closed."""
        self.ended.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def other() -> Iterator[OtherHead]:
    found = OtherHead("b")
    yield found
    if not found.ended.is_set():
        found.end()


@pytest.fixture
def electorate(other: OtherHead) -> Iterator[Electorate]:
    found = Electorate(HeadsWatch([other.address, "127.0.0.1:1"], own="127.0.0.1:1"), TIMING, "secret")
    found.start(lambda: None)
    yield found
    found.stop()


def connected(electorate: Electorate, other: OtherHead) -> bool:
    return electorate.link_to("b", other.address) is LeaderLink.CONNECTED


def test_the_link_to_the_leader_follows_its_process(electorate: Electorate, other: OtherHead) -> None:
    until(lambda: connected(electorate, other), 30, "connected")
    assert electorate.link_to("b", "127.0.0.1:2") is LeaderLink.UNKNOWN, (
        "another place than the one that is known"
    )
    assert electorate.link_to("b", "") is LeaderLink.CONNECTED, "by its name where there is no address"
    assert electorate.link_to("x", "") is LeaderLink.UNKNOWN
    moment = time.monotonic()
    assert not electorate.changed_since(moment)
    other.end()
    until(lambda: electorate.link_to("b", other.address) is LeaderLink.GONE, 30, "gone")
    assert electorate.changed_since(moment)


def test_a_change_wakes_the_elector(other: OtherHead) -> None:
    woken = threading.Event()
    electorate = Electorate(HeadsWatch([other.address]), TIMING)
    electorate.start(woken.set)
    try:
        assert woken.wait(10)
        until(lambda: connected(electorate, other), 30, "connected")
        woken.clear()
        other.line = {**other.line, "leader": True, "epoch": 3, "serving": True, "gcs": "10.0.0.2:6379"}
        assert woken.wait(10)
        found = until(electorate.leader, 30, "b leads")
        assert (found.member, found.gcs, found.serving) == ("b", "10.0.0.2:6379", True)
    finally:
        electorate.stop()


def test_prepared_is_who_says_so_and_speaks(electorate: Electorate, other: OtherHead) -> None:
    entry = other.entry()
    until(lambda: connected(electorate, other), 30, "connected")
    assert electorate.prepared_heads((entry,), "a") == ("b",)
    assert electorate.prepared_heads((entry,), "b") == (), "not oneself"
    assert electorate.prepared_heads((other.entry(state="standing by"),), "a") == ()
    assert electorate.prepared_heads((other.entry(address="127.0.0.1:2"),), "a") == ()
    assert electorate.prepared_heads(({"member": "b"},), "a") == ()
    other.end()
    until(lambda: not connected(electorate, other), 30, "not connected")
    assert electorate.prepared_heads((entry,), "a") == ()


def test_a_single_head_has_nobody() -> None:
    alone = Electorate(None, TIMING)
    alone.start(lambda: None)
    assert alone.link_to("b", "127.0.0.1:2") is LeaderLink.UNKNOWN
    assert alone.leader() is None
    assert alone.prepared_heads(({"member": "b", "state": "prepared", "address": "x"},), "a") == ()
    assert alone.ask_all((), (), QUESTION) == ((), "")
    alone.stop()


def test_a_head_that_is_no_longer_seen_loses_its_say() -> None:
    electorate = Electorate(None, replace(TIMING, forget_after=10.0))

    def has_a_say(gone_for: float) -> tuple[str, ...]:
        silence = {"b": 0.4, "a": 0.0, "c": gone_for}
        members = tuple({"member": name, "seen_ago_s": quiet} for name, quiet in silence.items())
        return electorate.heads_with_a_say(members, "a")

    assert has_a_say(9.9) == ("b", "c")
    assert has_a_say(10.0) == ("b",), "c is forgotten, b is not"
    assert has_a_say(0.0) == ("b", "c"), "it is back"


def test_the_word_of_all_is_needed(electorate: Electorate, other: OtherHead) -> None:
    third = OtherHead("c")
    members = (other.entry(), {**third.entry(), "member": "c"})
    try:
        assert electorate.ask_all(("b", "c"), members, QUESTION) == (("b", "c"), "")
        (path, body, token) = other.asked[0]
        assert (path, token) == ("/failsafe", "Bearer secret")
        assert body == {"epoch": 5, "member": "a", "trouble_for": 1.5, "cluster": "uid-blue"}
        third.answer = (200, {"given": False, "reason": "the store answers here"})
        assert electorate.ask_all(("b", "c"), members, QUESTION) == ((), "c: the store answers here")
    finally:
        third.end()
    gave, why = electorate.ask_all(("b", "c"), members, QUESTION)
    assert gave == ()
    assert why.startswith("c does not answer (")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((401, {"error": "this agent wants a token"}), "b: "),
        ((200, {"given": "yes"}), "b: "),
        ((200, {"given": 1}), "b: "),
        ((200, b"no JSON"), "b: HTTP 200"),
        ((200, []), "b: HTTP 200"),
        ((500, {"given": True}), "b: "),
    ],
)
def test_anything_but_a_clear_yes_is_none(
    electorate: Electorate, other: OtherHead, answer: tuple[int, Any], words: str
) -> None:
    other.answer = answer
    gave, why = electorate.ask_all(("b",), (other.entry(),), QUESTION)
    assert gave == ()
    assert why.startswith(words)


def test_a_silent_head_costs_one_bound_and_no_word(electorate: Electorate, other: OtherHead) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        members = (other.entry(), {"member": "c", "address": address}, {"member": "d", "address": address})
        gave, why = electorate.ask_all(("b", "c", "d"), members, QUESTION)
    assert gave == ()
    assert [part.split(" (")[0] for part in why.split("; ")] == ["c does not answer", "d does not answer"]
    assert other.asked, "the others were asked meanwhile"


@pytest.mark.parametrize(
    "entry", [{"member": "b"}, {"member": "b", "address": None}, {"member": "b", "address": "x:y"}]
)
def test_a_head_without_an_address_gives_no_word(electorate: Electorate, entry: dict[str, Any]) -> None:
    gave, why = electorate.ask_all(("b",), (entry,), QUESTION)
    assert gave == ()
    assert why.startswith("b does not answer (")
    assert electorate.ask_all(("b",), (), QUESTION)[1].startswith("b does not answer ("), (
        "dropped from the members"
    )

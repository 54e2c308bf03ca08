"""The watch over a Serve proxy, against real servers on real sockets."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from agent_node import until
from stand_in_proxy import DRAINING, StandInProxy

from rayward.agent.serve_probe import ServeProbe
from rayward.agent.serve_rules import Finding
from rayward.agent.serve_watch import ServeWatch
from rayward.agent.timing import Timing

QUICK = Timing(
    serve_interval=0.05, serve_timeout=0.3, serve_second_look=0.02, serve_routes_interval=0.2,
    serve_keep_interval=0.1,
)  # fmt: skip
Start = Callable[..., ServeWatch]


@pytest.fixture
def proxy() -> Iterator[StandInProxy]:
    standing = StandInProxy()
    yield standing
    standing.end()


@pytest.fixture
def said() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def start(said: list[tuple[str, str]]) -> Iterator[Start]:
    running = []

    def begin(port: int, timing: Timing = QUICK, **more: Callable[[], object]) -> ServeWatch:
        watch = ServeWatch(port, timing, lambda reason, message: said.append((reason, message)), **more)
        watch.start()
        running.append(watch)
        return watch

    yield begin
    for watch in running:
        watch.stop()


def asked(port: int, *, routes: bool = True, timeout: float = 0.3) -> tuple[Finding, str, int | None]:
    probe = ServeProbe(port, timeout)
    answer = probe.ask(routes)
    probe.close()
    return answer.finding, answer.reason, answer.routes


# -- one question ----------------------------------------------------------------------------------------


def test_a_proxy_that_answers(proxy: StandInProxy) -> None:
    assert asked(proxy.port) == (Finding.ANSWERS, "the Serve proxy answers", 1)
    assert asked(proxy.port, routes=False) == (Finding.ANSWERS, "the Serve proxy answers", None)
    proxy.routes = {}
    assert asked(proxy.port) == (Finding.ANSWERS, "the Serve proxy answers", 0)
    assert proxy.asked == {"/-/healthz": 3, "/-/routes": 2}


def test_what_the_proxy_says_itself_is_the_reason(proxy: StandInProxy) -> None:
    proxy.code, proxy.message = 503, DRAINING
    assert asked(proxy.port) == (Finding.SAYS_NO, f"the Serve proxy answers 503: {DRAINING}", None)


def test_routes_that_cannot_be_read_change_nothing_about_its_health(proxy: StandInProxy) -> None:
    proxy.routes = ["not", "a", "mapping"]
    assert asked(proxy.port) == (Finding.ANSWERS, "the Serve proxy answers", None)


def test_a_silent_proxy_costs_the_timeout(proxy: StandInProxy) -> None:
    proxy.hold()
    began = time.monotonic()
    assert asked(proxy.port, timeout=0.2)[:2] == (Finding.SILENT, "no answer of the Serve proxy within 0.2 s")
    assert 0.15 < time.monotonic() - began < 2


def test_nobody_listens(proxy: StandInProxy) -> None:
    proxy.end()
    finding, reason, _ = asked(proxy.port)
    assert (finding, reason) == (
        Finding.REFUSED, f"the Serve proxy on port {proxy.port}: connection refused",
    )  # fmt: skip


@pytest.mark.parametrize("words", [b"", b"SSH-2.0-x\r\n\r\n"])
def test_whoever_hangs_up_or_talks_nonsense_is_no_proxy(words: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def once() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(words)

        threading.Thread(target=once, daemon=True).start()
        assert asked(server.getsockname()[1])[0] is Finding.REFUSED


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_a_proxy_of_ipv6_only_is_found() -> None:
    try:
        standing = StandInProxy(host="::1")
    except OSError:
        pytest.skip("no IPv6 on this machine's loopback")
    probe = ServeProbe(standing.port, 0.3)
    assert [probe.ask(False).finding for _ in range(2)] == [Finding.ANSWERS, Finding.ANSWERS]
    standing.end()
    assert probe.ask(False).reason.endswith("connection refused")
    probe.close()


def test_waiting_ends_when_the_proxy_does(proxy: StandInProxy) -> None:
    probe = ServeProbe(proxy.port, 0.3)
    assert probe.ask(True).finding is Finding.ANSWERS
    assert probe.wait(0.05) is False
    threading.Timer(0.1, proxy.end).start()
    began = time.monotonic()
    assert probe.wait(10) is True
    assert time.monotonic() - began < 5
    probe.close()


# -- one after the other ---------------------------------------------------------------------------------


def test_it_hears_of_a_proxy_and_of_its_end_at_once(
    proxy: StandInProxy, start: Start, said: list[tuple[str, str]]
) -> None:
    slow = replace(QUICK, serve_interval=30.0)
    watch = start(proxy.port, slow)
    until(lambda: watch.state.healthy, 30, "healthy")
    assert watch.state.routes == 1
    began = time.monotonic()
    proxy.end()
    until(lambda: not watch.state.healthy, 30, "down")
    assert time.monotonic() - began < 5, "long before the next question was due"
    assert [reason for reason, _ in said] == ["ServeAnswers", "ServeSilent"]
    assert said[1][1].endswith("connection refused")


def test_it_comes_back(proxy: StandInProxy, start: Start) -> None:
    watch = start(proxy.port)
    until(lambda: watch.state.healthy, 30, "healthy")
    proxy.end()
    until(lambda: not watch.state.healthy, 30, "down")
    again = StandInProxy(proxy.port)
    until(lambda: watch.state.healthy, 30, "healthy again")
    again.end()


def test_one_slow_answer_does_not_flap(
    proxy: StandInProxy, start: Start, said: list[tuple[str, str]]
) -> None:
    watch = start(proxy.port)
    until(lambda: watch.state.healthy, 30, "healthy")
    proxy.hold()
    until(lambda: watch.state.strikes == 1, 30, "one strike")
    proxy.go_on()
    until(lambda: watch.state.strikes == 0, 30, "forgotten")
    assert [reason for reason, _ in said] == ["ServeAnswers"]
    proxy.hold()
    until(lambda: not watch.state.healthy, 30, "three in a row")
    assert said[-1] == ("ServeSilent", "no answer of the Serve proxy within 0.3 s")


def test_a_drained_proxy_is_withdrawn_by_its_own_word(proxy: StandInProxy, start: Start) -> None:
    watch = start(proxy.port)
    until(lambda: watch.state.healthy, 30, "healthy")
    proxy.code, proxy.message = 503, DRAINING
    until(lambda: not watch.state.healthy, 30, "withdrawn")
    assert DRAINING in watch.state.reason


def test_routes_are_asked_for_now_and_then_and_always_while_there_are_none(
    proxy: StandInProxy, start: Start
) -> None:
    proxy.routes = {}
    watch = start(proxy.port, replace(QUICK, serve_routes_interval=1000.0))
    until(lambda: proxy.asked.get("/-/routes", 0) >= 3, 30, "asked while there are none")
    proxy.routes = {"/a": "a", "/b": "b"}
    until(lambda: watch.state.routes == 2, 30, "seen")
    before = proxy.asked["/-/routes"]
    healthz = proxy.asked["/-/healthz"]
    until(lambda: proxy.asked["/-/healthz"] > healthz + 5, 30, "more questions")
    assert proxy.asked["/-/routes"] == before


def test_a_server_that_hangs_up_each_time_is_not_asked_the_more(start: Start) -> None:
    count = 0
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            nonlocal count
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                    count += 1

        threading.Thread(target=answer, daemon=True).start()
        watch = start(server.getsockname()[1], replace(QUICK, serve_interval=0.2))
        until(lambda: watch.state.healthy, 30, "healthy")
        began = count
        until(lambda: count > began + 4, 30, "it goes on")
        asked_for = time.monotonic()
        before = count
        until(lambda: time.monotonic() - asked_for > 1.0, 30, "a second")
        assert count - before <= 12, "two for each interval, not as fast as it can"


def test_keep_is_called_now_and_then(proxy: StandInProxy, start: Start) -> None:
    kept = []
    start(proxy.port, keep=lambda: kept.append(1))
    until(lambda: len(kept) >= 2, 30, "kept")


def test_a_question_costs_next_to_nothing(proxy: StandInProxy) -> None:
    """The goal for a worker's agent is 0.5 % of a processor in all; a question comes once a second."""
    probe = ServeProbe(proxy.port, 2.0)
    probe.ask(True)
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port)
    connection.close()
    before = time.thread_time()
    for _ in range(50):
        assert probe.ask(False).finding is Finding.ANSWERS
    each = (time.thread_time() - before) / 50
    probe.close()
    assert each < 0.002, f"{each * 1000:.2f} ms"

"""The load of the drills on Ray Serve against a plain server: on schedule, answers checked, nothing asked
twice, nothing left behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from drilled import eventually

from rayward.drill.serve_load import ServeLoad, measure_capacity
from rayward.errors import RaywardError
from rayward.local import linux

Answer = Callable[[int], bytes | None]
"""What to send for the n-th request: bytes, b"" to close the connection, None to say nothing."""

RIGHT = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n12"


class Market:
    """An HTTP server that counts requests and connections."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests: list[bytes] = []
        self.connections: list[socket.socket] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                taken, _ = self._listener.accept()
            except OSError:
                return
            self.connections.append(taken)
            threading.Thread(target=self._serve, args=(taken,), daemon=True).start()

    def _serve(self, taken: socket.socket) -> None:
        answer: bytes | None = b""
        try:
            while data := taken.recv(65536):
                with self._lock:
                    number = len(self.requests)
                    self.requests.append(data)
                answer = self._answer(number)
                if answer:
                    taken.sendall(answer)
                if answer == b"" or b"connection: close" in data.lower():
                    break
        except OSError:
            pass
        finally:
            if answer is not None:
                taken.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for taken in self.connections:
            taken.close()


@pytest.fixture
def market() -> Iterator[Callable[[Answer], Market]]:
    """Servers for one test."""
    made: list[Market] = []

    def open_market(answer: Answer) -> Market:
        made.append(Market(answer))
        return made[-1]

    yield open_market
    for each in made:
        each.close()


def run(load: ServeLoad, seconds: float) -> int:
    """Let it run; how many were due and have all been reported."""
    load.rest(seconds)
    return load.reported(time.monotonic())


def test_requests_start_on_schedule_and_right_answers_count(market: Callable[[Answer], Market]) -> None:
    open_ = market(lambda _: RIGHT)
    with ServeLoad(open_.url, 50.0) as load:
        due = run(load, 2.0)
    assert 90 <= due <= 120
    found = sorted(load.requests)[:due]
    assert [each.number for each in found] == list(range(due))
    assert all(each.ok for each in found), [each for each in found if not each.ok][:3]
    assert all(abs(each.scheduled - load.begun - each.number / 50) < 1e-5 for each in found)
    assert b'["PEAR", 12]' in open_.requests[0]
    assert open_.requests[0].startswith(b"POST /fruit/ HTTP/1.1\r\n")
    assert len(open_.connections) < 40, "connections are not used again"


def test_a_new_connection_for_each_request(market: Callable[[Answer], Market]) -> None:
    open_ = market(lambda _: RIGHT)
    with ServeLoad(open_.url, 30.0, new_connections=True) as load:
        due = run(load, 1.0)
    assert all(each.ok for each in load.requests)
    assert len(open_.connections) == len(open_.requests) >= due


def test_requests_start_whether_or_not_others_were_answered(market: Callable[[Answer], Market]) -> None:
    """The server says nothing to the first 20; the others are asked all the same, and wait for nobody."""
    open_ = market(lambda number: None if number < 20 else RIGHT)
    with ServeLoad(open_.url, 20.0, limit_s=3.0) as load:
        due = run(load, 3.0)
    silent = [each for each in load.requests if not each.ok]
    assert 15 <= len(silent) <= 25
    assert all("not answered within 3 s" in each.words for each in silent), silent[:3]
    assert all(2900 < each.latency_ms < 4000 for each in silent)
    assert sum(each.ok for each in load.requests) >= due - 25


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n13", "wrong answer: 13"),
        (b"HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\n12", "status 500: 12"),
        (b"", "HTTPConnectionClosed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n12", "not answered within"),
    ],
)
def test_what_is_no_right_answer_has_failed_and_is_not_asked_again(
    market: Callable[[Answer], Market], answer: bytes, words: str
) -> None:
    open_ = market(lambda number: answer if number == 10 else RIGHT)
    with ServeLoad(open_.url, 20.0, limit_s=2.0, max_s=1.5) as load:
        # It plans the numbers 0 to 30 and ends by itself.
        load.rest(1.5)
        assert load.reported(load.begun + 1.55) == 31
    failed = [each for each in load.requests if not each.ok]
    assert len(failed) == 1, failed
    assert words in failed[0].words
    assert len(open_.requests) == 31, "a failed request was asked again"


def test_the_end_of_the_load_is_the_end_of_its_process(market: Callable[[Answer], Market]) -> None:
    open_ = market(lambda _: RIGHT)
    with ServeLoad(open_.url, 10.0) as load:
        pid = load.pid
        started = linux.process_start_time(pid)
    assert started is not None
    assert linux.process_start_time(pid) != started


def test_a_load_whose_starter_is_gone_ends(market: Callable[[Answer], Market]) -> None:
    open_ = market(lambda _: RIGHT)
    code = (
        "import sys; from rayward.drill.serve_load import ServeLoad\n"
        f"load = ServeLoad({open_.url!r}, 10.0).__enter__(); print(load.pid, flush=True)\n"
        "sys.stdin.read()"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    started = linux.process_start_time(pid)
    assert started is not None
    starter.kill()
    starter.wait()
    eventually(lambda: linux.process_start_time(pid) != started, 30, lambda: "the load lives on")


def test_a_load_that_ends_by_itself_is_an_error(market: Callable[[Answer], Market]) -> None:
    open_ = market(lambda _: RIGHT)
    with ServeLoad(open_.url, 10.0) as load:
        os.kill(load.pid, 9)
        with pytest.raises(RaywardError, match="the load ended by itself"):
            load.rest(10.0)


def test_capacity_is_what_is_answered_and_none_is_an_error(market: Callable[[Answer], Market]) -> None:
    def slow(_: int) -> bytes:
        time.sleep(0.1)
        return RIGHT

    # 16 clients, each answered ten times a second.
    assert 80 < measure_capacity(market(slow).url, False) < 165
    with pytest.raises(RaywardError, match="it answers no request rightly: wrong answer: no"):
        measure_capacity(market(lambda _: b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno").url, False)

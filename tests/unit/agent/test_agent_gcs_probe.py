"""The probe of a GCS against servers made by hand, each with one way to answer, and against a real gRPC."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from rayward.agent import gcs_probe, grpc_wire
from rayward.agent.gcs_probe import HEALTH_CHECK, MAIN_LOOP_READ, Health, Serving
from rayward.agent.timing import Timing
from rayward.agent.watch import GcsWatch

SHORT = 0.15
SERVES, SERVES_NOT, UNKNOWN = b"\x08\x01", b"\x08\x02", b""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def message(stream: int, content: bytes) -> bytes:
    return frame(0, 0, stream, b"\x00" + struct.pack(">I", len(content)) + content)


SETTINGS, HEALTH_OK, LOOP_OK = frame(4, 0, 0), message(1, SERVES), message(3, b"")


@contextlib.contextmanager
def server(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """Accept one connection after the other and ``talk`` on each; gives the port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                talk(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
        assert not thread.is_alive()


def says(content: bytes, then_wait: bool = False) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(content)
        if then_wait:
            while connection.recv(65536):
                pass

    return talk


@pytest.mark.parametrize(
    ("content", "waits", "serving", "reason"),
    [
        (SETTINGS + HEALTH_OK + LOOP_OK, True, Serving.SERVING, "serving"),
        (SETTINGS + LOOP_OK + HEALTH_OK, True, Serving.SERVING, "serving"),
        (SETTINGS + frame(6, 0, 0, b"12345678") + HEALTH_OK + LOOP_OK, True, Serving.SERVING, "serving"),
        (SETTINGS + HEALTH_OK + frame(1, 5, 3), True, Serving.SERVING, "serving"),
        (SETTINGS + HEALTH_OK + frame(3, 0, 3, b"\0\0\0\7"), True, Serving.SERVING, "serving"),
        (SETTINGS + frame(1, 4, 1) + frame(1, 4, 3) + HEALTH_OK + LOOP_OK, True, Serving.SERVING, "serving"),
        (SETTINGS + message(1, SERVES_NOT) + LOOP_OK, True, Serving.NOT_SERVING, "health status 2"),
        (SETTINGS + message(1, UNKNOWN) + LOOP_OK, True, Serving.NOT_SERVING, "health status 0"),
        (SETTINGS + frame(1, 5, 1) + LOOP_OK, True, Serving.NOT_SERVING, "health status 0"),
        (SETTINGS + message(1, SERVES_NOT), True, Serving.NOT_SERVING, "health status 2"),
        (SETTINGS + HEALTH_OK, True, Serving.LOOP_SILENT, "its main loop gave no answer within 0.15 s"),
        (SETTINGS + HEALTH_OK + frame(1, 4, 3), True, Serving.LOOP_SILENT,
         "its main loop gave no answer within 0.15 s"),
        (SETTINGS + LOOP_OK, True, Serving.SILENT, "no answer within 0.15 s"),
        (SETTINGS, True, Serving.SILENT, "no answer within 0.15 s"),
        (b"", True, Serving.SILENT, "no answer within 0.15 s"),
        (b"\0\0", True, Serving.SILENT, "no answer within 0.15 s"),
        (SETTINGS + HEALTH_OK[:11], True, Serving.SILENT, "no answer within 0.15 s"),
        (SETTINGS + frame(7, 0, 0, bytes(8)), True, Serving.NOT_SERVING, "the server ended the connection"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", True, Serving.NOT_SERVING,
         "answered something that is not gRPC"),
        (b"\xff" * 400, True, Serving.NOT_SERVING, "answered something that is not gRPC"),
        (b"-ERR unknown command\r\n", True, Serving.NOT_SERVING, "answered something that is not gRPC"),
        (b"", False, Serving.REFUSED, "connection closed before an answer"),
        (HEALTH_OK[:11], False, Serving.REFUSED, "connection closed before an answer"),
    ],
)  # fmt: skip
def test_answers(content: bytes, waits: bool, serving: Serving, reason: str) -> None:
    with server(says(content, waits)) as port:
        health = gcs_probe.check("127.0.0.1", port, SHORT)
    assert (health.serving, health.reason) == (serving, reason)


def test_a_server_that_dribbles_is_bounded() -> None:
    def dribble(connection: socket.socket) -> None:
        while True:
            connection.sendall(SETTINGS)
            time.sleep(SHORT / 10)

    with server(dribble) as port:
        health = gcs_probe.check("127.0.0.1", port, SHORT)
    assert health.serving is Serving.SILENT
    assert health.seconds < SHORT * 20


def test_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    health = gcs_probe.check("127.0.0.1", port, SHORT)
    assert (health.serving, health.reason) == (Serving.REFUSED, "connection refused")


@pytest.mark.parametrize(("host", "port"), [("a..b", 1), ("x" * 70, 1), ("127.0.0.1", 70_000)])
def test_an_impossible_address_is_an_answer_too(host: str, port: int) -> None:
    assert gcs_probe.check(host, port, SHORT).serving is Serving.REFUSED


@pytest.mark.parametrize("length", [1, 126, 127, 128, 254, 255, 300, 20_000])
def test_long_names_are_encoded_as_rfc_7541_says(length: int) -> None:
    encoded = grpc_wire._string("x" * length)
    value, shift, position = encoded[0] & 0x7F, 0, 1
    assert not encoded[0] & 0x80, "no Huffman coding is announced"
    if value == 0x7F:
        while True:
            byte = encoded[position]
            value += (byte & 0x7F) << shift
            shift, position = shift + 7, position + 1
            if not byte & 0x80:
                break
    assert (value, encoded[position:]) == (length, b"x" * length)


class Gcs(grpc.GenericRpcHandler):
    """Answers the probe's two calls with raw bytes, or makes one wait."""

    def __init__(self, status: bytes, loop: threading.Event | None, calls: list[str]) -> None:
        self._status, self._loop, self._calls = status, loop, calls

    def service(self, handler_call_details: Any) -> Any:
        self._calls.append(handler_call_details.method)
        answer = {HEALTH_CHECK: self._health, MAIN_LOOP_READ: self._read}.get(handler_call_details.method)
        return grpc.unary_unary_rpc_method_handler(answer) if answer else None

    def _health(self, _request: bytes, _context: Any) -> bytes:
        return self._status

    def _read(self, _request: bytes, context: Any) -> bytes:
        if self._loop is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "a Ray without this call")
        elif not self._loop.wait(5):
            context.abort(grpc.StatusCode.INTERNAL, "blocked")
        return b""


@contextlib.contextmanager
def real_grpc(status: bytes, loop: threading.Event | None) -> Iterator[tuple[int, list[str]]]:
    calls: list[str] = []
    running = grpc.server(futures.ThreadPoolExecutor(4))
    running.add_generic_rpc_handlers((Gcs(status, loop, calls),))
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    try:
        yield port, calls
    finally:
        if loop is not None:
            loop.set()
        running.stop(None).wait(5)


def free_loop() -> threading.Event:
    loop = threading.Event()
    loop.set()
    return loop


@pytest.mark.parametrize(
    ("status", "loop", "serving"),
    [
        (SERVES, free_loop, Serving.SERVING),
        (SERVES, threading.Event, Serving.LOOP_SILENT),
        (SERVES, lambda: None, Serving.SERVING),
        (SERVES_NOT, free_loop, Serving.NOT_SERVING),
    ],
)
def test_real_grpc(status: bytes, loop: Callable[[], threading.Event | None], serving: Serving) -> None:
    with real_grpc(status, loop()) as (port, calls):
        assert gcs_probe.check("127.0.0.1", port, 1.0).serving is serving
    assert set(calls) == {MAIN_LOOP_READ, HEALTH_CHECK}


def test_real_grpc_takes_a_host_name_of_full_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Service's full name is longer than one length byte of HPACK holds."""
    connect = socket.create_connection
    with real_grpc(SERVES, free_loop()) as (port, _calls):
        monkeypatch.setattr(
            gcs_probe.socket,
            "create_connection",
            lambda _to, **options: connect(("127.0.0.1", port), **options),
        )
        host = ".".join(["head-of-a-cluster-with-a-long-name-that-is-just-allowed-" + "x" * 5] * 3)
        assert len(host) > 127
        assert gcs_probe.check(host, port, 1.0).serving is Serving.SERVING


def until(look: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return look()


def test_watch_notices_and_forgets() -> None:
    timing = Timing(probe_interval=0.01, probe_interval_until_served=0.01, probe_timeout=1.0)
    changes: list[Serving] = []
    answers = {"content": SETTINGS + HEALTH_OK + LOOP_OK}

    def talk(connection: socket.socket) -> None:
        says(answers["content"])(connection)

    with server(talk) as port:
        watch = GcsWatch("127.0.0.1", port, timing, lambda: changes.append(watch.last.serving))  # type: ignore[union-attr]
        watch.start()
        try:
            served_at = until(lambda: watch.served_at)
            assert watch.silent_for() < 5
            answers["content"] = SETTINGS + message(1, SERVES_NOT) + LOOP_OK
            until(lambda: watch.last is not None and watch.last.serving is Serving.NOT_SERVING)
            assert watch.served_at == served_at, "it has served once, whatever it does now"
            silent = watch.silent_for()
            until(lambda: watch.silent_for() > silent + 0.05)
            watch.reset()
            until(lambda: watch.last is not None)
            assert watch.served_at is None
            assert changes[:3] == [Serving.SERVING, Serving.NOT_SERVING, Serving.NOT_SERVING]
        finally:
            watch.stop()


def test_watch_takes_no_answer_of_the_process_before() -> None:
    """A probe under way while gcs_server is replaced must not speak for the new one."""
    watch = GcsWatch("127.0.0.1", 1, Timing(), lambda: None)
    watch._take(Health(Serving.SERVING, "serving", 0.0), generation=0, asked=time.monotonic())
    assert watch.served_at is not None
    watch.reset()
    watch._take(Health(Serving.SERVING, "serving", 0.0), generation=0, asked=time.monotonic())
    assert (watch.last, watch.served_at) == (None, None)

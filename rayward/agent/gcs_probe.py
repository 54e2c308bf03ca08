"""Ask a GCS over its own gRPC port whether it serves, with nothing but a socket.

Two calls go over one connection. ``grpc.health.v1.Health/Check`` is answered by gRPC's own threads, also
while the GCS's main loop is blocked for good (measured on Ray 2.60 with the main thread stopped under
ptrace: health, CheckAlive and KV reads go on, actor, placement group and resource calls do not). So the
second call is a read that the main loop must answer itself: ``NodeResourceInfoGcsService/GetDrainingNodes``,
whose request is empty and whose answer is small on any cluster.

The agent ships as one zip that needs only the standard library and redis-py, so it cannot import grpcio
(and should not: its import costs more memory than the whole agent). What is spoken here is the fixed part
of RFC 9113 (HTTP/2) and RFC 7541 (HPACK, literal fields only) that such calls need.
"""

from __future__ import annotations

import enum
import socket
import struct
import time
from dataclasses import dataclass

HEALTH_CHECK = "/grpc.health.v1.Health/Check"
MAIN_LOOP_READ = "/ray.rpc.NodeResourceInfoGcsService/GetDrainingNodes"

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_END_STREAM, _END_HEADERS, _ACK = 0x1, 0x4, 0x1
_MAX_FRAME = 16_384
_SERVING = 1
_HEALTH_STREAM, _LOOP_STREAM = 1, 3


class Serving(enum.Enum):
    """What a probe found; each value is a different fact about the server.

    ``REFUSED``: nothing listens. ``SILENT``: something listens and says nothing. ``LOOP_SILENT``: gRPC
    answers, the GCS's main loop does not. ``NOT_SERVING``: it answered that it does not serve.
    """

    SERVING = "serving"
    LOOP_SILENT = "main loop silent"
    NOT_SERVING = "not serving"
    SILENT = "silent"
    REFUSED = "refused"


@dataclass(frozen=True)
class Health:
    """One answer: what was found, a short reason for people, and how long it took in seconds."""

    serving: Serving
    reason: str
    seconds: float


def _string(text: str) -> bytes:
    """An HPACK string without Huffman coding: length in a 7-bit prefix, then the bytes (RFC 7541, 5.2)."""
    raw = text.encode()
    if len(raw) < 0x7F:
        return bytes([len(raw)]) + raw
    head, rest = [0x7F], len(raw) - 0x7F
    while rest >= 0x80:
        head.append(rest % 0x80 + 0x80)
        rest //= 0x80
    return bytes([*head, rest]) + raw


def _literal(name: str, value: str) -> bytes:
    """An HPACK literal header field without indexing (RFC 7541, 6.2.2)."""
    return b"\x00" + _string(name) + _string(value)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _call(stream: int, path: str, authority: str) -> bytes:
    """One unary call with an empty message on ``stream``."""
    fields = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", authority),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    )
    headers = b"".join(_literal(name, value) for name, value in fields)
    empty_message = b"\x00" + struct.pack(">I", 0)
    return _frame(_HEADERS, _END_HEADERS, stream, headers) + _frame(_DATA, _END_STREAM, stream, empty_message)


def _read_exactly(sock: socket.socket, count: int, deadline: float) -> bytes:
    chunks = b""
    while len(chunks) < count:
        left = deadline - time.monotonic()
        if left <= 0:
            raise socket.timeout
        sock.settimeout(left)
        chunk = sock.recv(count - len(chunks))
        if not chunk:
            raise ConnectionError("connection closed before an answer")
        chunks += chunk
    return chunks


def _health_status(message: bytes) -> int:
    """The ``status`` field of a HealthCheckResponse (field 1, varint); 0 where it is left out."""
    return message[1] if len(message) >= 2 and message[0] == 0x08 else 0


class _Exchange:
    """The state of one probe: which of its two calls has been answered, and how."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline
        self.health: int | None = None
        self.loop_answered = False
        self.ended = ""

    def run(self, authority: str) -> None:
        """Send both calls and read until both are answered or the server ends the connection."""
        self._sock.sendall(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, b"")
            + _call(_HEALTH_STREAM, HEALTH_CHECK, authority)
            + _call(_LOOP_STREAM, MAIN_LOOP_READ, authority)
        )
        while not (self.ended or (self.health is not None and self.loop_answered)):
            self._read_frame()

    def _read_frame(self) -> None:
        head = _read_exactly(self._sock, 9, self._deadline)
        length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        stream = int.from_bytes(head[5:9], "big") & 0x7FFFFFFF
        if length > _MAX_FRAME:
            self.ended = "answered something that is not gRPC"
            return
        payload = _read_exactly(self._sock, length, self._deadline)
        if kind == _SETTINGS and not flags & _ACK:
            self._sock.sendall(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._sock.sendall(_frame(_PING, _ACK, 0, payload))
        elif kind == _GOAWAY:
            self.ended = "the server ended the connection"
        else:
            self._take_answer(kind, flags, stream, payload)

    def _take_answer(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        answered = kind in (_DATA, _RST_STREAM) or (kind == _HEADERS and bool(flags & _END_STREAM))
        if stream == _HEALTH_STREAM and answered and self.health is None:
            self.health = _health_status(payload[5:]) if kind == _DATA and len(payload) >= 5 else 0
        elif stream == _LOOP_STREAM and answered:
            # Also "unimplemented" or "unauthenticated" counts: a Ray without this call, or one that asks
            # for a token, must not be taken for hung.
            self.loop_answered = True


def check(host: str, port: int, timeout: float) -> Health:  # noqa: PLR0911 - one return for each finding
    """Probe the GCS on ``host:port``; never takes much longer than ``timeout`` seconds.

    Raises nothing: every failure is an answer.
    """
    started = time.monotonic()
    exchange = None

    def answer(serving: Serving, reason: str) -> Health:
        return Health(serving, reason, time.monotonic() - started)

    try:
        with socket.create_connection((host, port), timeout=timeout) as sock:
            exchange = _Exchange(sock, started + timeout)
            exchange.run(f"{host}:{port}")
    except socket.timeout:
        if exchange is not None and exchange.health == _SERVING:
            return answer(Serving.LOOP_SILENT, f"its main loop gave no answer within {timeout:g} s")
        if exchange is not None and exchange.health is not None:
            return answer(Serving.NOT_SERVING, f"health status {exchange.health}")
        return answer(Serving.SILENT, f"no answer within {timeout:g} s")
    except OSError as error:
        return answer(Serving.REFUSED, (error.strerror or str(error)).lower())
    except (UnicodeError, OverflowError) as error:  # a name or a port that no socket takes
        return answer(Serving.REFUSED, str(error).lower())
    if exchange.ended:
        return answer(Serving.NOT_SERVING, exchange.ended)
    if exchange.health != _SERVING:
        return answer(Serving.NOT_SERVING, f"health status {exchange.health}")
    return answer(Serving.SERVING, "serving")

"""The fixed part of HTTP/2 (RFC 9113) and HPACK (RFC 7541, literal fields only) that unary gRPC calls need.

The agent ships as one zip that needs only the standard library and redis-py, so it cannot import grpcio
(and should not: its import costs more memory than the whole agent). What a call means is for its caller.
"""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1
INITIAL_WINDOW_SIZE = 4
_MAX_FRAME = 16_384


class NotGrpcError(Exception):
    """The server answered something that no gRPC server says."""


class ServerEndedError(Exception):
    """The server said that it ends the connection."""


@dataclass(frozen=True)
class Frame:
    """One frame that belongs to a call."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def ends_stream(self) -> bool:
        """Whether the server has nothing more to say on this stream."""
        return bool(self.flags & END_STREAM)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame as bytes."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def unary_call(stream: int, path: str, authority: str, message: bytes = b"") -> bytes:
    """One unary call of ``path`` with a protobuf ``message`` on ``stream``."""
    fields = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", authority),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    )
    headers = b"".join(_literal(name, value) for name, value in fields)
    body = b"\x00" + struct.pack(">I", len(message)) + message
    return frame(HEADERS, END_HEADERS, stream, headers) + frame(DATA, END_STREAM, stream, body)


def read_frame(sock: socket.socket, deadline: float) -> Frame | None:
    """The next frame of a call; None for one about the connection, which is answered here.

    Raises socket.timeout at the ``deadline`` (monotonic), OSError when the connection breaks, NotGrpcError
    and ServerEndedError.
    """
    head = _read_exactly(sock, 9, deadline)
    length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
    if length > _MAX_FRAME:
        raise NotGrpcError("answered something that is not gRPC")
    payload = _read_exactly(sock, length, deadline)
    if kind == GOAWAY:
        raise ServerEndedError("the server ended the connection")
    if kind == SETTINGS:
        if not flags & ACK:
            sock.sendall(frame(SETTINGS, ACK, 0, b""))
        return None
    if kind == PING:
        if not flags & ACK:
            sock.sendall(frame(PING, ACK, 0, payload))
        return None
    return Frame(kind, flags, int.from_bytes(head[5:9], "big") & 0x7FFFFFFF, payload)


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

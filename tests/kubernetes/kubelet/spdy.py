"""SPDY/3.1 frames as bytes and back: what kubectl and the API server speak for exec and port-forward. Pure.

One `Codec` serves one connection; it holds the two zlib streams that all header blocks of a connection share.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

FIN, UNIDIRECTIONAL = 0x01, 0x02
PROTOCOL_ERROR, REFUSED_STREAM = 1, 3
_VERSION = 3
_SYN_STREAM, _SYN_REPLY, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _HEADERS, _WINDOW_UPDATE = (
    1,
    2,
    3,
    4,
    6,
    7,
    8,
    9,
)
_LONGEST_CONTROL = 1 << 20
LONGEST_DATA = (1 << 24) - 1

# The protocol's preset dictionary: words with their length before them, then running text.
_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language "
    "accept-ranges age allow authorization cache-control connection content-base content-encoding "
    "content-language content-length content-location content-md5 content-range content-type date etag "
    "expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since "
    "last-modified location max-forwards pragma proxy-authenticate proxy-authorization range referer "
    "retry-after server te trailer transfer-encoding upgrade user-agent vary via warning "
    "www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie keep-alive origin"
)
_TEXT = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
DICTIONARY = (
    b"".join(
        struct.pack(">I", len(word)) + word.replace("_", " ").encode("ascii") for word in _WORDS.split(" ")
    )
    + _TEXT.encode()
)


class SpdyError(Exception):
    """The peer sent what is no SPDY/3.1; the connection is of no use any more."""


@dataclass(frozen=True)
class SynStream:
    """The peer opens a stream. ``unidirectional``: it wants no bytes back."""

    stream: int
    headers: Mapping[str, str] = field(default_factory=dict)
    fin: bool = False
    unidirectional: bool = False


@dataclass(frozen=True)
class SynReply:
    """A stream is accepted."""

    stream: int
    headers: Mapping[str, str] = field(default_factory=dict)
    fin: bool = False


@dataclass(frozen=True)
class Headers:
    """More headers of a stream that is open."""

    stream: int
    headers: Mapping[str, str] = field(default_factory=dict)
    fin: bool = False


@dataclass(frozen=True)
class Data:
    """Bytes of a stream; ``fin``: the last ones in this direction."""

    stream: int
    data: bytes = b""
    fin: bool = False


@dataclass(frozen=True)
class RstStream:
    """A stream is broken off."""

    stream: int
    status: int = PROTOCOL_ERROR


@dataclass(frozen=True)
class Settings:
    """The peer's settings by number."""

    values: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Ping:
    """To be sent back as it is by the side that did not start it."""

    number: int


@dataclass(frozen=True)
class GoAway:
    """The peer opens no stream after ``last_stream`` any more."""

    last_stream: int = 0
    status: int = 0


@dataclass(frozen=True)
class WindowUpdate:
    """The peer may be sent ``delta`` more bytes (stream 0: on the connection)."""

    stream: int
    delta: int


@dataclass(frozen=True)
class Unknown:
    """A control frame of another type, which the protocol says to ignore."""

    kind: int


Frame = SynStream | SynReply | Headers | Data | RstStream | Settings | Ping | GoAway | WindowUpdate | Unknown


class Codec:
    """Frames of one connection in both directions."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(zdict=DICTIONARY)
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._buffer = bytearray()

    # -- from bytes ------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete with these bytes. Raises SpdyError."""
        self._buffer += data
        while len(self._buffer) >= 8:
            first, second = struct.unpack_from(">II", self._buffer)
            length = second & 0xFFFFFF
            if first >> 31 and length > _LONGEST_CONTROL:
                raise SpdyError(f"a control frame of {length} bytes, more than {_LONGEST_CONTROL}")
            if len(self._buffer) < 8 + length:
                return
            body = bytes(self._buffer[8 : 8 + length])
            del self._buffer[: 8 + length]
            yield self._frame(first, second >> 24, body)

    def _frame(self, first: int, flags: int, body: bytes) -> Frame:
        if not first >> 31:
            return Data(first, body, bool(flags & FIN))
        version, kind = first >> 16 & 0x7FFF, first & 0xFFFF
        if version != _VERSION:
            raise SpdyError(f"a frame of SPDY version {version}, not {_VERSION}")
        try:
            return self._control(kind, flags, body)
        except (struct.error, zlib.error, UnicodeDecodeError) as error:
            raise SpdyError(f"a broken control frame of type {kind}: {error}") from None

    def _control(self, kind: int, flags: int, body: bytes) -> Frame:
        fin = bool(flags & FIN)
        if kind == _SYN_STREAM:
            stream, _parent, _priority = struct.unpack_from(">IIH", body)
            headers = self._read_headers(body[10:])
            return SynStream(stream & 0x7FFFFFFF, headers, fin, bool(flags & UNIDIRECTIONAL))
        if kind in (_SYN_REPLY, _HEADERS):
            stream = struct.unpack_from(">I", body)[0] & 0x7FFFFFFF
            made = SynReply if kind == _SYN_REPLY else Headers
            return made(stream, self._read_headers(body[4:]), fin)
        if kind == _SETTINGS:
            count = struct.unpack_from(">I", body)[0]
            pairs = (struct.unpack_from(">II", body, 4 + 8 * index) for index in range(count))
            return Settings({key & 0xFFFFFF: value for key, value in pairs})
        if kind == _PING:
            return Ping(*struct.unpack_from(">I", body))
        if kind in (_RST_STREAM, _GOAWAY, _WINDOW_UPDATE):
            number, value = struct.unpack_from(">II", body)
            two = {_RST_STREAM: RstStream, _GOAWAY: GoAway, _WINDOW_UPDATE: WindowUpdate}
            return two[kind](number & 0x7FFFFFFF, value)
        return Unknown(kind)

    def _read_headers(self, block: bytes) -> dict[str, str]:
        plain = self._inflate.decompress(block, _LONGEST_CONTROL)
        if self._inflate.unconsumed_tail:
            raise SpdyError(f"a header block of more than {_LONGEST_CONTROL} bytes")
        position = 4
        found: dict[str, str] = {}
        for _ in range(struct.unpack_from(">I", plain)[0]):
            pair = []
            for _ in range(2):
                length = struct.unpack_from(">I", plain, position)[0]
                text = plain[position + 4 : position + 4 + length]
                if len(text) != length:
                    raise SpdyError("a header block that ends in the middle of a header")
                pair.append(text.decode())
                position += 4 + length
            found[pair[0].lower()] = pair[1]
        return found

    # -- to bytes --------------------------------------------------------------------------------------

    def encode(self, frame: Frame) -> bytes:
        """A frame's bytes. Header blocks must go out in the order in which they were encoded."""
        if isinstance(frame, Data):
            return struct.pack(">II", frame.stream, _flags(frame.fin) << 24 | len(frame.data)) + frame.data
        if isinstance(frame, SynStream):
            body = struct.pack(">IIH", frame.stream, 0, 0) + self._write_headers(frame.headers)
            return _control(_SYN_STREAM, _flags(frame.fin, frame.unidirectional), body)
        if isinstance(frame, SynReply | Headers):
            body = struct.pack(">I", frame.stream) + self._write_headers(frame.headers)
            return _control(_SYN_REPLY if isinstance(frame, SynReply) else _HEADERS, _flags(frame.fin), body)
        if isinstance(frame, Settings):
            pairs = b"".join(struct.pack(">II", key, value) for key, value in frame.values.items())
            return _control(_SETTINGS, 0, struct.pack(">I", len(frame.values)) + pairs)
        return _control(*_plain(frame))

    def _write_headers(self, headers: Mapping[str, str]) -> bytes:
        plain = struct.pack(">I", len(headers))
        for name, value in headers.items():
            for text in (name.lower().encode(), value.encode()):
                plain += struct.pack(">I", len(text)) + text
        return self._deflate.compress(plain) + self._deflate.flush(zlib.Z_SYNC_FLUSH)


def _plain(frame: Frame) -> tuple[int, int, bytes]:
    """Type, flags and body of a control frame without headers."""
    if isinstance(frame, RstStream):
        return _RST_STREAM, 0, struct.pack(">II", frame.stream, frame.status)
    if isinstance(frame, GoAway):
        return _GOAWAY, 0, struct.pack(">II", frame.last_stream, frame.status)
    if isinstance(frame, WindowUpdate):
        return _WINDOW_UPDATE, 0, struct.pack(">II", frame.stream, frame.delta)
    if isinstance(frame, Ping):
        return _PING, 0, struct.pack(">I", frame.number)
    assert isinstance(frame, Unknown)
    return frame.kind, 0, b""


def _flags(fin: bool, unidirectional: bool = False) -> int:
    return (FIN if fin else 0) | (UNIDIRECTIONAL if unidirectional else 0)


def _control(kind: int, flags: int, body: bytes) -> bytes:
    return struct.pack(">II", 1 << 31 | _VERSION << 16 | kind, flags << 24 | len(body)) + body

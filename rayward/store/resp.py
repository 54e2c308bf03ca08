"""Redis' wire protocol (RESP 2) as bytes: what one command looks like, where one reply ends, what it says.

Pure: no socket, no clock. The gateway frames every command with it, so lines are found by ``bytes.find`` and
payloads are skipped by their length; no function looks at a payload byte by byte. What cannot be RESP raises
``ProtocolError`` instead of waiting for more.
"""

from __future__ import annotations

from typing import List, Tuple, Union

# Redis' own bounds: proto-max-bulk-len, and the number of arguments of one command.
MAX_BULK = 512 * 1024 * 1024
MAX_ARGUMENTS = 1024 * 1024
_MAX_ELEMENTS = 2**31
_MAX_LINE = 64 * 1024
_MAX_DEPTH = 64

_PLUS, _MINUS, _COLON, _DOLLAR, _STAR = b"+-:$*"

Buffer = Union[bytes, bytearray]
Part = Union[bytes, bytearray, str, int, float]
Reply = Union[bytes, int, None, "ReplyError", List["Reply"]]


class ProtocolError(Exception):
    """The bytes are not RESP 2: the other side is no Redis, or the stream is out of step. Close it."""


class ReplyError(Exception):
    """Redis answered with an error. ``str`` is the whole text; ``code`` its first word, as in ``MOVED``."""

    @property
    def code(self) -> str:
        """The first word of the text, in upper case as Redis writes it."""
        return str(self).partition(" ")[0]


def encode(*parts: Part) -> bytes:
    """One command as an array of bulk strings; text is UTF-8 (surrogateescape), numbers in decimal."""
    pieces = [b"*%d\r\n" % len(parts)]
    for part in parts:
        data = bytes(part) if isinstance(part, (bytes, bytearray)) else _text(part)
        pieces.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(pieces)


def reply_end(buffer: Buffer, start: int = 0) -> int:
    """The index after the complete reply that begins at ``start``; -1 while bytes of it are missing.

    Raises ``ProtocolError`` for bytes that cannot begin or continue a reply.
    """
    position, left = start, 1
    while left:
        line = buffer.find(b"\r\n", position)
        if line < 0:
            return _incomplete_line(buffer, position)
        kind = buffer[position]
        left -= 1
        if kind == _DOLLAR:
            length = _length(buffer, position + 1, line, MAX_BULK)
            position = line + 2 if length < 0 else _bulk_end(buffer, line + 2, length)
            if position < 0:
                return -1
        elif kind == _STAR:
            left += max(0, _length(buffer, position + 1, line, _MAX_ELEMENTS))
            position = line + 2
        elif kind in (_PLUS, _MINUS, _COLON):
            position = line + 2
        else:
            raise _unknown(buffer, position)
    return position


def request_end(buffer: Buffer, start: int = 0) -> int:
    """The index after the complete command that begins at ``start``; -1 while bytes of it are missing.

    A command is an array of bulk strings; an inline command (a bare line) raises ``ProtocolError``.
    """
    return parse_request(buffer, start)[1]


def parse_request(buffer: Buffer, start: int = 0) -> Tuple[Tuple[bytes, ...], int]:
    """``(words, end)`` of the command at ``start`` in one pass, or ``((), -1)`` while bytes are missing.

    The words of ``*0``, which Redis ignores, are empty too. Raises ``ProtocolError`` as ``request_end`` does.
    """
    line = buffer.find(b"\r\n", start)
    if line < 0 or buffer[start] != _STAR:
        return (), _no_line(buffer, start, _STAR)
    words = []
    position = line + 2
    for _ in range(_length(buffer, start + 1, line, MAX_ARGUMENTS)):
        line = buffer.find(b"\r\n", position)
        if line < 0 or buffer[position] != _DOLLAR:
            return (), _no_line(buffer, position, _DOLLAR)
        digits = buffer[position + 1 : line]
        # The short way for what nearly every word is; _length says what is wrong with the others.
        length = (
            int(digits) if digits.isdigit() and line - position < 9 else _word_length(buffer, position, line)
        )
        begin = line + 2
        position = _bulk_end(buffer, begin, length)
        if position < 0:
            return (), -1
        words.append(bytes(buffer[begin : position - 2]))
    return tuple(words), position


def split_request(buffer: Buffer, start: int = 0) -> Tuple[bytes, ...]:
    """The words of the complete command at ``start``; empty for ``*0``."""
    return parse_request(buffer, start)[0]


def parse_reply(buffer: Buffer, start: int = 0) -> Tuple[Reply, int]:
    """``(value, end)`` of the reply at ``start``, or ``(None, -1)`` while bytes of it are missing.

    Strings are bytes, numbers int, arrays lists, null None. An error is *returned* as a ``ReplyError``, for
    it may stand inside an array.
    """
    end = reply_end(buffer, start)
    if end < 0:
        return None, -1
    return _value(buffer, start, 0)


def _value(buffer: Buffer, position: int, depth: int) -> Tuple[Reply, int]:
    line = buffer.index(b"\r\n", position)
    kind = buffer[position]
    after = line + 2
    if kind == _DOLLAR:
        length = int(buffer[position + 1 : line])
        if length < 0:
            return None, after
        return bytes(buffer[after : after + length]), after + length + 2
    if kind == _STAR:
        return _array(buffer, after, int(buffer[position + 1 : line]), depth)
    content = bytes(buffer[position + 1 : line])
    if kind == _COLON:
        return _number(content), after
    return (content if kind == _PLUS else ReplyError(content.decode("utf-8", "replace"))), after


def _array(buffer: Buffer, after: int, count: int, depth: int) -> Tuple[Reply, int]:
    if count < 0:
        return None, after
    if depth >= _MAX_DEPTH:
        raise ProtocolError(f"a reply nests arrays more than {_MAX_DEPTH} deep")
    elements: List[Reply] = []
    for _ in range(count):
        element, after = _value(buffer, after, depth + 1)
        elements.append(element)
    return elements, after


def _text(part: Union[str, int, float]) -> bytes:
    return part.encode("utf-8", "surrogateescape") if isinstance(part, str) else str(part).encode()


def _length(buffer: Buffer, begin: int, end: int, limit: int) -> int:
    """The length of a bulk string or array; -1 for null. ``int`` alone would let spaces and _ through."""
    digits = bytes(buffer[begin:end])
    if digits == b"-1":
        return -1
    if not digits.isdigit() or len(digits) > 10:
        raise ProtocolError(f"{digits[:40]!r} is not the length of a RESP value")
    length = int(digits)
    if length > limit:
        raise ProtocolError(f"a RESP value of {length} is longer than the limit of {limit}")
    return length


def _word_length(buffer: Buffer, position: int, line: int) -> int:
    length = _length(buffer, position + 1, line, MAX_BULK)
    if length < 0:
        raise ProtocolError("a command holds a null word")
    return length


def _bulk_end(buffer: Buffer, begin: int, length: int) -> int:
    end = begin + length + 2
    if end > len(buffer):
        return -1
    if buffer[end - 2 : end] != b"\r\n":
        raise ProtocolError(f"a bulk string of {length} bytes does not end where its length says")
    return end


def _number(digits: bytes) -> int:
    if len(digits) > 20 or not (digits[1:] if digits[:1] in (b"-", b"+") else digits).isdigit():
        raise ProtocolError(f"{digits[:40]!r} is not a RESP integer")
    return int(digits)


def _incomplete_line(buffer: Buffer, position: int) -> int:
    """-1, unless what is there can no longer become a RESP line."""
    if position < len(buffer):
        if buffer[position] not in (_PLUS, _MINUS, _COLON, _DOLLAR, _STAR):
            raise _unknown(buffer, position)
        limit = _MAX_LINE if buffer[position] in (_PLUS, _MINUS) else 32
        if len(buffer) - position > limit:
            raise ProtocolError(f"a RESP line goes on for more than {limit} bytes")
    return -1


def _no_line(buffer: Buffer, position: int, wanted: int) -> int:
    """-1, unless the value that begins here is not of the ``wanted`` kind."""
    if position < len(buffer) and buffer[position] != wanted:
        raise _unknown(buffer, position)
    return _incomplete_line(buffer, position)


def _unknown(buffer: Buffer, position: int) -> ProtocolError:
    found = bytes(buffer[position : position + 20])
    return ProtocolError(f"{found!r} is not the beginning of a RESP value")

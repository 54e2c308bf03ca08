from __future__ import annotations

import random

import pytest

from rayward.store.resp import (
    ProtocolError,
    Reply,
    ReplyError,
    encode,
    parse_reply,
    parse_request,
    reply_end,
    request_end,
    split_request,
)

REPLIES: list[tuple[bytes, object]] = [
    (b"+OK\r\n", b"OK"),
    (b":-7\r\n", -7),
    (b"$5\r\na\r\nbc\r\n", b"a\r\nbc"),
    (b"$0\r\n\r\n", b""),
    (b"$-1\r\n", None),
    (b"*-1\r\n", None),
    (b"*0\r\n", []),
    (b"*3\r\n:1\r\n*2\r\n$1\r\nx\r\n$-1\r\n+y\r\n", [1, [b"x", None], b"y"]),
]


@pytest.mark.parametrize(("data", "value"), REPLIES)
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_reply_is_read_and_measured(data: bytes, value: object, kind: type) -> None:
    buffer = kind(b"+before\r\n" + data + b"+after\r\n")

    assert parse_reply(buffer, 9) == (value, 9 + len(data))
    assert reply_end(buffer, 9) == 9 + len(data)


@pytest.mark.parametrize(("data", "value"), REPLIES)
def test_every_piece_of_a_reply_is_incomplete(data: bytes, value: object) -> None:
    for length in range(len(data)):
        assert reply_end(data[:length]) == -1, data[:length]
        assert parse_reply(data[:length]) == (None, -1)


def test_an_error_is_a_value_with_its_code() -> None:
    value, end = parse_reply(b"*1\r\n-MOVED 3999 10.0.0.1:6381\r\n")

    assert isinstance(value, list)
    assert isinstance(value[0], ReplyError)
    assert (value[0].code, str(value[0])) == ("MOVED", "MOVED 3999 10.0.0.1:6381")
    assert end == 31


def test_a_command_survives_the_round_trip() -> None:
    words = ("HSET", "RAYdefault@KV", b"\x00\r\n$3\r\n", "ä\udcff", 7, 1.5, "")
    data = encode(*words)

    assert split_request(data) == (
        b"HSET", b"RAYdefault@KV", b"\x00\r\n$3\r\n", b"\xc3\xa4\xff", b"7", b"1.5", b"",
    )  # fmt: skip
    assert parse_request(b"x" + data + b"*", 1)[1] == 1 + len(data) == request_end(b"x" + data + b"*", 1)
    for length in range(len(data)):
        assert request_end(data[:length]) == -1, data[:length]


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x16\x03\x01\x02",
        b"$-2\r\n",
        b"$1_0\r\n",
        b"$ 3\r\nabc\r\n",
        b"$+3\r\nabc\r\n",
        b"$99999999999\r\n",
        b"$600000000\r\n",
        b"$3\r\nabcd\r\n",
        b"*x\r\n",
        b"*1\r\n?\r\n",
        b"$" + b"1" * 40,
        b"+" + b"x" * 70_000,
    ],
)
def test_garbage_is_refused_instead_of_waited_for(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        reply_end(data)


@pytest.mark.parametrize(
    "data",
    [
        b"PING\r\n",
        b"P",
        b"$4\r\nPING\r\n",
        b"*1\r\n:1\r\n",
        b"*1\r\n:",
        b"*1\r\n$-1\r\n",
        b"*2000000\r\n",
        b"*x\r\n",
    ],
)
def test_what_is_no_command_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        request_end(data)


@pytest.mark.parametrize("data", [b":1x\r\n", b":" + b"1" * 5000 + b"\r\n", b"*1\r\n" * 100 + b":1\r\n"])
def test_a_value_that_cannot_be_read_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_reply(data)


def test_random_values_are_read_as_they_were_written() -> None:
    chance = random.Random(7)
    for _ in range(300):
        value = _random_value(chance, 0)
        data = _written(value)
        assert parse_reply(data + b"+") == (value, len(data))
        assert reply_end(data[: chance.randrange(len(data))]) == -1


def test_random_bytes_end_in_an_answer_or_a_protocol_error() -> None:
    chance = random.Random(11)
    alphabet = b"+-:$*0123456789\r\n\r\nab"
    for _ in range(20_000):
        data = bytes(chance.choice(alphabet) for _ in range(chance.randrange(1, 30)))
        for function in (reply_end, request_end, parse_reply):
            try:
                function(data)
            except ProtocolError:
                continue


def _random_value(chance: random.Random, depth: int) -> Reply:
    kind = chance.randrange(5 if depth < 4 else 4)
    if kind == 4:
        return [_random_value(chance, depth + 1) for _ in range(chance.randrange(5))]
    return [None, chance.randrange(-1000, 1000), b"\r\n", chance.randbytes(chance.randrange(50))][kind]


def _written(value: Reply) -> bytes:
    if isinstance(value, list):
        return b"*%d\r\n" % len(value) + b"".join(_written(element) for element in value)
    if value is None:
        return b"$-1\r\n"
    return b":%d\r\n" % value if isinstance(value, int) else b"$%d\r\n%b\r\n" % (len(value), value)  # type: ignore[arg-type]

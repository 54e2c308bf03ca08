"""What the proxy of Services decides: turns, standings, and the moment at which a connection may end."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from rayward.local.service_rules import (
    HEAD_LIMIT,
    OPAQUE_QUIET_S,
    QUIET_S,
    Answer,
    Endpoint,
    Exchange,
    Standing,
    Table,
    Turn,
    answer_state,
)

A, B, C = (Endpoint(f"10.0.0.{n}", 8000, f"uid-{n}") for n in (1, 2, 3))
PLACE = ("10.0.0.254", 80)


def test_everybody_has_their_turn() -> None:
    turn = Turn()
    assert [turn.next((A, B, C), (), ()) for _ in range(6)] == [A, B, C, A, B, C]


def test_turns_stay_even_when_endpoints_come_and_go() -> None:
    turn = Turn()
    assert turn.next((A, B, C), (), ()) == A
    assert turn.next((A, C), (), ()) == C
    assert turn.next((A, B), (), ()) == A
    counted = Counter(turn.next((A, B, C), (), ()) for _ in range(30))
    assert set(counted.values()) == {10}


def test_what_was_tried_is_not_tried_again_and_a_suspect_only_for_want_of_another() -> None:
    turn = Turn()
    assert turn.next((A, B), {A}, ()) == B
    assert turn.next((A, B), {A, B}, ()) is None
    assert turn.next((), (), ()) is None
    assert [turn.next((A, B, C), (), {B}) for _ in range(3)] == [C, A, C]
    assert turn.next((B,), (), {B}) == B


def test_standings() -> None:
    table = Table({PLACE: (A, B)}, frozenset({"uid-1", "uid-2", "uid-3"}))
    assert table.standing(PLACE, A) is Standing.READY
    # Whether a label went, or the Service was turned to other Pods: it runs, so it still answers.
    assert table.standing(PLACE, C) is Standing.WITHDRAWN
    assert table.standing(PLACE, Endpoint("10.0.0.9", 8000, "uid-9")) is Standing.GONE
    assert table.standing(("10.0.0.253", 80), A) is Standing.WITHDRAWN


def test_a_later_pod_at_the_same_address_is_another_endpoint() -> None:
    later = A._replace(pod="uid-7")
    assert Table({PLACE: (later,)}, frozenset({"uid-7"})).standing(PLACE, A) is Standing.GONE


def test_a_table_survives_its_file() -> None:
    table = Table({PLACE: (A, B), ("10.0.0.253", 81): ()}, frozenset({"uid-1"}))
    again = Table.from_json(json.loads(json.dumps(table.to_json())))
    assert again == table
    assert again.to_json() == Table({PLACE: (B, A), ("10.0.0.253", 81): ()}, table.pods).to_json()
    assert again.addresses == {"10.0.0.254", "10.0.0.253"}


@pytest.mark.parametrize(
    "text", ["null", "[]", "{}", '{"services": [{}], "pods": []}', '{"services": [], "pods": 1}']
)
def test_what_is_no_table_is_an_error(text: str) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Table.from_json(json.loads(text))


def state(*parts: bytes) -> Answer:
    data = b"".join(parts)
    return answer_state(data[:HEAD_LIMIT], len(data), data[-7:])


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (OK + b"Content-Length: 5\r\n\r\nhello", Answer.WHOLE),
        (OK + b"server: x\r\ncontent-length:5 \r\nother: 1\r\n\r\nhello", Answer.WHOLE),
        (OK + b"content-length: 0\r\n\r\n", Answer.WHOLE),
        (OK + b"content-length: 5\r\n\r\nhell", Answer.PARTLY),
        (OK + b"content-length: 9000\r\n\r\n" + b"x" * 9000, Answer.WHOLE),
        (OK + b"content-length: 9000\r\n\r\n" + b"x" * 8999, Answer.PARTLY),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Answer.WHOLE),
        (OK + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", Answer.WHOLE),
        (OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", Answer.PARTLY),
        (b"HTTP/1.1 204 No Content\r\n\r\n", Answer.WHOLE),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n", Answer.WHOLE),
        (b"HTTP/1.1 100 Continue\r\n\r\n", Answer.PARTLY),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", Answer.PARTLY),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n", Answer.UNKNOWN),
        (OK + b"content-length: 5\r\n\r\nhello" + OK, Answer.UNKNOWN),
        (OK + b"content-length: 5", Answer.UNKNOWN),
        (OK + b"x: " + b"y" * HEAD_LIMIT + b"\r\ncontent-length: 0\r\n\r\n", Answer.UNKNOWN),
        (b"\x00\x00\x12\x04\x00\x00", Answer.UNKNOWN),
        (b"\x16\x03\x03\x00\x7a", Answer.UNKNOWN),
        (b"+PONG\r\n", Answer.UNKNOWN),
        (b"", Answer.UNKNOWN),
    ],
)
def test_how_much_of_an_answer_there_is(data: bytes, expected: Answer) -> None:
    assert state(data) is expected


def test_a_length_in_the_body_is_none() -> None:
    assert state(b"HTTP/1.1 200 OK\r\n\r\na\r\ncontent-length: 1\r\n\r\nx") is Answer.PARTLY


def spoken(*parts: bytes, at: float = 10.0) -> Exchange:
    """A connection on which the client asked and the server said this."""
    exchange = Exchange()
    exchange.client_spoke()
    for part in parts:
        exchange.server_spoke(memoryview(part), at)
    return exchange


def test_nothing_is_closed_before_its_answer() -> None:
    exchange = Exchange()
    exchange.client_spoke()
    assert exchange.quiet_in(1e9) is None
    exchange = spoken(OK + b"content-length: 0\r\n\r\n")
    exchange.client_spoke()
    assert exchange.quiet_in(1e9) is None
    assert not exchange.answered


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_whole_answer_may_be_closed_a_moment_later_in_however_many_pieces_it_came(cut: int) -> None:
    data = OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    exchange = spoken(data[:cut], data[cut:-3], data[-3:])
    assert exchange.answered
    assert exchange.quiet_in(10.0) == pytest.approx(QUIET_S)
    assert exchange.quiet_in(10.0 + QUIET_S) == 0.0


def test_a_stream_that_pauses_is_not_quiet() -> None:
    exchange = spoken(OK + b"transfer-encoding: chunked\r\n\r\n", b"5\r\nhello\r\n")
    assert exchange.quiet_in(1e9) is None
    assert not exchange.answered
    exchange.server_spoke(memoryview(b"0\r\n\r\n"), 99.0)
    assert exchange.answered


def test_the_next_answer_is_told_from_the_last() -> None:
    exchange = spoken(OK + b"content-length: 5\r\n\r\nhello")
    exchange.client_spoke()
    exchange.server_spoke(memoryview(OK + b"content-length: 2\r\n\r\nn"), 20.0)
    assert exchange.quiet_in(1e9) is None
    exchange.server_spoke(memoryview(b"o"), 20.0)
    assert exchange.quiet_in(20.0 + QUIET_S) == 0.0


def test_where_nobody_has_spoken_yet_another_server_may_at_once() -> None:
    exchange = Exchange()
    assert exchange.quiet_in(0.0) == 0.0
    assert exchange.may_move
    exchange.client_spoke()
    assert not exchange.may_move


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (OK + b"content-length: 5\r\n\r\nhello", True),
        (OK + b"connection: keep-alive\r\ncontent-length: 0\r\n\r\n", True),
        (OK + b"content-length: 5\r\n\r\nhell", False),
        (OK + b"Connection: close\r\ncontent-length: 5\r\n\r\nhello", False),
        (OK + b"content-length: 19\r\n\r\n\r\nconnection: close", True),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", False),
        (b"+PONG\r\n", False),
    ],
)
def test_who_may_ask_again_may_be_answered_by_another(data: bytes, expected: bool) -> None:
    assert spoken(data).may_move is expected


def test_what_cannot_be_read_has_to_be_quiet_for_longer() -> None:
    exchange = spoken(b"+PONG\r\n")
    assert not exchange.answered
    assert exchange.quiet_in(10.0) == pytest.approx(OPAQUE_QUIET_S)
    assert exchange.quiet_in(10.0 + OPAQUE_QUIET_S) == 0.0


def test_little_is_kept_of_a_long_answer() -> None:
    exchange = spoken(OK + b"content-length: 99999999\r\n\r\n", *[b"x" * 65536] * 10)
    assert len(exchange._head) == HEAD_LIMIT
    assert len(exchange._tail) == 7

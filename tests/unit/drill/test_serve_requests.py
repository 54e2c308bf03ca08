"""Requests as lines, and what they sum up to: none lost on the way, none counted twice."""

from __future__ import annotations

import pytest

from rayward.drill.serve_requests import (
    Request,
    due_before,
    latency_ms,
    missing_requests,
    parse_request,
    per_second,
    request_line,
    served_rate,
)


def asked(number: int, at: float, ms: float = 10.0, ok: bool = True) -> Request:
    return Request(number, at, 0.5, ms, ok, "" if ok else "status 500: no")


@pytest.mark.parametrize(
    "request_",
    [
        Request(0, 12.5, 0.25, 3.125, True),
        Request(7, 1234567.123456, 0.0, 10000.0, False, "ConnectionResetError: [Errno 104] reset"),
    ],
)
def test_a_line_says_all_of_a_request(request_: Request) -> None:
    assert parse_request(request_line(request_)) == request_


def test_words_stay_in_one_line() -> None:
    line = request_line(Request(1, 2.0, 0.0, 1.0, False, "two\nlines\r\n  here"))
    assert line.count("\n") == 1
    assert parse_request(line).words == "two lines here"


@pytest.mark.parametrize("line", ["", "1 2 3", "1 2.0 0.1 3.0 2 ", "x 2.0 0.1 3.0 1 ", "1 2.0 0.1 3.0 yes "])
def test_what_is_no_request(line: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_request(line)


def test_a_request_ends_by_its_latency_and_begins_by_its_lateness() -> None:
    found = Request(0, 10.0, 250.0, 1000.0, True)
    assert found.sent == 10.25
    assert found.ended == 11.0


@pytest.mark.parametrize(
    ("moment", "count"), [(99.0, 0), (100.0, 0), (100.001, 1), (100.1, 1), (100.2, 2), (101.0, 10)]
)
def test_how_many_are_due(moment: float, count: int) -> None:
    assert due_before(moment, begun=100.0, rate=10.0) == count


def test_the_rate_counts_right_answers_between_the_moments() -> None:
    found = [asked(0, 0.9), asked(1, 1.0), asked(2, 1.5, ok=False), asked(3, 1.7), asked(4, 2.995)]
    assert served_rate(found, 1.0, 3.0) == 1.0


def test_latencies_are_those_of_answers() -> None:
    found = [asked(n, 0.0, float(n + 1)) for n in range(100)] + [asked(100, 0.0, 9000.0, ok=False)]
    assert latency_ms(found) == {"p50": 50.0, "p99": 99.0, "max": 100.0}
    assert latency_ms([asked(0, 0.0, ok=False)]) == {"p50": None, "p99": None, "max": None}


def test_each_request_is_in_the_second_in_which_it_was_due() -> None:
    found = per_second(
        [asked(0, 9.5), asked(1, 10.0, 4.0), asked(2, 10.999, 6.0), asked(3, 12.2, ok=False)], zero=10.0
    )
    assert [(each["second"], each["count"], each["failed"], each["max"]) for each in found] == [
        (-1, 1, 0, 10.0),
        (0, 2, 0, 6.0),
        (2, 1, 1, None),
    ]


def test_a_request_of_which_nothing_was_heard_has_failed() -> None:
    found = missing_requests([asked(4, 0.0), asked(6, 0.0)], 4, 8, begun=100.0, rate=2.0)
    assert [(each.number, each.scheduled, each.ok) for each in found] == [
        (5, 102.5, False),
        (7, 103.5, False),
    ]
    assert "nothing was heard" in found[0].words

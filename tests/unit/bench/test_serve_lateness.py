"""How late heads were asked: each question against the one before it, and those that never come."""

from __future__ import annotations

import pytest

from benchmarks.serve_lateness import APPLICATIONS, HEALTH, Asked, lateness, line_of, read_line


def asked(address: str, *moments: float, question: str = HEALTH) -> list[Asked]:
    return [Asked(at, address, question) for at in moments]


def late(found: list[Asked], since: float, until: float) -> list[float]:
    return lateness(sorted(found, key=lambda item: item.at), HEALTH, 5.0, since, until)


def test_a_line_says_all_of_a_question() -> None:
    one = Asked(12345.678901, "127.64.1.7", APPLICATIONS)
    assert read_line(line_of(one)) == one
    with pytest.raises(ValueError, match=r"."):
        read_line(b"12.5 127.64.1.7\n")


def test_each_address_is_late_for_itself() -> None:
    found = asked("a", 100.0, 105.0, 110.5) + asked("b", 103.0, 107.5)
    assert sorted(late(found, 104.0, 111.0)) == [-0.5, 0.0, 0.5]


def test_a_question_counts_where_it_came_and_not_where_the_one_before_came() -> None:
    found = asked("a", 100.0, 106.0, 111.0)
    assert late(found, 100.5, 105.5) == [0.5], "what is overdue so far"
    assert late(found, 106.0, 110.0) == [1.0]
    assert late(found, 100.0, 104.0) == []


def test_one_that_is_never_asked_again_is_overdue() -> None:
    assert late(asked("a", 100.0) + asked("b", 100.0, 105.0), 101.0, 109.0) == [0.0, 4.0]


def test_other_questions_are_others() -> None:
    found = asked("a", 100.0, 105.0) + asked("a", 104.0, question=APPLICATIONS)
    assert late(found, 101.0, 106.0) == [0.0]

"""What one answer of a Serve proxy after the other comes to, by table."""

from __future__ import annotations

import pytest

from rayward.agent.serve_rules import Answer, Finding, ServeState, judge, next_pause
from rayward.agent.timing import Timing

GOOD = Answer(Finding.ANSWERS, "answers", routes=2)
SILENT = Answer(Finding.SILENT, "no answer")
REFUSED = Answer(Finding.REFUSED, "refused")
NO = Answer(Finding.SAYS_NO, "drained")


def after(*answers: Answer) -> ServeState:
    state = ServeState()
    for number, answer in enumerate(answers, 1):
        state = judge(state, answer, float(number))
    return state


@pytest.mark.parametrize(
    ("answers", "healthy"),
    [
        ((), False),
        ((GOOD,), True),
        ((GOOD, SILENT), True),
        ((GOOD, SILENT, SILENT), True),
        ((GOOD, SILENT, SILENT, SILENT), False),
        ((GOOD, SILENT, SILENT, GOOD, SILENT, SILENT), True),
        ((GOOD, REFUSED), True),
        ((GOOD, REFUSED, REFUSED), False),
        ((GOOD, REFUSED, SILENT), False),
        ((GOOD, SILENT, REFUSED), False),
        ((GOOD, REFUSED, GOOD), True),
        ((GOOD, NO), False),
        ((GOOD, NO, GOOD), True),
        ((SILENT, SILENT, SILENT, GOOD), True),
        ((GOOD, NO, SILENT), False),
    ],
)
def test_one_slow_answer_is_nothing_and_a_no_counts_at_once(
    answers: tuple[Answer, ...], *, healthy: bool
) -> None:
    assert after(*answers).healthy is healthy


def test_since_is_when_it_last_changed() -> None:
    assert after(GOOD, GOOD, SILENT).since == 1.0
    assert after(GOOD, SILENT, NO, NO).since == 3.0
    assert after(GOOD, NO, GOOD).since == 3.0


def test_routes_are_kept_until_it_is_down() -> None:
    not_asked = Answer(Finding.ANSWERS, "answers")
    assert after(GOOD, not_asked).routes == 2
    assert after(GOOD, SILENT).routes == 2
    assert after(GOOD, Answer(Finding.ANSWERS, "answers", routes=0)).routes == 0
    assert after(GOOD, NO).routes == 0
    assert after(GOOD, NO, not_asked).routes == 0


def test_the_reason_is_that_of_the_newest_answer() -> None:
    assert after(GOOD, NO).reason == "drained"
    assert after(GOOD, SILENT).reason == "no answer"


def test_a_doubt_is_looked_into_soon() -> None:
    timing = Timing(serve_interval=1.0, serve_second_look=0.1)
    assert next_pause(after(GOOD), 0.25, timing) == 0.75
    assert next_pause(after(GOOD, REFUSED), 0.0, timing) == 0.1
    assert next_pause(after(GOOD, REFUSED, REFUSED), 0.0, timing) == 1.0, "down: nothing hurries"
    assert next_pause(after(GOOD), 2.0, timing) == 0.1

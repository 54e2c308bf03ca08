"""The quickstart's verdict: a step without checks, a missing step or one check that fails is no success."""

from __future__ import annotations

from rayward.quickstart.steps import Check, StepResult, all_held, equal, result_rows

GOOD = StepResult(1, "use it", "4-5", (equal("1", "1", "the counter says"), Check("a", "a", True)), 1.26)
BAD = StepResult(2, "use it again", "8", (equal("2", "1", "the counter says"),), 0.5)


def test_a_check_of_equal_values() -> None:
    assert equal("1", "1", "the counter says") == Check("the counter says 1", "1", True)
    assert equal(3, 2, "addresses:") == Check("addresses: 3", "2", False)


def test_every_step_has_to_take_place_and_hold() -> None:
    assert all_held([GOOD], 1)
    assert not all_held([GOOD], 2)
    assert not all_held([GOOD, BAD], 2)
    assert not all_held([StepResult(1, "idle", "", (), 0.1)], 1)


def test_rows_name_the_step_once() -> None:
    assert result_rows([GOOD, BAD]) == [
        ["1 use it", "the counter says 1", "1", "1.3", "ok"],
        ["", "a", "a", "", "ok"],
        ["2 use it again", "the counter says 2", "1", "0.5", "NOT OK"],
    ]

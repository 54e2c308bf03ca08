"""Kubelet's restart policy and back-off, as a table."""

from __future__ import annotations

import pytest

from rayward.local.restart import Restart, after_exit


@pytest.mark.parametrize(
    ("policy", "code", "wanted"),
    [
        ("Always", 0, True),
        ("Always", 1, True),
        ("", 0, True),
        ("OnFailure", 0, False),
        ("OnFailure", 137, True),
        ("Never", 0, False),
        ("Never", 1, False),
    ],
)
def test_policy(policy: str, code: int, wanted: bool) -> None:
    assert after_exit(policy, code, 1.0, 0).wanted is wanted


def test_the_wait_doubles_up_to_five_minutes() -> None:
    exits, waits = 0, []
    for _ in range(9):
        decision = after_exit("Always", 1, 5.0, exits)
        exits = decision.exits
        waits.append(decision.delay_s)
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300, 300]


def test_ten_minutes_of_running_start_anew() -> None:
    assert after_exit("Always", 1, 599.9, 7) == Restart(wanted=True, delay_s=300.0, exits=8)
    assert after_exit("Always", 1, 600.0, 7) == Restart(wanted=True, delay_s=0.0, exits=1)


def test_a_hundred_thousand_exits_are_no_overflow() -> None:
    assert after_exit("Always", 1, 0.0, 100_000).delay_s == 300.0


def test_only_a_wait_is_a_crash_loop() -> None:
    assert [after_exit("Always", 1, 0.0, before).crash_loop for before in (0, 1)] == [False, True]
    assert not after_exit("Never", 1, 0.0, 5).crash_loop

"""The durations of the lease: the defaults hold together, and each relation is named when it does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rayward.agent.timing import LeaseTiming, lease_timing

T = LeaseTiming()


def test_the_defaults_hold_together() -> None:
    assert T.problems() == []
    assert (T.ttl, T.fence_after) == (3.0, 2.5)


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (
            replace(T, ttl=2.4),
            "lease ttl 2.4 s is too short: one lost renewal and the question to the other "
            "heads take 2 s, and the fence fires after 1.9 s; use at least 2.5 s",
        ),
        (
            replace(T, renew_interval=2.0),
            "lease ttl 3 s is too short: one lost renewal and the question to the "
            "other heads take 3 s, and the fence fires after 2.5 s; use at least 3.5 s",
        ),
        (
            replace(T, kill_margin=0.19),
            "kill_margin must be 0.2 s at least and cover the drift of two clocks over one ttl",
        ),
        (
            replace(T, ttl=60.0, forget_after=120.0),
            "kill_margin must be 0.2 s at least and cover the drift of two clocks over one ttl",
        ),
        (replace(T, newcomer_factor=1.9), "newcomer_factor must be 2 at least"),
        (
            replace(T, forget_after=5.9),
            "forget_after must be two ttl at least, or a slow head loses its say too early",
        ),
    ],
)
def test_a_relation_that_does_not_hold_is_named(broken: LeaseTiming, sentence: str) -> None:
    assert broken.problems() == [sentence]


def test_the_bounds_themselves_are_allowed() -> None:
    assert replace(T, ttl=2.5).problems() == []
    assert replace(T, kill_margin=0.2, newcomer_factor=2.0, forget_after=6.0).problems() == []


def test_no_ttl_or_the_default_one_is_the_default() -> None:
    assert lease_timing(None) == T
    assert lease_timing(3.0) == T


@pytest.mark.parametrize("ttl", [2.5, 3.5, 5.0, 10.0, 30.0, 60.0, 300.0])
def test_every_usable_ttl_gets_durations_that_hold_together(ttl: float) -> None:
    timing = lease_timing(ttl)
    assert timing.ttl == ttl
    assert timing.problems() == []


def test_a_longer_ttl_slows_the_pace_and_a_shorter_one_does_not_hurry_it() -> None:
    slow = lease_timing(9.0)
    assert (slow.renew_interval, slow.store_timeout, slow.peer_timeout) == (3.0, 1.5, 1.5)
    assert (slow.kill_margin, slow.forget_after) == (0.9, 27.0)
    assert lease_timing(2.0).renew_interval == T.renew_interval
    longest = lease_timing(3000.0)
    assert (longest.renew_interval, longest.store_timeout, longest.peer_timeout) == (10.0, 5.0, 3.0)


def test_a_ttl_that_is_too_short_is_said_to_be() -> None:
    assert lease_timing(1.0).problems() == [
        "lease ttl 1 s is too short: one lost renewal and the question to the other heads take 2 s, and the "
        "fence fires after 0.5 s; use at least 2.5 s"
    ]

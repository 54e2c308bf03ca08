"""The election under seeded faults: 100,000 schedules in which every invariant holds, and proof that the
checker would have noticed: with a rule of the design switched off it finds a violation."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import Counter
from dataclasses import replace

import pytest
from sim_run import Outcome, Rules, explain, simulate

SCHEDULES = int(os.environ.get("RAYWARD_SIM_SCHEDULES", "100000"))
CHUNK = 250


def run_chunk(work: tuple[int, int, Rules]) -> tuple[list[Outcome], Counter[str]]:
    """The outcomes that broke an invariant, and what the others add up to."""
    first, end, rules = work
    broken, sums = [], Counter[str]()
    for number in range(first, end):
        outcome = simulate(number, rules)
        if outcome.violation:
            broken.append(outcome)
        sums.update(
            schedules=1, steps=outcome.steps, writes=outcome.writes, takeovers=max(0, outcome.epochs - 1)
        )
    return broken, sums


def run_many(count: int, rules: Rules) -> tuple[list[Outcome], Counter[str]]:
    """Seeds 0 to ``count`` on two processes; stops soon after a violation."""
    work = [(first, min(first + CHUNK, count), rules) for first in range(0, count, CHUNK)]
    sums = Counter[str]()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for broken, found in pool.imap(run_chunk, work):
            sums.update(found)
            if broken:
                pool.terminate()
                return broken, sums
    return [], sums


@pytest.mark.timeout(1800)
def test_every_invariant_holds(seed: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    if seed is not None:
        outcome = simulate(seed)
        assert not outcome.violation, explain(outcome)
        return
    begin = time.monotonic()
    broken, sums = run_many(SCHEDULES, Rules())
    took = time.monotonic() - begin
    assert not broken, explain(broken[0])
    with capsys.disabled():
        rate = sums["schedules"] / took
        print(
            f"\n{sums['schedules']} schedules in {took:.0f} s ({rate:.0f} a second): {sums['steps']} steps, "
            f"{sums['writes']} accepted writes, {sums['takeovers']} takeovers, no violation"
        )


def first_violation(rules: Rules, limit: int) -> Outcome:
    """The first seed that breaks an invariant under ``rules``."""
    for number in range(limit):
        outcome = simulate(number, rules)
        if outcome.violation:
            return outcome
    return Outcome(limit)


@pytest.mark.parametrize(
    ("switched_off", "limit", "expected"),
    [
        ("fence", 1000, "I1"),
        ("self_kill", 1000, "I3"),
        ("words_look_at_store", 2000, "I4"),
        ("own_gcs_ended", 6000, "I7"),
        ("old_connections_reset", 1000, "I2"),
    ],
)
def test_the_checker_notices_a_missing_rule(
    switched_off: str, limit: int, expected: str, seed: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if seed is not None:
        pytest.skip("one seed is replayed")
    outcome = first_violation(replace(Rules(), **{switched_off: False}), limit)
    with capsys.disabled():
        print(f"\nwithout {switched_off}: seed {outcome.seed}: {outcome.what or 'nothing found'}")
    assert outcome.violation == expected


def test_a_seed_replays_exactly() -> None:
    once, again = (simulate(7, Rules(fence=False), traced=True) for _ in range(2))
    assert once == again
    assert once.steps > 100
    assert len(once.trace) > 5

"""A suite's order is its seed's; its verdict and table say what each fault did; controls must go red."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest

from rayward.drill.faults import FAULTS, find_fault
from rayward.drill.order import Order
from rayward.drill.record import Change, RunRecord
from rayward.drill.report import suite_report
from rayward.drill.result import DrillOutcome
from rayward.drill.suite import (
    COLUMNS,
    SuiteOutcome,
    SuitePlan,
    by_fault,
    control_faults,
    mixed,
    orders,
    suite_json,
    suite_rows,
    went_red,
)

MACHINE: dict[str, Any] = {
    **{"cpus": 2, "memory_bytes": 2**34, "kernel": "6.1", "python": "3.11.7", "ray": "2.60.0", "redis": None},
    **{"rayward": "0.2.0", "date": "2026-01-01T00:00:00Z", "store": "redis", "mode": "namespaces"},
    "settings": {},
}


def drawn(seed: int, count: int) -> list[Order]:
    return list(islice(orders(SuitePlan(seed=seed), mixed()), count))


def test_the_same_seed_gives_the_same_suite_and_another_another() -> None:
    assert drawn(7, 300) == drawn(7, 300)
    assert [order.fault.name for order in drawn(7, 60)] != [order.fault.name for order in drawn(8, 60)]


def test_every_fault_comes_once_before_any_comes_by_weight() -> None:
    kinds = len(mixed())
    assert {order.fault for order in drawn(3, kinds)} == set(mixed())


def test_faults_without_weight_never_come_and_heavier_ones_come_more_often() -> None:
    seen = Counter(order.fault.name for order in drawn(1, 4000))
    assert set(seen) == {fault.name for fault in FAULTS if fault.weight}
    assert seen["host-loss"] > 2 * seen["both-heads-lost"]
    assert "back-to-back" not in seen
    assert "redis-wiped" not in seen


def test_turns_count_each_fault_and_durations_stay_in_bounds() -> None:
    found = drawn(5, 500)
    kills = [order.turn for order in found if order.fault.name == "head-process-kill"]
    assert kills == list(range(1, len(kills) + 1))
    assert [order.number for order in found] == list(range(1, 501))
    for order in found:
        if order.fault.name == "redis-restart":
            assert order.lasts in (1.0, 3.0, 10.0, 60.0)
        elif order.fault.name == "redis-reset":
            assert order.lasts == order.fault.seconds
        elif order.fault.seconds:
            assert 5.0 <= order.lasts <= 12.0
        else:
            assert order.lasts == 0
        assert 0 <= order.phase <= 1


def test_a_suite_without_faults_has_no_orders() -> None:
    assert list(orders(SuitePlan(seed=1), [])) == []


def held(number: int, fault: str, **changes: object) -> RunRecord:
    made = RunRecord(
        run=number,
        fault=fault,
        standbys=1,
        new_actor_s=0.8,
        task_s=0.1,
        placement_group_s=0.3,
        call_gap_max_s=0.05,
        calls=100,
        writes=10,
        recovered_s=2.0,
        stale_writes=0,
        stale_writes_unknown="",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def outcome(*runs: RunRecord, control: str = "") -> SuiteOutcome:
    drill = DrillOutcome("suite", len(runs), 7, 30.0, 2.0, runs, (0.5,), MACHINE)
    return SuiteOutcome(drill, {"redis-failover": "needs Sentinels"}, 1, control)


def test_a_suite_holds_when_all_of_its_runs_do() -> None:
    good = held(1, "gcs-kill")
    assert outcome(good).ok
    assert not outcome(good, held(2, "host-loss", worker_restarts=1)).ok
    assert not outcome().ok, "nothing was shown"
    assert not replace(outcome(good), drill=replace(outcome(good).drill, ended_early="gone")).ok


def test_runs_are_judged_by_their_own_fault() -> None:
    found = suite_json(
        outcome(held(1, "host-loss", head_pod_restarts=1), held(2, "gcs-kill", head_pod_restarts=1))
    )
    assert found["faults"]["host-loss"]["ok"] is True
    assert found["faults"]["gcs-kill"]["ok"] is False
    assert found["faults"]["host-loss"]["promise"] == {"new_actor_p50_s": 2.0, "reached_s": 0.8, "kept": True}
    assert found["n"] == 2
    assert found["ok"] is False
    assert found["skipped"] == {"redis-failover": "needs Sentinels"}
    assert list(by_fault(outcome(held(1, "host-loss"), held(2, "gcs-kill")).drill)) == [
        "gcs-kill",
        "host-loss",
    ]


def test_the_table_has_a_row_for_each_fault_and_one_for_all() -> None:
    runs = (
        held(1, "host-loss", failover=Change("a", 1, "b", 2), new_actor_s=2.5),
        held(2, "gcs-kill", stale_writes=None),
        held(3, "gcs-kill", stale_writes=2),
    )
    rows = suite_rows(outcome(*runs).drill)
    assert [row[0] for row in rows] == ["gcs-kill", "host-loss", "all"]
    cells = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    assert cells[1]["promise"] == "2 s MISSED"
    assert cells[1]["failovers"] == "1"
    assert cells[0]["stale writes"] == "2"
    assert cells[0]["held"] == "1 of 2"
    assert cells[2]["held"] == "2 of 3"


def test_controls_have_faults_and_go_red_by_what_they_are_for() -> None:
    assert [fault.name for fault in control_faults("fence-off")] == ["host-freeze"]
    assert [fault.name for fault in control_faults("ft-off")] == ["gcs-kill"]
    frozen = held(1, "host-freeze", failover=Change("a", 1, "b", 2))
    assert not went_red(outcome(frozen, control="fence-off"))
    assert not went_red(outcome(replace(frozen, worker_restarts=1), control="fence-off")), (
        "red for another reason"
    )
    assert went_red(outcome(replace(frozen, stale_writes=3), control="fence-off"))
    kill = held(1, "gcs-kill")
    assert not went_red(outcome(kill, control="ft-off"))
    assert went_red(outcome(replace(kill, actors_lost=1), control="ft-off"))
    assert went_red(outcome(replace(kill, new_actor_s=None), control="ft-off"))
    assert outcome(replace(frozen, stale_writes=3), control="fence-off").ok


@pytest.mark.parametrize("control", ["", "fence-off"])
def test_the_page_says_what_happened(control: str) -> None:
    found = outcome(held(1, "host-loss"), held(2, "host-freeze", stale_writes=3), control=control)
    page = suite_report(suite_json(found), COLUMNS, suite_rows(found.drill))
    assert ("went red as it must" if control else "FAILED: 1 of 2 runs held") in page
    assert "3 writes accepted from an old epoch" in page
    assert "redis-failover (needs Sentinels)" in page
    assert find_fault("host-loss").name in page

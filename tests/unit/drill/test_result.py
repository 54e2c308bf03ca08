"""The JSON of a drill: the names that other programs rely on, sums, floor, and stock beside it."""

from __future__ import annotations

import json
from dataclasses import replace

from rayward.drill.record import RunRecord
from rayward.drill.result import DrillOutcome, result_json, stop_reason
from rayward.drill.table import figures_table, floor_of, seconds

FIGURES = {
    "gcs_ready_s",
    "new_actor_s",
    "task_s",
    "placement_group_s",
    "call_gap_s",
    "calls",
    "calls_failed",
    "tasks_failed",
    "worker_restarts",
    "head_pod_restarts",
    "gcs_restarts",
    "state_lost",
    "floor",
    "stale_writes",
    "failovers",
    "writes",
    "writes_lost",
    "recovered_s",
}


def run(number: int, new_actor: float | None = 0.8, **changes: object) -> RunRecord:
    made = RunRecord(
        run=number,
        gcs_ready_s=0.2,
        gcs_start_s=0.15,
        new_actor_s=new_actor,
        task_s=0.1,
        placement_group_s=0.3,
        call_gap_max_s=0.05,
        calls=100,
        tasks=10,
        gcs_restarts=1,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def outcome(*runs: RunRecord, asked: int | None = None, ended_early: str = "") -> DrillOutcome:
    return DrillOutcome(
        fault="gcs-kill",
        asked=len(runs) if asked is None else asked,
        seed=7,
        limit=30.0,
        pause=2.0,
        runs=runs,
        quiet_actors_s=(0.5, 0.4, 0.6),
        machine={"cpus": 2},
        ended_early=ended_early,
    )


def figures_of(*runs: RunRecord) -> dict[str, object]:
    found: dict[str, object] = result_json(outcome(*runs))["figures"]
    return found


def test_names_of_the_result_are_the_promised_ones() -> None:
    result = result_json(outcome(run(1), run(2)))
    assert {"fault", "n", "ok", "figures", "runs", "machine"} <= result.keys()
    assert result["figures"].keys() >= FIGURES
    assert result["figures"]["new_actor_s"].keys() == {"p50", "p99", "max"}
    assert result["seed"] == 7
    assert json.loads(json.dumps(result))["figures"] == result["figures"]


def test_figures_are_over_all_runs() -> None:
    result = result_json(outcome(run(1, 0.7), run(2, 0.9, worker_restarts=1), run(3, 1.5, kv_entries_lost=2)))
    assert result["n"] == 3
    assert result["figures"]["new_actor_s"] == {"p50": 0.9, "p99": 1.5, "max": 1.5}
    assert result["figures"]["calls"] == 300
    assert result["figures"]["worker_restarts"] == 1
    assert result["figures"]["state_lost"] == 2
    assert result["figures"]["floor"] == {"gcs_start_s": 0.15, "quiet_actor_s": 0.5}
    assert [entry["held"] for entry in result["runs"]] == [True, False, False]
    assert result["ok"] is False


def test_ok_needs_every_run_that_was_asked_for() -> None:
    assert result_json(outcome(run(1), run(2)))["ok"] is True
    assert result_json(outcome(run(1), asked=2))["ok"] is False
    assert result_json(outcome(run(1), ended_early="run 1: gone"))["ok"] is False
    assert result_json(outcome(run(1, None)))["ok"] is False


def test_stock_stands_beside_with_the_ratio_of_medians() -> None:
    stock = outcome(run(1, 64.0, head_pod_restarts=1))
    result = result_json(outcome(run(1, 0.8)), stock)
    assert result["ok"] is True
    assert result["stock"]["ok"] is False
    assert result["times_quicker_than_stock"]["new_actor_s"] == 80.0
    columns, rows = figures_table(result)
    assert "stock Ray p50" in columns
    actor = next(row for row in rows if row[0] == "a new actor has answered")
    assert actor[1:] == ["0.80 s", "0.80 s", "0.80 s", "0.65 s", "64.0 s", "80"]


def test_floor_of_a_new_actor_is_start_and_quiet_actor() -> None:
    figures = result_json(outcome(run(1)))["figures"]
    assert floor_of("gcs_ready_s", figures) == 0.15
    assert floor_of("new_actor_s", figures) == 0.65
    assert floor_of("task_s", figures) is None


def test_a_drill_stops_after_a_run_that_the_cluster_did_not_survive() -> None:
    assert stop_reason([], 30) == ""
    assert stop_reason([run(1)], 30) == ""
    assert stop_reason([run(1, calls_failed=3)], 30) == ""
    assert "run 2" in stop_reason([run(1), run(2, None)], 30)
    assert "driver ended" in stop_reason([run(1, errors=("the probe's driver ended",))], 30)


def test_stale_writes_are_unknown_unless_somebody_counted() -> None:
    assert figures_of(run(1), run(2))["stale_writes"] is None
    assert figures_of(run(1), run(2, stale_writes=0))["stale_writes"] == 0
    assert figures_of(run(1, stale_writes=2), run(2, stale_writes=1))["stale_writes"] == 3
    assert result_json(outcome(run(1, stale_writes=2)))["ok"] is False


def test_the_promise_for_the_median_is_told_apart_from_the_verdict() -> None:
    slow = result_json(outcome(run(1, 2.5)))
    assert slow["ok"] is True
    assert slow["promise"] == {"new_actor_p50_s": 2.0, "reached_s": 2.5, "kept": False}
    silent = replace(outcome(run(1, 2.5, standbys=1)), fault="host-freeze")
    assert result_json(replace(silent, runs=(run(1, 2.5),)))["promise"] is None, "nobody stood by"
    assert result_json(silent)["promise"]["kept"] is True
    assert result_json(replace(silent, lease_ttl=0.1))["promise"]["kept"] is False
    assert result_json(replace(silent, fault="redis-restart"))["promise"] is None


def test_each_new_epoch_is_a_change_of_leader() -> None:
    found = figures_of(run(1, epochs=(3, 4, 5)), run(2, epochs=(5,)), run(3))
    assert found["failovers"] == 2


def test_a_gcs_that_stayed_did_not_never_come_back() -> None:
    stayed = result_json(outcome(run(1, gcs_ready_s=None, gcs_restarts=0)))
    row = next(row for row in figures_table(stayed)[1] if row[0] == "GCS serves again")
    assert row[1:4] == ["stayed", "stayed", "stayed"]
    gone = result_json(outcome(run(1, gcs_ready_s=None, gcs_restarts=1)))
    assert next(row for row in figures_table(gone)[1] if row[0] == "GCS serves again")[1] == "never"


def test_durations_for_people() -> None:
    assert seconds(None) == "never"
    assert seconds(0.0123) == "12 ms"
    assert seconds(0.9) == "0.90 s"
    assert seconds(64.04) == "64.0 s"

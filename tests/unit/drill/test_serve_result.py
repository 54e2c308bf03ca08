"""A drill on Ray Serve: which requests a fault is blamed for, what may be lost, and the JSON of it all."""

from __future__ import annotations

import json

from rayward.drill.serve_report import requests_table, serve_report
from rayward.drill.serve_requests import Request
from rayward.drill.serve_result import ServeOutcome, ServeRun, serve_result_json

MACHINE = {
    "cpus": 2,
    "memory_bytes": 2**34,
    "kernel": "6.1",
    "python": "3.11.7",
    "ray": "2.60.0",
    "redis": "7.4.0",
    "rayward": "0.1.0",
    "date": "2026-01-01T00:00:00Z",
    "store": "redis",
    "mode": "namespaces",
    "settings": {},
}


def asked(number: int, at: float, ms: float = 10.0, ok: bool = True) -> Request:
    return Request(number, at, 0.0, ms, ok, "" if ok else "ConnectionResetError: <reset>")


def run(*requests: Request, loses: bool = False, whole: float | None = 104.0, problem: str = "") -> ServeRun:
    return ServeRun(
        number=1,
        target="worker-a",
        begun=90.0,
        injected=100.0,
        ended=106.0,
        whole_at=whole,
        requests=requests,
        loses_in_flight=loses,
        timeline=((100.5, "Pod worker-a is gone"),),
        problem=problem,
    )


def outcome(*runs: ServeRun, asked_for: int = 1) -> ServeOutcome:
    return ServeOutcome(
        fault="serve-worker-loss",
        asked=asked_for,
        seed=7,
        limit=60.0,
        quiet_seconds=10.0,
        pause=1.0,
        rate=10.0,
        capacity=21.0,
        new_connections=False,
        service="fruits",
        url="http://10.0.0.1:8000",
        runs=runs,
        machine=MACHINE,
    )


def test_a_request_that_was_not_over_when_the_fault_came_belongs_to_it() -> None:
    quiet, spanning, later = asked(0, 99.0), asked(1, 99.995, 50.0), asked(2, 101.0)
    found = run(quiet, spanning, later)
    assert found.quiet == (quiet,)
    assert found.during == (spanning, later)
    assert not found.failures()


def test_only_what_was_under_way_on_a_lost_worker_may_be_lost() -> None:
    before, spanning, after = (
        asked(0, 95.0, ok=False),
        asked(1, 99.995, 50.0, ok=False),
        asked(2, 100.1, ok=False),
    )
    found = run(before, spanning, after, loses=True)
    assert found.in_flight_lost() == (spanning,)
    assert found.failed() == (before, after)
    strict = run(before, spanning, after)
    assert strict.in_flight_lost() == ()
    assert len(strict.failed()) == 3


def test_a_request_that_began_late_was_not_under_way() -> None:
    """It was due before the fault and sent after it: nothing of it was on what was lost."""
    found = run(Request(0, 99.9, 200.0, 300.0, False, "refused"), loses=True)
    assert len(found.failed()) == 1


def test_one_failed_request_fails_the_drill() -> None:
    fine = outcome(run(asked(0, 99.0), asked(1, 101.0)))
    assert fine.ok
    broken = outcome(run(asked(0, 99.0), asked(1, 101.0, ok=False)))
    assert not broken.ok
    assert (
        "1 of 2 requests failed, the first due at +1.000 s: ConnectionResetError"
        in broken.runs[0].failures()[0]
    )


def test_a_quiet_failure_counts_as_well() -> None:
    assert not outcome(run(asked(0, 95.0, ok=False), asked(1, 101.0))).ok


def test_a_service_that_is_not_whole_again_and_runs_that_are_missing_fail_the_drill() -> None:
    assert not outcome(run(asked(0, 101.0), whole=None, problem="not whole again 60 s later")).ok
    assert not outcome(run(asked(0, 101.0)), asked_for=2).ok


def test_allowed_losses_are_counted_apart_and_do_not_fail() -> None:
    result = serve_result_json(outcome(run(asked(0, 99.995, 50.0, ok=False), asked(1, 101.0), loses=True)))
    assert result["ok"]
    assert result["figures"]["failed"] == 0
    assert result["figures"]["in_flight_lost"] == 1
    assert result["runs"][0]["failed_requests"][0]["in_flight_lost"] is True


def test_the_json_has_the_shape_of_every_drill_and_is_json() -> None:
    runs = [run(asked(0, 95.0, 10.0), asked(1, 101.0, 30.0), asked(2, 102.0, 40.0))]
    result = json.loads(json.dumps(serve_result_json(outcome(*runs))))
    assert {"fault", "n", "ok", "figures", "runs", "machine", "asked", "seed", "promise"} <= set(result)
    figures = result["figures"]
    assert (figures["requests"], figures["fault_requests"], figures["quiet_requests"]) == (3, 2, 1)
    assert figures["latency_ms"] == {"p50": 30.0, "p99": 40.0, "max": 40.0}
    assert figures["quiet_latency_ms"]["p99"] == 10.0
    assert figures["p99_ratio"] == 4.0
    assert result["promise"] == {"p99_ratio": 2.0, "reached": 4.0, "kept": False}
    assert result["ok"], "the promise about speed is no part of the verdict"
    assert figures["whole_s"]["p50"] == 4.0
    only = result["runs"][0]
    assert [(each["second"], each["count"]) for each in only["seconds"]] == [(-5, 1), (1, 1), (2, 1)]
    assert only["timeline"] == [{"at": 0.5, "says": "Pod worker-a is gone"}]


def test_table_and_page_of_runs_that_held_failed_and_never_ended() -> None:
    held, failed = run(asked(0, 95.0), asked(1, 101.0)), run(asked(0, 95.0), asked(1, 101.0, ok=False))
    never = run(asked(0, 101.0, ok=False), whole=None, problem="not whole again 60 s later: 2 of 3 endpoints")
    result = serve_result_json(outcome(held, failed, never, asked_for=3))
    columns, rows = requests_table(result)
    assert all(len(row) == len(columns) for row in rows)
    assert rows[2][-1] == "never"
    assert rows[3][:3] == ["all", "5", "2"]
    page = serve_report(result)
    assert "FAILED: 1 of 3 runs held" in page
    assert "2 of 3 endpoints" in page
    assert "fault injected: worker-a" in page
    assert "<reset>" not in page
    assert "&lt;reset&gt;" in page
    assert page.count("<svg") == 3


def test_stock_ray_stands_beside_and_changes_no_verdict() -> None:
    broken = outcome(run(asked(0, 95.0), asked(1, 101.0, ok=False), whole=None, problem="<gone>"))
    result = json.loads(json.dumps(serve_result_json(outcome(run(asked(0, 101.0))), broken)))
    assert result["ok"]
    assert (result["stock"]["ok"], result["stock"]["figures"]["failed"]) == (False, 1)
    _, rows = requests_table(result)
    assert [row[0] for row in rows] == ["1", "all", "stock 1"]
    page = serve_report(result)
    assert "held: 1 of 1 runs held" in page
    assert "1 of 2 requests failed" in page
    assert "Stock Ray, run 1: &lt;gone&gt;" in page
    assert page.count("<svg") == 2

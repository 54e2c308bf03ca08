"""Scales, round numbers, and the two pictures: well-formed, with a dot for each thing, words escaped."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from rayward.drill import charts, svg
from rayward.drill.faults import FAULTS
from rayward.drill.report import drill_report, story_report, typical_run

MACHINE = {
    "cpus": 2,
    "memory_bytes": 2**34,
    "kernel": "6.1",
    "python": "3.11.7",
    "ray": "2.60.0",
    "redis": None,
}
MACHINE |= {
    "rayward": "0.1.0",
    "date": "2026-01-01T00:00:00Z",
    "store": "redis",
    "mode": "namespaces",
    "settings": {},
}


def run(number: int, new_actor: float | None) -> dict[str, Any]:
    return {
        "run": number,
        "held": new_actor is not None,
        "failures": [] if new_actor is not None else ["no new actor within 30 s <really>"],
        "gcs_ready_s": 0.2,
        "task_s": 0.01,
        "placement_group_s": 0.4,
        "new_actor_s": new_actor,
        "calls": 2,
        "calls_failed": 0,
        "tasks": 1,
        "tasks_failed": 0,
        "worker_restarts": 0,
        "head_pod_restarts": 0,
        "timeline": [
            {"at": 0.0, "what": "FaultInjected", "says": "", "where": ""},
            {"at": 0.02, "what": "ProcessDied", "says": "gcs_server (pid 7) died", "where": "head"},
            {"at": 0.03, "what": "ProcessDied", "says": "monitor (pid 9) died", "where": "head"},
            {"at": 0.2, "what": "GcsServes", "says": "", "where": ""},
            {"at": 0.8, "what": "new_actor_answered", "says": "", "where": ""},
        ],
        "calls_around": [
            {"at": 0.1, "seconds": 0.002, "error": ""},
            {"at": 0.2, "seconds": 0.1, "error": "<script>alert(1)</script>"},
        ],
    }


def result(*runs: dict[str, Any]) -> dict[str, Any]:
    spread = {"p50": 0.8, "p99": 0.9, "max": 0.9}
    names = ("gcs_ready_s", "new_actor_s", "task_s", "placement_group_s", "call_gap_s")
    counts = ("calls", "calls_failed", "tasks", "tasks_failed", "worker_restarts", "head_pod_restarts")
    figures: dict[str, Any] = {name: dict(spread) for name in names}
    figures |= dict.fromkeys((*counts, "gcs_restarts", "asked_again", "state_lost"), 0)
    figures["floor"] = {"gcs_start_s": 0.1, "quiet_actor_s": None}
    return {
        "fault": "gcs-kill",
        "n": len(runs),
        "asked": len(runs),
        "ok": all(entry["held"] for entry in runs),
        "figures": figures,
        "runs": list(runs),
        "machine": MACHINE,
        "seed": 7,
        "pause_s": 2.0,
        "limit_s": 30.0,
        "ended_early": "",
    }


def circles(picture: str, css: str) -> int:
    root = ElementTree.fromstring(picture)
    return sum(element.get("class") == css for element in root.iter() if element.tag.endswith("circle"))


def test_a_scale_maps_ends_to_ends_and_keeps_strays_at_the_edge() -> None:
    scale = svg.Scale(0, 10, 100, 200)
    assert [scale.at(value) for value in (0, 5, 10, 12, -1)] == [100, 150, 200, 200, 100]


def test_a_logarithmic_scale_gives_each_decade_the_same_room() -> None:
    scale = svg.Scale(0.01, 100, 400, 0, logarithmic=True)
    assert [round(scale.at(value)) for value in (0.01, 0.1, 1, 10, 100)] == [400, 300, 200, 100, 0]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-0.3, 1.7, [0, 0.5, 1.0, 1.5]),
        (0, 64, [0, 10, 20, 30, 40, 50, 60]),
        (1, 1, [1]),
    ],
)
def test_axis_numbers_are_round(low: float, high: float, expected: list[float]) -> None:
    assert svg.round_steps(low, high) == pytest.approx(expected)


def test_decades_are_powers_of_ten() -> None:
    assert svg.decades(0.005, 20) == pytest.approx([0.01, 0.1, 1, 10])


def test_the_failover_shows_only_what_is_about_the_gcs() -> None:
    words = [words for _, words, _ in charts.moments(run(1, 0.8))]
    assert words == ["fault injected", "agent sees the death", "GCS serves", "new actor answered"]


def test_the_failover_has_a_dot_for_each_call() -> None:
    picture = charts.failover_picture(run(1, 0.8))
    assert circles(picture, "call") == 1
    assert circles(picture, "call failed") == 1


def test_all_runs_have_a_dot_for_each_figure_that_was_measured() -> None:
    picture = charts.runs_picture([run(1, 0.8), run(2, None)], [run(1, 64.0)])
    legend = 1
    assert circles(picture, "dot actor") == legend + 2
    assert circles(picture, "dot gcs") == legend + 3


def test_pictures_of_nothing_are_well_formed() -> None:
    bare = {**run(1, None), "timeline": [], "calls_around": []}
    assert ElementTree.fromstring(charts.failover_picture(bare)).tag == "svg"
    assert ElementTree.fromstring(charts.runs_picture([])).tag == "svg"


def test_the_typical_run_is_the_median_one() -> None:
    runs = [run(1, 0.9), run(2, None), run(3, 0.7), run(4, 1.4)]
    assert (typical_run(runs) or {})["run"] == 1
    assert typical_run([]) is None
    assert (typical_run([run(5, None)]) or {})["run"] == 5


def test_the_report_stands_alone_and_escapes_what_it_is_told() -> None:
    page = drill_report(result(run(1, 0.8), run(2, None)))
    assert "FAILED: 1 of 2 runs held" in page
    assert "<script" not in page
    assert "&lt;really&gt;" in page
    for outside in ("http://", "https://", "src=", "@import"):
        assert outside not in page
    assert page.count("<svg") == 2


def test_the_report_of_a_drill_that_held_says_so() -> None:
    page = drill_report(result(run(1, 0.8)))
    assert "held: 1 of 1 runs held" in page
    assert "FAILED" not in page


def test_the_story_has_a_page_without_a_drill_too() -> None:
    story = {"ok": False, "seconds": 3.2, "drill": {}, "machine": MACHINE, "stock_gives_up_after_s": 60.0}
    page = story_report(story, [["1 bring it up", "3 Pods", "none", "3.2", "NOT OK"]])
    assert "NOT every step held" in page
    assert page.count("<svg") == 0
    full = story_report({**story, "ok": True, "drill": result(run(1, 0.8))}, [])
    assert "every step held" in full
    assert page.count("<table") == 1
    assert full.count("<svg") == 1


def test_every_fault_has_a_name_and_words() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert all(fault.does and fault.stands_for for fault in FAULTS)

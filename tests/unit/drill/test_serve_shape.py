"""When a RayService is whole again: each thing that may still be missing is seen by itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import rayward
from rayward.drill.serve_faults import SERVE_FAULTS
from rayward.drill.serve_injectors import SERVE_INJECTORS
from rayward.drill.serve_shape import Shape, lacks, news

BEFORE = Shape(
    active="svc-a",
    clusters=("svc-a",),
    running=True,
    endpoints=3,
    offered=3,
    replicas={"app/D": ("w1", "w2")},
    heads=("h1",),
    workers=("w1", "w2"),
    parts={"gcs": "7:1", "redis": "8:1", "operator": "9:1", "active": "svc-a"},
)


def test_as_before_is_whole() -> None:
    assert lacks(BEFORE, BEFORE) == []


def test_other_pods_of_the_same_kind_are_whole() -> None:
    now = replace(BEFORE, heads=("h2",), workers=("w1", "w3"), replicas={"app/D": ("w1", "w3")})
    assert lacks(BEFORE, now, gone=frozenset({"h1"})) == []


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (replace(BEFORE, active=""), "is to take over"),
        (replace(BEFORE, pending="svc-b"), "svc-b is to take over"),
        (replace(BEFORE, clusters=("svc-a", "svc-b")), "2 clusters"),
        (replace(BEFORE, running=False), "do not all run"),
        (replace(BEFORE, endpoints=2), "2 of 3 endpoints"),
        (replace(BEFORE, offered=2), "leads to 2 of 3"),
        (replace(BEFORE, offered=None), "leads to 0 of 3"),
        (replace(BEFORE, replicas={"app/D": ("w1",)}), "app/D has 1 of 2 replicas"),
        (replace(BEFORE, replicas={}), "app/D has 0 of 2 replicas"),
        (replace(BEFORE, workers=("w1", "w3")), "app/D has 1 of 2 replicas"),
        (replace(BEFORE, heads=()), "0 of 1 heads"),
        (replace(BEFORE, workers=("w1", "w2", "w3")), "3 of 2 workers"),
        (replace(BEFORE, settled=False), "no head leads"),
        (replace(BEFORE, not_ready=("h1 Pending",)), "h1 Pending"),
    ],
)
def test_what_is_missing_is_named(now: Shape, words: str) -> None:
    found = lacks(BEFORE, now)
    assert any(words in each for each in found), found


def test_what_was_hit_has_to_go() -> None:
    assert lacks(BEFORE, BEFORE, gone=frozenset({"h1"})) == ["h1 is still there"]


@pytest.mark.parametrize("part", ["gcs", "redis", "operator", "active"])
def test_of_what_was_killed_another_has_to_be_there(part: str) -> None:
    assert lacks(BEFORE, BEFORE, changes=part) == [f"no other {part} is there"]
    without = replace(BEFORE, parts={key: value for key, value in BEFORE.parts.items() if key != part})
    assert lacks(BEFORE, without, changes=part) == [f"no other {part} is there"]
    other = replace(BEFORE, parts={**BEFORE.parts, part: "10:2"})
    assert lacks(BEFORE, other, changes=part) == []


def test_news_say_what_changed_and_nothing_else() -> None:
    assert news(BEFORE, BEFORE) == []
    now = replace(BEFORE, heads=("h2",), endpoints=2, offered=2, running=False)
    assert news(BEFORE, now) == [
        "the address leads to 2 endpoints",
        "numServeEndpoints is 2",
        "not all applications run",
        "Pod h1 is gone",
        "Pod h2 is made",
    ]


def test_every_fault_has_somebody_who_injects_it() -> None:
    assert [fault.name for fault in SERVE_FAULTS] == list(SERVE_INJECTORS)
    assert {fault.changes for fault in SERVE_FAULTS} <= {"", *BEFORE.parts}
    assert [fault.name for fault in SERVE_FAULTS if fault.loses_in_flight] == ["serve-worker-loss"]


def test_the_documentation_says_of_each_fault_what_it_does() -> None:
    page = (Path(rayward.__file__).parent.parent / "docs" / "drills.md").read_text(encoding="utf-8")
    for fault in SERVE_FAULTS:
        assert f"| `{fault.name}` | {fault.does} | {fault.stands_for} |" in page

"""Drills on real clusters: they hold where the state rests in a store, and go red where it does not."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from drilled import FORGETFUL, Commands, eventually, read_result

pytestmark = [pytest.mark.ray, pytest.mark.namespaces]


def test_gcs_kill_holds_and_says_what_it_measured(on_redis: Commands, tmp_path: Path) -> None:
    found, page = tmp_path / "out" / "drill.json", tmp_path / "out" / "drill.html"
    code, said = on_redis(
        *("drill", "run", "gcs-kill", "-n", "2", "--seed", "11", "--cluster", "drilled"),
        *("--json", str(found), "--report", str(page)),
    )
    assert code == 0, said
    assert "HELD: gcs-kill, 2 of 2 runs held, seed 11" in said
    result = read_result(found)
    assert (result["fault"], result["n"], result["ok"], result["seed"]) == ("gcs-kill", 2, True, 11)
    figures = result["figures"]
    nothing = ("calls_failed", "tasks_failed", "worker_restarts", "head_pod_restarts", "state_lost")
    assert {name: figures[name] for name in nothing} == dict.fromkeys(nothing, 0)
    assert figures["gcs_restarts"] == 2
    assert figures["calls"] > 50
    for name in ("gcs_ready_s", "new_actor_s", "task_s", "placement_group_s", "call_gap_s"):
        assert 0 < figures[name]["p50"] <= figures[name]["p99"] == figures[name]["max"]
    assert 0 < figures["floor"]["gcs_start_s"] <= figures["gcs_ready_s"]["p50"]
    assert figures["floor"]["quiet_actor_s"] > 0
    assert (result["machine"]["store"], result["machine"]["mode"]) == ("redis", "namespaces")
    assert result["machine"]["redis"]
    for run in result["runs"]:
        whats = [mark["what"] for mark in run["timeline"]]
        order = [
            whats.index(what) for what in ("FaultInjected", "ProcessDied", "ProcessRestarted", "GcsServes")
        ]
        assert order == sorted(order)
        assert whats.index("new_actor_answered") > whats.index("GcsServes")
        assert run["calls_around"][0]["at"] < 0 < run["calls_around"][-1]["at"]
    html = page.read_text(encoding="utf-8")
    assert "held: 2 of 2 runs held" in html
    assert html.count("<svg") == 2


def test_gcs_freeze_holds(on_redis: Commands, tmp_path: Path) -> None:
    found = tmp_path / "drill.json"
    code, said = on_redis("drill", "run", "gcs-freeze", "-n", "1", "--pause", "0.5", "--json", str(found))
    assert code == 0, said
    (run,) = read_result(found)["runs"]
    # The frozen process was ended, not waited for.
    assert run["gcs_restarts"] == 1
    assert run["gcs_dead_s"] <= run["gcs_ready_s"] <= run["new_actor_s"]


def test_a_fault_that_the_cluster_cannot_take_is_refused_before_anything_breaks(on_redis: Commands) -> None:
    code, said = on_redis("drill", "run", "switchover", "-n", "1", "--cluster", "drilled")
    assert code == 1
    assert "switchover needs a second head" in said


def test_an_interrupted_drill_leaves_the_cluster_as_it_was(on_redis: Commands) -> None:
    child = on_redis.start("drill", "run", "gcs-kill", "-n", "50", "--pause", "30", "--cluster", "drilled")
    try:
        eventually(lambda: on_redis.processes("ray::Counter"), 60, lambda: "the probe's actors did not start")
        os.killpg(child.pid, signal.SIGINT)
        said, _ = child.communicate(timeout=40)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    assert child.returncode == 130, said
    eventually(
        lambda: not on_redis.processes("ray::Counter") and not on_redis.processes("python3 -u -c"),
        20,
        lambda: [*on_redis.processes("ray::Counter"), *on_redis.processes("python3 -u -c")],
    )
    assert on_redis.clusters() == ["drilled"]


def test_without_a_store_the_drill_goes_red(rayward: Commands, tmp_path: Path) -> None:
    """The negative control: a GCS that forgets must not pass."""
    manifest, found = tmp_path / "forgets.yaml", tmp_path / "drill.json"
    manifest.write_text(FORGETFUL)
    code, said = rayward("drill", "run", "gcs-kill", "-n", "1", "-f", str(manifest), "--json", str(found))
    assert code == 1, said
    assert "FAILED: gcs-kill, 0 of 1 runs held" in said
    result = read_result(found)
    assert result["ok"] is False
    assert result["machine"]["store"] == "memory"
    assert result["runs"][0]["held"] is False
    assert result["runs"][0]["failures"]
    assert rayward.clusters() == [], "the drill's own cluster is still up"

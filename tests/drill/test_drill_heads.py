"""Faults of whole heads, of the network and of Redis on a real cluster with two heads, writes audited.

Bounds on time are the drill's own limits, far from what is measured; no test passes or fails by speed.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from drilled import Commands, commands_for_a_while, eventually, read_result

from rayward.drill import manifests
from rayward.drill.cut import Cut
from rayward.local.network import NAMESPACE_FOLDER

pytestmark = [pytest.mark.ray, pytest.mark.namespaces]

_NOTHING = ("calls_failed", "tasks_failed", "worker_restarts", "state_lost", "writes_lost", "stale_writes")


@pytest.fixture(scope="module")
def two_heads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """One cluster with two heads for all tests of this module."""
    for commands in commands_for_a_while():
        manifest = tmp_path_factory.mktemp("two-heads") / "cluster.yaml"
        manifest.write_text(yaml.safe_dump_all(manifests.for_drill(manifests.own(manifests.HA))))
        code, said = commands("up", "-f", str(manifest), "--name", "drilled-ha")
        assert code == 0, said
        yield commands


def _drill(rayward: Commands, found: Path, *words: str) -> dict[str, Any]:
    code, said = rayward(
        "drill", "run", *words, "-n", "1", "--pause", "0.5", "--seed", "5", "--json", str(found)
    )
    assert code == 0, said
    result = read_result(found)
    assert {name: result["figures"][name] for name in _NOTHING} == dict.fromkeys(_NOTHING, 0)
    assert result["figures"]["writes"] > 0
    (run,) = result["runs"]
    assert run["standbys"] == 1
    assert run["recovered_s"] is not None
    return dict(run)


def test_the_standby_takes_over_a_lost_host(two_heads: Commands, tmp_path: Path) -> None:
    run = _drill(two_heads, tmp_path / "drill.json", "host-loss")
    change = run["failover"]
    assert change["to_epoch"] > change["from_epoch"]
    assert change["to_member"] != change["from_member"]
    assert run["gcs_ready_s"] is not None


def test_a_switchover_moves_the_lease(two_heads: Commands, tmp_path: Path) -> None:
    run = _drill(two_heads, tmp_path / "drill.json", "switchover")
    assert run["failover"]["to_member"] != run["failover"]["from_member"]


def test_a_gcs_outlives_its_redis(two_heads: Commands, tmp_path: Path) -> None:
    run = _drill(two_heads, tmp_path / "drill.json", "redis-restart", "--seconds", "3")
    assert run["gcs_restarts"] == 0
    assert run["gcs_dead_s"] is None
    assert run["lasted_s"] >= 3
    assert run["failover"] is None


def test_a_head_that_loses_the_store_never_writes_beside_another(two_heads: Commands, tmp_path: Path) -> None:
    run = _drill(two_heads, tmp_path / "drill.json", "partition-store", "--seconds", "6")
    assert run["lasted_s"] >= 6


def test_an_interrupted_drill_lets_packets_pass_again(two_heads: Commands) -> None:
    cut = Cut(NAMESPACE_FOLDER / "rayward-drilled-ha")
    words = ("drill", "run", "partition-standby", "--seconds", "60", "-n", "1", "--pause", "0")
    child = two_heads.start(*words)
    try:
        eventually(cut.in_force, 60, lambda: "nothing was cut")
        os.killpg(child.pid, signal.SIGINT)
        said, _ = child.communicate(timeout=40)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    assert child.returncode == 130, said
    assert not cut.in_force()


def test_without_the_fence_the_audit_shows_two_writers(rayward: Commands, tmp_path: Path) -> None:
    """The negative control of the proof itself."""
    found = tmp_path / "control.json"
    code, said = rayward("drill", "suite", "--control", "fence-off", "--seed", "3", "--json", str(found))
    assert code == 0, said
    assert "control fence-off went red as it must" in said
    result = read_result(found)
    assert result["figures"]["stale_writes"] > 0
    assert rayward.clusters() == [], "the suite's own cluster is still up"

"""What cannot be drilled is refused with a sentence that says what to do, before anything is broken."""

from __future__ import annotations

from pathlib import Path

import pytest
from drilled import EXAMPLE, LONELY, Commands, eventually

from rayward.drill.faults import FAULTS


def test_a_fault_that_there_is_not(rayward: Commands) -> None:
    code, said = rayward("drill", "run", "gcs-explode")
    assert code == 1
    assert "there is no fault 'gcs-explode'" in said
    assert "gcs-kill, gcs-term, gcs-freeze" in said
    assert "back-to-back" in said


def test_list_names_every_fault(rayward: Commands) -> None:
    code, said = rayward("drill", "list")
    assert code == 0
    for fault in FAULTS:
        assert f"  {fault.name} " in said
        assert fault.stands_for in said


def test_a_duration_for_a_fault_that_has_none(rayward: Commands) -> None:
    code, said = rayward("drill", "run", "gcs-kill", "--seconds", "3")
    assert code == 1
    assert "gcs-kill has no duration" in said


def test_a_control_is_no_fault_of_a_cluster_that_is_there(rayward: Commands) -> None:
    code, said = rayward("drill", "suite", "--control", "ft-off", "--cluster", "mine")
    assert code == 1
    assert "cluster of its own" in said


def test_a_cluster_that_is_not_up(rayward: Commands) -> None:
    code, said = rayward("drill", "run", "gcs-kill", "--cluster", "nobody")
    assert code == 1
    assert "cluster 'nobody' is not up" in said


def test_a_cluster_and_a_file_exclude_each_other(rayward: Commands) -> None:
    code, said = rayward("drill", "run", "gcs-kill", "--cluster", "a", "-f", str(EXAMPLE))
    assert code == 1
    assert "exclude each other" in said


@pytest.mark.parametrize("words", [("-n", "0"), ("-n", "two"), ("--pause", "-1")])
def test_numbers_that_mean_nothing(rayward: Commands, words: tuple[str, ...]) -> None:
    code, said = rayward("drill", "run", "gcs-kill", *words)
    assert code == 2
    assert words[0] in said


@pytest.mark.namespaces
def test_a_cluster_without_ray(rayward: Commands, tmp_path: Path) -> None:
    manifest = tmp_path / "lonely.yaml"
    manifest.write_text(LONELY)
    code, said = rayward("up", "-f", str(manifest), "--name", "drill-lonely")
    assert code == 0, said
    code, said = rayward("drill", "run", "gcs-kill", "--cluster", "drill-lonely")
    assert code == 1
    assert "no head Pod runs" in said
    assert "holds a RayCluster" in said


@pytest.mark.ray
@pytest.mark.namespaces
def test_a_cluster_that_is_not_ready_yet(rayward: Commands) -> None:
    code, said = rayward("up", "-f", str(EXAMPLE), "--name", "drill-early", "--no-wait")
    assert code == 0, said
    folder = rayward.home / "clusters" / "drill-early" / "objects" / "Pod"
    eventually(lambda: list(folder.glob("*-head-*")), 20, lambda: "no head Pod was made")
    code, said = rayward("drill", "run", "gcs-kill", "--cluster", "drill-early")
    assert code == 1
    assert "not ready: drill-early-head-" in said

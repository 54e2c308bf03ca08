"""The drills on Ray Serve, as a user runs them: into the documentation's example, and refused where there is
nothing to drill."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from drilled import LONELY, ROOT, Commands, commands_for_a_while, read_result

from rayward.drill.serve_faults import SERVE_FAULTS
from rayward.drill.serve_load import require_locust
from rayward.drill.serve_look import look
from rayward.errors import RaywardError
from rayward.local.cluster import LocalCluster
from rayward.local.state import ClusterFolder

SERVICE = ROOT / "examples" / "ray-service.high-availability.yaml"
RATE = 5
DEPLOYMENTS = ("FruitMarket", "MangoStand", "OrangeStand", "PearStand")


def test_list_names_every_fault(rayward: Commands) -> None:
    code, said = rayward("drill", "list")
    assert code == 0
    for fault in SERVE_FAULTS:
        assert f"  {fault.name} " in said


@pytest.mark.parametrize(
    "words",
    [
        ("serve-gcs-kill", "--seconds", "3"),
        ("gcs-kill", "--rate", "3"),
        ("gcs-kill", "--new-connections"),
    ],
)
def test_what_has_no_meaning_is_refused(rayward: Commands, words: tuple[str, ...]) -> None:
    code, said = rayward("drill", "run", *words)
    assert code == 1
    assert "no meaning for it" in said


def test_without_a_cluster(rayward: Commands) -> None:
    code, said = rayward("drill", "run", "serve-gcs-kill")
    assert code == 1
    assert "no cluster is up" in said


def test_without_locust(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "locust", None)
    with pytest.raises(RaywardError, match="locust is not installed") as caught:
        require_locust()
    assert "pip install 'rayward[load]'" in str(caught.value)


@pytest.mark.namespaces
def test_a_cluster_without_a_service(rayward: Commands, tmp_path: Path) -> None:
    manifest = tmp_path / "lonely.yaml"
    manifest.write_text(LONELY)
    code, said = rayward("up", "-f", str(manifest), "--name", "drill-lonely")
    assert code == 0, said
    code, said = rayward("drill", "run", "serve-gcs-kill")
    assert code == 1
    assert "no RayService is in it" in said
    assert "ray-service.high-availability.yaml" in said


@pytest.fixture(scope="module")
def served() -> Iterator[Commands]:
    """Commands, and the example's RayService for all tests of a module."""
    for commands in commands_for_a_while():
        code, said = commands("up", "-f", str(SERVICE), "--name", "served", limit=400)
        assert code == 0, said
        yield commands


@pytest.mark.ray
@pytest.mark.namespaces
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("fault", "connections"), [("serve-gcs-kill", "kept"), ("serve-head-delete", "new")])
def test_no_request_fails(served: Commands, tmp_path: Path, fault: str, connections: str) -> None:
    words = ["drill", "run", fault, "-n", "1", "--rate", str(RATE), "--quiet-seconds", "5", "--seed", "1"]
    words += ["--json", str(tmp_path / "found.json"), "--report", str(tmp_path / "found.html")]
    code, said = served(*words, *(["--new-connections"] if connections == "new" else []), limit=400)
    assert code == 0, said
    assert f"HELD: {fault}, 1 of 1 runs held, seed 1" in said
    found = read_result(tmp_path / "found.json")
    assert (found["fault"], found["n"], found["ok"]) == (fault, 1, True)
    assert found["load"]["connections"] == connections
    figures, run = found["figures"], found["runs"][0]
    assert figures["failed"] == figures["in_flight_lost"] == 0
    assert figures["requests"] == figures["fault_requests"] + figures["quiet_requests"]
    # On schedule: as many as were due from the begin to the end, whatever happened meanwhile.
    assert abs(figures["requests"] - RATE * (run["ended_s"] - run["began_s"])) <= 1
    assert sum(second["count"] for second in run["seconds"]) == figures["requests"]
    assert run["began_s"] <= -5
    assert 0 < run["whole_s"] < run["ended_s"]
    assert run["ended_s"] >= 10
    page = (tmp_path / "found.html").read_text(encoding="utf-8")
    assert "held: 1 of 1 runs held" in page
    shape = look(LocalCluster(ClusterFolder(served.home / "clusters" / "served")), deep=False)
    # One of each deployment on each worker: that the drill waits for them rests on their being seen.
    assert shape.replicas == {f"fruit_app/{name}": shape.workers for name in DEPLOYMENTS}
    if fault == "serve-head-delete":
        said_then = [mark["says"] for mark in run["timeline"]]
        assert f"Pod {run['target']} is gone" in said_then
        assert "the address leads to 2 endpoints" in said_then
        assert said_then.index("the address leads to 2 endpoints") < said_then.index(
            f"Pod {run['target']} is gone"
        )

"""The plan for one more command in a container."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rayward.errors import RaywardError
from rayward.local import linux
from rayward.local.execute import ExecPlan, exec_command, plan


def test_namespaces_are_entered() -> None:
    spec = {"mode": "namespaces", "env": {"A": "b"}, "cwd": "/home/ray"}
    assert plan(spec, 7, ["ls", "-l"], "/bin/nsenter") == ExecPlan(
        argv=(
            *("/bin/nsenter", "--target=7", "--mount", "--net", "--pid", "--ipc", "--uts", "--root"),
            *("--wd=/proc/7/root/home/ray", "--", "ls", "-l"),
        ),
        env={"A": "b"},
        cwd="/",
    )


def test_on_the_host_paths_are_replaced() -> None:
    spec = {"mode": "host", "env": {}, "cwd": "/p/home", "replacements": {"/data": "/p/v"}}
    assert plan(spec, 7, ["cat", "/data/x"]) == ExecPlan(("cat", "/p/v/x"), {}, "/p/home")


@pytest.fixture
def pod_dir(tmp_path: Path) -> Path:
    """A Pod on the host whose container is this very process."""
    pod = {"metadata": {"name": "web"}, "spec": {"containers": [{"name": "main"}, {"name": "side"}]}}
    processes = {"main": {"pid": os.getpid(), "start_time": linux.process_start_time(os.getpid())}}
    waiting = {"name": "side", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    status = {"containerStatuses": [waiting], "rayward": {"containers": processes}}
    (tmp_path / "pod.json").write_text(json.dumps({"pod": pod}))
    (tmp_path / "status.json").write_text(json.dumps(status))
    (tmp_path / "containers").mkdir()
    spec = {"mode": "host", "env": {"A": "b"}, "cwd": "/", "replacements": {}}
    (tmp_path / "containers" / "main.json").write_text(json.dumps(spec))
    return tmp_path


def test_the_first_container_is_meant_when_none_is_named(pod_dir: Path) -> None:
    assert exec_command(pod_dir, None, ["ls"]) == ExecPlan(("ls",), {"A": "b"}, "/")


def test_a_terminal_has_a_type(pod_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "vt100")
    assert exec_command(pod_dir, "main", ["ls"], tty=True).env == {"A": "b", "TERM": "vt100"}


def test_refusals_say_why(pod_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(RaywardError, match=r"Pod web, container side: .*waiting: CrashLoopBackOff"):
        exec_command(pod_dir, "side", ["ls"])
    with pytest.raises(RaywardError, match="name one of: main, side"):
        exec_command(pod_dir, "none", ["ls"])
    with pytest.raises(RaywardError, match="is not there any more"):
        exec_command(tmp_path / "gone", None, ["ls"])


def test_a_pid_used_again_is_not_entered(pod_dir: Path) -> None:
    status = json.loads((pod_dir / "status.json").read_text())
    status["rayward"]["containers"]["main"]["start_time"] -= 1
    (pod_dir / "status.json").write_text(json.dumps(status))
    with pytest.raises(RaywardError, match="not running"):
        exec_command(pod_dir, "main", ["ls"])

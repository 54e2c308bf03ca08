"""What a user of the head has after it was lost: jobs with a truthful status, the dashboard, the monitor.

One real cluster with two heads for the whole module; its first head's host is lost once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from command_line import EXAMPLES, CommandLine, eventually

from rayward.local.cluster import LocalCluster
from rayward.local.state import ClusterFolder

pytestmark = pytest.mark.ray
NAME = "jobs"
SLEEPS = "import time; time.sleep({}); print('slept', flush=True)"


@dataclass(frozen=True)
class Lost:
    """A cluster whose head's host was lost after two jobs had begun: one on a worker, one on that head."""

    cli: CommandLine
    cluster: LocalCluster
    first: str
    now: str

    def ray(self, *arguments: str, timeout: float = 60) -> str:
        """A command on the head that leads now."""
        return self.cli("exec", self.now, "--", *arguments, timeout=timeout).stdout

    def job(self, name: str) -> dict[str, Any]:
        """What the dashboard of the head that leads now says of a job; nothing while it is not there yet."""
        fetch = (
            "import urllib.request as u; "
            f"print(u.urlopen('http://127.0.0.1:8265/api/jobs/{name}', timeout=20).read().decode())"
        )
        answer = self.cluster.run(self.now, ["python3", "-c", fetch])
        found: dict[str, Any] = json.loads(answer.stdout) if answer.returncode == 0 else {}
        return found

    def wait_for(self, name: str, status: str) -> None:
        eventually(lambda: self.job(name).get("status") == status, 90, lambda: self.job(name))


def submit(cli: CommandLine, head: str, name: str, *options: str, sleep: int) -> None:
    words = [
        "ray",
        "job",
        "submit",
        "--no-wait",
        "--address",
        "http://127.0.0.1:8265",
        "--submission-id",
        name,
    ]
    script = f'python3 -c "{SLEEPS.format(sleep)}"'
    cli("exec", head, "--", *words, *options, "--", "bash", "-c", script, timeout=90)


@pytest.fixture(scope="module")
def lost(shared: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lost]:
    manifest = tmp_path_factory.mktemp("ha") / "ha.yaml"
    manifest.write_text((EXAMPLES / "ray-cluster.ha.yaml").read_text().replace("replicas: 3", "replicas: 1"))
    shared("up", "-f", str(manifest), "--name", NAME, "--timeout", "150", timeout=180)
    try:
        cluster = LocalCluster(ClusterFolder(shared.home / "clusters" / NAME))
        leader = cluster.leader()
        assert leader is not None
        first = str(leader["metadata"]["name"])
        submit(shared, first, "on-worker", "--entrypoint-num-cpus", "1", sleep=45)
        submit(shared, first, "on-head", sleep=600)
        before = Lost(shared, cluster, first, first)
        for name in ("on-worker", "on-head"):
            before.wait_for(name, "RUNNING")
        cluster.kill_pod_processes(leader)
        now = eventually(
            lambda: (
                (found := cluster.leader()) is not None
                and found["metadata"]["name"] != first
                and found["metadata"]["name"]
            )
        )
        yield Lost(shared, cluster, first, str(now))
    finally:
        shared("down", NAME)


def test_a_job_on_a_worker_runs_on_and_says_so(lost: Lost) -> None:
    eventually(lambda: lost.job("on-worker").get("status") in ("RUNNING", "SUCCEEDED"), 30)
    lost.wait_for("on-worker", "SUCCEEDED")
    assert "slept" in lost.ray("ray", "job", "logs", "--address", "http://127.0.0.1:8265", "on-worker")


def test_a_job_on_the_lost_head_is_reported_as_lost(lost: Lost) -> None:
    lost.wait_for("on-head", "FAILED")
    assert lost.job("on-head")["message"]


def test_the_new_head_takes_new_jobs_and_runs_its_monitor(lost: Lost) -> None:
    submit(lost.cli, lost.now, "afterwards", "--entrypoint-num-cpus", "0.1", sleep=0)
    lost.wait_for("afterwards", "SUCCEEDED")
    status = lost.cluster.agent_status(lost.cluster.leader() or {})
    assert status is not None
    running = {name for name, process in status["processes"].items() if process.get("pid")}
    assert {"gcs_server", "raylet", "dashboard", "monitor", "log_monitor"} <= running
    assert "Active" in lost.ray("ray", "status")

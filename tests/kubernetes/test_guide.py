"""The guide to GCS fault tolerance, step by step with kubectl: real API server, real Ray, real Redis.

Once with the manifest of today and once with the older annotations; each on a cluster of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from control_plane import ControlPlane, until
from kubelet_fixture import real_node
from operator_process import ROOT, OperatorProcess, operator_process

pytestmark = pytest.mark.ray
SAMPLES = "/home/ray/samples"
PASSWORD = "5241590000000000"
RAY_NODES = "--selector=ray.io/is-ray-node=yes"
UP_S = 120.0


@pytest.fixture(scope="module")
def operator(
    controllers: ControlPlane, crds: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    """The operator, with a node that runs Pods."""
    log = tmp_path_factory.mktemp("operator") / "log"
    with real_node(controllers), operator_process(crds.kubeconfig, log) as found:
        yield found


@dataclass(frozen=True)
class Guide:
    """One cluster of the guide in a namespace of its own."""

    plane: ControlPlane
    namespace: str
    name: str

    def kubectl(self, *words: str, **options: Any) -> str:
        done = self.plane.kubectl("--namespace", self.namespace, *words, **options)
        return str(done.stdout).strip()

    def json(self, *words: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", *words, "--output=json"))
        return found

    def pods(self, selector: str = RAY_NODES) -> dict[str, dict[str, Any]]:
        return {item["metadata"]["name"]: item for item in self.json("pods", selector)["items"]}

    def head(self) -> str:
        (name,) = self.pods("--selector=ray.io/node-type=head")
        return name

    def worker(self) -> str:
        (name,) = self.pods("--selector=ray.io/node-type=worker")
        return name

    def api(self, path: str) -> Any:
        """What is polled: without a kubectl for each look."""
        return self.plane.request("GET", path)[1]

    def state(self) -> str:
        found = self.api(f"/apis/ray.io/v1/namespaces/{self.namespace}/rayclusters/{self.name}")
        return str((found.get("status") or {}).get("state"))

    def heads(self) -> list[dict[str, Any]]:
        """The living head Pods."""
        path = f"/api/v1/namespaces/{self.namespace}/pods?labelSelector=ray.io/node-type%3Dhead"
        items = self.api(path)["items"]
        return [pod for pod in items if not pod["metadata"].get("deletionTimestamp")]

    def wait_ready(self) -> None:
        try:
            until("the cluster is ready", lambda: self.state() == "ready", UP_S)
        except AssertionError as problem:
            told = "\n".join([self.kubectl("get", "pods", "-o", "wide"), *self.events()])
            raise AssertionError(f"{problem}\n{told}") from None

    def python(self, script: str) -> str:
        """What a sample prints, run on the head."""
        return self.kubectl("exec", "-i", self.head(), "--", "python3", f"{SAMPLES}/{script}", timeout_s=90)

    def redis(self, *command: str) -> str:
        (pod,) = self.pods("--selector=app=redis")
        return self.kubectl(
            "exec", "-i", pod, "--", "env", f"REDISCLI_AUTH={PASSWORD}", "redis-cli", *command
        )

    def restarts(self) -> dict[str, int]:
        return {
            name: sum(status["restartCount"] for status in pod["status"]["containerStatuses"])
            for name, pod in self.pods().items()
        }

    def events(self) -> list[str]:
        items = self.json("events")["items"]
        return [f"{item['reason']}: {item['message']}" for item in items]


@pytest.fixture(scope="module", params=["external-redis", "deprecate-gcs-ft"])
def guide(
    request: pytest.FixtureRequest, operator: OperatorProcess, control_plane: ControlPlane
) -> Iterator[Guide]:
    """Steps 3 to 5: the cluster is up and its detached actor exists."""
    namespace = f"guide-{request.param}"
    control_plane.kubectl("create", "namespace", namespace)
    manifest = ROOT / "examples" / f"ray-cluster.{request.param}.yaml"
    control_plane.kubectl("--namespace", namespace, "apply", f"--filename={manifest}")
    items = json.loads(
        control_plane.kubectl("--namespace", namespace, "get", "rayclusters", "--output=json").stdout
    )
    found = Guide(control_plane, namespace, items["items"][0]["metadata"]["name"])
    found.wait_ready()
    found.python("detached_actor.py")
    yield found
    control_plane.kubectl("delete", "namespace", namespace, "--timeout=60s", timeout_s=70)


def environment(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in pod["spec"]["containers"][0]["env"]}


def test_the_guide(guide: Guide) -> None:
    """The steps in their order, for each needs the one before."""
    steps_4_and_5(guide)
    step_6(guide)
    step_7_and_8(guide)
    a_deleted_head_pod(guide)
    step_9(guide)


def steps_4_and_5(guide: Guide) -> None:
    assert len(guide.pods()) == 2
    assert set(guide.restarts().values()) == {0}
    status = guide.json("raycluster", guide.name)["status"]
    assert status["head"]["podName"] == guide.head()
    assert status["readyWorkerReplicas"] == status["desiredWorkerReplicas"] == 1
    conditions = {item["type"]: item["status"] for item in status["conditions"]}
    assert conditions["HeadPodReady"] == conditions["RayClusterProvisioned"] == "True"
    assert guide.python("increment_counter.py").splitlines()[-1] == "1"


def step_6(guide: Guide) -> None:
    raw = guide.json("raycluster", guide.name)
    assert "ray.io/gcs-ft-redis-cleanup-finalizer" in raw["metadata"]["finalizers"]
    on_head = environment(guide.pods()[guide.head()])
    namespace = on_head["RAY_external_storage_namespace"]["value"]
    annotations = guide.pods()[guide.head()]["metadata"]["annotations"]
    assert annotations["ray.io/ft-enabled"] == "true"
    assert annotations["ray.io/external-storage-namespace"] == namespace
    tables = {"ACTOR", "JOB", "ACTOR_TASK_SPEC", "WORKERS", "JobCounter", "KV", "NODE"}
    assert {f"RAY{namespace}@{table}" for table in tables} <= set(guide.redis("KEYS", "*").split())
    on_worker = environment(guide.pods()[guide.worker()])
    assert on_worker["RAY_gcs_rpc_server_reconnect_timeout_s"]["value"] == "600"
    assert "RAY_gcs_rpc_server_reconnect_timeout_s" not in on_head


def step_7_and_8(guide: Guide) -> None:
    before, pods = guide.restarts(), set(guide.pods())
    kill = (
        "import os, signal; [os.kill(int(p), signal.SIGKILL) for p in os.listdir('/proc') if p.isdigit() and "
    )
    kill += "os.path.basename(open(f'/proc/{p}/cmdline').read().split(chr(0))[0]) == 'gcs_server']"
    guide.kubectl("exec", "-i", guide.head(), "--", "python3", "-c", kill)
    assert guide.python("increment_counter.py").splitlines()[-1] == "2"
    assert guide.restarts() == before, "the head Pod does not restart"
    assert set(guide.pods()) == pods


def a_deleted_head_pod(guide: Guide) -> None:
    old, worker = guide.head(), guide.worker()
    guide.kubectl("delete", "pod", old, "--wait=false")

    until(
        "another head Pod", lambda: [pod["metadata"]["name"] for pod in guide.heads()] not in ([], [old]), 30
    )
    guide.wait_ready()
    until("the old one is gone", lambda: old not in guide.pods("--selector=ray.io/node-type=head"), 60)
    assert guide.python("increment_counter.py").splitlines()[-1] == "3"
    assert guide.worker() == worker
    assert guide.restarts()[worker] == 0
    until("the failover is told", lambda: any("FailoverCompleted" in event for event in guide.events()))


def step_9(guide: Guide) -> None:
    guide.kubectl("delete", "raycluster", guide.name, "--timeout=120s", timeout_s=130)
    assert guide.json("rayclusters")["items"] == []
    assert guide.redis("DBSIZE") == "0"
    told = guide.events()
    assert any(event.startswith("CreatedRedisCleanupJob") for event in told), told
    until("the Pods are gone", lambda: not guide.pods(), 60)


def test_the_log_names_no_secret(operator: OperatorProcess) -> None:
    assert PASSWORD not in Path(operator.log).read_text()

"""A RayCluster with real Ray and real Redis on the real API server, as a user with kubectl sees it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from control_plane import ControlPlane, until
from operator_process import ROOT

SAMPLES = "/home/ray/samples"
PASSWORD = "5241590000000000"
RAY_NODES = "--selector=ray.io/is-ray-node=yes"
UP_S = 500.0
"""Far above what it takes, for all that has to start: a bound on failures only, also on a slow machine."""


@contextmanager
def live_cluster(plane: ControlPlane, example: str) -> Iterator[LiveCluster]:
    """``examples/ray-cluster.EXAMPLE.yaml`` in a namespace of its own, ready."""
    namespace = f"live-{example}"
    plane.kubectl("create", "namespace", namespace)
    manifest = ROOT / "examples" / f"ray-cluster.{example}.yaml"
    plane.kubectl("--namespace", namespace, "apply", f"--filename={manifest}")
    items = json.loads(plane.kubectl("--namespace", namespace, "get", "rayclusters", "--output=json").stdout)
    found = LiveCluster(plane, namespace, items["items"][0]["metadata"]["name"])
    found.wait_ready()
    yield found
    plane.kubectl("delete", "namespace", namespace, "--timeout=60s", timeout_s=70)


@dataclass(frozen=True)
class LiveCluster:
    """One cluster in a namespace of its own."""

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
        """The only living head; the one before may still be on its way out."""
        (pod,) = self.heads()
        return str(pod["metadata"]["name"])

    def worker(self) -> str:
        (name,) = self.pods("--selector=ray.io/node-type=worker")
        return name

    def api(self, path: str) -> Any:
        """What is polled: without a kubectl for each look."""
        return self.plane.request("GET", path)[1]

    def status(self) -> dict[str, Any]:
        found = self.api(f"/apis/ray.io/v1/namespaces/{self.namespace}/rayclusters/{self.name}")
        return dict(found.get("status") or {})

    def condition(self, name: str) -> dict[str, Any]:
        """A condition of the RayCluster; its status is empty while it is not there."""
        conditions = self.status().get("conditions") or ()
        return next((item for item in conditions if item["type"] == name), {"status": "", "message": ""})

    def leader(self) -> str:
        """The head Pod that the condition LeaderElected names; empty when none leads."""
        said = self.condition("LeaderElected")
        named = [
            pod["metadata"]["name"] for pod in self.heads() if pod["metadata"]["name"] in said["message"]
        ]
        return named[0] if said["status"] == "True" and named else ""

    def heads(self) -> list[dict[str, Any]]:
        """The living head Pods."""
        path = f"/api/v1/namespaces/{self.namespace}/pods?labelSelector=ray.io/node-type%3Dhead"
        items = self.api(path)["items"]
        return [pod for pod in items if not pod["metadata"].get("deletionTimestamp")]

    def wait_ready(self) -> None:
        try:
            until("the cluster is ready", lambda: self.status().get("state") == "ready", UP_S)
        except AssertionError as problem:
            logs = [self.kubectl("logs", name, "--tail=12", check=False) for name in self.pods()]
            told = "\n".join([self.kubectl("get", "pods", "-o", "wide"), *self.events(), *logs])
            raise AssertionError(f"{problem}\n{told}") from None

    def delete_head(self, bound_s: float) -> None:
        """Delete the only head Pod; another comes within the bound, and then the cluster is ready."""
        old = self.head()
        self.kubectl("delete", "pod", old, "--wait=false")
        until(
            "another head Pod",
            lambda: [pod["metadata"]["name"] for pod in self.heads()] not in ([], [old]),
            bound_s,
        )
        # What the status said of the old one does not count.
        until("the status knows it", lambda: self._told_head() == self.head(), bound_s)
        self.wait_ready()

    def _told_head(self) -> str:
        return str((self.status().get("head") or {}).get("podName"))

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

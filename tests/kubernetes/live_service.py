"""A RayService with real Ray Serve on the real API server, as a user with kubectl sees it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from control_plane import ControlPlane, until
from live_cluster import UP_S, LiveCluster
from operator_process import ROOT

NAMESPACE = "live-service"
MANIFEST = ROOT / "examples" / "ray-service.high-availability.yaml"


@contextmanager
def live_service(plane: ControlPlane) -> Iterator[LiveService]:
    """The example in a namespace of its own, serving."""
    plane.kubectl("create", "namespace", NAMESPACE)
    plane.kubectl("--namespace", NAMESPACE, "apply", f"--filename={MANIFEST}")
    found = LiveService(plane)
    found.wait_serving()
    yield found
    plane.kubectl("delete", "namespace", NAMESPACE, "--timeout=90s", timeout_s=100)


@dataclass(frozen=True)
class LiveService:
    """One RayService in a namespace of its own."""

    plane: ControlPlane
    namespace: str = NAMESPACE
    name: str = "rayservice-ha"

    @property
    def path(self) -> str:
        return f"/apis/ray.io/v1/namespaces/{self.namespace}/rayservices/{self.name}"

    @property
    def raw(self) -> dict[str, Any]:
        found: dict[str, Any] = self.plane.request("GET", self.path)[1]
        return found

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.raw.get("status") or {}
        return found

    def side(self, which: str) -> str:
        return str((self.status.get(f"{which}ServiceStatus") or {}).get("rayClusterName") or "")

    def condition(self, name: str) -> dict[str, Any]:
        """A condition; its status is empty while it is not there."""
        found = [item for item in self.status.get("conditions") or () if item["type"] == name]
        return found[0] if found else {"status": "", "reason": "", "message": ""}

    @property
    def cluster(self) -> LiveCluster:
        """The cluster that serves."""
        return LiveCluster(self.plane, self.namespace, self.side("active"))

    def kubectl(self, *words: str, **options: Any) -> str:
        return str(self.plane.kubectl("--namespace", self.namespace, *words, **options).stdout).strip()

    def patch(self, spec: dict[str, Any]) -> None:
        """Change the spec, as `kubectl edit` does."""
        body = json.dumps({"spec": spec})
        self.kubectl("patch", "rayservice", self.name, "--type=merge", f"--patch={body}")

    def endpoints(self) -> set[str]:
        """The addresses behind the Service for Serve."""
        path = f"/api/v1/namespaces/{self.namespace}/endpoints/{self.name}-serve-svc"
        status, found = self.plane.request("GET", path)
        subsets = found.get("subsets") or () if status == 200 else ()
        return {entry["ip"] for subset in subsets for entry in subset.get("addresses") or ()}

    def events(self) -> list[str]:
        found = json.loads(self.kubectl("get", "events", "--output=json"))["items"]
        return [f"{item['reason']}: {item['message']}" for item in found]

    def wait_serving(self, endpoints: int = 3) -> None:
        try:
            until(f"{endpoints} endpoints", lambda: len(self.endpoints()) == endpoints, UP_S)
            until("the status says so", lambda: self.status.get("numServeEndpoints") == endpoints)
        except AssertionError as problem:
            shown = [self.kubectl("get", "pods", "--output=wide"), json.dumps(self.status, indent=1)]
            raise AssertionError("\n".join([str(problem), *shown, *self.events()])) from None

    def ask(self, fruit: str, amount: int) -> str:
        """The answer to one request, sent from the client's Pod."""
        script = (
            "import json, os, urllib.request as u; "
            f"body = json.dumps([{fruit!r}, {amount}]).encode(); "
            "print(u.urlopen(u.Request(os.environ['FRUIT_URL'], body), timeout=10).read().decode())"
        )
        return self.kubectl("exec", "-i", "ray-pod", "--", "python3", "-c", script)


class Queries:
    """``query.py`` in the client's Pod, in the background."""

    OUTPUT = "/tmp/queries"

    def __init__(self, service: LiveService) -> None:
        self._service = service
        script = f"setsid python3 samples/query.py > {self.OUTPUT} 2>&1 < /dev/null & echo $!"
        self._pid = self._run(script)
        self.wait(20)

    def _run(self, script: str) -> str:
        return self._service.kubectl("exec", "-i", "ray-pod", "--", "bash", "-c", script)

    def lines(self) -> list[str]:
        """What it has printed so far."""
        return self._run(f"cat {self.OUTPUT}").splitlines()

    def wait(self, more: int) -> None:
        """Until that many more answers have come."""
        wanted = self._answered() + more
        until(f"{more} more answers", lambda: self._answered() >= wanted, 120)

    def _answered(self) -> int:
        return int(self._run(f"grep -c 'response: 12$' {self.OUTPUT} || true") or 0)

    def end(self) -> tuple[int, int]:
        """How many requests were sent, and how many failed or got another answer."""
        self._run(f"kill -INT {self._pid}; while kill -0 {self._pid} 2> /dev/null; do sleep 0.1; done")
        answers = [line for line in self.lines() if line.startswith("response: ")]
        return len(answers), sum(line != "response: 12" for line in answers)

"""A namespace on a node for tests of the kubelet: Pods of a few lines, and what becomes of them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from control_plane import ControlPlane, until
from kubelet_fixture import NodeProcess, ready

LIVE = "import time; print('here', flush=True); time.sleep(3600)"
STUBBORN = """
import signal, sys, time
def end(*_):
    print("asked to end", flush=True)
    {then}
signal.signal(signal.SIGTERM, end)
print("here", flush=True)
while True: time.sleep(0.1)
"""


def program(code: str, **more: Any) -> dict[str, Any]:
    """A container that runs a bit of Python."""
    return {"name": "main", "image": "python", "command": ["python3", "-u", "-c", code], **more}


@dataclass(frozen=True)
class Bench:
    """A namespace on a node, and kubectl in it."""

    plane: ControlPlane
    node: NodeProcess
    namespace: str

    def kubectl(self, *words: str, **options: Any) -> str:
        return str(self.plane.kubectl("--namespace", self.namespace, *words, **options).stdout)

    def apply(self, kind: str, name: str, **body: Any) -> None:
        version = body.pop("version", "v1")
        metadata = {"name": name, "labels": body.pop("labels", {})}
        path = f"/{'apis' if '/' in version else 'api'}/{version}/namespaces/{self.namespace}/{kind.lower()}s"
        manifest = {"apiVersion": version, "kind": kind, "metadata": metadata, **body}
        code, answer = self.plane.request("POST", path, manifest)
        assert code == 201, answer

    def pod(self, name: str, *containers: dict[str, Any], **spec: Any) -> None:
        labels = spec.pop("labels", {"app": name})
        grace = spec.pop("terminationGracePeriodSeconds", 1)
        spec.setdefault("nodeName", self.node.names[0])
        body = {"containers": list(containers or (program(LIVE),)), "terminationGracePeriodSeconds": grace}
        self.apply("Pod", name, labels=labels, spec={**body, **spec})

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", kind, name, "--output=json"))
        return found

    def status(self, name: str) -> dict[str, Any]:
        """A Pod's status, empty when it is gone."""
        code, pod = self.plane.request("GET", f"/api/v1/namespaces/{self.namespace}/pods/{name}")
        return pod.get("status", {}) if code == 200 else {}

    def gone(self, name: str) -> bool:
        return self.plane.request("GET", f"/api/v1/namespaces/{self.namespace}/pods/{name}")[0] == 404

    def until(self, what: str, condition: Callable[[], Any], bound_s: float = 30) -> Any:
        """As `until`, and with the kubelet's last words when it takes too long."""
        try:
            return until(what, condition, bound_s)
        except AssertionError as problem:
            raise AssertionError(f"{problem}; the kubelet said:\n{self.node.words()}") from None

    def until_ready(self, name: str) -> dict[str, Any]:
        self.until(f"Pod {name} is ready", lambda: ready(self.status(name).get("conditions") or ()))
        return self.status(name)

    def until_phase(self, name: str, phase: str) -> dict[str, Any]:
        self.until(f"Pod {name} is {phase}", lambda: self.status(name).get("phase") == phase)
        return self.status(name)

    def logged(self, name: str, words: str) -> str:
        return until(
            f"{name} says {words}", lambda: (said := self.logs(name)) if words in self.logs(name) else ""
        )

    def logs(self, name: str, *more: str) -> str:
        done = self.plane.kubectl("--namespace", self.namespace, "logs", name, *more, check=False)
        return done.stdout + done.stderr

    def execute(self, name: str, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        words = ("--namespace", self.namespace, "exec", *options.pop("flags", ()), name, "--", *command)
        return self.plane.kubectl(*words, check=False, **options)

"""A RayCluster on Kubernetes as drills know clusters, so that the same faults, load and questions serve both.

Reads what the API server says, runs commands by `kubectl exec`; processes are found and killed on this
machine, on which the tests' kubelet runs the Pods.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.kube_common import ControlPlane, NodeProcess
from rayward.errors import RaywardError
from rayward.local.cluster import LocalCluster
from rayward.local.execute import ExecPlan
from rayward.local.pod_process import PodProcess
from rayward.local.progress import Progress, assess
from rayward.local.state import ClusterFolder, Manifest

_PATHS = {
    "Pod": "/api/v1/namespaces/{}/pods",
    "RayCluster": "/apis/ray.io/v1/namespaces/{}/rayclusters",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets",
}


class _Objects(ClusterFolder):
    """The objects of a namespace, asked for each time, in place of a folder of files."""

    def __init__(self, plane: ControlPlane, node: NodeProcess, namespace: str) -> None:
        super().__init__(node.folder)
        self._plane, self._namespace = plane, namespace

    def list(self, kind: str) -> list[Manifest]:
        """All objects of a kind; raises RaywardError when the API server does not answer with them."""
        try:
            code, page = self._plane.request("GET", _PATHS[kind].format(self._namespace))
        except OSError as problem:
            raise RaywardError(
                f"the API server does not answer: {problem}", where=self._plane.url
            ) from problem
        if code != 200:
            raise RaywardError(f"the API server answered {code}: {page}", where=kind)
        head = {"apiVersion": page["apiVersion"], "kind": kind}
        return [{**head, **item} for item in sorted(page["items"], key=lambda item: item["metadata"]["name"])]

    def setting(self, name: str) -> Any:
        """Every Pod has a network of its own here."""
        return "namespaces" if name == "mode" else super().setting(name)


class KubernetesCluster(LocalCluster):
    """What is in one namespace; its Pods run on ``node``, whose network has the name that ``name`` is."""

    def __init__(self, plane: ControlPlane, node: NodeProcess, namespace: str) -> None:
        super().__init__(_Objects(plane, node, namespace))
        self._plane, self._node, self.namespace = plane, node, namespace
        self._uids: dict[str, str] = {}

    def pods(self, **labels: str) -> list[Manifest]:
        """The Pods with the status that the API server has, and where their processes are."""
        found = []
        for pod in self.folder.list("Pod"):
            metadata = pod["metadata"]
            self._uids[metadata["name"]] = metadata["uid"]
            plain = {_keyword(key): value for key, value in (metadata.get("labels") or {}).items()}
            if all(plain.get(key) == value for key, value in labels.items()):
                here = PodProcess(self.pod_folder(metadata["name"])).status().get("rayward") or {}
                found.append({**pod, "status": {**(pod.get("status") or {}), "rayward": here}})
        return found

    def pod_folder(self, name: str) -> Path:
        """Where the kubelet keeps a Pod's files."""
        return self._node.ground.folder.pods / self._uids.get(name, name)

    def progress(self) -> Progress:
        """How far the cluster has come, Pods that are on their way out left out."""
        workloads = [item for kind in ("Deployment", "StatefulSet") for item in self.folder.list(kind)]
        pods = [pod for pod in self.pods() if not pod["metadata"].get("deletionTimestamp")]
        return assess(pods, self.folder.list("RayCluster"), workloads, self.leads(pods))

    def exec_plan(self, pod: str, container: str | None, argv: Sequence[str], tty: bool = False) -> ExecPlan:
        """`kubectl exec`, as a user would have it."""
        kubectl = self._plane.binaries.path("kubectl")
        where = ("--namespace", self.namespace, *(("--container", container) if container else ()))
        words = (kubectl, *where, "exec", "--stdin", pod, "--", *argv)
        home = str(self._plane.folder / "home")
        return ExecPlan(words, {"KUBECONFIG": str(self._plane.kubeconfig), "HOME": home}, "/")

    def apply(self, manifests: Sequence[Manifest]) -> None:
        """Give objects to the API server."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self._plane.kubectl(
            "--namespace", self.namespace, "apply", "--filename=-", input=json.dumps(items), timeout_s=60
        )


def _keyword(label: str) -> str:
    """A label's key as a keyword argument can hold it."""
    return "".join(letter if letter.isalnum() else "_" for letter in label)

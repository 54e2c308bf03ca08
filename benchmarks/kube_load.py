"""Many small RayClusters, and the very objects that they come to, made without any operator.

Writes through the operator's own client, with the operator's bounds: what is left to compare is the operator.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.kube_common import ControlPlane, OperatorProcess, operator_process
from benchmarks.kube_watch import CLUSTER, Key
from rayward.kube.client import AT_ONCE, KubeClient
from rayward.kube.kinds import CONFIGMAPS, PODS, RAYCLUSTERS, SERVICES, Kind

Raw = dict[str, Any]
WORKERS_EACH = 3
PODS_EACH = 1 + WORKERS_EACH
OBJECTS_EACH = PODS_EACH + 1
"""What must exist for a cluster beside itself: its Pods and its head Service."""
_IMAGE = "rayproject/ray:2.60.0"
_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
_MODEL: Key = ("model-ns", "the-model-of-all")
_UID = "00000000-0000-4000-8000-000000000000"
_ASSIGNED = ("uid", "resourceVersion", "creationTimestamp", "managedFields", "selfLink", "generation")


@dataclass(frozen=True)
class Bounds:
    """What the operator is started with: requests a second, at once, and clusters worked on at a time."""

    qps: float
    burst: int
    workers: int


@contextmanager
def operator_in(plane: ControlPlane, bounds: Bounds, wait: bool = True) -> Iterator[OperatorProcess]:
    """An operator for this control plane; with ``wait`` it is ready."""
    options = ("--qps", bounds.qps, "--burst", bounds.burst, "--reconcile-concurrency", bounds.workers)
    with tempfile.TemporaryDirectory(prefix="rayward-bench-") as folder:
        log = Path(folder) / "operator.log"
        with operator_process(plane.kubeconfig, log, *map(str, options), wait=wait) as found:
            yield found


def keys(size: int, namespaces: Sequence[str], prefix: str) -> list[Key]:
    """``size`` clusters, spread over the namespaces."""
    return [(namespaces[number % len(namespaces)], f"{prefix}-{number:05d}") for number in range(size)]


def ray_cluster(key: Key) -> Raw:
    """One head and three workers that ask for little; no fault tolerance."""
    resources = {"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}}

    def group(container: str, parameters: dict[str, str]) -> Raw:
        found = {"name": container, "image": _IMAGE, "resources": resources}
        return {"rayStartParams": parameters, "template": {"spec": {"containers": [found]}}}

    workers = {"groupName": "small", "replicas": WORKERS_EACH, "minReplicas": 0, "maxReplicas": 10}
    return {
        "apiVersion": RAYCLUSTERS.api_version,
        "kind": "RayCluster",
        "metadata": {"namespace": key[0], "name": key[1]},
        "spec": {
            "rayVersion": "2.60.0",
            "headGroupSpec": group("ray-head", {"num-cpus": "0"}),
            "workerGroupSpecs": [{**workers, **group("ray-worker", {})}],
        },
    }


@asynccontextmanager
async def client_of(plane: ControlPlane, qps: float, burst: int) -> AsyncIterator[KubeClient]:
    """A client for the time of the context."""
    client = KubeClient.connect(plane.kubeconfig, qps=qps, burst=burst)
    try:
        yield client
    finally:
        await client.close()


async def create_clusters(
    client: KubeClient, wanted: Sequence[Key], made: Callable[[Key, Raw], None] = lambda key, body: None
) -> float:
    """Create RayClusters as fast as the client may, and tell ``made`` of each; the moment of the first."""
    due, started = iter(wanted), time.monotonic()

    async def work() -> None:
        for key in due:
            made(key, await client.create(RAYCLUSTERS, ray_cluster(key)))

    await asyncio.gather(*(work() for _ in range(16)))
    return started


# -- the same objects without an operator --------------------------------------------------------------


class Model:
    """The objects of one cluster that an operator made, as a pattern for those of any other."""

    def __init__(self, plane: ControlPlane, key: Key) -> None:
        namespace, name = key
        _, cluster = plane.request("GET", RAYCLUSTERS.path(namespace, name))
        self._per_cluster: list[tuple[Kind, str]] = []
        self._per_namespace: list[tuple[Kind, str]] = []
        replaced = ((cluster["metadata"]["uid"], _UID), (name, _MODEL[1]), (namespace, _MODEL[0]))
        for kind in (SERVICES, PODS, CONFIGMAPS):
            _, page = plane.request("GET", kind.path(namespace))
            for item in page["items"]:
                labels = item["metadata"].get("labels") or {}
                if kind is CONFIGMAPS and not any(label.startswith("rayward.dev/") for label in labels):
                    continue  # what Kubernetes puts into every namespace
                text = json.dumps(_as_it_was_sent(kind, item))
                for found, mark in replaced:
                    text = text.replace(found, mark)
                (self._per_cluster if labels.get(CLUSTER) else self._per_namespace).append((kind, text))

    def of_cluster(self, key: Key, uid: str) -> list[tuple[Kind, Raw]]:
        """What a cluster comes to, beside itself."""
        marks = ((_UID, uid), (_MODEL[1], key[1]), (_MODEL[0], key[0]))
        return [(kind, _filled(text, marks)) for kind, text in self._per_cluster]

    def of_namespace(self, namespace: str) -> list[tuple[Kind, Raw]]:
        """What a namespace with clusters comes to."""
        return [(kind, _filled(text, ((_MODEL[0], namespace),))) for kind, text in self._per_namespace]


def _filled(text: str, marks: Sequence[tuple[str, str]]) -> Raw:
    for mark, value in marks:
        text = text.replace(mark, value)
    found: Raw = json.loads(text)
    return found


def _as_it_was_sent(kind: Kind, item: Raw) -> Raw:
    """An object without what the API server and others have added to it."""
    metadata = {name: value for name, value in item["metadata"].items() if name not in _ASSIGNED}
    found = {**item, "apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata}
    found.pop("status", None)
    spec = dict(found.get("spec") or {})
    if kind is SERVICES and spec.get("clusterIP") != "None":
        spec = {name: value for name, value in spec.items() if name not in ("clusterIP", "clusterIPs")}
    if kind is PODS:
        spec = _without_account({name: value for name, value in spec.items() if name != "nodeName"})
    return {**found, "spec": spec} if spec else found


def _without_account(spec: Raw) -> Raw:
    """A Pod's spec without the token that its namespace's account has put into it."""
    gone: set[str] = set()

    def kept(container: Raw) -> Raw:
        mounts = container.get("volumeMounts") or []
        gone.update(mount["name"] for mount in mounts if mount["mountPath"] == _ACCOUNT)
        return {**container, "volumeMounts": [mount for mount in mounts if mount["mountPath"] != _ACCOUNT]}

    found = dict(spec)
    for part in ("initContainers", "containers"):
        if found.get(part):
            found[part] = [kept(container) for container in found[part]]
    found["volumes"] = [volume for volume in found.get("volumes") or [] if volume["name"] not in gone]
    return found


async def create_by_script(
    plane: ControlPlane, model: Model, wanted: Sequence[Key], create_qps: float, bounds: Bounds
) -> float:
    """Make clusters and all that they come to: one client for the RayClusters, as their user has it, and one
    with the operator's bounds for the rest, kept as busy as it may be. Returns the moment of the first
    request."""
    made: asyncio.Queue[tuple[Key, str]] = asyncio.Queue()
    async with (
        client_of(plane, create_qps, 1) as user,
        client_of(plane, bounds.qps, bounds.burst) as client,
    ):
        known: dict[str, asyncio.Task[None]] = {}

        async def namespace_ready(name: str) -> None:
            for kind, body in model.of_namespace(name):
                await client.create(kind, body)

        async def work() -> None:
            while True:
                key, uid = await made.get()
                if key[0] not in known:
                    known[key[0]] = asyncio.create_task(namespace_ready(key[0]))
                await asyncio.shield(known[key[0]])
                await asyncio.gather(*(client.create(*each) for each in model.of_cluster(key, uid)))
                made.task_done()

        workers = [asyncio.create_task(work()) for _ in range(AT_ONCE // OBJECTS_EACH)]
        try:
            creating = create_clusters(
                user, wanted, lambda key, body: made.put_nowait((key, str(body["metadata"]["uid"])))
            )
            started = await creating
            joined = asyncio.create_task(made.join())
            await asyncio.wait((joined, *workers), return_when=asyncio.FIRST_COMPLETED)
            for worker in workers:
                if worker.done():
                    worker.result()  # it never ends but by an error
            return started
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

"""What a benchmark sees of the objects of an API server: one watch for each kind, no polling.

Decodes only the few fields that say whether something is ready, so that looking costs little beside what is
looked at.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import aiohttp
import click
import msgspec

from benchmarks.kube_common import ApiServer, ControlPlane
from rayward.kube.kinds import PODS, RAYCLUSTERS, RAYSERVICES, Kind

CLUSTER, NODE_TYPE = "ray.io/cluster", "ray.io/node-type"
Key = tuple[str, str]
"""Namespace and name of a RayCluster or a RayService."""


class _Meta(msgspec.Struct, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: str = ""
    labels: dict[str, str] = {}


class _Condition(msgspec.Struct):
    type: str
    status: str


class _Status(msgspec.Struct):
    state: str = ""
    conditions: list[_Condition] | None = None

    @property
    def ready(self) -> bool:
        return any(found.type == "Ready" and found.status == "True" for found in self.conditions or ())


class _Item(msgspec.Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)
    status: _Status = msgspec.field(default_factory=_Status)


class _Event(msgspec.Struct):
    type: str
    object: _Item


_decode = msgspec.json.Decoder(_Event).decode


class Watches:
    """Everything seen since the start: clusters, services and Pods that were ready, heads that came and went.

    ``async with`` it before anything is created. All moments are CLOCK_MONOTONIC, read when the event was.
    """

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._api = ApiServer(plane.kubeconfig)
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.ready_clusters: dict[Key, float] = {}
        self.ready_services: dict[Key, float] = {}
        self.ready_pods: dict[str, float] = {}
        self.heads: dict[Key, dict[str, str]] = {}
        self.head_came: dict[str, float] = {}
        self.head_going: dict[str, float] = {}

    async def __aenter__(self) -> Watches:
        await self._api.__aenter__()
        takers = ((RAYCLUSTERS, self._cluster), (RAYSERVICES, self._service), (PODS, self._pod))
        for kind, take in takers:
            _, page = self._plane.request("GET", f"{kind.path()}?limit=1")
            version = page["metadata"]["resourceVersion"]
            self._tasks.append(asyncio.create_task(self._follow(kind, version, take)))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._api.__aexit__()

    async def _follow(self, kind: Kind, version: str, take: Callable[[str, _Item, float], None]) -> None:
        """Watch for ever; the server ends each watch after some minutes. A lost history is an error."""
        while True:
            try:
                async for line in self._api.watch_lines(kind, version):
                    event = _decode(line)
                    version = event.object.metadata.resource_version or version
                    if event.type != "BOOKMARK":
                        take(event.type, event.object, time.monotonic())
                        self._changed.set()
            except (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError):
                await asyncio.sleep(0.05)

    def _cluster(self, event: str, item: _Item, moment: float) -> None:
        if item.status.state == "ready" and event != "DELETED":
            self.ready_clusters.setdefault((item.metadata.namespace, item.metadata.name), moment)

    def _service(self, event: str, item: _Item, moment: float) -> None:
        if item.status.ready and event != "DELETED":
            self.ready_services.setdefault((item.metadata.namespace, item.metadata.name), moment)

    def _pod(self, event: str, item: _Item, moment: float) -> None:
        metadata = item.metadata
        if item.status.ready:
            self.ready_pods.setdefault(metadata.uid, moment)
        if metadata.labels.get(NODE_TYPE) != "head":
            return
        heads = self.heads.setdefault((metadata.namespace, metadata.labels.get(CLUSTER, "")), {})
        if event == "DELETED" or metadata.deletion_timestamp:
            self.head_going.setdefault(metadata.uid, moment)
            heads.pop(metadata.uid, None)
        elif metadata.uid not in heads:
            heads[metadata.uid] = metadata.name
            self.head_came[metadata.uid] = moment

    async def until(self, what: str, condition: Callable[[], bool], bound_s: float) -> None:
        """Wait for what the watches show; ClickException after ``bound_s`` or when a watch broke."""
        deadline = time.monotonic() + bound_s
        while not condition():
            self._changed.clear()
            broken = [task for task in self._tasks if task.done()]
            if broken or time.monotonic() > deadline:
                why = f"a watch ended: {broken[0].exception()!r}" if broken else f"not within {bound_s:.0f} s"
                raise click.ClickException(f"{what}: {why}")
            # A second at the most, to see a watch that ended.
            try:
                await asyncio.wait_for(self._changed.wait(), min(1.0, max(0.0, deadline - time.monotonic())))
            except asyncio.TimeoutError:
                continue

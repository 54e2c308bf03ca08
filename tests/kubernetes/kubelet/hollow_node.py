"""Hollow nodes: Pods bound to them are running and ready after one write, and nothing is started.

Made for thousands of Pods: events are decoded to the few fields that matter, writes go out many at a time.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec

from kubelet.api_access import GONE, UNREACHABLE, ApiError, ApiServer, Object
from kubelet.background import background
from kubelet.registration import NodeFacts, Registration, now_text
from rayward.kube.kinds import PODS

ADDRESSES = "100.64.0.0/10"
_RETRY_S = 0.2


class _Named(msgspec.Struct):
    name: str = ""
    kind: str = ""
    image: str = ""


class _Metadata(msgspec.Struct, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: str = ""
    owner_references: list[_Named] = []


class _Spec(msgspec.Struct, rename="camel"):
    node_name: str = ""
    containers: list[_Named] = []
    init_containers: list[_Named] = []


class _Status(msgspec.Struct, rename="camel"):
    phase: str = ""
    conditions: list[Any] = []


class _Pod(msgspec.Struct):
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)

    @property
    def reference(self) -> Object:
        """As the client wants an object to write to."""
        metadata = self.metadata
        return {"metadata": {"name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid}}


def running(containers: Sequence[_Named], now: str, finished: bool) -> list[Object]:
    """Container statuses: of those that run, or of those that are done."""
    end = {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now}}
    state = end if finished else {"running": {"startedAt": now}}
    return [
        {
            "name": item.name,
            "image": item.image,
            "imageID": "",
            "ready": not finished,
            "started": not finished,
            "restartCount": 0,
            "state": state,
        }
        for item in containers
    ]


def hollow_status(pod: _Pod, address: str, host: str, now: str) -> Object:
    """The status of a Pod that runs as well as can be; one that belongs to a Job is done at once."""
    finished = any(owner.kind == "Job" for owner in pod.metadata.owner_references)
    ready = {"status": "False", "reason": "PodCompleted"} if finished else {"status": "True"}
    conditions = [entry for entry in pod.status.conditions if entry["type"] == "PodScheduled"]
    conditions += [
        {"type": kind, "lastTransitionTime": now, **({"status": "True"} if kind == "Initialized" else ready)}
        for kind in ("Initialized", "ContainersReady", "Ready")
    ]
    status: Object = {
        "phase": "Succeeded" if finished else "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "hostIP": host,
        "startTime": now,
        "conditions": conditions,
        "containerStatuses": running(pod.spec.containers, now, finished),
    }
    if pod.spec.init_containers:
        status["initContainerStatuses"] = running(pod.spec.init_containers, now, True)
    return status


class HollowNodes:
    """Several nodes on which nothing runs.

    With ``bind`` it binds Pods that have no node yet by itself, in turn, in place of a scheduler. Each Pod
    has an address of the network ``addresses``.
    """

    def __init__(
        self,
        api: ApiServer,
        nodes: Sequence[NodeFacts],
        writers: int = 32,
        bind: bool = False,
        addresses: str = ADDRESSES,
    ) -> None:
        self._api, self._writers, self._bind = api, writers, bind
        self._nodes = {facts.name: facts for facts in nodes}
        self._registrations = [Registration(api, facts, lambda name: False) for facts in nodes]
        # The first 256 addresses stay free for whoever wants a neighbour that is none of these Pods.
        self._network = ipaddress.IPv4Network(addresses)
        self._addresses = itertools.cycle(range(256, self._network.num_addresses - 1))
        self._turn = itertools.cycle(self._nodes)
        self._waiting: deque[_Pod] = deque()
        self._in_hand: dict[str, str] = {}
        self._news = asyncio.Event()
        self.written = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Work until told to stop, then take the nodes away."""
        jobs = [registration.run() for registration in self._registrations]
        jobs += [self._watch(), *(self._write() for _ in range(self._writers))]
        async with background(stop) as running_jobs:
            running_jobs.add(jobs)
            await stop.wait()
        for registration in self._registrations:
            await registration.remove()

    # -- seeing ----------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        version = ""
        while True:
            try:
                if not version:
                    items, version = await self._api.list(PODS)
                    for item in items:
                        self._take(msgspec.convert(item, _Pod))
                async for line in self._api.watch_lines(PODS, version):
                    version = self._event(line) or version
            except ApiError as error:
                version = "" if error.status == GONE else version
                await asyncio.sleep(_RETRY_S)
            except UNREACHABLE:
                await asyncio.sleep(_RETRY_S)

    def _event(self, line: bytes) -> str:
        try:
            event = _decode(line)
        except msgspec.DecodeError:  # an error's object is no Pod
            raise ApiError(GONE, line.decode(errors="replace")) from None
        if event.type in ("ADDED", "MODIFIED"):
            self._take(event.object)
        elif event.type == "DELETED":
            self._in_hand.pop(event.object.metadata.uid, None)
        return event.object.metadata.resource_version

    def _take(self, pod: _Pod) -> None:
        """Put a Pod in line if there is something to do for it that is not being done."""
        task = self._task(pod)
        if task and self._in_hand.get(pod.metadata.uid) != task:
            self._in_hand[pod.metadata.uid] = task
            self._waiting.append(pod)
            self._news.set()

    def _task(self, pod: _Pod) -> str:
        if not pod.spec.node_name:
            return "bind" if self._bind and not pod.metadata.deletion_timestamp else ""
        if pod.spec.node_name not in self._nodes:
            return ""
        if pod.metadata.deletion_timestamp:
            return "delete"
        return "run" if pod.status.phase in ("", "Pending") else ""

    # -- writing ---------------------------------------------------------------------------------------

    async def _write(self) -> None:
        while True:
            while not self._waiting:
                self._news.clear()
                await self._news.wait()
            pod = self._waiting.popleft()
            try:
                await self._act(pod)
                self.written += 1
            except ApiError as error:
                # 404, 422: it went, or somebody else was first; the watch tells.
                if error.status not in (404, 422):
                    await self._again(pod)
            except UNREACHABLE:
                await self._again(pod)

    async def _again(self, pod: _Pod) -> None:
        await asyncio.sleep(_RETRY_S)
        if pod.metadata.uid in self._in_hand:  # not deleted meanwhile
            self._waiting.append(pod)
            self._news.set()

    async def _act(self, pod: _Pod) -> None:
        task = self._task(pod)
        if task == "delete":
            await self._api.delete(PODS, pod.reference, 0)
        elif task == "bind":
            target = {"apiVersion": "v1", "kind": "Node", "name": next(self._turn)}
            metadata = {"name": pod.metadata.name, "namespace": pod.metadata.namespace}
            binding = {"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": target}
            await self._api.create(PODS, binding, "binding")
        elif task == "run":
            host = self._nodes[pod.spec.node_name].address
            status = hollow_status(pod, str(self._network[next(self._addresses)]), host, now_text())
            await self._api.patch(PODS, pod.reference, {"status": status}, "status")


class _Event(msgspec.Struct):
    type: str
    object: _Pod


_decode = msgspec.json.Decoder(_Event).decode

"""The kubelet that runs Pods for real: everything that concerns them, put together in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from kubelet.api_access import ENDPOINTS, ApiServer, Object, Reflector, quietly
from kubelet.api_door import ApiDoor
from kubelet.background import background
from kubelet.claims import Claims
from kubelet.node_server import NodeServer
from kubelet.pod_ground import Ground
from kubelet.pod_manifest import API_NAME, adapted, claims, references, tokens
from kubelet.pod_names import hosts_text, service_lines, write_in_place
from kubelet.pod_runner import PodRunner
from kubelet.pod_services import Spread
from kubelet.registration import NodeFacts, Registration
from rayward.kube.kinds import CONFIGMAPS, SECRETS, SERVICES

_MIRRORED = (CONFIGMAPS, SECRETS)
_END_GRACE_S, _END_BOUND_S = 2, 30.0
_KEEP_S = 0.5


class RealNode:
    """One or several nodes that are this machine, with one network between all of their Pods."""

    def __init__(self, api: ApiServer, ground: Ground, nodes: Sequence[NodeFacts]) -> None:
        self._api, self._ground, self._nodes = api, ground, nodes
        self._claims = Claims(api, ground)
        self._services = Reflector(api, SERVICES, self._names_changed)
        self._endpoints = Reflector(api, ENDPOINTS, self._names_changed)
        self._mirrors = {kind: Reflector(api, kind, self._mirror) for kind in _MIRRORED}
        self._runner = PodRunner(api, ground, self._prepare, self._settings, self._names_due)
        self._registrations = [Registration(api, facts, ground.is_lost) for facts in nodes]
        self._server = NodeServer(ground, self._runner.pods)
        self._door = ApiDoor(api.url)
        self._spread = Spread(ground)
        self._refresh: asyncio.Handle | None = None
        self._wake_path = str(ground.folder.path / "wake")

    async def run(self, stop: asyncio.Event) -> None:
        """Work until told to stop; then end all Pods and take the nodes away."""
        await self._server.start(self._ground.gateway, self._nodes[0].port)
        await self._door.start(self._ground.gateway)
        listener = self._listen()
        pods = [self._runner.reflector(facts.name) for facts in self._nodes]
        first = [*self._mirrors.values(), self._services, self._endpoints, self._claims.claims]
        try:
            async with background(stop) as jobs:
                jobs.add(item.run() for item in (*first, self._claims.volumes, self._claims))
                jobs.add([self._keep_spread()])
                await _all_synced(first, stop)
                for kind, reflector in self._mirrors.items():
                    self._ground.keep_only(kind.name, set(reflector.items))
                jobs.add(item.run() for item in (*pods, *self._registrations))
                await _all_synced(pods, stop)
                if not stop.is_set():
                    self._runner.adopt()
                await stop.wait()
                await self._runner.end_all(_END_GRACE_S, _END_BOUND_S)
        finally:
            listener.close()
            await self._server.stop()
            await self._door.stop()
        await self._claims.remove()
        for registration in self._registrations:
            await registration.remove()

    def _listen(self) -> asyncio.BaseTransport:
        """Pods' processes send a datagram after each change of their status."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._wake_path)
        news = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        news.bind(self._wake_path)
        return _Wakes(news, self._runner)

    # -- what Pods refer to ----------------------------------------------------------------------------

    def _mirror(self, old: Object | None, new: Object | None) -> None:
        if new is not None:
            self._ground.keep(new)
        elif old is not None:
            self._ground.drop(old["kind"], old["metadata"]["namespace"], old["metadata"]["name"])

    async def _prepare(self, pod: Object) -> None:
        """Have what the Pod refers to as it is now: the watches may be a little behind the Pod's own."""
        namespace = pod["metadata"]["namespace"]
        for kind, name in sorted(references(pod), key=str):
            found = await quietly(self._api.get(kind, namespace, name))
            if found is not None:
                self._mirrors[kind].take(found)
        for secret in await tokens(pod, self._api):
            self._ground.keep(secret)
        for claim in claims(pod):
            (self._ground.claims(namespace) / claim).mkdir(exist_ok=True)

    def _settings(self, pod: Object) -> Object:
        uid, namespace = pod["metadata"]["uid"], pod["metadata"]["namespace"]
        address = self._ground.address(uid)
        hosts = self._ground.folder.pods / uid / "hosts"
        write_in_place(hosts, self._hosts(pod, address))
        return {
            "pod": adapted(pod),
            "cluster": self._ground.folder.name,
            "objects": str(self._ground.objects(namespace)),
            "claims": str(self._ground.claims(namespace)),
            "hosts": str(hosts),
            "wake": self._wake_path,
            "mode": "namespaces",
            "network": {
                "address": address,
                "prefix": self._ground.subnet.prefixlen,
                "gateway": self._ground.gateway,
            },
        }

    # -- names -----------------------------------------------------------------------------------------

    def _hosts(self, pod: Mapping[str, Any], address: str) -> str:
        metadata = pod["metadata"]
        hostname = pod["spec"].get("hostname") or metadata["name"]
        lines = service_lines(self._services.items, self._endpoints.items, self._spread.addresses)
        door = self._ground.gateway
        names = f"{door}\t{API_NAME} {API_NAME}.cluster.local kubernetes.default"
        names += " kubernetes\n" if metadata["namespace"] == "default" else "\n"
        others = [line for line in lines if API_NAME not in line[2]]
        return hosts_text(hostname, metadata["namespace"], address, others, names)

    def _names_changed(self, _old: Object | None, _new: Object | None) -> None:
        self._names_due()

    def _names_due(self) -> None:
        """Bring all hosts files up to date, once for all changes that came together."""
        if self._refresh is None:
            self._refresh = asyncio.get_running_loop().call_soon(self._write_names)

    def _write_names(self) -> None:
        self._refresh = None
        if not (self._services.synced.is_set() and self._endpoints.synced.is_set()):
            return
        self._spread.take(self._services.items, self._endpoints.items, self._runner.pods.values())
        for uid in self._ground.found():
            path = self._ground.folder.pods / uid / "hosts"
            pod = self._runner.pods.get(uid)
            if pod is not None and path.exists() and not self._ground.is_lost(pod["spec"]["nodeName"]):
                write_in_place(path, self._hosts(pod, self._ground.address(uid)))

    async def _keep_spread(self) -> None:
        """The proxy is looked after also while nothing changes."""
        while True:
            await asyncio.sleep(_KEEP_S)
            self._spread.keep()


class _Wakes(asyncio.BaseTransport):
    """A datagram socket whose every message means: look at the Pods."""

    def __init__(self, news: socket.socket, runner: PodRunner) -> None:
        super().__init__()
        self._news, self._runner = news, runner
        asyncio.get_running_loop().add_reader(news, self._read)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._news.recv(4096):
                pass
        self._runner.wake_all()

    def close(self) -> None:
        """Listen no more."""
        asyncio.get_running_loop().remove_reader(self._news)
        self._news.close()


async def _all_synced(reflectors: Sequence[Reflector], stop: asyncio.Event) -> None:
    """Wait until all know what there is, or the process is to stop."""
    synced = asyncio.ensure_future(asyncio.gather(*(item.synced.wait() for item in reflectors)))
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait((synced, stopped), return_when=asyncio.FIRST_COMPLETED)
    for waiter in (synced, stopped):
        waiter.cancel()

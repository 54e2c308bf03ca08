"""Nodes as the API server sees them: the Node objects, their conditions and heartbeats, their Leases."""

from __future__ import annotations

import asyncio
import datetime
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kubelet.api_access import UNREACHABLE, ApiError, ApiServer, Object, quietly
from rayward.kube.kinds import LEASES, NODES

LEASE_NAMESPACE = "kube-node-lease"
_LEASE_S, _RENEW_S, _STATUS_S = 40, 10.0, 60.0
_PRESSURES = {
    "MemoryPressure": "KubeletHasSufficientMemory",
    "DiskPressure": "KubeletHasNoDiskPressure",
    "PIDPressure": "KubeletHasSufficientPID",
}


@dataclass(frozen=True)
class NodeFacts:
    """What a node says of itself. ``port`` is that of the kubelet's server, 0 for none."""

    name: str
    address: str
    port: int
    capacity: Mapping[str, str]
    labels: Mapping[str, str] = field(default_factory=dict)


def now_text(micro: bool = False) -> str:
    """Now, as Kubernetes writes times; with microseconds as Leases want them."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")


def node_object(facts: NodeFacts) -> Object:
    """The Node to create."""
    labels = {
        "kubernetes.io/hostname": facts.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64" if platform.machine() == "x86_64" else "arm64",
        **facts.labels,
    }
    return {"metadata": {"name": facts.name, "labels": labels}}


def node_status(facts: NodeFacts, before: Mapping[str, Any], now: str) -> Object:
    """The Node's status: ready, without any pressure. A condition that stays keeps its transition time."""
    wanted = {name: ("False", reason) for name, reason in _PRESSURES.items()}
    wanted["Ready"] = ("True", "KubeletReady")
    known = {entry["type"]: entry for entry in before.get("conditions") or ()}
    conditions = [entry for name, entry in known.items() if name not in wanted]
    for name, (status, reason) in wanted.items():
        old = known.get(name) or {}
        since = old.get("lastTransitionTime", now) if old.get("status") == status else now
        conditions.append(
            {
                "type": name,
                "status": status,
                "reason": reason,
                "message": reason,
                "lastHeartbeatTime": now,
                "lastTransitionTime": since,
            }
        )
    uname = platform.uname()
    return {
        "conditions": conditions,
        "addresses": [{"type": "InternalIP", "address": facts.address}],
        "capacity": dict(facts.capacity),
        "allocatable": dict(facts.capacity),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": facts.port}},
        "nodeInfo": {
            "machineID": "",
            "systemUUID": "",
            "bootID": "",
            "kernelVersion": uname.release,
            "osImage": "this machine",
            "containerRuntimeVersion": "rayward://local",
            "kubeletVersion": "v1.20.2-rayward",
            "kubeProxyVersion": "v1.20.2-rayward",
            "operatingSystem": "linux",
            "architecture": "amd64" if uname.machine == "x86_64" else "arm64",
        },
    }


def is_ready(node: Mapping[str, Any]) -> bool:
    """Whether the Node's Ready condition is True."""
    conditions = (node.get("status") or {}).get("conditions") or ()
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


class Registration:
    """Keeps one Node registered. While ``silent`` says so, it says nothing, as a node does that is lost."""

    def __init__(self, api: ApiServer, facts: NodeFacts, silent: Callable[[str], bool]) -> None:
        self._api, self.facts, self._silent = api, facts, silent
        self._said = -_STATUS_S

    async def run(self) -> None:
        """Register, then heartbeats for ever."""
        while True:
            pause = _RENEW_S
            if self._silent(self.facts.name):
                pause = 0.2
            else:
                try:
                    await self._beat()
                except (ApiError, *UNREACHABLE):
                    pause = 0.5
            await asyncio.sleep(pause)

    async def _beat(self) -> None:
        now = asyncio.get_running_loop().time()
        node = await self._node()
        if not is_ready(node) or now - self._said >= _STATUS_S:
            status = node_status(self.facts, node.get("status") or {}, now_text())
            await self._api.patch(NODES, node, {"status": status}, "status")
            self._said = now
        await self._renew(node)

    async def _node(self) -> Object:
        try:
            return await self._api.get(NODES, None, self.facts.name)
        except ApiError as error:
            if error.status != 404:
                raise
        return await self._api.create(NODES, node_object(self.facts))

    async def _renew(self, node: Object) -> None:
        spec = {
            "holderIdentity": self.facts.name,
            "leaseDurationSeconds": _LEASE_S,
            "renewTime": now_text(micro=True),
        }
        try:
            lease = await self._api.get(LEASES, LEASE_NAMESPACE, self.facts.name)
        except ApiError as error:
            if error.status != 404:
                raise
            owner = {
                "apiVersion": "v1",
                "kind": "Node",
                "name": self.facts.name,
                "uid": node["metadata"]["uid"],
            }
            metadata = {"name": self.facts.name, "namespace": LEASE_NAMESPACE, "ownerReferences": [owner]}
            await self._api.create(LEASES, {"metadata": metadata, "spec": spec})
        else:
            await self._api.patch(LEASES, lease, {"spec": spec})

    async def remove(self) -> None:
        """Take Node and Lease away."""
        name = self.facts.name
        await quietly(self._api.delete(LEASES, {"metadata": {"name": name, "namespace": LEASE_NAMESPACE}}))
        await quietly(self._api.delete(NODES, {"metadata": {"name": name}}))

"""The ConfigMap that carries the agent into stock images: one per namespace and version, named by content.

A new rayward brings a ConfigMap of another name, so that no running Pod finds other code under its feet.
"""

from __future__ import annotations

import base64
import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rayward.agent.bundle import build_zip
from rayward.errors import RaywardError
from rayward.kube.client import ApiError, KubeClient
from rayward.kube.informer import Informer
from rayward.kube.kinds import CONFIGMAPS
from rayward.plan.pods import AGENT_VOLUME

Raw = dict[str, Any]
LABEL = "rayward.dev/agent-bundle"
SELECTOR = f"{LABEL}=true"
_FILE = "agent.zip"


class AgentConfigMap:
    """Keeps the ConfigMap where clusters are. ``name`` is what Pods mount."""

    def __init__(self, client: KubeClient, informer: Informer) -> None:
        self._client, self._informer = client, informer
        with tempfile.TemporaryDirectory() as folder:
            build_zip(Path(folder) / _FILE)
            content = (Path(folder) / _FILE).read_bytes()
        self.name = f"{AGENT_VOLUME}-{hashlib.sha256(content).hexdigest()[:10]}"
        self._data = base64.b64encode(content).decode()
        self._made: set[str] = set()

    def manifest(self, namespace: str) -> Raw:
        """The object for one namespace. It cannot be edited; who deletes it gets it back."""
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": self.name, "namespace": namespace, "labels": {LABEL: "true"}},
            "binaryData": {_FILE: self._data},
            "immutable": True,
        }

    async def ensure(self, namespace: str) -> bool:
        """Create it where it is missing; True when it had to be. Raises ApiError, and RaywardError when
        somebody else's ConfigMap has its name."""
        if self._informer.get(namespace, self.name) is not None:
            self._made.discard(namespace)
            return False
        if namespace in self._made:
            return False  # the cache will show it
        self._made.add(namespace)
        try:
            await self._client.create(CONFIGMAPS, self.manifest(namespace))
        except BaseException as error:
            self._made.discard(namespace)
            if not isinstance(error, ApiError) or error.status != 409:
                raise
            await self._check(namespace)
            return False
        return True

    async def _check(self, namespace: str) -> None:
        """That what is there under this name is the agent: Pods are about to run it."""
        found = await self._client.get(CONFIGMAPS, namespace, self.name)
        if (found.get("binaryData") or {}).get(_FILE) != self._data:
            raise RaywardError(
                "is not the agent of this rayward",
                where=f"ConfigMap {namespace}/{self.name}",
                todo="delete it; it is made anew",
            )

    def on_loss(self, tell: Callable[[str], None]) -> None:
        """Call ``tell(namespace)`` whenever somebody deletes one."""

        def changed(old: Raw | None, new: Raw | None, initial: bool) -> None:
            if new is None and old is not None and old["metadata"]["name"] == self.name:
                self._made.discard(str(old["metadata"]["namespace"]))
                tell(str(old["metadata"]["namespace"]))

        self._informer.on_change(changed)


def mounts_agent(body: Raw) -> bool:
    """Whether a Pod, or the Pods of a Job, need the ConfigMap to start."""
    spec = body.get("spec") or {}
    if body["kind"] == "Job":
        spec = spec["template"]["spec"]
    volumes = spec.get("volumes") or () if body["kind"] in ("Pod", "Job") else ()
    return any(volume.get("name") == AGENT_VOLUME for volume in volumes)

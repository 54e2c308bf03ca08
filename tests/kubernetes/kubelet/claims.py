"""Plays the provisioner: a PersistentVolume for each claim that has none, and nothing left of those released.

The API server's own controller binds the two; the volume is a folder of the kubelet's.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from kubelet.api_access import PVS, UNREACHABLE, ApiError, ApiServer, Object, Reflector, quietly
from kubelet.pod_ground import Ground
from rayward.kube.kinds import PVCS

_MARK = "rayward.dev/test-kubelet"
_AGAIN_S = 1.0


def volume_for(claim: Object, path: Path, owner: str) -> Object:
    """The volume that a claim asks for, bound to it from the start."""
    metadata, spec = claim["metadata"], claim["spec"]
    body: dict[str, Any] = {
        "capacity": {"storage": spec["resources"]["requests"]["storage"]},
        "accessModes": spec["accessModes"],
        "volumeMode": spec.get("volumeMode", "Filesystem"),
        "persistentVolumeReclaimPolicy": "Retain",
        "hostPath": {"path": str(path), "type": "DirectoryOrCreate"},
        "claimRef": {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        },
    }
    if spec.get("storageClassName"):
        body["storageClassName"] = spec["storageClassName"]
    return {"metadata": {"name": f"pvc-{metadata['uid']}", "labels": {_MARK: owner}}, "spec": body}


class Claims:
    """The claims of the whole cluster, and the volumes made for them by this process."""

    def __init__(self, api: ApiServer, ground: Ground) -> None:
        self._api, self._ground = api, ground
        self._owner = ground.folder.name
        self._news = asyncio.Event()
        self.claims = Reflector(api, PVCS, self._changed)
        self.volumes = Reflector(api, PVS, self._changed)

    def _changed(self, old: Object | None, new: Object | None) -> None:
        if new is not None and new["kind"] == PVCS.name:
            (self._ground.claims(new["metadata"]["namespace"]) / new["metadata"]["name"]).mkdir(exist_ok=True)
        self._news.set()

    async def run(self) -> None:
        """Make and remove volumes for ever."""
        await asyncio.gather(self.claims.synced.wait(), self.volumes.synced.wait())
        while True:
            self._news.clear()
            try:
                await self._provide()
                await self._tidy()
                await self._news.wait()
            except (ApiError, *UNREACHABLE):
                await asyncio.sleep(_AGAIN_S)

    async def _provide(self) -> None:
        for (namespace, name), claim in list(self.claims.items.items()):
            wanted = volume_for(claim, self._ground.claims(namespace) / name, self._owner)
            taken = claim["spec"].get("volumeName") or ("", wanted["metadata"]["name"]) in self.volumes.items
            if not taken and "deletionTimestamp" not in claim["metadata"]:
                try:
                    self.volumes.take(await self._api.create(PVS, wanted))
                except ApiError as error:
                    if error.status != 409:
                        raise

    def _ours(self) -> list[Object]:
        volumes = self.volumes.items.values()
        return [item for item in volumes if (item["metadata"].get("labels") or {}).get(_MARK) == self._owner]

    async def _tidy(self) -> None:
        uids = {claim["metadata"]["uid"] for claim in self.claims.items.values()}
        for volume in self._ours():
            reference = volume["spec"]["claimRef"]
            if reference["uid"] not in uids and "deletionTimestamp" not in volume["metadata"]:
                if (reference["namespace"], reference["name"]) not in self.claims.items:
                    self._ground.drop_claim(reference["namespace"], reference["name"])
                await self._api.delete(PVS, volume)

    async def remove(self) -> None:
        """Take all volumes away that were made here."""
        for volume in self._ours():
            await quietly(self._api.delete(PVS, volume))

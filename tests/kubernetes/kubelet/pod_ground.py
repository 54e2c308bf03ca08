"""Where the kubelet keeps everything on disk, and which address each Pod has.

One folder, laid out as that of a local cluster, so that `rayward.local.ground` lays and sweeps it:
``pods/UID`` is a Pod's folder, ``namespaces/NS/objects`` and ``namespaces/NS/claims`` hold what Pods of a
namespace refer to.
"""

from __future__ import annotations

import contextlib
import ipaddress
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayward.errors import RaywardError
from rayward.local import linux
from rayward.local.ground import lay
from rayward.local.network import Fabric
from rayward.local.pod_process import PodProcess
from rayward.local.state import ClusterFolder, read_json, write_json

Object = dict[str, Any]


class Ground:
    """The folder and the network of one kubelet process; both outlive it."""

    def __init__(self, path: Path) -> None:
        self.folder = ClusterFolder(path)
        self._processes: dict[str, PodProcess] = {}

    def prepare(self) -> None:
        """Make folder and network, or find those of the process before. Raises RaywardError."""
        reason = linux.namespaces_available()
        if reason is not None:
            raise RaywardError(f"Pods cannot have a network of their own here: {reason}")
        if not self.folder.setting("subnet"):
            if not self.folder.exists:
                self.folder.create()
            lay(self.folder, "namespaces")

    @property
    def subnet(self) -> ipaddress.IPv4Network:
        """The Pods' network; its first address is this machine's."""
        return ipaddress.IPv4Network(self.folder.setting("subnet"))

    @property
    def fabric(self) -> Fabric:
        """The network that Pods are plugged into."""
        return Fabric(self.folder.name, str(self.subnet))

    @property
    def gateway(self) -> str:
        """This machine's address in the Pods' network."""
        return str(self.subnet.network_address + 1)

    def objects(self, namespace: str) -> Path:
        """Where the objects that Pods of a namespace refer to are."""
        return self._made(namespace, "objects")

    def claims(self, namespace: str) -> Path:
        """One folder for each claim of a namespace."""
        return self._made(namespace, "claims")

    def _made(self, namespace: str, what: str) -> Path:
        path = self.folder.path / "namespaces" / namespace / what
        path.mkdir(parents=True, exist_ok=True)
        return path

    def keep(self, item: Object) -> None:
        """Write an object where Pods of its namespace look it up."""
        folder = self.objects(item["metadata"]["namespace"]) / item["kind"]
        folder.mkdir(exist_ok=True)
        write_json(folder / f"{item['metadata']['name']}.json", item)

    def drop(self, kind: str, namespace: str, name: str) -> None:
        """Remove an object; nothing happens when it is gone."""
        (self.objects(namespace) / kind / f"{name}.json").unlink(missing_ok=True)

    def keep_only(self, kind: str, known: set[tuple[str, str]]) -> None:
        """Remove the objects of a kind that went while nobody watched."""
        for path in (self.folder.path / "namespaces").glob(f"*/objects/{kind}/[!.]*.json"):
            if (path.parents[2].name, path.stem) not in known:
                path.unlink()

    # -- Pods ------------------------------------------------------------------------------------------

    def process(self, uid: str) -> PodProcess:
        """A Pod's process, whether it was ever started or not."""
        if uid not in self._processes:
            self._processes[uid] = PodProcess(self.folder.pods / uid)
        return self._processes[uid]

    def found(self) -> list[str]:
        """The uids of the Pods that have a folder here."""
        return [path.name for path in self.folder.pods.iterdir()]

    def address(self, uid: str) -> str:
        """A Pod's address: the one it has, else the next one after the last that was given out, as a real
        network does it, so that a new Pod seldom gets the address of one that just went."""
        given: dict[str, str] = self.folder.setting("addresses") or {}
        if uid not in given:
            hosts = [str(host) for host in self.subnet.hosts()][1:]
            last = self.folder.setting("last_address")
            start = hosts.index(last) + 1 if last in hosts else 0
            taken = set(given.values())
            free = [host for host in hosts[start:] + hosts[:start] if host not in taken]
            if not free:
                raise RaywardError("no address is free for another Pod", where=str(self.subnet))
            given[uid] = free[0]
            self.folder.set(addresses=given, last_address=free[0])
        return given[uid]

    def admit(self, pod: Mapping[str, Any]) -> None:
        """Note a Pod, so that a sweep finds all of its processes by its uid."""
        uid = pod["metadata"]["uid"]
        self.folder.put({"kind": "Pod", "metadata": {"name": uid, "uid": uid}})

    def forget(self, uid: str) -> None:
        """A Pod is gone with its process: so are its folder and its address."""
        self.process(uid).remove()
        self._processes.pop(uid, None)
        given = self.folder.setting("addresses") or {}
        if given.pop(uid, None):
            self.folder.set(addresses=given)
        self.folder.drop("Pod", uid)

    def manifest(self, uid: str) -> Object | None:
        """The manifest that a Pod was started with."""
        settings = read_json(self.folder.pods / uid / "pod.json")
        return settings["pod"] if settings else None

    # -- claims, lost nodes ----------------------------------------------------------------------------

    def drop_claim(self, namespace: str, name: str) -> None:
        """Remove what a claim held."""
        shutil.rmtree(self.claims(namespace) / name, ignore_errors=True)

    def is_lost(self, node: str) -> bool:
        """Whether a test wants this node to be lost: a file of its name in ``lost`` says so."""
        return (self.folder.path / "lost" / node).exists()

    def lose(self, node: str, lost: bool = True) -> None:
        """Make a node lost, or bring it back."""
        folder = self.folder.path / "lost"
        folder.mkdir(exist_ok=True)
        if lost:
            (folder / node).touch()
        else:
            with contextlib.suppress(FileNotFoundError):
                (folder / node).unlink()

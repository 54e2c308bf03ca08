"""Addresses and names inside one cluster: which Pod has which address, and the hosts files that say where
Services lead to just now.

Everything rests in the cluster's folder; nothing is remembered here that could not be read again.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from rayward.errors import RaywardError
from rayward.local import names
from rayward.local.addresses import FIRST_HOST_PORT, LAST_HOST_PORT, host_place, pick_address
from rayward.local.pod_process import host_port_is_free
from rayward.local.service_table import own_address
from rayward.local.state import NAMESPACE, ClusterFolder, Manifest
from rayward.plan.heads import head_index
from rayward.plan.workloads import endpoints

_ROLE = "role:"


def lasting_role(pod: Manifest) -> str | None:
    """What a Pod is that others shall find where its predecessor was: a cluster's head, by its number.
    None for a Pod that may be anywhere."""
    labels = pod["metadata"].get("labels", {})
    if labels.get("ray.io/node-type") != "head":
        return None
    index = head_index(pod)
    return f"{_ROLE}{labels.get('ray.io/cluster')}/head" + (f"-{index}" if index else "")


class AddressBook:
    """Who has which address and, without network namespaces, which ports."""

    def __init__(self, folder: ClusterFolder) -> None:
        self._folder = folder

    def address(self, pod: Manifest) -> str:
        """A Pod's address. Each of the heads has one of its own that no other Pod gets, so that nobody has
        to learn a new one; a head that comes while its predecessor still has it gets another."""
        book = self.known()
        name = pod["metadata"]["name"]
        if name in book:
            return str(book[name])
        living = {item["metadata"]["name"] for item in self._folder.list("Pod")}
        book = {key: value for key, value in book.items() if key in living or key.startswith(_ROLE)}
        role = lasting_role(pod)
        own = book.get(role) if role else None
        taken = [value for key, value in book.items() if key in living or value != own]
        taken += filter(None, map(own_address, self._folder.list("Service")))
        book[name] = pick_address(str(self._folder.setting("subnet")), taken, own)
        if role:
            book.setdefault(role, book[name])
        self._folder.set(addresses=book)
        return str(book[name])

    def known(self) -> dict[str, str]:
        """The addresses given out so far, by Pod name (and by lasting role)."""
        found: dict[str, str] = self._folder.setting("addresses") or {}
        return found

    def host_place(self, pod: Manifest) -> Manifest:
        """A Pod's address and ports on the host's network."""
        places = self._folder.setting("places") or {}
        key = lasting_role(pod) or pod["metadata"]["name"]
        address = self.address(pod)
        if key not in places:
            labels = pod["metadata"].get("labels", {})
            taken = {port for place in places.values() for port in place["ports"].values()}
            place = host_place(
                address,
                _container_ports(pod),
                labels.get("ray.io/node-type") if labels.get("ray.io/is-ray-node") == "yes" else None,
                len(places),
                str(self._folder.setting("temp_dir")),
                lambda: _free_port(taken),
            )
            places[key] = {
                "address": place.address,
                "ports": dict(place.ports),
                "ray_start_args": list(place.ray_start_args),
            }
            self._folder.set(places=places)
        found: Manifest = {**places[key], "address": address}
        return found

    def substitutions(self, pod: Manifest) -> dict[str, str]:
        """The texts that stand for names and ports in a Pod on the host's network."""
        services = []
        pods = self._folder.list("Pod")
        for service in self._folder.list("Service"):
            backend = next((item for item in pods if _selected(service, item)), None)
            found = None if backend is None else self.host_place(backend)
            services.append((service, None if found is None else (str(found["address"]), found["ports"])))
        texts = names.substitutions(services, NAMESPACE)
        own = self.host_place(pod)
        texts.update({f"127.0.0.1:{port}": f"{own['address']}:{host}" for port, host in own["ports"].items()})
        return texts


class HostsFiles:
    """The hosts file of every Pod with a network of its own."""

    def __init__(self, folder: ClusterFolder, book: AddressBook) -> None:
        self._folder = folder
        self._book = book

    def path(self, pod: Manifest) -> Path:
        """Where a Pod's hosts file is; the Pod has this very file mounted."""
        return self._folder.pods / str(pod["metadata"]["name"]) / "hosts"

    def refresh(self, pods: Sequence[Manifest]) -> bool:
        """Bring the files that exist up to date with the status of ``pods``; whether one changed."""
        services, known, changed = self._services(pods), self._book.known(), False
        for pod in pods:
            address = known.get(pod["metadata"]["name"])
            if address is not None and self.path(pod).exists():
                changed = self._write(pod, address, services) or changed
        return changed

    def write(self, pod: Manifest, pods: Sequence[Manifest]) -> None:
        """Write one Pod's file, which need not be there yet."""
        self._write(pod, self._book.address(pod), self._services(pods))

    def _services(self, pods: Sequence[Manifest]) -> list[tuple[Manifest, tuple[str, ...]]]:
        return [(service, endpoints(service, tuple(pods))) for service in self._folder.list("Service")]

    def _write(self, pod: Manifest, address: str, services: list[tuple[Manifest, tuple[str, ...]]]) -> bool:
        text = names.hosts_file(pod["metadata"]["name"], address, services, NAMESPACE)
        path = self.path(pod)
        if path.exists() and path.read_text(encoding="utf-8") == text:
            return False
        # In place, for the Pod has this very file mounted; one write, so that nobody reads half of it.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(descriptor, text.encode(), 0)
            os.ftruncate(descriptor, len(text.encode()))
        finally:
            os.close(descriptor)
        return True


def _selected(service: Manifest, pod: Manifest) -> bool:
    selector = service["spec"].get("selector") or {}
    labels = pod["metadata"].get("labels", {})
    gone = bool(pod["metadata"].get("deletionTimestamp"))
    return bool(selector) and not gone and all(labels.get(key) == value for key, value in selector.items())


def _container_ports(pod: Manifest) -> list[int]:
    containers = pod["spec"].get("containers", ())
    return [port["containerPort"] for container in containers for port in container.get("ports", ())]


def _free_port(taken: set[int]) -> int:
    for _ in range(1000):
        port = FIRST_HOST_PORT + secrets.randbelow(LAST_HOST_PORT - FIRST_HOST_PORT)
        if port not in taken and host_port_is_free(port):
            taken.add(port)
            return port
    raise RaywardError("no free port on this host", where=f"{FIRST_HOST_PORT}-{LAST_HOST_PORT}")

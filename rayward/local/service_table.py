"""Which Services have an address of their own, which one, and where their connections may go. Pure.

Only Services for Ray Serve have one. In front of a Redis or a GCS a proxy would add to every call, and would
stand between the parts that fault injection is to tear apart.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from rayward.local.addresses import pick_service_address
from rayward.local.service_rules import Endpoint, Place, Table
from rayward.plan.names import SERVE
from rayward.plan.pod_state import phase
from rayward.plan.workloads import backends

Manifest = dict[str, Any]


def has_own_address(service: Manifest) -> bool:
    """Whether connections to this Service are spread by the proxy instead of its name leading to a Pod."""
    spec = service.get("spec") or {}
    headless = spec.get("clusterIP") == "None" or spec.get("type") == "ExternalName"
    return SERVE in (service["metadata"].get("labels") or {}) and not headless


def own_address(service: Manifest) -> str | None:
    """The address that this Service has; None for one that has none, or none yet."""
    return (service["spec"].get("clusterIP") or None) if has_own_address(service) else None


def addressed(services: Sequence[Manifest], subnet: str, taken: Collection[str]) -> list[Manifest]:
    """The Services that need another ``spec.clusterIP``, with it: those that have none, one outside of
    ``subnet``, one in ``taken`` (the Pods' addresses), or the one of a Service before them. Raises ValueError
    when no address is left."""
    used, changed = set(taken), []
    prefix = subnet.rpartition(".")[0] + "."
    for service in services:
        if not has_own_address(service):
            continue
        address = str(own_address(service) or "")
        if not address.startswith(prefix) or address in used:
            address = pick_service_address(subnet, used | _own(services))
            changed.append({**service, "spec": {**service["spec"], "clusterIP": address}})
        used.add(address)
    return changed


def table_of(services: Sequence[Manifest], pods: Sequence[Manifest]) -> Table:
    """Where the proxy has to lead, for the Services that have an address by now. ``pods`` come with their
    status. Ports that are not TCP have no proxy."""
    ready: dict[Place, tuple[Endpoint, ...]] = {}
    for service in services:
        address = own_address(service)
        if address is None:
            continue
        behind = backends(service, tuple(pods))
        for port in tcp_ports(service):
            ready[(address, int(port["port"]))] = _endpoints(port, behind)
    return Table(ready, frozenset(pod["metadata"]["uid"] for pod in pods if not is_over(pod)))


def tcp_ports(service: Manifest) -> list[Manifest]:
    """The entries of its ``spec.ports`` that the proxy serves."""
    ports = service["spec"].get("ports") or ()
    return [port for port in ports if port.get("protocol", "TCP") == "TCP"]


def target_port(port: Manifest, pod: Manifest) -> int | None:
    """The number that a Service's port means in one Pod; None when no container of it has a TCP port of the
    name that is asked for. A name may be another number in another Pod."""
    wanted = port.get("targetPort") or port["port"]
    if isinstance(wanted, int) or str(wanted).isdecimal():
        return int(wanted)
    sidecars = (
        item for item in pod["spec"].get("initContainers") or () if item.get("restartPolicy") == "Always"
    )
    for container in (*pod["spec"].get("containers", ()), *sidecars):
        for found in container.get("ports") or ():
            if found.get("name") == wanted and found.get("protocol", "TCP") == "TCP":
                return int(found["containerPort"])
    return None


def is_over(pod: Manifest) -> bool:
    """Whether nothing will come from this Pod any more."""
    return phase(pod) in ("Failed", "Succeeded")


def _own(services: Sequence[Manifest]) -> set[str]:
    return {address for address in map(own_address, services) if address is not None}


def _endpoints(port: Manifest, behind: Sequence[Manifest]) -> tuple[Endpoint, ...]:
    found = []
    for pod in behind:
        number = target_port(port, pod)
        if number is not None:
            found.append(Endpoint(str(pod["status"]["podIP"]), number, str(pod["metadata"]["uid"])))
    return tuple(sorted(found))

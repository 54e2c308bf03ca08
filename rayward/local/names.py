"""Names of Services inside a cluster: hosts files where Pods have a network of their own, text
substitutions where they share the host's. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rayward.local.service_table import own_address

Manifest = dict[str, Any]


def service_names(service: Manifest, namespace: str, domain: str = "cluster.local") -> tuple[str, ...]:
    """The names under which Pods of the same namespace know a Service, longest last."""
    name = service["metadata"]["name"]
    return (name, f"{name}.{namespace}", f"{name}.{namespace}.svc", f"{name}.{namespace}.svc.{domain}")


def hosts_file(
    pod: str, address: str, services: Iterable[tuple[Manifest, tuple[str, ...]]], namespace: str
) -> str:
    """/etc/hosts of one Pod: itself, and every Service that has an address or an endpoint.

    A headless Service leads to all of its endpoints, as its DNS name does; one with an address of its own
    there, also while it has no endpoint; any other one to its first, for a hosts file cannot spread
    connections.
    """
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback", f"{address}\t{pod}"]
    for service, endpoints in services:
        own = own_address(service)
        headless = service["spec"].get("clusterIP") == "None"
        for endpoint in (own,) if own else endpoints if headless else endpoints[:1]:
            lines.append(f"{endpoint}\t{' '.join(service_names(service, namespace))}")
    return "\n".join(lines) + "\n"


def substitutions(
    services: Iterable[tuple[Manifest, tuple[str, Mapping[str, int]] | None]], namespace: str
) -> dict[str, str]:
    """``name:port`` of each Service to the address and host port of the Pod behind it.

    The second of each pair is that Pod's address and its container-port-to-host-port map.
    """
    found = {}
    for service, place in services:
        if place is None:
            continue
        address, ports = place
        for port in service["spec"].get("ports", ()):
            target = str(port.get("targetPort", port["port"]))
            for name in service_names(service, namespace):
                found[f"{name}:{port['port']}"] = f"{address}:{ports.get(target, port['port'])}"
    return found

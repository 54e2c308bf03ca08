"""Who gets which address and, without network namespaces, which ports. Pure: the caller looks, this
decides."""

from __future__ import annotations

import ipaddress
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

AGENT_PORT = 8008
FIRST_HOST_PORT, LAST_HOST_PORT = 20_000, 29_999
_WORKER_PORTS_FROM, _WORKER_PORTS = 30_000, 100
_RAY_PORT_OPTIONS = (
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "metrics-export-port",
    "node-manager-port",
    "object-manager-port",
    "runtime-env-agent-port",
)
_HEAD_PORTS = {"port": 6379, "dashboard-port": 8265, "ray-client-server-port": 10001}


def pick_address(subnet: str, taken: Iterable[str], before: str | None = None) -> str:
    """An address of ``subnet`` for a Pod: the one that its predecessor had if it is free, else the lowest
    free one. The first (.1) is the host's. Raises ValueError when none is left."""
    used = set(taken)
    if before is not None and before not in used:
        return before
    for address in list(ipaddress.ip_network(subnet).hosts())[1:]:
        if str(address) not in used:
            return str(address)
    raise ValueError(f"no free address in {subnet}")


def pick_service_address(subnet: str, taken: Iterable[str]) -> str:
    """An address of ``subnet`` for a Service: the highest free one, for Pods are given the lowest. Raises
    ValueError when none is left."""
    used = set(taken)
    for address in reversed(list(ipaddress.ip_network(subnet).hosts())[1:]):
        if str(address) not in used:
            return str(address)
    raise ValueError(f"no free address in {subnet}")


def loopback_subnet(cluster: str, taken: Iterable[str]) -> str:
    """A /24 of 127/8 for a cluster on the host's network; never 127.0.x.x, which others use."""
    used = set(taken)
    start = zlib.crc32(cluster.encode()) % (120 * 256)
    for step in range(120 * 256):
        second, third = divmod((start + step) % (120 * 256), 256)
        subnet = f"127.{second + 64}.{third}.0/24"
        if subnet not in used:
            return subnet
    raise ValueError("no free loopback subnet")


@dataclass(frozen=True)
class HostNetworkPlace:
    """What one Pod gets on the host's network: an address of 127/8, host ports for its container ports,
    and the ``ray start`` options that keep its Ray node out of every other one's way."""

    address: str
    ports: Mapping[str, int] = field(default_factory=dict)
    ray_start_args: tuple[str, ...] = ()


def host_place(
    address: str,
    container_ports: Iterable[int],
    ray_node_type: str | None,
    index: int,
    temp_dir: str,
    free_port: Callable[[], int],
) -> HostNetworkPlace:
    """Choose ports for one Pod. ``ray_node_type`` is "head", "worker" or None for a Pod that is no Ray
    node; ``index`` numbers the cluster's Ray nodes from 0; ``free_port`` gives a port that nobody has."""
    ports = {str(port): free_port() for port in container_ports}
    ports["agent"] = ports[str(AGENT_PORT)] = free_port()
    if ray_node_type is None:
        return HostNetworkPlace(address, ports)
    options = {name: str(free_port()) for name in _RAY_PORT_OPTIONS}
    options["node-ip-address"] = address
    first = _WORKER_PORTS_FROM + index * _WORKER_PORTS
    options["min-worker-port"], options["max-worker-port"] = str(first), str(first + _WORKER_PORTS - 1)
    if ray_node_type == "head":
        for name, port in _HEAD_PORTS.items():
            ports.setdefault(str(port), free_port())
            options[name] = str(ports[str(port)])
        options["dashboard-host"] = address
        options["temp-dir"] = temp_dir
    return HostNetworkPlace(
        address, ports, tuple(f"--{name}={value}" for name, value in sorted(options.items()))
    )

"""The network of one cluster on this machine: a bridge in a network namespace of its own, one veth per Pod.

The bridge is out of the host's sight, so that the host's packet filters never apply to traffic between Pods;
the host itself reaches the Pods over one more veth, whose host end has the first address of the subnet.
Must not know of Pods' manifests, Services or clusters' state: it is given names, addresses and pids.
"""

from __future__ import annotations

import errno
import hashlib
import ipaddress
import os
import socket
import threading
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from rayward.errors import RaywardError
from rayward.local import linux

NAMESPACE_FOLDER = Path("/run/netns")
POD_RANGE = ipaddress.ip_network("10.90.0.0/16")
_BRIDGE = "br0"
_UPLINK = "host0"
_TIME_WAIT_REUSE = Path("/proc/sys/net/ipv4/tcp_tw_reuse")

Result = TypeVar("Result")


def free_subnet(taken: Iterable[str], host_routes: Iterable[str]) -> str:
    """The first /24 of 10.90.0.0/16 that overlaps no taken subnet and no route of the host (CIDR texts).

    A default route (prefix 0) is no obstacle. Raises RaywardError when none is left.
    """
    used = [ipaddress.ip_network(text, strict=False) for text in (*taken, *host_routes)]
    obstacles = [network for network in used if network.version == 4 and network.prefixlen > 0]
    for candidate in POD_RANGE.subnets(new_prefix=24):
        if not any(candidate.overlaps(network) for network in obstacles):
            return str(candidate)
    raise RaywardError(
        "no subnet is free for another cluster",
        where=str(POD_RANGE),
        todo="take a cluster down with `rayward down`, or remove the route that covers the whole range",
    )


def host_routes() -> list[str]:
    """The destinations of the host's IPv4 routes as CIDR texts, from ``/proc/net/route``."""
    routes = []
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        fields = line.split()
        destination = ipaddress.ip_address(int(fields[1], 16).to_bytes(4, "little"))
        mask = ipaddress.ip_address(int(fields[7], 16).to_bytes(4, "little"))
        routes.append(str(ipaddress.ip_network(f"{destination}/{mask}", strict=False)))
    return routes


def hardware_address(address: str) -> str:
    """The MAC of a Pod's eth0, made from its IPv4 address.

    A new Pod at an old address then needs nobody to forget an ARP entry.
    """
    return "02:5a:" + ":".join(f"{octet:02x}" for octet in ipaddress.IPv4Address(address).packed)


def _in_own_thread(work: Callable[[], Result]) -> Result:
    """Run ``work`` in a thread that ends with it.

    Entering a namespace changes the calling thread for good, and pyroute2 wants a thread without a running
    event loop; neither may happen to the caller's.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="rayward-network")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def in_network_of(pid: int, work: Callable[[], Result]) -> Result:
    """Run ``work`` (pyroute2, sockets, programs that it starts) in the network namespace of a process.

    Raises what ``work`` raises, or OSError when the namespace cannot be entered.
    """

    return in_network_at(Path(f"/proc/{pid}/ns/net"), work)


def in_network_at(path: Path, work: Callable[[], Result]) -> Result:
    """The same in the network namespace held at ``path``."""

    def enter_and_work() -> Result:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            linux.setns(descriptor, linux.CLONE_NEWNET)
        finally:
            os.close(descriptor)
        return work()

    return _in_own_thread(enter_and_work)


class Fabric:
    """The network of one cluster; every method may be called again and takes well under 100 ms.

    ``subnet`` is a CIDR text; its first address is the host's. Making one needs root. Errors of the kernel
    are OSError or pyroute2's NetlinkError, and say what failed.
    """

    def __init__(self, name: str, subnet: str) -> None:
        self.name = name
        self.subnet = ipaddress.IPv4Network(subnet)
        self.namespace = f"rayward-{name}"
        self.gateway = str(self.subnet.network_address + 1)
        # An interface name holds 15 characters at most; cluster names are longer.
        self.host_interface = "rw" + hashlib.sha256(name.encode()).hexdigest()[:10]

    @property
    def path(self) -> Path:
        """Where the namespace is held by a mount."""
        return NAMESPACE_FOLDER / self.namespace

    def exists(self) -> bool:
        """Whether the namespace is there and is held (a leftover plain file does not count)."""
        return self.path.exists() and os.path.ismount(self.path)

    def create(self) -> None:
        """Make namespace, bridge and the host's link to it. What a broken-off `create` left is replaced."""
        self.remove()
        try:
            _in_own_thread(self._hold_new_namespace)
            _in_own_thread(self._build)
        except BaseException:
            self.remove()
            raise

    def _hold_new_namespace(self) -> None:
        NAMESPACE_FOLDER.mkdir(parents=True, exist_ok=True)
        self.path.touch(mode=0o444)
        linux.unshare(linux.CLONE_NEWNET)
        linux.mount(
            f"/proc/self/task/{threading.get_native_id()}/ns/net", str(self.path), flags=linux.MS_BIND
        )
        linux.interface_up("lo")

    def _build(self) -> None:
        with _netlink(str(self.path)) as inside:
            inside.link("add", ifname=_BRIDGE, kind="bridge")
            inside.link("set", index=_index(inside, _BRIDGE), state="up")
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            with _netlink() as host:
                host.link(
                    "add",
                    ifname=self.host_interface,
                    kind="veth",
                    peer={"ifname": _UPLINK, "net_ns_fd": descriptor},
                )
                link = _index(host, self.host_interface)
                host.addr("add", index=link, address=self.gateway, prefixlen=self.subnet.prefixlen)
                host.link("set", index=link, state="up")
        finally:
            os.close(descriptor)
        with _netlink(str(self.path)) as inside:
            _join_bridge(inside, _UPLINK)

    def attach(self, pid: int, address: str) -> None:
        """Give the network namespace of process ``pid`` an ``eth0`` on the bridge, down and without address.

        The process itself sets it up; ``address`` only decides the name of the other end and the MAC.
        """
        if ipaddress.IPv4Address(address) not in self.subnet:
            raise RaywardError(f"the address is outside of the cluster's subnet {self.subnet}", where=address)
        _in_own_thread(lambda: self._attach(pid, address))

    def _attach(self, pid: int, address: str) -> None:
        port = f"p{int(ipaddress.IPv4Address(address)):08x}"
        target = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        try:
            with _netlink(str(self.path)) as inside:
                # The kernel takes a dead Pod's link away a little after the Pod: do not wait for it.
                for stale in inside.link_lookup(ifname=port):
                    inside.link("del", index=stale)
                peer = {"ifname": "eth0", "net_ns_fd": target, "address": hardware_address(address)}
                inside.link("add", ifname=port, kind="veth", peer=peer)
                _join_bridge(inside, port)
        finally:
            os.close(target)

    def hold(self, addresses: Collection[str]) -> None:
        """Give the bridge itself exactly these addresses of the subnet, so that Pods and the host reach what
        listens there in the bridge's namespace."""
        _in_own_thread(lambda: self._hold(set(addresses)))

    def _hold(self, wanted: set[str]) -> None:
        with _netlink(str(self.path)) as inside:
            link = _index(inside, _BRIDGE)
            if wanted:
                # A bridge takes over the lowest MAC of its ports unless it was given one: neighbours would
                # send to a wrong one whenever a Pod comes or goes.
                inside.link("set", index=link, address=hardware_address(str(self.subnet.network_address)))
                inside.route("replace", dst=str(self.subnet), oif=link, scope="link")
                self._reuse_ports()
            found = {
                item.get_attr("IFA_ADDRESS") for item in inside.get_addr(index=link, family=socket.AF_INET)
            }
            # Each by itself (/32): none is secondary to another, with which it would go.
            for address in sorted(wanted - found):
                inside.addr("add", index=link, address=address, prefixlen=32)
            for address in sorted(found - wanted):
                inside.addr("del", index=link, address=address, prefixlen=32)

    def _reuse_ports(self) -> None:
        """Connections from one of these addresses to one Pod may number 28,000; those that have ended shall
        not count for another minute. Where this may not be set, the kernel's own rule holds."""
        with suppress(OSError):
            in_network_at(self.path, lambda: _TIME_WAIT_REUSE.write_text("1", encoding="ascii"))

    def remove(self) -> None:
        """Take everything away again, however little of it is there."""
        _in_own_thread(self._unlink_host)
        for _ in range(8):  # Each interrupted `create` can have left one more mount on the name.
            try:
                linux.umount(str(self.path))
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.ENOENT):
                    break
                raise
        self.path.unlink(missing_ok=True)
        # Only an empty folder that nothing is mounted on goes; other tools make it again when they need it.
        with suppress(OSError):
            NAMESPACE_FOLDER.rmdir()

    def _unlink_host(self) -> None:
        if not Path(f"/sys/class/net/{self.host_interface}").exists():
            return
        with _netlink() as host:
            for link in host.link_lookup(ifname=self.host_interface):
                host.link("del", index=link)


def _netlink(namespace: str | None = None) -> Any:
    """A netlink connection to this network namespace or to the one held at a path."""
    # Slow to import (0.2 s), and nothing but the making of a network needs it.
    from pyroute2 import IPRoute  # type: ignore[import-untyped]  # noqa: PLC0415

    return IPRoute(netns=namespace) if namespace else IPRoute()


def _index(route: Any, name: str) -> int:
    return int(route.link_lookup(ifname=name)[0])


def _join_bridge(inside: Any, name: str) -> None:
    link = _index(inside, name)
    inside.link("set", index=link, master=_index(inside, _BRIDGE), state="up")

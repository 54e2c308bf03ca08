"""The Services' addresses on a cluster's bridge, and a proxy that nobody has noted."""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from rayward.local import linux
from rayward.local.network import Fabric, free_subnet, host_routes, in_network_at
from rayward.local.pod_process import package_environment
from rayward.local.state import ClusterFolder

_SIOCGIFHWADDR = 0x8927


@pytest.fixture
def fabric() -> Iterator[Fabric]:
    reason = linux.namespaces_available()
    if reason is not None:
        pytest.skip(f"no namespaces here: {reason}")
    made = Fabric(f"test-{secrets.token_hex(4)}", free_subnet((), host_routes()))
    made.create()
    yield made
    made.remove()


def hardware(fabric: Fabric) -> str:
    def look() -> str:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            answer = fcntl.ioctl(control, _SIOCGIFHWADDR, struct.pack("16s16x", b"br0"))
        return answer[18:24].hex()

    return in_network_at(fabric.path, look)


def add_port_with_lowest_address(fabric: Fabric) -> None:
    def add() -> None:
        with IPRoute() as inside:
            inside.link(
                "add", ifname="low0", kind="veth", peer={"ifname": "low1"}, address="02:00:00:00:00:01"
            )
            low, bridge = (inside.link_lookup(ifname=name)[0] for name in ("low0", "br0"))
            inside.link("set", index=low, master=bridge, state="up")

    in_network_at(fabric.path, add)


def reaches(fabric: Fabric, address: str) -> bool:
    """Whether what listens there in the bridge's namespace is reached from the host."""

    def listen() -> socket.socket:
        found = socket.socket()
        found.bind(("0.0.0.0", 8000))
        found.listen()
        return found

    with in_network_at(fabric.path, listen), socket.socket() as asking:
        asking.settimeout(1)
        return asking.connect_ex((address, 8000)) == 0


@pytest.mark.namespaces
def test_the_bridge_has_the_addresses_it_was_given_and_no_others(fabric: Fabric) -> None:
    one, two = (str(fabric.subnet.network_address + number) for number in (254, 253))
    fabric.hold({one, two})
    assert reaches(fabric, one)
    assert reaches(fabric, two)
    fabric.hold({two})
    assert not reaches(fabric, one)
    assert reaches(fabric, two)
    fabric.hold(set())
    assert not reaches(fabric, two)


@pytest.mark.namespaces
def test_neighbours_need_not_learn_the_bridge_anew_when_pods_come(fabric: Fabric) -> None:
    fabric.hold({str(fabric.subnet.network_address + 254)})
    before = hardware(fabric)
    add_port_with_lowest_address(fabric)
    assert hardware(fabric) == before


def test_a_proxy_that_its_starter_could_not_note_ends(tmp_path: Path) -> None:
    folder = ClusterFolder(tmp_path / "cluster")
    folder.create()
    done = subprocess.run(
        [sys.executable, "-m", "rayward.local.service_proxy", str(folder.path)],
        stdin=subprocess.DEVNULL,
        env=package_environment(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted(os.listdir(folder.path)) == ["claims", "objects", "pods"]

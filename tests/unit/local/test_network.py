"""Subnets and addresses, without a network."""

from __future__ import annotations

import pytest

from rayward.errors import RaywardError
from rayward.local.network import Fabric, free_subnet, hardware_address


@pytest.mark.parametrize(
    ("taken", "routes", "expected"),
    [
        ([], [], "10.90.0.0/24"),
        (["10.90.0.0/24", "10.90.1.0/24"], [], "10.90.2.0/24"),
        ([], ["0.0.0.0/0", "192.168.0.0/16"], "10.90.0.0/24"),
        ([], ["10.90.0.0/20"], "10.90.16.0/24"),
        (["10.90.1.0/24"], ["10.90.0.128/25"], "10.90.2.0/24"),
        ([], ["::/0", "fd00::/8"], "10.90.0.0/24"),
    ],
)
def test_the_first_free_subnet(taken: list[str], routes: list[str], expected: str) -> None:
    assert free_subnet(taken, routes) == expected


def test_none_left() -> None:
    with pytest.raises(RaywardError, match="no subnet is free"):
        free_subnet([], ["10.0.0.0/8"])


def test_names_fit_the_kernel_and_differ() -> None:
    one, two = Fabric("a" * 53, "10.90.0.0/24"), Fabric("a" * 52 + "b", "10.90.1.0/24")
    assert len(one.host_interface) <= 15
    assert one.host_interface != two.host_interface
    assert one.namespace == "rayward-" + "a" * 53
    assert two.gateway == "10.90.1.1"


def test_hardware_addresses_follow_addresses_and_are_local() -> None:
    assert hardware_address("10.90.0.3") == "02:5a:0a:5a:00:03"

"""Addresses as people write them, and which of this machine's own the others see."""

from __future__ import annotations

import pytest

from rayward.errors import RaywardError
from rayward.plain import places


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10.0.0.1", ("10.0.0.1", 8008)),
        ("head-1:9000", ("head-1", 9000)),
        ("[fd00::1]:9000", ("fd00::1", 9000)),
        ("[fd00::1]", ("fd00::1", 8008)),
        ("fd00::1", ("fd00::1", 8008)),
    ],
)
def test_a_place_is_a_host_and_perhaps_a_port(text: str, found: tuple[str, int]) -> None:
    assert places.split_place(text) == found
    assert places.split_place(places.join_place(found)) == found


@pytest.mark.parametrize(
    "text",
    ["", ":8008", "h:", "h:0", "h:65536", "h:x", "http://h", "u@h", "a b", "[::1", "[::1]x", "a,b", "a:b:c"],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(RaywardError):
        places.split_place(text)


def test_an_own_address_is_known() -> None:
    assert places.is_own("127.0.0.1")
    assert not places.is_own("192.0.2.77")
    assert places.addresses_of("localhost")
    assert places.addresses_of("nobody.invalid") == ()


def test_the_address_is_the_one_that_leads_to_the_first_head_that_can_be_found() -> None:
    assert places.address_towards(["127.0.0.9"]) == "127.0.0.1"
    assert places.address_towards(["nobody.invalid", "127.0.0.9"]) == "127.0.0.1"
    assert places.address_towards(["nobody.invalid"]) is None

"""What was learned of the lease before the agent last said "lead" is out of date, however it comes in."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from rayward.store.address import RedisAddress
from rayward.store.channel import StoreConnection
from rayward.store.gateway import Gateway
from rayward.store.gateway_connector import Opened
from rayward.store.gateway_control import Control
from rayward.store.gateway_settings import GatewaySettings


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """One in this process, whose loop does not run; nothing is ever opened, for no session wants it."""
    orders, reports = os.pipe(), os.pipe()
    environ = {"RAYWARD_GATEWAY_TOKEN": "t", "RAY_REDIS_ADDRESS": "127.0.0.1:1"}
    made = Gateway(GatewaySettings.from_environment(environ), Control(orders[0], reports[1]))
    yield made
    made._listener.close()
    made.poller.close()
    for fd in (*orders, *reports):
        os.close(fd)


@pytest.mark.parametrize(
    ("writer", "term", "lost", "holding"),
    [
        ("4:a", 1, "", False),
        ("none", 1, "", False),
        ("9:a", 1, "", False),
        ("4:a", 2, "older", False),
        ("none", 2, "empty", False),
        ("9:a", 2, "", True),
        ("5:a", 2, "", False),
        ("5:b", 2, "", True),
    ],
)
def test_a_connection_opened_before_we_lead(
    gateway: Gateway, writer: str, term: int, lost: str, holding: bool
) -> None:
    gateway._lead(3, "3:a")
    gateway._lead(5, "5:a")
    near, far = socket.socketpair()
    with near, far:
        connection = StoreConnection(near, RedisAddress("127.0.0.1", 1))
        gateway._give_out(Opened(connection, writer, term=term))
        assert (gateway._lost, gateway.holding) == (lost, holding)

"""Real servers and gateways for the tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from gateway_rig import Rig, gateway
from redis_fixtures import server, shared_server
from redis_server import Server

__all__ = ["server", "shared_server"]


@pytest.fixture
def store(server: Server) -> Iterator[redis.Redis]:
    """A client of that server, past the gateway."""
    connection = server.client()
    yield connection
    connection.close()


@pytest.fixture
def rig(server: Server) -> Iterator[Rig]:
    """A gateway to that server that has been told nothing yet."""
    with gateway(server.port) as made:
        yield made

"""Real servers and gateways for the tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from gateway_rig import Rig, gateway
from redis_server import Server, running


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(shared_server: Server) -> Server:
    """One plain server for all tests of the run, empty at the start of each."""
    shared_server.client().flushall()
    return shared_server


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

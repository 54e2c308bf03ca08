"""One real Redis for all tests of a run, for the conftest of every folder that needs it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
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

"""Real servers for the tests of the store."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

sys.path.insert(0, str(Path(__file__).parent))

from redis_fixtures import server, shared_server
from redis_server import Server

__all__ = ["server", "shared_server"]


@pytest.fixture
def client(server: Server) -> Iterator[redis.Redis]:
    connection = server.client()
    yield connection
    connection.close()

"""What the tests with a real Ray share: the agent's zip, one head on RocksDB, one head on Redis."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from agent_node import AgentNode, head, short_directory

from rayward.agent.bundle import build_zip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.ray)


@pytest.fixture(scope="session")
def agent_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent as it is shipped."""
    path = tmp_path_factory.mktemp("zip") / "agent.zip"
    build_zip(path)
    return path


@pytest.fixture(scope="module")
def shared_head(agent_zip: Path) -> Iterator[AgentNode]:
    """One head on RocksDB for all tests of a module that leave it running."""
    with short_directory() as directory, head(agent_zip, directory) as node:
        node.wait_ready()
        yield node
        node.stop()
        node.assert_nothing_left()


@pytest.fixture
def directory() -> Iterator[Path]:
    """A folder with a path short enough for Ray's sockets, removed afterwards."""
    with short_directory() as path:
        yield path

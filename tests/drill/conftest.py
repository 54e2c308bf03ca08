"""A home for the clusters of these tests, and the proof that none stays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from drilled import EXAMPLE, Commands, commands_for_a_while


@pytest.fixture
def rayward() -> Iterator[Commands]:
    """Commands with an empty home."""
    yield from commands_for_a_while()


@pytest.fixture(scope="module")
def on_redis() -> Iterator[Commands]:
    """Commands, and one cluster on Redis for all tests of a module."""
    for commands in commands_for_a_while():
        code, said = commands("up", "-f", str(EXAMPLE), "--name", "drilled")
        assert code == 0, said
        yield commands

"""A home for the clusters of these tests, and the proof that none stays."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from drilled import EXAMPLE, Commands

from rayward.local import linux


def _commands() -> Iterator[Commands]:
    reason = linux.namespaces_available()
    if reason is not None:
        pytest.skip(f"no namespaces here: {reason}")
    commands = Commands(Path(tempfile.mkdtemp(prefix="rwd-")))
    try:
        yield commands
    finally:
        commands("down", "--all", "--force")
        shutil.rmtree(commands.home)


@pytest.fixture
def rayward() -> Iterator[Commands]:
    """Commands with an empty home."""
    yield from _commands()


@pytest.fixture(scope="module")
def on_redis() -> Iterator[Commands]:
    """Commands, and one cluster on Redis for all tests of a module."""
    for commands in _commands():
        code, said = commands("up", "-f", str(EXAMPLE), "--name", "drilled")
        assert code == 0, said
        yield commands

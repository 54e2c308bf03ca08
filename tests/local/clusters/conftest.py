"""A command line with an empty home, and the proof that nothing stays on the machine after it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import CommandLine, eventually

from rayward.local import linux


def _needs_namespaces() -> None:
    reason = linux.namespaces_available()
    if reason is not None:
        pytest.skip(f"no namespaces here: {reason}")


def _command_line() -> Iterator[CommandLine]:
    _needs_namespaces()
    home = Path(tempfile.mkdtemp(prefix="rwt-"))
    cli = CommandLine(home)
    try:
        yield cli
        assert not any((home / "clusters").iterdir()) if (home / "clusters").is_dir() else True, (
            "a cluster is still up"
        )
    finally:
        cli("down", "--all")
        shutil.rmtree(home)

    eventually(lambda: not cli.left(), timeout=5, why=cli.left)


@pytest.fixture
def rayward() -> Iterator[CommandLine]:
    """A command line whose test must take its clusters down itself."""
    yield from _command_line()


@pytest.fixture(scope="module")
def shared() -> Iterator[CommandLine]:
    """One command line for all tests of a module."""
    yield from _command_line()

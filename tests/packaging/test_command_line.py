"""Every command: its help has an example, the example would be accepted, and the shell completes it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from tree import ROOT

from rayward.cli.root import root


def commands(
    group: click.Group, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in sorted(group.commands.items()):
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = list(commands(root))
LEAVES = [(path, command) for path, command in ALL if not isinstance(command, click.Group)]
COMMANDS_OF_THE_FIRST_DAY = {
    "up", "down", "get", "describe", "exec", "logs", "delete", "status", "completion", "list", "switchover",
    "failover", "pause", "resume", "history", "agent run", "agent stop", "agent head", "agent worker",
    "drill list", "drill run", "drill suite", "store keys", "store show", "store cleanup",
    "store adopt",
}  # fmt: skip


def rayward(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rayward", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_commands_that_the_documents_promise_are_there() -> None:
    assert {" ".join(path) for path, _ in LEAVES} >= COMMANDS_OF_THE_FIRST_DAY


@pytest.mark.parametrize("path", [path for path, _ in ALL], ids=" ".join)
def test_every_command_has_help(path: tuple[str, ...]) -> None:
    command = dict(ALL)[path]
    done = rayward(*path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    if isinstance(command, click.Group):
        assert all(name in done.stdout for name in command.commands)
    else:
        assert "example: " in done.stdout.lower()
        assert f"rayward {' '.join(path)}" in done.stdout.partition("example: ")[2]


def example_of(command: click.Command) -> list[str]:
    """The words of the example after ``rayward``, up to what belongs to the shell around it."""
    found = re.search(r"rayward ([^|)\"]+)", re.sub(r"\s+", " ", command.epilog or ""))
    assert found is not None
    return shlex.split(found.group(1))


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[" ".join(path) for path, _ in LEAVES])
def test_every_example_would_be_accepted(path: tuple[str, ...], command: click.Command) -> None:
    words = example_of(command)
    assert tuple(words[: len(path)]) == path
    command.make_context(path[-1], words[len(path) :])


def complete(line: str) -> list[str]:
    """What bash would offer for the last word of ``line``."""
    words = line.split(" ")
    done = rayward(_RAYWARD_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
    assert done.returncode == 0, done.stderr
    return [entry.partition(",")[2] for entry in done.stdout.splitlines()]


def test_the_shell_completes_commands_subcommands_and_kinds() -> None:
    assert {path[0] for path, _ in ALL} <= set(complete("rayward "))
    assert complete("rayward dow") == ["down"]
    assert set(complete("rayward store ")) == {"keys", "show", "cleanup", "adopt", "orphans"}
    assert "pods" in complete("rayward get po")
    assert set(complete("rayward up --n")) >= {"--name", "--no-wait"}


def test_a_wrong_word_is_answered_with_the_exit_code_for_it() -> None:
    done = rayward("get")
    assert done.returncode == 2
    assert "Missing argument" in done.stderr
    assert rayward("nonsense").returncode == 2

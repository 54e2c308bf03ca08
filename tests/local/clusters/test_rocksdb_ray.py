"""What `rayward up` brings without a manifest: one head with RocksDB and two workers, with real Ray."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import pytest
from command_line import CommandLine, eventually
from counter_script import COUNTER

pytestmark = [pytest.mark.ray, pytest.mark.namespaces]
NAME = "trocks"


@pytest.fixture(scope="module")
def plain(shared: CommandLine) -> Iterator[CommandLine]:
    """Up with nothing but a name."""
    shared("up", "--name", NAME, "--timeout", "150", timeout=180)
    yield shared
    shared("down", NAME)


def count(cli: CommandLine) -> tuple[int, int]:
    """The detached actor's next number, and how many nodes Ray calls alive."""
    value, nodes = cli.out("exec", cli.head(), "--", "python3", "-c", COUNTER).split()[-2:]
    return int(value), int(nodes)


def test_the_workers_join_and_stay_when_the_gcs_and_then_the_head_pod_go(plain: CommandLine) -> None:
    assert count(plain) == (1, 3)
    workers = set(plain.pods("ray.io/node-type=worker"))
    old = plain.head()
    os.kill(plain.pid_of(old, "gcs_server"), signal.SIGKILL)
    assert count(plain)[0] == 2
    assert plain.head() == old
    plain("delete", "pod", old)
    eventually(lambda: (heads := plain.pods("ray.io/node-type=head")) and heads[0] != old, timeout=60)
    eventually(lambda: json.loads(plain.out("status", "--json"))[0]["state"] == "ready", timeout=60)
    assert count(plain)[0] == 3, "the actor on a worker lives on"
    assert set(plain.pods("ray.io/node-type=worker")) == workers

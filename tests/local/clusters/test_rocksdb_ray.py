"""What `rayward up` brings without a manifest: one head with RocksDB and two workers, with real Ray."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import pytest
from command_line import CommandLine, eventually

from rayward.agent.processes import all_stats, classify, descendants, read_argv

pytestmark = [pytest.mark.ray, pytest.mark.namespaces]
NAME = "trocks"
COUNT = """
import ray
ray.init(namespace="here")
@ray.remote(num_cpus=0.1)
class Counter:
    value = 0
    def add(self):
        self.value += 1
        return self.value
actor = Counter.options(name="counter", lifetime="detached", get_if_exists=True).remote()
print(ray.get(actor.add.remote()), sum(node["Alive"] for node in ray.nodes()))
"""


@pytest.fixture(scope="module")
def plain(shared: CommandLine) -> Iterator[CommandLine]:
    """Up with nothing but a name."""
    shared("up", "--name", NAME, "--timeout", "150", timeout=180)
    yield shared
    shared("down", NAME)


def head(cli: CommandLine) -> str:
    return cli.pods("ray.io/node-type=head")[0]


def count(cli: CommandLine) -> tuple[int, int]:
    """The detached actor's next number, and how many nodes Ray calls alive."""
    value, nodes = cli.out("exec", head(cli), "--", "python3", "-c", COUNT).split()[-2:]
    return int(value), int(nodes)


def test_the_workers_join_and_stay_when_the_gcs_and_then_the_head_pod_go(plain: CommandLine) -> None:
    assert count(plain) == (1, 3)
    workers = set(plain.pods("ray.io/node-type=worker"))
    old = head(plain)
    pod = json.loads(plain.out("get", "pod", old, "-o", "json"))
    below = descendants(int(pod["status"]["rayward"]["pid"]), all_stats())
    (gcs,) = [pid for pid in below if (role := classify(read_argv(pid))) and role.value == "gcs_server"]
    os.kill(gcs, signal.SIGKILL)
    assert count(plain)[0] == 2
    assert head(plain) == old
    plain("delete", "pod", old)
    eventually(lambda: (heads := plain.pods("ray.io/node-type=head")) and heads[0] != old, timeout=60)
    eventually(lambda: json.loads(plain.out("status", "--json"))[0]["state"] == "ready", timeout=60)
    assert count(plain)[0] == 3, "the actor on a worker lives on"
    assert set(plain.pods("ray.io/node-type=worker")) == workers

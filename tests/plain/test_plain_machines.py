"""Two heads, a worker and a Redis on machines of their own, each run by ``rayward agent run``."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from machines import Machine, Network, network, parse, until

_DRIVER = """
import json, sys, ray
address = sys.argv[1]
ray.init(address=f"{address}:6379", _node_ip_address=address, namespace="t", log_to_driver=False,
         logging_level="ERROR")

@ray.remote(num_cpus=0.1, resources={f"node:{address}": 0.001})
class Counter:
    def __init__(self): self.count = 0
    def up(self):
        import os
        self.count += 1
        return [self.count, os.getpid()]

first = Counter.options(name="first", lifetime="detached").remote()
print(json.dumps(ray.get(first.up.remote())), flush=True)
for line in sys.stdin:
    if line.strip() == "first":
        found = ray.get(first.up.remote(), timeout=60)
    else:
        found = ray.get(Counter.remote().up.remote(), timeout=60)
    print(json.dumps(found), flush=True)
"""


class Driver:
    """A program on the worker that holds an actor and makes others when it is asked to."""

    def __init__(self, machine: Machine) -> None:
        self.errors = machine.folder / "driver.log"
        with self.errors.open("wb") as log:
            self.process = machine.popen(
                [sys.executable, "-c", _DRIVER, machine.address],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        self.made = self._read()

    def ask(self, what: str) -> list[int]:
        """``first``: count and pid of the actor that was made first; ``new``: of one made for this."""
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> list[int]:
        line = self.process.stdout.readline()
        assert line, self.errors.read_text()[-3000:]
        found: list[int] = json.loads(line)
        return found

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


class Cluster:
    """The machines with their agents."""

    def __init__(self, made: Network) -> None:
        heads = f"heads: [{made.address(11)}, {made.address(12)}]\ncluster: plain\n"
        store = f"redis: {{address: 'redis://{made.store}'}}\nlease: {{ttl: 3}}"
        self.heads = {
            name: made.add(name, last, f"role: head\n{heads}{store}")
            for name, last in (("head-1", 11), ("head-2", 12))
        }
        self.worker = made.add("worker-1", 21, f"role: worker\n{heads}")
        self.agents: dict[str, subprocess.Popen[Any]] = {}
        for machine in (*self.heads.values(), self.worker):
            self.start(machine)

    def start(self, machine: Machine) -> None:
        self.agents[machine.name] = machine.start_agent()

    def logs(self) -> str:
        machines = (*self.heads.values(), self.worker)
        return "\n".join(f"--- {machine.name}\n{machine.tail()}" for machine in machines)

    def members(self) -> dict[str, dict[str, Any]]:
        """What ``rayward list`` on the worker says, by member; empty while nobody answers."""
        done = self.worker.rayward("list", "--json", "--config", str(self.worker.config))
        if done.returncode == 3:
            return {}
        return {row["member"]: row for row in parse(done)["members"]}

    def await_roles(self, leader: str | None = None, seconds: float = 90) -> tuple[str, str, int]:
        """Wait until one head leads and the other has a GCS at hand: their names, and the epoch."""

        def look() -> tuple[str, str, int] | None:
            rows = self.members()
            leads = [
                name for name, row in rows.items() if row["role"] == "leader" and row["state"] == "leading"
            ]
            ready = [name for name, row in rows.items() if row["state"] in ("prepared", "warm")]
            if len(leads) == len(ready) == 1 and leader in (None, leads[0]):
                return leads[0], ready[0], int(rows[leads[0]]["epoch"])
            return None

        return until(look, seconds, lambda: f"{self.members()}\n{self.logs()}")

    def stop(self) -> dict[str, int]:
        """End all agents as systemd does; their exit codes."""
        for agent in self.agents.values():
            agent.terminate()
        return {name: agent.wait(40) for name, agent in self.agents.items()}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with network() as made:
        yield Cluster(made)


@pytest.fixture(scope="module")
def driver(cluster: Cluster) -> Iterator[Driver]:
    cluster.await_roles()
    made = Driver(cluster.worker)
    yield made
    made.end()


def test_when_the_leaders_machine_is_lost_the_other_leads_and_actors_live_on(
    cluster: Cluster, driver: Driver
) -> None:
    leader, standby, epoch = cluster.await_roles()
    pid = driver.made[1]
    began = time.monotonic()
    cluster.heads[leader].lose()
    cluster.agents.pop(leader).wait(10)
    new = driver.ask("new")
    seconds = time.monotonic() - began
    assert new[0] == 1, "an actor that did not exist before has answered"
    assert driver.ask("first") == [2, pid], "the actor on the worker is the same process as before"
    rows = cluster.members()
    assert (rows[standby]["role"], rows[standby]["epoch"]) == ("leader", epoch + 1), cluster.logs()
    print(f"host loss: a new actor answered after {seconds:.2f} s")

    cluster.start(cluster.heads[leader])
    assert cluster.await_roles(leader=standby) == (standby, leader, epoch + 1)
    assert driver.ask("first") == [3, pid]


def test_a_switchover_by_the_command_line_changes_leader_and_epoch_and_is_in_the_history(
    cluster: Cluster, driver: Driver
) -> None:
    leader, standby, epoch = cluster.await_roles()
    pid = driver.ask("first")[1]
    where = ["--config", str(cluster.worker.config)]
    done = cluster.worker.rayward("switchover", "--to", standby, "--yes", *where)
    assert done.returncode == 0, f"{done.stderr}\n{cluster.logs()}"
    print(done.stdout)
    assert done.stdout.startswith(f"{standby} leads with epoch {epoch + 1} after ")
    assert done.stdout.rstrip().endswith(f"(before: {leader}, epoch {epoch})")
    assert driver.ask("new")[0] == 1
    assert driver.ask("first")[1] == pid
    entries = parse(cluster.worker.rayward("history", "--json", *where))
    assert [(entry["epoch"], entry["member"]) for entry in entries][-1] == (epoch + 1, standby)
    assert cluster.await_roles(leader=standby)[1] == leader


def test_a_failover_by_the_command_line_needs_no_consent_of_the_leader(
    cluster: Cluster, driver: Driver
) -> None:
    leader, standby, epoch = cluster.await_roles()
    where = ["--config", str(cluster.worker.config)]
    assert cluster.worker.rayward("pause", *where).returncode == 0
    done = cluster.worker.rayward("failover", "--yes", *where)
    assert done.returncode == 0, f"{done.stderr}\n{cluster.logs()}"
    assert done.stdout.startswith(f"{standby} leads with epoch {epoch + 1} after ")
    print(done.stdout)
    assert "paused" in cluster.worker.rayward("list", *where).stdout
    assert cluster.worker.rayward("resume", *where).returncode == 0
    assert driver.ask("new")[0] == 1
    assert cluster.await_roles(leader=standby)[1] == leader


def test_agents_that_are_stopped_leave_nothing(cluster: Cluster, driver: Driver) -> None:
    driver.end()
    assert set(cluster.stop().values()) == {0}, cluster.logs()
    for machine in (*cluster.heads.values(), cluster.worker):
        until(lambda machine=machine: not machine.processes(), 5, machine.processes)

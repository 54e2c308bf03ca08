"""What the forwarder costs a driver on a worker: small calls to the GCS and tasks, direct and forwarded.

The same head serves drivers in turn, one with the GCS's own address, one with the forwarder's, several
rounds of each so that a slow moment of the machine falls on both. The forwarder runs in a process of its own,
as it does in the agent.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from benchmarks import common
from rayward.drill.statistics import median

# Ray takes 127.0.0.1 in an address for the host's outer address, and any other loopback address as it is.
HOST = "127.0.0.2"
COLUMNS = ("figure", "direct (median, worst)", "forwarded (median, worst)", "difference")
_MARKER = "RAYWARD_BENCH_NODE"

_DRIVER = """
import json, sys, time
import ray
address, calls, tasks = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
ray.init(address=address, log_to_driver=False, logging_level="ERROR")
from ray.experimental import internal_kv
internal_kv._internal_kv_put(b"bench", b"x" * 100)

def kv(count):
    times = []
    for _ in range(count):
        started = time.perf_counter()
        internal_kv._internal_kv_get(b"bench")
        times.append(time.perf_counter() - started)
    return sorted(times)

@ray.remote
def nothing():
    return None

@ray.remote(num_cpus=0)
class Nobody:
    def here(self):
        return None

kv(200)
ray.get([nothing.remote() for _ in range(200)])
times = kv(calls)
started = time.perf_counter()
ray.get([nothing.remote() for _ in range(tasks)])
rate = tasks / (time.perf_counter() - started)
started = time.perf_counter()
ray.get(Nobody.remote().here.remote())
actor = time.perf_counter() - started
print("\\n" + json.dumps({"kv_p50_s": times[len(times) // 2], "kv_p99_s": times[len(times) * 99 // 100],
                  "kv_per_s": len(times) / sum(times), "tasks_per_s": rate, "actor_s": actor}))
"""

_FORWARDER = """
import sys
from rayward.agent.forwarder import Forwarder
from rayward.agent.heads import Choice, HeadView, Link

class Fixed:
    def choice(self):
        view = HeadView("127.0.0.1:8008", Link.CONNECTED, True, 1, True, sys.argv[2], "head")
        return Choice(view, "head leads with epoch 1")
    def subscribe(self, on_change):
        pass

Forwarder("127.0.0.2", int(sys.argv[1]), Fixed(), lambda *event: None).start()
print("ready", flush=True)
sys.stdin.read()
"""

_FIGURES = (
    ("KV get from a driver, p50", "kv_p50_s", 1e6, "us"),
    ("KV get from a driver, p99", "kv_p99_s", 1e6, "us"),
    ("KV gets per second", "kv_per_s", 1, ""),
    ("tasks per second", "tasks_per_s", 1, ""),
    ("new actor has answered", "actor_s", 1e3, "ms"),
)


@click.command(epilog="example: python -m benchmarks.forwarder_cost --rounds 2")
@click.option("--rounds", default=5, show_default=True, help="Runs of each kind, in turn.")
@click.option("--calls", default=3000, show_default=True, help="KV gets in each run.")
@click.option("--tasks", default=3000, show_default=True, help="Tasks in each run.")
def main(rounds: int, calls: int, tasks: int) -> None:
    """Measure, print the table, write forwarder_cost.json."""
    found: dict[str, list[dict[str, float]]] = {"direct": [], "forwarded": []}
    with _head() as (environment, port), _forwarder(port) as (forwarder_port, pid):
        for number in range(rounds):
            kinds = (("direct", port), ("forwarded", forwarder_port))
            for kind, at in kinds if number % 2 == 0 else kinds[::-1]:
                common.tell(f"round {number + 1} of {rounds}, {kind}")
                done = subprocess.run(
                    [sys.executable, "-c", _DRIVER, f"{HOST}:{at}", str(calls), str(tasks)],
                    env=environment, capture_output=True, text=True, timeout=120, check=True,
                )  # fmt: skip
                said = [line for line in done.stdout.splitlines() if line.startswith("{")]
                if not said:
                    raise click.ClickException(f"the driver gave no figures:\n{done.stdout}{done.stderr}")
                found[kind].append(json.loads(said[-1]))
        memory = common.resident_bytes(pid)
        idle = common.processor_shares({"forwarder": pid}, 5.0)["forwarder"]
    rows = [_row(name, key, scale, unit, found) for name, key, scale, unit in _FIGURES]
    rows.append(("processor at rest", "-", common.percent(idle), "-"))
    result: dict[str, Any] = {"rounds": rounds, "calls": calls, "tasks": tasks, "runs": found,
                              "idle_share": idle, "process_bytes": memory}  # fmt: skip
    common.write("forwarder_cost", result, COLUMNS, rows)


def _row(
    name: str, key: str, scale: float, unit: str, found: dict[str, list[dict[str, float]]]
) -> tuple[str, str, str, str]:
    direct, forwarded = ([run[key] * scale for run in found[kind]] for kind in ("direct", "forwarded"))
    worst = min if key.endswith("per_s") else max
    change = median(forwarded) / median(direct) - 1
    return (
        name,
        f"{median(direct):.0f} {unit}, {worst(direct):.0f} {unit}",
        f"{median(forwarded):.0f} {unit}, {worst(forwarded):.0f} {unit}",
        f"{change * 100:+.1f} %",
    )


@contextlib.contextmanager
def _head() -> Iterator[tuple[dict[str, str], int]]:
    """A stock head with its state in memory, and the environment of its drivers."""
    directory = Path(tempfile.mkdtemp(prefix="rwb", dir="/tmp"))
    marker, port = directory.name, _free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAY", "REDIS"))},
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_DOCKER_CPU_WARNING": "1",
    }
    ray = str(Path(sys.executable).with_name("ray"))
    try:
        subprocess.run(
            [ray, "start", "--head", f"--node-ip-address={HOST}", f"--port={port}", "--num-cpus=2",
             "--include-dashboard=false", f"--temp-dir={directory}", "--object-store-memory=80000000",
             f"--ray-client-server-port={_free_port()}"],
            env={**environment, _MARKER: marker}, stdout=subprocess.DEVNULL, timeout=90, check=True,
        )  # fmt: skip
        yield environment, port
    finally:
        _end(marker, directory)
        shutil.rmtree(directory, ignore_errors=True)


def _end(marker: str, directory: Path) -> None:
    """End every process of this head: by its marker, or by a file of the head that it has open."""
    wanted = f"{_MARKER}={marker}".encode()
    for _ in range(100):
        left = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                marked = wanted in (entry / "environ").read_bytes().split(b"\0")
                if marked or any(f"{directory}/" in os.readlink(link) for link in (entry / "fd").iterdir()):
                    left.append(int(entry.name))
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        if not left:
            return
        time.sleep(0.05)


@contextlib.contextmanager
def _forwarder(gcs_port: int) -> Iterator[tuple[int, int]]:
    """The forwarder in a process of its own: its port and pid."""
    port = _free_port()
    child = subprocess.Popen(
        [sys.executable, "-c", _FORWARDER, str(port), f"{HOST}:{gcs_port}"],
        cwd=common.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield port, child.pid
    finally:
        child.kill()
        child.wait(10)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main()

"""What the store gateway costs: Redis commands, KV puts through a GCS, actors created, with it and without.

Both ways stand side by side on one Redis (a namespace each) and are loaded in turn, in many short rounds, so
that a slow moment of the machine falls on both. A difference is the median over the rounds of one round's.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks import common
from rayward.agent.gateway_process import GatewayProcess
from rayward.drill.statistics import median
from rayward.local.images import profile_for
from rayward.store import schema
from rayward.store.resp import encode

COLUMNS = ("figure", "n", "direct (median, worst)", "gateway (median, worst)", "difference")
TOKEN = "bench"
EPOCH = 1
_PIPELINE = 50

_KV_DRIVER = """
import sys, threading, time
from ray._raylet import GcsClient
client_of = lambda port: GcsClient(address="127.0.0.1:" + port)
value = b"v" * 200

def load(port, seconds, threads):
    counts = [0] * threads
    until = time.perf_counter() + seconds
    def run(number):
        client = clients[port][number]
        while time.perf_counter() < until:
            client.internal_kv_put(b"%d-%d" % (number, counts[number] % 1000), value, True, b"bench")
            counts[number] += 1
    workers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    started = time.perf_counter()
    for worker in workers: worker.start()
    for worker in workers: worker.join()
    return sum(counts) / (time.perf_counter() - started)

clients = {port: [client_of(port) for _ in range(16)] for port in sys.argv[1:]}
for line in sys.stdin:
    port, seconds, threads = line.split()
    print(load(port, float(seconds), int(threads)), flush=True)
"""

_ACTOR_DRIVER = """
import sys, time
import ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")

@ray.remote(num_cpus=0)
class Nobody:
    def here(self):
        return None

def create(count):
    started = time.perf_counter()
    actors = [Nobody.remote() for _ in range(count)]
    ray.get([actor.here.remote() for actor in actors], timeout=120)
    rate = count / (time.perf_counter() - started)
    for actor in actors:
        ray.kill(actor)
    return rate

create(2)
for _ in range(int(sys.argv[2])):
    print("\\n" + str(create(int(sys.argv[3]))), flush=True)
"""


@dataclass(frozen=True)
class Way:
    """How a GCS gets to Redis."""

    name: str
    port: int
    namespace: str


@click.command(epilog="example: python -m benchmarks.gateway_cost --rounds 5 --actor-rounds 0")
@click.option("--rounds", default=15, show_default=True, help="Rounds of commands and of KV puts.")
@click.option("--seconds", default=1.5, show_default=True, help="Length of one round.")
@click.option("--actor-rounds", default=5, show_default=True, help="Rounds of actors on each of four heads.")
@click.option("--actors", default=10, show_default=True, help="Actors in one round.")
def main(rounds: int, seconds: float, actor_rounds: int, actors: int) -> None:
    """Measure, print the table and write gateway_cost.json."""
    results: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory(prefix="rwb") as folder,
        _redis(Path(folder)) as redis_port,
        _gateway(redis_port, "gw") as gateway,
    ):
        ways = (Way("direct", redis_port, "direct"), Way("gateway", gateway.port, "gw"))
        results.update(_commands(ways, rounds, seconds))
        results.update(_kv_puts(ways, rounds, seconds, Path(folder)))
        if actor_rounds:
            results["actors created/s"] = _actors(ways, actor_rounds, actors, Path(folder))
        results["gateway_rss_bytes"] = common.resident_bytes(gateway.pid or 0)
    rows = [_row(name, found) for name, found in results.items() if isinstance(found, dict)]
    common.write("gateway_cost", {"results": results}, COLUMNS, rows)


def _row(name: str, found: dict[str, list[float]]) -> list[str]:
    direct, through = found["direct"], found["gateway"]
    loss = median([1 - theirs / ours for ours, theirs in zip(direct, through, strict=True)])
    return [
        name,
        str(len(direct)),
        *(f"{median(values):,.0f}, {min(values):,.0f}" if median(values) > 100 else
          f"{median(values):.2f}, {min(values):.2f}" for values in (direct, through)),
        f"{-loss:+.1%}",
    ]  # fmt: skip


def _commands(ways: Sequence[Way], rounds: int, seconds: float) -> dict[str, dict[str, list[float]]]:
    """HSET straight to Redis and to the gateway, one at a time and in batches."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, batch in (("commands/s, one at a time", 1), ("commands/s, in batches of 50", _PIPELINE)):
        common.tell(name)
        found[name] = {way.name: [] for way in ways}
        for _ in range(rounds):
            for way in ways:
                found[name][way.name].append(_command_rate(way, batch, seconds))
    return found


def _command_rate(way: Way, batch: int, seconds: float) -> float:
    key = schema.table_key(way.namespace, "KV")
    block, expected = encode("HSET", key, "field", "v" * 200) * batch, len(b":0\r\n") * batch
    with socket.create_connection(("127.0.0.1", way.port), 10) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(encode("AUTH", TOKEN))
        sock.recv(100)
        count, started = 0, time.perf_counter()
        until = started + seconds
        while time.perf_counter() < until:
            sock.sendall(block)
            received = 0
            while received < expected:
                received += len(sock.recv(65536))
            count += batch
        return count / (time.perf_counter() - started)


def _kv_puts(
    ways: Sequence[Way], rounds: int, seconds: float, folder: Path
) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {}
    with contextlib.ExitStack() as stack:
        ports = {way.name: stack.enter_context(_gcs(way, folder)) for way in ways}
        driver = subprocess.Popen(
            [sys.executable, "-c", _KV_DRIVER, *map(str, ports.values())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=_clean_environment(),
        )  # fmt: skip
        stack.callback(driver.wait, 10)
        stack.callback(driver.kill)
        assert driver.stdin is not None
        assert driver.stdout is not None
        for threads in (1, 4, 16):
            name = f"KV puts/s, {threads} at a time"
            common.tell(name)
            found[name] = {way.name: [] for way in ways}
            for _ in range(rounds):
                for way in ways:
                    driver.stdin.write(f"{ports[way.name]} {seconds} {threads}\n")
                    found[name][way.name].append(float(driver.stdout.readline()))
    return found


def _actors(ways: Sequence[Way], rounds: int, actors: int, folder: Path) -> dict[str, list[float]]:
    """Actors on whole heads, one head after the other: direct, gateway, direct, gateway."""
    found: dict[str, list[float]] = {way.name: [] for way in ways}
    for turn in range(2):
        for way in ways:
            common.tell(f"actors, {way.name}")
            command = [
                sys.executable,
                "-m",
                "benchmarks.gateway_cost_head",
                str(folder / f"{way.name}{turn}"),
            ]
            done = subprocess.run(
                [*command, str(_free_port()), str(_free_port()), str(_free_port()), str(rounds), str(actors)],
                input=_ACTOR_DRIVER, env=_ray_environment(way), cwd=common.ROOT, text=True, timeout=400,
                stdout=subprocess.PIPE, check=True,
            )  # fmt: skip
            found[way.name] += [float(line) for line in done.stdout.split()]
    return found


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[int]:
    port = _free_port()
    binary = Path(profile_for("redis:7", None).path_entries[0]) / "redis-server"
    command = [str(binary), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    process = subprocess.Popen(
        [*command, "--save", "", "--requirepass", TOKEN], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(port, process)
        yield port
    finally:
        process.kill()
        process.wait(10)


@contextlib.contextmanager
def _gateway(redis_port: int, namespace: str) -> Iterator[GatewayProcess]:
    environment = {
        **_clean_environment(),
        "RAY_REDIS_ADDRESS": f"127.0.0.1:{redis_port}",
        "REDIS_PASSWORD": TOKEN,
        "RAY_external_storage_namespace": namespace,
        "RAYWARD_GATEWAY_TOKEN": TOKEN,
    }
    with socket.create_connection(("127.0.0.1", redis_port), 10) as sock:
        lease = ("HSET", schema.own_key(namespace, "lease"), "epoch", EPOCH, "writer", EPOCH)
        sock.sendall(encode("AUTH", TOKEN) + encode(*lease))
        sock.recv(100)
        gateway = GatewayProcess([sys.executable, "-m", "rayward.agent", "gateway"], environment)
        try:
            gateway.start()
            gateway.lead(EPOCH)
            yield gateway
        finally:
            gateway.stop()


@contextlib.contextmanager
def _gcs(way: Way, folder: Path) -> Iterator[int]:
    import ray  # noqa: PLC0415 - it takes a second

    port, logs = _free_port(), folder / f"gcs-{way.name}"
    logs.mkdir()
    binary = Path(ray.__file__).parent / "core" / "src" / "ray" / "gcs" / "gcs_server"
    command = [
        str(binary), f"--log_dir={logs}", f"--gcs_server_port={port}", "--metrics_agent_port=-1",
        f"--config_list={base64.b64encode(b'{}').decode()}", "--node_ip_address=127.0.0.1",
        "--session_name=session_bench", "--redis_address=127.0.0.1", f"--redis_port={way.port}",
        f"--redis_password={TOKEN}", "--redis_enable_ssl=false",
    ]  # fmt: skip
    with (logs / "out").open("wb") as out:
        process = subprocess.Popen(command, env=_ray_environment(way), stdout=out, stderr=out)
    try:
        _wait_for(port, process)
        yield port
    finally:
        process.kill()
        process.wait(10)


def _ray_environment(way: Way) -> dict[str, str]:
    return {
        **_clean_environment(),
        "RAY_REDIS_ADDRESS": f"127.0.0.1:{way.port}",
        "RAY_external_storage_namespace": way.namespace,
        "RAYWARD_BENCH_TOKEN": TOKEN,
    }


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("RAY", "REDIS"))}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(port: int, process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"nothing listens on port {port}")


if __name__ == "__main__":
    main()

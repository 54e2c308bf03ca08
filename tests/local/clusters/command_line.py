"""Runs the real command line as a user would, and looks at what is left on the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rayward
from rayward.agent.processes import all_stats, classify, descendants, read_argv
from rayward.local.network import Fabric

ROOT = Path(rayward.__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"


def mounts() -> set[str]:
    """Where things are mounted on this machine."""
    return {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}


def processes_of(home: Path) -> set[str]:
    """Processes whose environment or command line names this home: rayward's own, and those in its Pods."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            text = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if str(home).encode() in text and state != "Z":
            found.add(entry.name)
    return found


@dataclass
class CommandLine:
    """``rayward`` with a home of its own."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)

    def left(self) -> list[str]:
        """All that the clusters of this home have left on the machine."""
        networks = [Fabric(name, "10.90.0.0/24") for name in self.started]
        links = {path.name for path in Path("/sys/class/net").iterdir()}
        return [
            *(f"namespace of {fabric.name}" for fabric in networks if fabric.exists()),
            *(f"link {fabric.host_interface}" for fabric in networks if fabric.host_interface in links),
            *(f"mount {mount}" for mount in mounts() if str(self.home) in mount),
            *(f"process {pid}" for pid in processes_of(self.home)),
        ]

    @property
    def env(self) -> dict[str, str]:
        """The environment of every command."""
        base = {key: value for key, value in os.environ.items() if not key.startswith(("RAY", "REDIS"))}
        return {**base, "PYTHONPATH": str(ROOT), "RAYWARD_HOME": str(self.home), **self.environment}

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command and leave it running."""
        self._note(arguments)
        return subprocess.Popen(
            [sys.executable, "-m", "rayward", *arguments],
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def __call__(
        self, *arguments: str, code: int = 0, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end and expect its exit code."""
        self._note(arguments)
        done = subprocess.run(
            [sys.executable, "-m", "rayward", *arguments],
            env=self.env,
            text=True,
            capture_output=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def _note(self, arguments: tuple[str, ...]) -> None:
        if "--name" in arguments:
            self.started.add(arguments[arguments.index("--name") + 1])

    def out(self, *arguments: str) -> str:
        """What a command prints."""
        return self(*arguments).stdout.strip()

    def pods(self, selector: str = "") -> list[str]:
        """Names of the Pods, by label."""
        chosen = ["-l", selector] if selector else []
        return [line.removeprefix("pods/") for line in self.out("get", "pods", *chosen, "-o", "name").split()]

    def head(self) -> str:
        """The name of the first head Pod."""
        return self.pods("ray.io/node-type=head")[0]

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """One object."""
        found: dict[str, Any] = json.loads(self.out("get", kind, name, "-o", "json"))
        return found

    def pid_of(self, pod: str, role: str) -> int:
        """The Pod's one process of that role (``gcs_server``, ``raylet``) as the host sees it."""
        below = descendants(int(self.get("pod", pod)["status"]["rayward"]["pid"]), all_stats())
        (found,) = [pid for pid in below if (seen := classify(read_argv(pid))) and seen.value == role]
        return found


def eventually(
    condition: Callable[[], object], timeout: float = 30.0, why: Callable[[], object] | None = None
) -> object:
    """Wait for a condition, with a bound; returns what made it true. ``why`` tells what is still wrong."""
    deadline = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"it did not come true in time: {why() if why else ''}"
        time.sleep(0.05)

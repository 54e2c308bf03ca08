"""The real ``rayward drill``, as a user runs it, with a home of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import rayward
from rayward.local import linux

ROOT = Path(rayward.__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "ray-cluster.external-redis.yaml"

# A head and one worker whose GCS keeps its state in memory.
FORGETFUL = """
apiVersion: ray.io/v1
kind: RayCluster
metadata: {name: drill-forgets}
spec:
  rayVersion: "2.60.0"
  headGroupSpec:
    rayStartParams: {num-cpus: "0"}
    template: {spec: {containers: [{name: ray-head, image: "rayproject/ray:2.60.0"}]}}
  workerGroupSpecs:
    - groupName: workers
      replicas: 1
      minReplicas: 0
      maxReplicas: 1
      rayStartParams: {num-cpus: "1"}
      template: {spec: {containers: [{name: ray-worker, image: "rayproject/ray:2.60.0"}]}}
"""

# Runs at once and holds no RayCluster at all.
LONELY = """
apiVersion: v1
kind: Pod
metadata: {name: lonely}
spec: {containers: [{name: sleep, image: "busybox", command: ["sleep", "1000"]}]}
"""


@dataclass
class Commands:
    """Runs ``rayward`` commands; every cluster is in ``home``."""

    home: Path

    @property
    def environment(self) -> dict[str, str]:
        """This process's, without what would reach into Ray or another home."""
        base = {key: value for key, value in os.environ.items() if not key.startswith(("RAY", "REDIS"))}
        return {**base, "PYTHONPATH": str(ROOT), "RAYWARD_HOME": str(self.home)}

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "rayward", *words],
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __call__(self, *words: str, limit: float = 170) -> tuple[int, str]:
        """Run a command to its end; returns its exit status and all that it printed."""
        child = self.start(*words)
        try:
            said, _ = child.communicate(timeout=limit)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        return child.returncode, said

    def processes(self, word: str) -> list[str]:
        """Command lines with ``word`` in them, of processes in this home's Pods."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                environment = (entry / "environ").read_bytes()
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if word in command and b"RAYWARD_POD_UID=" in environment and self._is_ours(environment):
                found.append(command[:120])
        return found

    def _is_ours(self, environment: bytes) -> bool:
        return any(f"RAYWARD_POD_UID={uid}".encode() in environment for uid in self._uids())

    def _uids(self) -> list[str]:
        pods = self.home.glob("clusters/*/objects/Pod/[!.]*.json")
        return [json.loads(path.read_text())["metadata"]["uid"] for path in pods]

    def clusters(self) -> list[str]:
        """Names of the clusters that are up."""
        folder = self.home / "clusters"
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def commands_for_a_while() -> Iterator[Commands]:
    """Commands with an empty home; at the end every cluster in it is taken down."""
    reason = linux.namespaces_available()
    if reason is not None:
        pytest.skip(f"no namespaces here: {reason}")
    commands = Commands(Path(tempfile.mkdtemp(prefix="rwd-")))
    try:
        yield commands
    finally:
        commands("down", "--all", "--force")
        shutil.rmtree(commands.home)


def read_result(path: Path) -> dict[str, Any]:
    """A drill's JSON."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def eventually(condition: Callable[[], object], limit: float, why: Callable[[], object]) -> None:
    """Poll until the condition holds; fails with ``why`` after ``limit`` seconds."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(why())
        time.sleep(0.05)

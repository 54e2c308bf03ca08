"""Nodes for tests: the kubelet process beside a control plane, real or hollow, and nothing left after it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from control_plane import ControlPlane, until
from kubelet.pod_ground import Ground

from rayward.local import linux
from rayward.local.ground import sweep
from rayward.local.network import NAMESPACE_FOLDER
from rayward.local.pod_process import package_environment, processes_of_pods

REQUIRE_VARIABLE = "RAYWARD_REQUIRE_KUBERNETES"
_PACKAGE = str(Path(__file__).with_name("kubelet"))
_PREFIX, _LOCK, _YOUNG_S = "rayward-kubelet-", "lock", 60.0
_READY_S, _END_S = 60.0, 60.0


def ready(conditions: Sequence[dict[str, Any]]) -> bool:
    """Whether a Ready condition says True."""
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


@dataclass
class NodeProcess:
    """The kubelet process: ``names`` are its nodes', ``folder`` is where a real one keeps its Pods."""

    plane: ControlPlane
    names: tuple[str, ...]
    folder: Path
    options: tuple[str, ...]
    process: subprocess.Popen[bytes] | None = None
    _uids: set[str] = field(default_factory=set)

    @property
    def ground(self) -> Ground:
        """Folder and network, as the process itself sees them."""
        return Ground(self.folder)

    @property
    def log(self) -> Path:
        """What the process says."""
        return self.folder.with_suffix(".log")

    def words(self) -> str:
        """The end of what the process said."""
        return self.log.read_text(errors="replace")[-3000:]

    def start(self) -> None:
        """Start it (again); returns when its nodes are ready and may get Pods."""
        command = [
            sys.executable,
            _PACKAGE,
            f"--kubeconfig={self.plane.kubeconfig}",
            "--stdin",
            *self.options,
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=package_environment(),
                start_new_session=True,
            )
        until("the nodes are ready", self._are_ready, _READY_S)

    def _are_ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the kubelet has ended:\n{self.words()}")
        for name in self.names:
            status, node = self.plane.request("GET", f"/api/v1/nodes/{name}")
            taints = (node.get("spec") or {}).get("taints") or ()
            hindered = self.plane.controllers and any(taint["effect"] == "NoSchedule" for taint in taints)
            if status != 200 or hindered or not ready(node.get("status", {}).get("conditions") or ()):
                return False
        return True

    def kill(self) -> None:
        """End the process at once; its Pods go on, and the next `start` finds them."""
        self._note_pods()
        assert self.process is not None
        self.process.kill()
        self._over()

    def stop(self) -> None:
        """End it cleanly: its Pods end, its nodes go."""
        self._note_pods()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self._over()

    def _over(self) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.wait(_END_S)
        self.process.stdin.close()

    def _note_pods(self) -> None:
        pods = self.folder / "pods"
        self._uids |= {path.name for path in pods.iterdir()} if pods.is_dir() else set()

    def lose(self, name: str) -> None:
        """From now on nothing is heard of this node; its Pods are ended as with the power cut."""
        self.ground.lose(name)
        self.kill_pods(name)

    def hide(self, name: str) -> None:
        """From now on nothing is heard of this node, but its Pods run on, as behind a broken network."""
        self.ground.lose(name)

    def find(self, name: str) -> None:
        """The node is back."""
        self.ground.lose(name, lost=False)

    def kill_pods(self, name: str) -> None:
        """End all processes of one node's Pods at once."""
        for uid in self.ground.found():
            manifest = self.ground.manifest(uid)
            if manifest is not None and manifest["spec"]["nodeName"] == name:
                self.ground.process(uid).kill()

    def clean(self) -> None:
        """Leave nothing, however the process ended."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self._over()
        if self.folder.exists():
            sweep(self.ground.folder)
        for name in self.names:
            with contextlib.suppress(OSError):
                self.plane.request("DELETE", f"/api/v1/nodes/{name}")
        shutil.rmtree(self.folder.parent, ignore_errors=True)

    def left(self) -> list[str]:
        """What is still there of it on this machine; for after the end."""
        found = [f"process {pid}" for pid in processes_of_pods(self._uids)]
        return found + [str(path) for path in (self.folder, _network(self.folder)) if path.exists()]


@contextlib.contextmanager
def real_node(
    plane: ControlPlane, *, nodes: int = 1, name: str = "", options: Sequence[str] = ()
) -> Iterator[NodeProcess]:
    """Nodes that run Pods for real, all in one network; skips where Pods cannot have namespaces."""
    reason = linux.namespaces_available()
    if reason is not None:
        if os.environ.get(REQUIRE_VARIABLE):
            pytest.fail(f"{REQUIRE_VARIABLE} is set, but Pods cannot have namespaces: {reason}")
        pytest.skip(f"no namespaces here: {reason}")
    chosen, folder = _place(name, "node")
    flags = (f"--folder={folder}", *_flags(chosen, nodes), *options)
    yield from _run(NodeProcess(plane, _names(chosen, nodes), folder, flags))


@contextlib.contextmanager
def hollow_nodes(
    plane: ControlPlane, *, nodes: int = 4, name: str = "", options: Sequence[str] = ()
) -> Iterator[NodeProcess]:
    """Nodes on which Pods are ready after one write and nothing is started."""
    chosen, folder = _place(name, "hollow")
    flags = ("--hollow", *_flags(chosen, nodes), *options)
    yield from _run(NodeProcess(plane, _names(chosen, nodes), folder, flags))


@pytest.fixture(scope="session")
def kubelet(controllers: ControlPlane) -> Iterator[NodeProcess]:
    """One node for all tests that only need Pods to run."""
    with real_node(controllers) as node:
        yield node


def _place(name: str, what: str) -> tuple[str, Path]:
    """The name that the nodes share, and a folder that is not there yet; its name is the network's too."""
    remove_abandoned()
    mark = secrets.token_hex(3)
    parent = Path(tempfile.mkdtemp(prefix=_PREFIX))
    return name or f"{what}-{mark}", parent / f"kubelet-{mark}"


def remove_abandoned() -> None:
    """Remove what is left of nodes whose test process was killed: nobody holds their lock."""
    for parent in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), (parent / _LOCK).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - parent.stat().st_mtime < _YOUNG_S:
                continue
            for folder in parent.glob("kubelet-*/settings.json"):
                sweep(Ground(folder.parent).folder)
            shutil.rmtree(parent, ignore_errors=True)


def _run(made: NodeProcess) -> Iterator[NodeProcess]:
    with (made.folder.parent / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            made.start()
            yield made
            made.stop()
            until("nothing is left of the kubelet", lambda: not made.left(), 10)
        finally:
            made.clean()


def _network(folder: Path) -> Path:
    return NAMESPACE_FOLDER / f"rayward-{folder.name}"


def _names(name: str, nodes: int) -> tuple[str, ...]:
    return (name,) if nodes == 1 else tuple(f"{name}-{index}" for index in range(nodes))


def _flags(name: str, nodes: int) -> tuple[str, ...]:
    return (f"--name={name}", f"--nodes={nodes}")

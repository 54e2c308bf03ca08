"""Real Pods for tests: processes of `rayward.local.pod`, in a network of the test's own or on the host."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rayward.local import linux
from rayward.local.execute import exec_command
from rayward.local.network import Fabric, free_subnet, host_routes

BOUND_S = 20.0


def until(what: str, condition: Callable[[], Any], bound_s: float = BOUND_S) -> Any:
    """The first true answer of ``condition``, asked again and again; the test fails after ``bound_s``."""
    deadline = time.monotonic() + bound_s
    while time.monotonic() < deadline:
        answer = condition()
        if answer:
            return answer
        time.sleep(0.01)
    raise AssertionError(f"not within {bound_s:.0f} s: {what}")


def owned_by(uid: str) -> list[int]:
    """Live processes that carry a Pod's uid in their environment."""
    mark = f"RAYWARD_POD_UID={uid}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                owned = mark in (entry / "environ").read_bytes().split(b"\0")
                if owned and linux.process_start_time(int(entry.name)) is not None:
                    found.append(int(entry.name))
    return found


class Pod:
    """A Pod process and the folder it lives in."""

    def __init__(self, folder: Path, uid: str) -> None:
        self.folder = folder
        self.uid = uid
        self.process: subprocess.Popen[str] | None = None

    def start(self, fabric: Fabric | None, address: str, prefix: tuple[str, ...] = ()) -> Pod:
        """Start the process, and give it its network if it is to have one; ``prefix`` wraps the command."""
        command = [*prefix, sys.executable, "-m", "rayward.local.pod", str(self.folder)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if fabric is not None:
            assert self.process.stdout.readline() == "netns-ready\n"
            fabric.attach(self.process.pid, address)
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        self.process.stdin.close()
        self.process.stdout.close()
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def status(self) -> dict[str, Any]:
        """status.json, or {} before the first."""
        try:
            loaded: dict[str, Any] = json.loads((self.folder / "status.json").read_text())
        except FileNotFoundError:
            return {}
        return loaded

    def container(self, name: str = "main") -> dict[str, Any]:
        """The status of one container, also an init container."""
        status = self.status()
        for entry in (*status.get("containerStatuses", ()), *status.get("initContainerStatuses", ())):
            if entry["name"] == name:
                return dict(entry)
        return {"state": {}, "lastState": {}, "restartCount": 0, "ready": False}

    def until_phase(self, phase: str) -> dict[str, Any]:
        until(f"phase {phase}; now: {self.explain()}", lambda: self.status().get("phase") == phase)
        return self.status()

    def until_running(self, name: str = "main", restarts: int = 0) -> int:
        """Wait until a container runs for the so-manieth time; its pid."""

        def running() -> int:
            entry = self.container(name)
            ready = "running" in entry["state"] and entry["restartCount"] == restarts
            return int(self.status()["rayward"]["containers"][name]["pid"]) if ready else 0

        try:
            return int(until(f"{name} runs", running))
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.explain()}") from None

    def until_waiting(self, name: str = "main") -> tuple[str, str]:
        """Wait until a container waits for another reason than its turn; reason and message."""

        def found() -> Any:
            waiting = self.container(name)["state"].get("waiting")
            return waiting if waiting and waiting["reason"] != "PodInitializing" else None

        state = until(f"{name} waits", found)
        return state["reason"], state.get("message", "")

    def log(self, name: str = "main", previous: bool = False) -> str:
        path = self.folder / "logs" / (f"{name}.previous.log" if previous else f"{name}.log")
        return path.read_text() if path.exists() else ""

    def execute(self, *argv: str, container: str | None = None) -> str:
        """Run a command in the container and return what it printed; it must end with status 0."""
        plan = exec_command(self.folder, container, argv)
        done = subprocess.run(
            plan.argv,
            env=plan.env,
            cwd=plan.cwd,
            capture_output=True,
            text=True,
            timeout=BOUND_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @staticmethod
    def until(what: str, condition: Callable[[], Any]) -> Any:
        """`until`, for tests that have a Pod at hand."""
        return until(what, condition)

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def until_gone(self) -> None:
        """Wait until the Pod process has ended, and every process of the Pod with it."""
        assert self.process is not None
        self.process.wait(BOUND_S)
        until(f"no process of Pod {self.uid} is left", lambda: not owned_by(self.uid))

    def explain(self) -> str:
        log = self.folder / "pod.log"
        return json.dumps(self.status()) + (log.read_text() if log.exists() else "")

    def end(self) -> None:
        """Take it away, whatever state it is in."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.kill()
        self.until_gone()


class Machine:
    """Makes Pods for one test in one mode and takes them away again."""

    def __init__(self, folder: Path, mode: str, fabric: Fabric | None) -> None:
        self.folder = folder
        self.mode = mode
        self.fabric = fabric
        self.pods: list[Pod] = []
        self.hosts = folder / "hosts"
        self.hosts.write_text("127.0.0.1 localhost\n")
        self.prefix: tuple[str, ...] = ()

    def add_object(self, kind: str, name: str, **content: Any) -> None:
        """Put a ConfigMap, Secret or PersistentVolumeClaim where Pods look for it (whole or not at all)."""
        path = self.folder / "objects" / kind / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps({"kind": kind, "metadata": {"name": name}, **content}))
        fresh.rename(path)

    def address(self, number: int) -> str:
        base = "127.0.77.0" if self.fabric is None else str(self.fabric.subnet.network_address)
        return base.rpartition(".")[0] + f".{number}"

    def pod(
        self, spec: dict[str, Any], name: str = "web", labels: dict[str, str] | None = None, **more: Any
    ) -> Pod:
        """Start a Pod; ``more`` goes into its pod.json."""
        number = len(self.pods) + 2
        folder = self.folder / f"pod-{number}"
        folder.mkdir()
        uid = str(uuid.uuid4())
        metadata = {"name": name, "namespace": "default", "uid": uid, "labels": labels or {}}
        config = {
            "pod": {"metadata": metadata, "spec": spec},
            "mode": self.mode,
            "cluster": "test",
            "objects": str(self.folder / "objects"),
            "claims": str(self.folder / "claims"),
            "hosts": str(self.hosts),
            "wake": None,
            "host": {"address": self.address(number)},
            **more,
        }
        if self.fabric is not None:
            config["network"] = {
                "address": self.address(number),
                "prefix": 24,
                "gateway": self.fabric.gateway,
            }
        (folder / "pod.json").write_text(json.dumps(config))
        pod = Pod(folder, uid)
        self.pods.append(pod)
        return pod.start(self.fabric, self.address(number), self.prefix)

    def sh(self, script: str, **container: Any) -> dict[str, Any]:
        """A container that runs a shell script, with more fields if given."""
        return {"name": "main", "image": "busybox", "command": ["/bin/sh", "-c", script], **container}


@pytest.fixture(scope="session")
def namespaces() -> None:
    """Skip where Pods cannot have namespaces, with the reason."""
    reason = linux.namespaces_available()
    if reason is not None:
        pytest.skip(f"no namespaces here: {reason}")


@pytest.fixture
def fabric(namespaces: None) -> Iterator[Fabric]:
    made = Fabric(f"test-{os.getpid()}-{uuid.uuid4().hex[:6]}", free_subnet(_own_third(), host_routes()))
    made.create()
    yield made
    made.remove()


def _own_third() -> list[str]:
    """Subnets that this process leaves to the others which run tests at the same time."""
    return [f"10.90.{third}.0/24" for third in range(255) if third != 100 + os.getpid() % 150]


@pytest.fixture
def machine(tmp_path: Path, fabric: Fabric) -> Iterator[Machine]:
    """Pods in namespaces."""
    made = Machine(tmp_path, "namespaces", fabric)
    yield made
    for pod in made.pods:
        pod.end()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Machine]:
    """Pods on the host's network and file system."""
    made = Machine(tmp_path, "host", None)
    yield made
    for pod in made.pods:
        pod.end()


@pytest.fixture(params=["namespaces", "host"])
def either(request: pytest.FixtureRequest) -> Machine:
    """Both modes, one after the other, for what must be the same in both."""
    made: Machine = request.getfixturevalue("machine" if request.param == "namespaces" else "host")
    return made

"""One Pod's process as the node sees it: start it, read what it says, end it.

The Pod process itself is ``rayward.local.pod``. It outlives the node process; all that is needed to find it
again is in the Pod's folder.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rayward
from rayward.errors import RaywardError
from rayward.local import linux
from rayward.local.network import Fabric
from rayward.local.state import Manifest, is_alive, read_json, write_json

POD_UID_VARIABLE = "RAYWARD_POD_UID"
_HANDSHAKE_LIMIT = 15.0


def package_environment() -> dict[str, str]:
    """This process's environment, with rayward importable for a child even when it is not installed."""
    root = str(Path(rayward.__file__).resolve().parent.parent)
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


class PodProcess:
    """The process behind one Pod, by the Pod's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._child: subprocess.Popen[bytes] | None = None
        self._status: tuple[int, Manifest] = (0, {})

    def start(self, settings: Manifest, fabric: Fabric | None) -> None:
        """Start the Pod; with a fabric, plug its network in. Raises RaywardError when it does not come up."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "pod.json", settings)
        with open(self.folder / "pod.log", "ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "rayward.local.pod", str(self.folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env=package_environment(),
            )
        self._child = child
        # A child that has ended already has no start time any more; 0 is nobody's.
        start_time = linux.process_start_time(child.pid) or 0
        write_json(self.folder / "process.json", {"pid": child.pid, "start_time": start_time})
        if fabric is not None:
            self._plug_in(child, fabric, settings["network"]["address"])
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()

    def _plug_in(self, child: subprocess.Popen[bytes], fabric: Fabric, address: str) -> None:
        assert child.stdin is not None
        assert child.stdout is not None
        ready, _, _ = select.select([child.stdout], [], [], _HANDSHAKE_LIMIT)
        if not ready or child.stdout.readline() != b"netns-ready\n":
            child.kill()
            raise RaywardError(
                "the Pod's process did not get a network of its own",
                where=self.folder.name,
                todo=f"see {self.folder / 'pod.log'}",
            )
        fabric.attach(child.pid, address)
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(b"go\n")
            child.stdin.flush()

    def identity(self) -> tuple[int, int] | None:
        """Pid and start time, None when the Pod has never been started."""
        found = read_json(self.folder / "process.json")
        return (found["pid"], found["start_time"]) if found else None

    @property
    def started(self) -> bool:
        """Whether a process was ever started for this Pod."""
        return (self.folder / "process.json").exists()

    def alive(self) -> bool:
        """Whether the Pod's process runs now."""
        if self._child is not None:
            return self._child.poll() is None
        identity = self.identity()
        return identity is not None and is_alive(*identity)

    def terminate(self) -> None:
        """Ask the Pod to end within its grace period."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the Pod at once; its containers die with it."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        identity = self.identity()
        if identity is not None and is_alive(*identity):
            with contextlib.suppress(ProcessLookupError):
                os.kill(identity[0], number)

    def status(self) -> Manifest:
        """The Pod's status as its process last wrote it; empty before the first time."""
        try:
            changed = (self.folder / "status.json").stat().st_mtime_ns
        except FileNotFoundError:
            return {}
        if changed != self._status[0]:
            self._status = (changed, read_json(self.folder / "status.json") or {})
        return self._status[1]

    def remove(self) -> None:
        """Remove the Pod's folder; only when its process is gone."""
        shutil.rmtree(self.folder, ignore_errors=True)


def processes_of_pods(uids: set[str]) -> Iterator[int]:
    """Processes whose environment says that they belong to one of these Pods: what a Pod process that was
    killed on the host's network may have left behind."""
    marks = {f"{POD_UID_VARIABLE}={uid}".encode() for uid in uids}
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            environment = Path(f"/proc/{entry}/environ").read_bytes()
            if marks.intersection(environment.split(b"\0")):
                yield int(entry)


def host_port_is_free(port: int) -> bool:
    """Whether nothing on this host listens on a TCP port, on any address."""
    wanted = f":{port:04X}"
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
                fields: list[Any] = line.split()
                if fields[1].endswith(wanted) and fields[3] == "0A":
                    return False
    return True

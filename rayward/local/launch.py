"""From a container of a Pod manifest to a running process: the spec file, the shim, and its reports.

Must not know of restart policies or probes: it starts one container once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayward.local import environment, hostmode, images, linux, volumes
from rayward.local.environment import Manifest, PodFacts
from rayward.local.hostmode import HostFacts

_TERMINATION_LOG = "/dev/termination-log"
_LONGEST_MESSAGE = 4096
_LAST_LINES = 20


@dataclass(frozen=True)
class Place:
    """Where and how one Pod runs on this machine: the contents of its pod.json, read."""

    folder: Path
    facts: PodFacts
    mode: str
    host: HostFacts
    hosts_file: Path | None = None
    claims: Path | None = None
    substitutions: Mapping[str, str] | None = None

    @property
    def pod(self) -> Manifest:
        """The Pod manifest."""
        return self.facts.pod

    @property
    def shared_memory(self) -> Path:
        """What all containers of the Pod see at /dev/shm (mode namespaces)."""
        return self.folder / "shm"

    def log(self, container: str) -> Path:
        """The log of the current run of a container; `previous_log` has the run before."""
        return self.folder / "logs" / f"{container}.log"

    def previous_log(self, container: str) -> Path:
        """The log of a container's run before the current one."""
        return self.folder / "logs" / f"{container}.previous.log"

    def termination_log(self, container: str) -> Path:
        """The file behind a container's terminationMessagePath."""
        return self.folder / "containers" / f"{container}.termination"


def build_spec(container: Manifest, place: Place, sources: Mapping[str, Path], start: int) -> dict[str, Any]:
    """The spec of one start (``start`` counts them) of a container, for the shim and for exec.

    Raises NotYet for a missing reference, RaywardError for an image or command that cannot be had here.
    """
    command = [str(word) for word in container.get("command") or ()]
    profile = images.profile_for(str(container.get("image", "")), command)
    base = {"PATH": profile.path, "HOSTNAME": place.facts.name, "HOME": "/root", **profile.env}
    variables = environment.resolve(container, place.facts, base)
    argv = images.container_argv(
        profile,
        environment.expand_all(command, variables),
        environment.expand_all(container.get("args"), variables),
    )
    variables["RAYWARD_POD_UID"] = str(place.pod["metadata"].get("uid", ""))
    binds = volumes.mounts_for(container, sources, variables, place.facts.name)
    cwd = str(container.get("workingDir") or profile.cwd)
    spec: dict[str, Any] = {
        "name": container["name"],
        "mode": place.mode,
        "argv": list(argv),
        "env": variables,
        "cwd": cwd,
    }
    if place.mode == "host":
        return _on_host(spec, container, place, binds, profile)
    targets = {bind.target.rstrip("/") for bind in binds}
    message_path = str(container.get("terminationMessagePath") or _TERMINATION_LOG)
    singles = [volumes.Mount(str(place.folder / "resolv.conf"), "/etc/resolv.conf")]
    singles.append(volumes.Mount(str(place.folder / "host.conf"), "/etc/host.conf"))
    singles.append(volumes.Mount(str(place.termination_log(container["name"])), message_path))
    if place.hosts_file is not None:
        singles.append(volumes.Mount(str(place.hosts_file.resolve()), "/etc/hosts"))
    return {
        **spec,
        "layer": str(place.folder / "containers" / container["name"] / f"layer.{start}"),
        "hidden": [str(place.folder)],
        "directories": sorted({cwd, variables["HOME"]}),
        "fresh_directories": [path for path in profile.fresh_directories if path not in targets],
        "shared_memory": None if "/dev/shm" in targets else str(place.shared_memory),
        "mounts": [
            {"source": os.path.realpath(bind.source), "target": bind.target, "read_only": bind.read_only}
            for bind in (*singles, *binds)
        ],
    }


def _on_host(
    spec: dict[str, Any],
    container: Manifest,
    place: Place,
    binds: list[volumes.Mount],
    profile: images.ImageProfile,
) -> dict[str, Any]:
    """The spec for host mode: mount paths and service names replaced, redis and Ray told their ports."""
    data = place.folder / "containers" / str(container["name"]) / "data"
    home = place.folder / "containers" / str(container["name"]) / "home"
    for folder in (data, home):
        folder.mkdir(parents=True, exist_ok=True)
    replacements = dict(place.substitutions or {})
    replacements[str(container.get("terminationMessagePath") or _TERMINATION_LOG)] = str(
        place.termination_log(str(container["name"]))
    )
    replacements.update({bind.target.rstrip("/"): bind.source for bind in binds})
    # Shared memory is the machine's own anyway, and Ray must find it under its real name.
    replacements.pop("/dev/shm", None)
    if profile.cwd != "/":
        # The image's own folder is not on this machine; its programs and their settings name it all the same.
        stand_in = home if profile.cwd == profile.env.get("HOME") else data
        replacements.setdefault(profile.cwd, str(stand_in))
    _adapt_config_maps(place, replacements)
    variables = hostmode.substitute_environment(spec["env"], replacements)
    variables["HOME"] = str(home)
    if profile.fresh_directories:
        variables.update(hostmode.ray_environment(place.host))
    argv = hostmode.substitute_all(spec["argv"], replacements)
    data_folder = replacements.get("/data", str(data))
    cwd = hostmode.substitute(spec["cwd"], replacements)
    if not os.path.isdir(cwd):
        cwd = str(home)
    adapted = hostmode.adapt_argv(argv, place.host, data_folder)
    host = {"address": place.host.address, "ports": dict(place.host.ports)}
    return {
        **spec,
        "argv": list(adapted),
        "env": variables,
        "cwd": cwd,
        "replacements": replacements,
        "host": host,
    }


def _adapt_config_maps(place: Place, replacements: Mapping[str, str]) -> None:
    """Put the real paths and addresses into the text files of ConfigMap volumes: a server that is told
    ``dir /data`` by its settings needs the folder that stands for /data here."""
    for volume in place.pod["spec"].get("volumes") or ():
        if "configMap" not in volume:
            continue
        for path in (place.folder / "volumes" / str(volume["name"])).rglob("*"):
            try:
                text = path.read_text(encoding="utf-8") if path.is_file() else ""
            except UnicodeDecodeError:
                continue
            adapted = hostmode.substitute(text, replacements)
            if adapted != text:
                path.write_text(adapted, encoding="utf-8")


def write_spec(spec: Mapping[str, Any], place: Place) -> Path:
    """Write the spec where `exec` looks for it; only its owner may read it, for it holds secrets."""
    path = place.folder / "containers" / f"{spec['name']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".json.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(spec, file)
    fresh.rename(path)
    return path


def _remove_tree(folder: Path) -> None:
    import shutil  # noqa: PLC0415 (only a restart needs it)

    shutil.rmtree(folder, ignore_errors=True)


class Run:
    """One run of one container, from its start to its end; `receive` takes in what the shim says.

    ``pid`` is the container's first process as the host sees it, ``running`` whether its command was
    executed, ``error`` a (reason, sentence) pair when it could not be, ``ended`` an (exit code, signal) pair.
    """

    def __init__(self, spec: Mapping[str, Any], place: Place) -> None:
        self.started = time.monotonic()
        self.pid: int | None = None
        self.start_time: int | None = None
        self.running = False
        self.error: tuple[str, str] | None = None
        self.ended: tuple[int, int] | None = None
        self._buffer = b""
        self._prepare_files(spec, place)
        path = write_spec(spec, place)
        self.report, write_end = os.pipe()
        os.set_blocking(self.report, False)
        package_parent = str(Path(__file__).resolve().parents[2])
        command = (
            sys.executable,
            "-S",
            "-m",
            "rayward.local.container",
            str(path),
            str(write_end),
            str(os.getpid()),
        )
        with open(place.log(str(spec["name"])), "ab") as log:
            self._shim = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PYTHONPATH": package_parent, "PATH": os.environ.get("PATH", "/usr/bin:/bin")},
                pass_fds=(write_end,),
                cwd="/",
            )
        os.close(write_end)

    def _prepare_files(self, spec: Mapping[str, Any], place: Place) -> None:
        name = str(spec["name"])
        log = place.log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists():
            log.rename(place.previous_log(name))
        place.termination_log(name).parent.mkdir(parents=True, exist_ok=True)
        place.termination_log(name).write_bytes(b"")
        if place.mode == "namespaces":
            layer = Path(spec["layer"])
            for old in layer.parent.glob("layer.*"):
                _remove_tree(old)
            layer.mkdir(parents=True)

    def receive(self) -> bool:
        """Take in what the shim reported; True once the run is over (``ended`` or ``error`` is set then)."""
        while True:
            try:
                data = os.read(self.report, 65536)
            except BlockingIOError:
                return False
            if not data:
                break
            self._buffer += data
            *lines, self._buffer = self._buffer.split(b"\n")
            for line in lines:
                self._take(json.loads(line))
        self._finish()
        return True

    def _take(self, message: Mapping[str, Any]) -> None:
        if "pid" in message:
            self.pid = int(message["pid"])
            self.start_time = linux.process_start_time(self.pid)
        elif "running" in message:
            self.running = True
        elif "error" in message:
            self.error = (str(message["reason"]), str(message["error"]))
        else:
            self.ended = (int(message["exit_code"]), int(message["signal"]))

    def close(self) -> None:
        """Free the report's descriptor, once `receive` said that the run is over."""
        os.close(self.report)

    def _finish(self) -> None:
        code = self._shim.wait()
        if self.error is None and self.ended is None:
            # The shim itself was killed, and the container with it.
            self.ended = (128 - code, -code) if code < 0 else (code, 0)

    def signal(self, number: int) -> None:
        """Send a signal to the container's first process, if it is still that one."""
        if self.pid is None or not self.running:
            # Not executed yet: there is nobody to be asked. The container's process dies with its shim.
            self._shim.kill()
        elif self.ended is None and linux.process_start_time(self.pid) == self.start_time:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def last_words(place: Place, container: str, code: int) -> str:
    """What a container left to say: its termination log, else the end of a failed one's log."""
    with suppress(OSError):
        written = place.termination_log(container).read_bytes()
        if written:
            return written[-_LONGEST_MESSAGE:].decode(errors="replace")
    if code == 0:
        return ""
    try:
        with open(place.log(container), "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LONGEST_MESSAGE))
            tail = log.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(tail.splitlines()[-_LAST_LINES:])

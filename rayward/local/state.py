"""Where clusters of this machine rest on disk: their objects, their Pods' folders, their locks.

There is no API server here. A cluster is a folder, an object is a JSON file in it, and whoever changes an
object holds the cluster's lock while it does. The node process and the command line meet nowhere else, so
either may die at any time and the other goes on.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from rayward.errors import RaywardError
from rayward.local import linux

Manifest = dict[str, Any]

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,51}[a-z0-9])?")
NAMESPACE = "default"
_NODE_LOCK_PATIENCE_S = 1.0


def home() -> Path:
    """The folder of all clusters: ``RAYWARD_HOME``, else /var/lib/rayward for root, else the user's
    state folder (XDG)."""
    given = os.environ.get("RAYWARD_HOME")
    if given:
        return Path(given).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/rayward")
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "rayward"


def write_json(path: Path, value: object, mode: int = 0o600) -> None:
    """Replace a file's content in one step: a reader sees the old or the new, never a part."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(value, file)
    os.replace(unfinished, path)


def read_json(path: Path) -> Any:
    """The file's content, None when it is not there."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def is_alive(pid: int, start_time: int) -> bool:
    """Whether this very process (not a later one with its pid) runs and is no zombie."""
    found = linux.process_start_time(pid)
    return found is not None and found == start_time


ENDED_IN_ORDER = ("Pod", "RayCluster", "RayService")
"""The kinds of objects that are marked for deletion and go once all that they hold has gone; everything else
goes at once."""


class ClusterFolder:
    """One cluster's folder. Objects are keyed by kind and name; there is one namespace, ``default``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.objects = path / "objects"
        self.pods = path / "pods"
        self.claims = path / "claims"

    @property
    def exists(self) -> bool:
        """Whether the cluster is there (also half made or half removed)."""
        return self.path.is_dir()

    def create(self) -> None:
        """Make the folder; raises RaywardError when a cluster of this name is there already."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.path.mkdir(mode=0o700)
        except FileExistsError:
            raise RaywardError(
                f"cluster {self.name!r} is up already",
                where=str(self.path),
                todo=f"`rayward down {self.name}` first, or `rayward up --name OTHER`",
            ) from None
        for folder in (self.objects, self.pods, self.claims):
            folder.mkdir()

    def remove(self) -> None:
        """Remove the folder and all in it."""
        shutil.rmtree(self.path, ignore_errors=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the cluster's lock: nobody else changes objects meanwhile."""
        with open(self.path / "lock", "a", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _file(self, kind: str, name: str) -> Path:
        return self.objects / kind / f"{name}.json"

    def get(self, kind: str, name: str) -> Manifest | None:
        """One object, None when it is not there."""
        found: Manifest | None = read_json(self._file(kind, name))
        return found

    def list(self, kind: str) -> list[Manifest]:
        """All objects of a kind, by name."""
        folder = self.objects / kind
        if not folder.is_dir():
            return []
        found = (read_json(path) for path in sorted(folder.glob("[!.]*.json")))
        return [manifest for manifest in found if manifest is not None]

    def kinds(self) -> tuple[str, ...]:
        """The kinds that have been stored."""
        return tuple(sorted(path.name for path in self.objects.iterdir())) if self.objects.is_dir() else ()

    def put(self, manifest: Manifest) -> None:
        """Write an object (under the lock)."""
        path = self._file(manifest["kind"], manifest["metadata"]["name"])
        path.parent.mkdir(exist_ok=True)
        write_json(path, manifest)

    def drop(self, kind: str, name: str) -> None:
        """Remove an object (under the lock); nothing happens when it is gone."""
        self._file(kind, name).unlink(missing_ok=True)

    def setting(self, name: str) -> Any:
        """One of the cluster's own facts (mode, subnet ...), None when it is not set."""
        return (read_json(self.path / "settings.json") or {}).get(name)

    def set(self, **values: object) -> None:
        """Set some of the cluster's own facts."""
        settings = read_json(self.path / "settings.json") or {}
        write_json(self.path / "settings.json", {**settings, **values})

    @contextlib.contextmanager
    def node_lock(self) -> Iterator[bool]:
        """Be the one node process of this cluster; yields False when another one is.

        Whoever asks `node_runs` has a share of the lock for an instant, so it is asked for more than once.
        """
        with open(self.path / "node.lock", "a", encoding="ascii") as file:
            give_up = time.monotonic() + _NODE_LOCK_PATIENCE_S
            while not (mine := _locked(file, fcntl.LOCK_EX)) and time.monotonic() < give_up:
                time.sleep(0.01)
            yield mine

    def node_runs(self) -> bool:
        """Whether a node process holds this cluster. Any number may ask at the same time."""
        if not self.exists:
            return False
        with open(self.path / "node.lock", "a", encoding="ascii") as file:
            return not _locked(file, fcntl.LOCK_SH)


def _locked(file: TextIO, kind: int) -> bool:
    """Take a lock on an open file if it can be had now; closing the file lets it go."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def check_name(name: str) -> str:
    """A cluster's name as given by a user; raises RaywardError for one that cannot be used."""
    if not _NAME.fullmatch(name):
        raise RaywardError(
            f"{name!r} cannot be a cluster's name",
            where="--name",
            todo="use lower-case letters, digits and dashes, 53 characters at the most",
        )
    return name


def cluster(name: str) -> ClusterFolder:
    """The folder of a cluster by name, whether it exists or not."""
    return ClusterFolder(home() / "clusters" / name)


def clusters() -> list[ClusterFolder]:
    """All clusters of this machine (of this home), by name."""
    folder = home() / "clusters"
    return [ClusterFolder(path) for path in sorted(folder.iterdir())] if folder.is_dir() else []

"""Where the programs of a real Kubernetes control plane come from: given ones, kept ones, or made once.

    python tests/kubernetes/binaries.py          obtain them now, and say where they are

The first of these that is there: the folder named by ``KUBEBUILDER_ASSETS`` (with kube-apiserver, etcd and
kubectl, as Kubernetes' own test tools have it; kube-controller-manager and kube-scheduler if they are in it),
what an earlier run kept in the cache, what ``debian_kubernetes`` makes from the archive of the system.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import debian_kubernetes
from debian_kubernetes import Unavailable

__all__ = ["Binaries", "Unavailable", "kept", "obtain"]

ASSETS_VARIABLE = "KUBEBUILDER_ASSETS"
CONTROLLERS = ("kube-controller-manager", "kube-scheduler")
NAMES = ("etcd", "kube-apiserver", "kubectl", *CONTROLLERS)
_COMPLETE = "rayward-complete"
_OTHER_BUILD_S = 3600.0
_ROOM_BYTES = 3 << 30
Say = Callable[[str], None]


@dataclass(frozen=True)
class Binaries:
    """A folder with etcd, kube-apiserver and kubectl; ``controllers``: the other two are there as well."""

    folder: Path
    controllers: bool

    def path(self, name: str) -> str:
        """The program of this name."""
        return str(self.folder / name)

    def version(self) -> tuple[int, int]:
        """Major and minor version of the API server."""
        words = subprocess.run(
            [self.path("kube-apiserver"), "--version"], capture_output=True, text=True, timeout=30, check=True
        )
        major, minor = words.stdout.strip().removeprefix("Kubernetes v").split(".")[:2]
        return int(major), int(minor)


def obtain(say: Say) -> Binaries:
    """The programs; makes them if they are nowhere, which takes minutes, and says how far it is.

    Raises Unavailable, whose words say why there are none and what would help.
    """
    found = kept()
    if found is not None:
        return found
    for cache in _caches():
        if _is_writable(cache):
            return _make(cache, say)
    raise Unavailable("no folder to keep Kubernetes in: set XDG_CACHE_HOME to a folder of yours")


def kept() -> Binaries | None:
    """The programs if they are at hand; raises Unavailable if ``KUBEBUILDER_ASSETS`` lacks some."""
    if os.environ.get(ASSETS_VARIABLE):
        return _given(Path(os.environ[ASSETS_VARIABLE]))
    for cache in _caches():
        if made := _made_by(cache, debian_kubernetes.RECIPE):
            return Binaries(made[-1], controllers=True)
    return None


def _given(folder: Path) -> Binaries:
    missing = [name for name in NAMES if not os.access(folder / name, os.X_OK)]
    if needed := [name for name in missing if name not in CONTROLLERS]:
        raise Unavailable(f"{ASSETS_VARIABLE}={folder} has no {', '.join(needed)}")
    return Binaries(folder, controllers=not missing)


def _caches() -> Iterator[Path]:
    """The folders that tools/environment.sh keeps things in, in its order."""
    home = os.environ.get("HOME", "/nonexistent")
    yield Path(os.environ.get("XDG_CACHE_HOME") or f"{home}/.cache") / "rayward"
    spare = Path(os.environ.get("TMPDIR") or "/tmp") / f"rayward-cache-{os.getuid()}"
    with contextlib.suppress(OSError):
        spare.mkdir(mode=0o700, exist_ok=True)
        # Anybody may make a folder of this name in a shared /tmp: programs are run only from one's own.
        if not spare.is_symlink() and spare.stat().st_uid == os.getuid():
            yield spare


def _is_writable(cache: Path) -> bool:
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
    return os.access(cache, os.W_OK)


def _made_by(cache: Path, recipe: int) -> list[Path]:
    """The folders of programs that this recipe made to the end."""
    return sorted(file.parent for file in cache.glob(f"kubernetes-*-{recipe}/{_COMPLETE}"))


@contextlib.contextmanager
def _alone(cache: Path, say: Say) -> Iterator[None]:
    """Waits until no other run makes the programs."""
    with (cache / "kubernetes.lock").open("w") as lock:
        deadline = time.monotonic() + _OTHER_BUILD_S
        said = False
        while not _locked(lock):
            if not said:
                say("another run is making Kubernetes: waiting for it")
                said = True
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"another run holds {lock.name} for more than {_OTHER_BUILD_S / 60:.0f} minutes"
                )
            time.sleep(0.5)
        yield


def _locked(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make(cache: Path, say: Say) -> Binaries:
    with _alone(cache, say):
        found = kept()
        if found is not None:
            return found
        if (free := shutil.disk_usage(cache).free) < _ROOM_BYTES:
            raise Unavailable(
                f"{cache}: {free >> 20} MB are free, making Kubernetes takes {_ROOM_BYTES >> 20} MB"
            )
        for left in cache.glob("setup-kubernetes-*"):  # by a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        started = time.monotonic()
        with tempfile.TemporaryDirectory(
            prefix="setup-kubernetes-", dir=cache, ignore_cleanup_errors=True
        ) as scratch:
            made, version = debian_kubernetes.make(Path(scratch), say)
            (made / _COMPLETE).touch()
            folder = cache / f"kubernetes-{version}-{debian_kubernetes.RECIPE}"
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)
        # Those of later recipes stay: a checkout of an older state must not take them from a newer one.
        for recipe in range(1, debian_kubernetes.RECIPE):
            for old in _made_by(cache, recipe):
                shutil.rmtree(old, ignore_errors=True)
        size = sum(path.stat().st_size for path in folder.iterdir())
        took = time.monotonic() - started
        say(f"Kubernetes {version} is in {folder}: {size / 1e6:.0f} MB, made in {took:.0f} s")
        return Binaries(folder, controllers=True)


def main() -> int:
    try:
        found = obtain(lambda line: print(f"rayward: {line}", file=sys.stderr, flush=True))
    except Unavailable as problem:
        print(f"rayward: no Kubernetes for the tests: {problem}", file=sys.stderr)
        return 1
    print(found.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Puts ``serve_middleware`` where Ray Serve's proxies find it, and says that the node is leaving.

By Ray's own extension point (``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH``), in a folder that agent, proxies
and ``leave`` of one node share. A user's own callback stays; then connections are not ended early.
"""

from __future__ import annotations

import contextlib
import os
import pkgutil
import shutil
import stat
from collections.abc import Mapping

from rayward.agent.config import DEFAULT_PORT
from rayward.errors import RaywardError

CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
LEAVING = "RAYWARD_SERVE_LEAVING"
_MODULE = "rayward_serve_middleware"


def folder(environ: Mapping[str, str]) -> str:
    """The node's folder: one for each user and agent port, for machines on which several nodes run."""
    port = environ.get("RAYWARD_AGENT_PORT", "") or DEFAULT_PORT
    return os.path.join(environ.get("TMPDIR") or "/tmp", f"rayward-serve-{os.getuid()}-{port}")


def install(environ: Mapping[str, str]) -> dict[str, str]:
    """Write the module, forget an earlier leave, and return the variables for Ray's processes.

    None at all where the user has a callback of their own, or an empty one. Raises RaywardError when there is
    no place for it.
    """
    if CALLBACK in environ:
        return {}
    place = folder(environ)
    write(place)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_flag(place))
    before = environ.get("PYTHONPATH", "")
    return {
        CALLBACK: f"{_MODULE}:middlewares",
        LEAVING: _flag(place),
        # Last: a folder of the user's goes first, whatever its modules are called.
        "PYTHONPATH": f"{before}{os.pathsep}{place}" if before else place,
    }


def write(place: str) -> None:
    """Write the module unless it is there as it should be. Raises RaywardError."""
    path = os.path.join(place, f"{_MODULE}.py")
    source = pkgutil.get_data("rayward.agent", "serve_middleware.py")
    assert source is not None
    unfinished = f"{path}.{os.getpid()}"
    try:
        _own(place)
        if _content(path) == source:
            return
        with open(unfinished, "wb") as file:
            file.write(source)
        os.replace(unfinished, path)
    except OSError as error:
        raise RaywardError(
            f"cannot write Serve's middleware: {(error.strerror or str(error)).lower()}",
            where=place,
            todo="let the container write to its TMPDIR; without it, clients that keep connections may lose "
            "a request when this node is stopped",
        ) from error


def remove(environ: Mapping[str, str]) -> None:
    """Take away what ``install`` has made, once no process of Ray's is left."""
    shutil.rmtree(folder(environ), ignore_errors=True)


def say_leaving(environ: Mapping[str, str]) -> None:
    """Have the proxy end each connection with its next answer, from now on."""
    with contextlib.suppress(OSError), open(_flag(folder(environ)), "wb"):
        pass


def is_leaving(environ: Mapping[str, str]) -> bool:
    """Whether ``say_leaving`` was called since the agent started."""
    return os.path.exists(environ.get(LEAVING, ""))


def _flag(place: str) -> str:
    return os.path.join(place, "leaving")


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def _own(place: str) -> None:
    """Make the folder; one that another user could write to would let them run code in Ray's proxies."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(place, 0o700)
    found = os.lstat(place)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(1, "it belongs to somebody else")

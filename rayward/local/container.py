"""The process between a Pod and one container.

Started as `python -m rayward.local.container SPEC.json REPORT_FD PARENT_PID`, it builds the
container's view of the machine (in host mode only a session), executes the command, reports over a pipe, and
mirrors the end. It must not know of manifests: the spec says everything. Reports are JSON lines:
``{"pid"}``, then ``{"running": true}`` or ``{"reason", "error"}``, at last ``{"exit_code", "signal"}``.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from rayward.local import linux

Spec = Mapping[str, Any]

_OLD_ROOT = "/.rayward-old"
_NOT_COPIED = ("/proc", "/sys", "/dev", "/run/netns")
_PSEUDO = frozenset(
    (
        *("autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs"),
        *("efivarfs", "fusectl", "hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "rpc_pipefs", "securityfs"),
        *("selinuxfs", "sysfs", "tracefs"),
    )
)
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "fuse", "kvm", "dri", "infiniband", "net")
_DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}


class StartError(Exception):
    """The container cannot start; ``reason`` is the waiting reason Kubernetes has for it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


# --- the container's file system --------------------------------------------------------------------


def _unescape(text: str) -> str:
    return text.encode().decode("unicode_escape").encode("latin-1").decode() if "\\" in text else text


def mounts_to_copy(mountinfo: str, hidden: tuple[str, ...]) -> list[tuple[str, bool]]:
    """The mount points besides ``/`` that a container sees too, outer ones first, and whether each is
    writable.

    Takes the text of ``/proc/self/mountinfo`` (proc(5)); pseudo file systems and
    what lies below ``hidden`` are left out.
    """
    found: dict[str, bool] = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()[0]
        point, options = _unescape(fields[4]), fields[5].split(",")
        below = any(point == path or point.startswith(path.rstrip("/") + "/") for path in hidden)
        if point != "/" and kind not in _PSEUDO and not below:
            found[point] = "rw" in options and "ro" not in after.split()[2].split(",")
    return sorted(found.items(), key=lambda item: item[0].count("/"))


def _overlay(layer: Path, number: int, lower: str, target: str) -> None:
    upper, work = f"{number}/upper", f"{number}/work"
    for folder in (layer / upper, layer / work, Path(target)):
        folder.mkdir(parents=True, exist_ok=True)
    lower_stat = os.stat(lower)
    os.chmod(layer / upper, lower_stat.st_mode & 0o7777)
    escaped = lower.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")
    # Relative paths keep the option string short and free of characters that would have to be escaped.
    os.chdir(layer)
    linux.mount("overlay", target, "overlay", options=f"lowerdir={escaped},upperdir={upper},workdir={work}")


def _build_root(spec: Spec) -> None:
    """Lay a writable layer over everything the machine has, and make it the root."""
    layer = Path(spec["layer"])
    root = layer / "root"
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    try:
        _overlay(layer, 0, "/", str(root))
    except OSError:
        # Most often the root is an overlay itself: the kernel keeps no layer there, but does in memory.
        _overlay_in_memory(layer, root)
    hidden = (*_NOT_COPIED, *spec["hidden"])
    copied = mounts_to_copy(Path("/proc/self/mountinfo").read_text(), hidden)
    for number, (point, writable) in enumerate(copied, 1):
        _copy_mount(layer, number, point, str(root) + point, writable)
    os.chdir("/")
    os.mkdir(str(root) + _OLD_ROOT)
    linux.pivot_root(str(root), str(root) + _OLD_ROOT)
    os.chdir("/")


def _overlay_in_memory(layer: Path, root: Path) -> None:
    os.chdir("/")
    try:
        linux.mount("tmpfs", str(layer), "tmpfs", linux.MS_NODEV, "mode=755")
        _overlay(layer, 0, "/", str(root))
    except OSError as error:
        raise StartError(
            "CreateContainerError",
            f"no writable layer can be laid over this machine's root file system ({error.strerror}), "
            f"neither in {layer} nor in memory: use host mode here",
        ) from None


def _copy_mount(layer: Path, number: int, point: str, target: str, writable: bool) -> None:
    if writable and os.path.isdir(point):
        with contextlib.suppress(OSError):
            return _overlay(layer, number, point, target)
    # A mount that vanished meanwhile, or that nobody may enter, is not missed.
    with contextlib.suppress(OSError):
        linux.bind(point, target, recursive=False)
    return None


def _build_devices(shared_memory: str | None) -> None:
    linux.mount("tmpfs", "/dev", "tmpfs", linux.MS_NOSUID, "mode=755,size=64k")
    old = _OLD_ROOT + "/dev"
    for name in (*_DEVICES, *(entry for entry in os.listdir(old) if entry.startswith("nvidia"))):
        source, target = f"{old}/{name}", f"/dev/{name}"
        if os.path.exists(source):
            _bind_at(source, target, read_only=False)
    for name, points_to in _DEVICE_LINKS.items():
        os.symlink(points_to, f"/dev/{name}")
    for name in ("pts", "shm", "mqueue"):
        os.mkdir(f"/dev/{name}")
    linux.bind(old + "/pts", "/dev/pts")
    with contextlib.suppress(OSError):
        linux.mount("mqueue", "/dev/mqueue", "mqueue")
    if shared_memory is not None:
        linux.bind(_OLD_ROOT + shared_memory, "/dev/shm")


def _bind_at(source: str, target: str, *, read_only: bool) -> None:
    """Bind, making the mount point first if it is not there."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    elif not os.path.exists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.islink(target):
            os.unlink(target)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    linux.bind(source, target, read_only=read_only)


def _fill_root(spec: Spec) -> None:
    """Everything below the new root: kernel file systems, devices, fresh folders, single files, volumes."""
    linux.mount("proc", "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    linux.bind(_OLD_ROOT + "/sys", "/sys")
    _build_devices(spec["shared_memory"])
    for directory in spec["directories"]:
        os.makedirs(directory, exist_ok=True)
    for number, directory in enumerate(spec["fresh_directories"]):
        empty = f"{_OLD_ROOT}{spec['layer']}/fresh/{number}"
        os.makedirs(empty)
        os.chmod(empty, 0o1777)
        _bind_at(empty, directory, read_only=False)
    for mount in spec["mounts"]:
        try:
            _bind_at(_OLD_ROOT + mount["source"], mount["target"], read_only=mount["read_only"])
        except OSError as error:
            raise StartError(
                "CreateContainerError",
                f"cannot show {mount['source']} at {mount['target']}: {error.strerror or error}",
            ) from None
    linux.umount(_OLD_ROOT)
    os.rmdir(_OLD_ROOT)


# --- from shim to command ---------------------------------------------------------------------------


def _execute(spec: Spec) -> NoReturn:
    os.setsid()
    os.umask(0o022)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    argv: list[str] = spec["argv"]
    os.makedirs(spec["cwd"], exist_ok=True)
    os.chdir(spec["cwd"])
    try:
        os.execvpe(argv[0], argv, spec["env"])
    except FileNotFoundError:
        path = spec["env"].get("PATH")
        what = f"command {argv[0]!r} is not there: no such program on the container's PATH ({path})"
    except OSError as error:
        what = f"command {argv[0]!r} cannot be executed: {error.strerror}"
    raise StartError("RunContainerError", what)


def _child(spec: Spec, report: int, shim_alive: int) -> NoReturn:
    """The container's first process, from fork to exec. Never returns."""
    try:
        linux.die_with_parent(signal.SIGKILL)
        # In a new pid namespace getppid() is always 0: a pipe tells whether the shim went before that call.
        if select.select([shim_alive], [], [], 0)[0]:
            os._exit(125)
        if spec["mode"] == "namespaces":
            linux.unshare(linux.CLONE_NEWNS)
            _build_root(spec)
            _fill_root(spec)
        _execute(spec)
    except StartError as error:
        _send(report, {"reason": error.reason, "error": str(error)})
    except OSError as error:
        _send(
            report, {"reason": "CreateContainerError", "error": f"the container could not be set up: {error}"}
        )
    finally:
        os._exit(125)


def _send(descriptor: int, message: Mapping[str, Any]) -> None:
    with contextlib.suppress(OSError):
        os.write(descriptor, json.dumps(message).encode() + b"\n")


def _children_of(parent: int) -> list[int]:
    children = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                stat = Path(f"/proc/{entry}/stat").read_text()
                if int(stat.rpartition(")")[2].split()[1]) == parent:
                    children.append(int(entry))
    return children


def end_descendants(rounds: int = 1000) -> None:
    """Kill and reap every process below this one, which must be a subreaper.

    At most ``rounds`` generations of them.
    """
    for _ in range(rounds):
        children = _children_of(os.getpid())
        if not children:
            return
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # Their own children become ours as they go, and are found in the next round.
        for pid in children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _wait_for(child: int) -> int:
    """Reap everything that ends here until ``child`` does; its wait status."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            return status


def _shim(spec: Spec, report: int, parent: int) -> None:
    host_mode = spec["mode"] == "host"
    if host_mode:
        linux.adopt_orphans()
        # Killed at once it could not take its descendants along: no pid namespace does it for us here.
        signal.signal(signal.SIGTERM, _die_with_descendants)
    linux.die_with_parent(signal.SIGTERM if host_mode else signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(125)
    if not host_mode:
        linux.unshare(linux.CLONE_NEWPID)
    shim_alive, keep_open = os.pipe()
    outcome, child_report = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(keep_open)
        _child(spec, child_report, shim_alive)
    os.close(child_report)
    _send(report, {"pid": child})
    with os.fdopen(outcome) as lines:
        problem = lines.readline()
    _send(report, json.loads(problem) if problem else {"running": True})
    status = _wait_for(child)
    if host_mode:
        end_descendants()
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    code = 128 + ended_by if ended_by else os.WEXITSTATUS(status)
    _send(report, {"exit_code": code, "signal": ended_by})


def _die_with_descendants(_number: int, _frame: object) -> None:
    end_descendants()
    os._exit(128 + signal.SIGTERM)


def main(arguments: list[str]) -> None:
    """Run the container of the spec file named first; see the module's text."""
    spec_file, report, parent = arguments
    descriptor = int(report)
    os.set_inheritable(descriptor, False)
    try:
        _shim(json.loads(Path(spec_file).read_text()), descriptor, int(parent))
    except OSError as error:
        _send(
            descriptor,
            {"reason": "CreateContainerError", "error": f"the container could not be set up: {error}"},
        )


if __name__ == "__main__":
    main(sys.argv[1:])

"""Thin wrappers around the Linux calls that give a Pod its own view of the machine.

Each one turns errno into OSError and decides nothing. Must not know of Pods, clusters or rayward's files.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
import sys
from pathlib import Path
from typing import NamedTuple

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 0x2

IN_MOVED_TO = 0x80
IN_DELETE_SELF = 0x400
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_SIOCADDRT = 0x890B
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_SIOCSIFADDR = 0x8916
_SIOCSIFNETMASK = 0x891C
_IFF_UP = 0x1
_RTF_UP_GATEWAY = 0x1 | 0x2

_INOTIFY_EVENT = struct.Struct("iIII")

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def unshare(flags: int) -> None:
    """Give the calling thread new namespaces (``CLONE_NEW*``); raises OSError."""
    _check(_libc.unshare(flags), "unshare")


def setns(descriptor: int, kind: int) -> None:
    """Move the calling thread into the namespace behind an open ``/proc/PID/ns/*``; raises OSError."""
    _check(_libc.setns(descriptor, kind), "setns")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2); an OSError names the target."""
    result = _libc.mount(
        source.encode(),
        target.encode(),
        kind.encode() or None,
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    _check(result, f"mount {kind or 'bind'} on {target}")


def bind(source: str, target: str, *, read_only: bool = False, recursive: bool = True) -> None:
    """Make ``source`` visible at ``target`` too (read-only takes a second call: the kernel wants it so)."""
    mount(source, target, flags=MS_BIND | (MS_REC if recursive else 0))
    if read_only:
        mount("none", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def umount(target: str, flags: int = MNT_DETACH) -> None:
    """umount2(2), lazily by default; raises OSError."""
    _check(_libc.umount2(target.encode(), flags), f"umount {target}")


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2); raises OSError."""
    _check(_libc.pivot_root(new_root.encode(), put_old.encode()), f"pivot_root {new_root}")


def die_with_parent(signal_number: int) -> None:
    """Ask for ``signal_number`` when the parent dies. A parent already gone is for the caller to check."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal_number), 0, 0, 0), "prctl")


def adopt_orphans() -> None:
    """Become the parent of every orphan among this process's descendants (child subreaper)."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0), "prctl")


def inotify() -> int:
    """A descriptor that becomes readable when a watched folder changes; raises OSError."""
    descriptor = int(_libc.inotify_init1(os.O_CLOEXEC))
    _check(0 if descriptor >= 0 else -1, "inotify_init1")
    return descriptor


def inotify_add(descriptor: int, path: str, mask: int) -> int:
    """Watch ``path`` for what ``mask`` (``IN_*``) says; the watch's number. Raises OSError."""
    number = int(_libc.inotify_add_watch(descriptor, os.fsencode(path), ctypes.c_uint32(mask)))
    _check(0 if number >= 0 else -1, f"inotify_add_watch {path}")
    return number


class InotifyEvent(NamedTuple):
    """One change: the number of the watch, what happened (``IN_*``), and to which name in the folder."""

    watch: int
    mask: int
    name: str


def inotify_events(descriptor: int) -> list[InotifyEvent]:
    """All that has happened since the last call; ``descriptor`` is non-blocking."""
    found: list[InotifyEvent] = []
    with contextlib.suppress(BlockingIOError):
        while data := os.read(descriptor, 65536):
            start = 0
            while start < len(data):
                watch, mask, _, length = _INOTIFY_EVENT.unpack_from(data, start)
                start += _INOTIFY_EVENT.size
                name = data[start : start + length].rstrip(b"\0").decode(errors="replace")
                found.append(InotifyEvent(watch, mask, name))
                start += length
    return found


def process_start_time(pid: int) -> int | None:
    """Field 22 of ``/proc/PID/stat`` (clock ticks since boot), or None if there is no such live process.

    Together with the pid it names a process for good, for pids are used again.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def _interface_request(name: str, tail: bytes) -> bytes:
    return struct.pack("16s24s", name.encode(), tail)


def _socket_address(address: str) -> bytes:
    return struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))


def interface_up(name: str, address: str | None = None, prefix: int = 24) -> None:
    """Set an interface of this network namespace up, with an IPv4 address if one is given; raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        if address is not None:
            mask = socket.inet_ntoa(struct.pack("!I", (0xFFFFFFFF << (32 - prefix)) & 0xFFFFFFFF))
            fcntl.ioctl(control, _SIOCSIFADDR, _interface_request(name, _socket_address(address)))
            fcntl.ioctl(control, _SIOCSIFNETMASK, _interface_request(name, _socket_address(mask)))
        answer = fcntl.ioctl(control, _SIOCGIFFLAGS, _interface_request(name, b""))
        flags = struct.unpack_from("=H", answer, 16)[0] | _IFF_UP
        fcntl.ioctl(control, _SIOCSIFFLAGS, _interface_request(name, struct.pack("=H", flags)))


def default_route(gateway: str) -> None:
    """Send everything that is not on a local network to ``gateway``; raises OSError.

    Programs that ask the kernel for "my address towards the world" (Ray does) need one to be there.
    """
    anywhere = _socket_address("0.0.0.0")
    request = struct.pack(
        "@L16s16s16sHhLPhPLLH",
        0,
        anywhere,
        _socket_address(gateway),
        anywhere,
        _RTF_UP_GATEWAY,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCADDRT, request)


def _try_namespaces() -> str | None:
    if os.geteuid() != 0:
        return "this user is not root"
    try:
        unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS)
    except OSError as error:
        if error.errno == errno.EPERM:
            return "no right to make namespaces (CAP_SYS_ADMIN is missing)"
        return f"the kernel makes no namespaces ({error.strerror})"
    try:
        mount("none", "/", flags=MS_REC | MS_PRIVATE)
        interface_up("lo")
    except OSError as error:
        return f"no right to mount or to set up a network here ({error.strerror})"
    return _try_overlay()


def _try_overlay() -> str | None:
    import tempfile  # noqa: PLC0415 (this module is on the path of every container's start)

    with tempfile.TemporaryDirectory(prefix="rayward-try-") as scratch:
        try:
            mount("tmpfs", scratch, "tmpfs")
            upper, work, root = (os.path.join(scratch, part) for part in ("upper", "work", "root"))
            for folder in (upper, work, root):
                os.mkdir(folder)
            mount("overlay", root, "overlay", options=f"lowerdir=/,upperdir={upper},workdir={work}")
            umount(root)
        except OSError as error:
            return f"the kernel lays no overlay over this root file system ({error.strerror})"
        finally:
            umount(scratch)
    return None


def namespaces_available() -> str | None:
    """Why Pods cannot have namespaces of their own here, in words; None when they can.

    Tried for real, in a child process of its own (about 50 ms): keep the answer.
    """
    import subprocess  # noqa: PLC0415 (as above)

    package_parent = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": package_parent}
    try:
        trial = subprocess.run(
            [sys.executable, "-S", "-m", "rayward.local.linux"],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"the trial for namespaces could not run ({error})"
    if trial.returncode == 0:
        return None
    lines = (trial.stdout or trial.stderr).strip().splitlines()
    return lines[-1] if lines else f"the trial for namespaces ended with status {trial.returncode}"


if __name__ == "__main__":
    REASON = _try_namespaces()
    if REASON is not None:
        print(REASON)
        sys.exit(1)

"""Ends connection attempts of a child process to a host that does not answer.

Where a host is silent, a connection attempt of gRPC takes 20 s to fail, and Ray's GCS lets placement groups
wait for it. Refused, it would have failed at once; ``hang_up`` gives it that answer. It needs no right beyond
that over one's own children (pidfd_getfd); where a sandbox forbids it, nothing changes but the wait.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
from collections.abc import Collection, Iterator

_PIDFD_GETFD = 438
_SYN_SENT = "02"


def hang_up(pid: int, hosts: Collection[str]) -> int:
    """End the attempts that process ``pid`` has under way to ``hosts`` (IP addresses); how many there were.

    Raises OSError when its descriptors may not be taken.
    """
    waiting = {f"socket:[{inode}]" for inode in _attempts(pid, hosts)}
    if not waiting:
        return 0
    ended = 0
    pidfd = os.pidfd_open(pid)
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(f"/proc/{pid}/fd/{name}") in waiting:
                    ended += _shut(pidfd, int(name))
    finally:
        os.close(pidfd)
    return ended


def attempts(table: str, hosts: Collection[str]) -> Iterator[str]:
    """Inodes of the sockets in a table like /proc/net/tcp that are about to connect to one of ``hosts``."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == _SYN_SENT and _address(fields[2]) in hosts:
            yield fields[9]


def _attempts(pid: int, hosts: Collection[str]) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/net/{table}") as lines:
            yield from attempts(lines.read(), hosts)


def _address(place: str) -> str:
    """`0100007F:1F90` as `127.0.0.1`; an IPv4 address in an IPv6 socket as IPv4."""
    words = re.findall("." * 8, place.partition(":")[0])
    raw = b"".join(struct.pack("=I", int(word, 16)) for word in words)
    if len(raw) == 16 and raw.startswith(bytes(10) + b"\xff\xff"):
        raw = raw[12:]
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)


def _shut(pidfd: int, number: int) -> int:
    import ctypes  # noqa: PLC0415 (memory that few heads ever need)

    libc = ctypes.CDLL(None, use_errno=True)
    mine = libc.syscall(_PIDFD_GETFD, pidfd, number, 0)
    if mine < 0:
        problem = ctypes.get_errno()
        raise OSError(problem, os.strerror(problem))
    with socket.socket(fileno=mine) as sock, contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    return 1

"""Who is connected to a TCP port of this node: of the network namespace of whoever asks, so of the Pod.

The kernel is asked over netlink (sock_diag(7)), which looks for one port and costs under a millisecond
whatever else is connected. Where it does not answer (gVisor), the tables in /proc/net are read, which hold
every socket.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
_ESTABLISHED, _LISTENS = 1, 10
_SOCK_DIAG = 4
_BY_FAMILY, _DUMP_REQUEST = 20, 0x301
_ERROR, _DONE = 2, 3
_MAPPED = bytes(10) + b"\xff\xff"
_LOOPBACK_6 = bytes(15) + b"\x01"

# State of a socket, its own address, the other end's.
Row = tuple[int, bytes, bytes]


@dataclass(frozen=True)
class Connections:
    """``listens``: somebody accepts connections. ``from_elsewhere``: established ones whose other end is not
    this node."""

    listens: bool
    from_elsewhere: int


def look(port: int) -> Connections:
    """What there is on ``port`` now. Raises nothing."""
    try:
        rows = [*ask_kernel(port, socket.AF_INET), *ask_kernel(port, socket.AF_INET6)]
    except OSError:
        rows = list(read_tables(port))
    return count(rows)


def count(rows: Sequence[Row]) -> Connections:
    """What the sockets of one port come to."""
    return Connections(
        listens=any(state == _LISTENS for state, _, _ in rows),
        from_elsewhere=sum(
            state == _ESTABLISHED and other != own and not _is_loopback(other) for state, own, other in rows
        ),
    )


def ask_kernel(port: int, family: int) -> Iterator[Row]:
    """The sockets of ``family`` on ``port`` that listen or are connected. Raises OSError."""
    wanted = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, 1 << _ESTABLISHED | 1 << _LISTENS)
    place = struct.pack(">HH32x", port, 0) + struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
    body = wanted + place
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
        kernel.settimeout(1.0)
        kernel.sendto(struct.pack("=IHHII", 16 + len(body), _BY_FAMILY, _DUMP_REQUEST, 1, 0) + body, (0, 0))
        while True:
            answer = kernel.recv(1 << 16)
            at = 0
            while at + 16 <= len(answer):
                length, kind = struct.unpack_from("=IH", answer, at)
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    raise OSError(-struct.unpack_from("=i", answer, at + 16)[0], "sock_diag")
                size = 4 if answer[at + 16] == socket.AF_INET else 16
                yield answer[at + 17], answer[at + 24 : at + 24 + size], answer[at + 40 : at + 40 + size]
                at += max(length, 16) + 3 & ~3


def read_tables(port: int, tables: Sequence[str] = TABLES) -> Iterator[Row]:
    """The same from the tables; one that cannot be read counts as empty."""
    # One expression over the whole table: with ten thousand sockets a loop in Python would be felt.
    row = re.compile(rb"^ *\d+: ([0-9A-F]+):%04X ([0-9A-F]+):[0-9A-F]{4} (01|0A) " % port, re.MULTILINE)
    for table in tables:
        with contextlib.suppress(OSError), open(table, "rb") as file:
            for own, other, state in row.findall(file.read()):
                yield int(state, 16), _address(own), _address(other)


def _address(text: bytes) -> bytes:
    """An address of the tables, where each 32 bits of it stand as a number of this machine."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    return struct.pack(f"={len(words)}I", *words)


def _is_loopback(address: bytes) -> bool:
    if address.startswith(_MAPPED):
        address = address[len(_MAPPED) :]
    return address[0] == 127 if len(address) == 4 else address == _LOOPBACK_6

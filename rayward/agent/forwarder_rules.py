"""Where the connections of a worker to the GCS go, and when they are cut: pure, no sockets and no clocks."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

from rayward.agent.heads import Choice

MOST_PARKED = 4096
BUFFER = 256 * 1024
"""Bytes held for a reader that is slower than its writer, for each direction of a connection."""
RETRY_EVERY = 0.05
"""Seconds between two attempts at a GCS that refuses; one connection tries for all that wait."""

TOO_MANY_PARKED = "too many waiting"
NO_FILES_LEFT = "too many open files"
GCS_REFUSED = "gcs refused"
GCS_SILENT = "gcs silent"
REASONS = (TOO_MANY_PARKED, NO_FILES_LEFT, GCS_REFUSED, GCS_SILENT)


@dataclass(frozen=True)
class Target:
    """One reign of one GCS: connections belong to it, and end with it. ``gcs`` is ip:port."""

    epoch: int
    gcs: str

    @property
    def place(self) -> tuple[str, int]:
        """Address and port to connect to."""
        host, _, port = self.gcs.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def family(self) -> socket.AddressFamily:
        """IPv4 or IPv6."""
        return socket.AF_INET6 if ":" in self.place[0] else socket.AF_INET


@dataclass(frozen=True)
class Course:
    """What follows from who leads. ``target``: where connections belong; those of another one are cut.
    ``open``: whether new ones may go there now, else they wait. ``reason``: the sentence that says why."""

    target: Target | None
    open: bool
    reason: str


@dataclass(frozen=True)
class ForwarderStatus:
    """What the forwarder has done so far, for ``/status`` and ``/metrics``.

    ``connections``, ``parked`` and ``connecting`` count what is there now; the rest since the start.
    ``refused`` counts by reason: connections that were turned away, and attempts that the GCS did not take.
    ``leads``: a head leads and its GCS serves.
    """

    listening: str
    gcs: str
    epoch: int
    reason: str
    connections: int = 0
    parked: int = 0
    connecting: int = 0
    accepted: int = 0
    hung_up: int = 0
    cuts: int = 0
    bytes_to_gcs: int = 0
    bytes_from_gcs: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    leads: bool = False


def usable(gcs: str) -> bool:
    """Whether ``gcs`` is an IP address with a port. Names are not: looking one up would stall everything."""
    host, _, port = gcs.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) <= 65535:
        return False
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in bare else socket.AF_INET, bare)
    except (OSError, ValueError):
        return False
    return True


def choose_course(current: Target | None, choice: Choice, listening: str) -> Course:
    """Where connections belong from now on.

    While nobody leads, those there are stay (calls in flight go on, and a GCS that ends breaks them by
    itself), new ones wait. A leader with another epoch or address takes the old ones' place at once, also
    before its GCS serves.
    """
    leader = choice.leader
    if leader is None:
        return Course(current, False, choice.reason)
    if not usable(leader.gcs):
        return Course(current, False, f"{leader.name} leads but gives no GCS address, {leader.gcs!r}")
    if leader.gcs == listening:
        return Course(
            current, False, f"{leader.name} gives {leader.gcs} as its GCS, where this forwarder listens"
        )
    target = Target(leader.epoch, leader.gcs)
    if not leader.serving:
        return Course(
            target, False, f"{leader.name} leads with epoch {leader.epoch}, its GCS does not serve yet"
        )
    return Course(target, True, choice.reason)

"""Holds back what one Pod sends, frame by frame, for a while: latency on connections that are already there.

The kernel's own tool for this (netem) is missing from many small kernels. Here the bridge's filter drops
the Pod's frames, a packet socket on the Pod's bridge port picks them up before that, and a thread puts each
one on the bridge when its time has come. Offload headers travel along, so large segments and unfinished
checksums stay valid. Needs root.
"""

from __future__ import annotations

import collections
import contextlib
import ipaddress
import select
import socket
import threading
import time

from rayward.drill.cut import Cut, Rule
from rayward.errors import RaywardError
from rayward.local.network import Fabric, in_network_at

_SOL_PACKET, _PACKET_VNET_HDR, _PACKET_IGNORE_OUTGOING = 263, 15, 23
# All protocols: the bridge takes a frame before taps for a single one see it.
_ETH_P_ALL = 0x0003
_ETHER_TYPE_IP = b"\x08\x00"
_BRIDGE = "br0"
_HEADER = 10  # struct virtio_net_hdr
_LARGEST = 1 << 17
_LINK_LENGTH = 14


class Delay:
    """Latency on one Pod's link; ``start`` and ``stop`` (which may come at any time and more than once)."""

    def __init__(self, fabric: Fabric, address: str, seconds: float) -> None:
        self._fabric = fabric
        self._address = address
        self._seconds = seconds
        self._cut = Cut(fabric.path)
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self.held_back = 0

    def start(self) -> None:
        """From now on every IPv4 frame of the Pod is late, except to this host. Raises RaywardError."""
        port = f"p{int(ipaddress.IPv4Address(self._address)):08x}"
        try:
            tap, out = in_network_at(self._fabric.path, lambda: (_socket(port), _socket(_BRIDGE, tap=False)))
        except OSError as problem:
            raise RaywardError(
                f"the link of {self._address} cannot be watched: {problem}", where="redis-slow"
            ) from problem
        self._thread = threading.Thread(target=self._run, args=(tap, out), name="drill-delay", daemon=True)
        self._thread.start()
        gateway = self._fabric.gateway
        try:
            self._cut.apply([Rule(self._address, gateway, passes=True), Rule(source=self._address)])
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Let frames pass at once again; those that wait are lost, which TCP repairs."""
        self._cut.heal()
        self._over.set()
        if self._thread is not None:
            self._thread.join(5)

    def _run(self, tap: socket.socket, out: socket.socket) -> None:
        waiting: collections.deque[tuple[float, bytes]] = collections.deque()
        gateway = ipaddress.IPv4Address(self._fabric.gateway).packed
        with tap, out:
            while not self._over.is_set():
                pause = 0.05 if not waiting else max(0.0, min(0.05, waiting[0][0] - time.monotonic()))
                if select.select([tap], [], [], pause)[0]:
                    frame = tap.recv(_LARGEST)
                    if _is_late(frame, gateway):
                        waiting.append((time.monotonic() + self._seconds, frame))
                while waiting and waiting[0][0] <= time.monotonic():
                    # A full queue loses the frame, as a real link would.
                    with contextlib.suppress(OSError):
                        out.send(waiting.popleft()[1])
                        self.held_back += 1


def _is_late(frame: bytes, spared: bytes) -> bool:
    """Whether a frame is one that the filter drops: IPv4, and not to the spared address. Pure."""
    packet = _HEADER + _LINK_LENGTH
    return frame[packet - 2 : packet] == _ETHER_TYPE_IP and frame[packet + 16 : packet + 20] != spared


def _socket(interface: str, tap: bool = True) -> socket.socket:
    """A packet socket on an interface of this namespace: to listen on (a tap) or only to send with."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        made.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        if tap:
            made.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        made.bind((interface, _ETH_P_ALL if tap else 0))
    except BaseException:
        made.close()
        raise
    return made

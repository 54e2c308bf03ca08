"""What the proxy of Services decides: whose turn it is, which connections may stay, and when one that must
leave its endpoint may be closed without anybody's answer being cut. Pure: no sockets, no clocks of its own.
"""

from __future__ import annotations

import enum
import re
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

TABLE_FILE = "services.json"
"""Where a cluster's folder has the proxy's `Table`, replaced by rename."""
CONNECT_S = 0.5
"""Seconds after which an endpoint that does not take a connection is given up for the next one."""
WAIT_S = 1.0
"""Seconds for which a connection waits for an endpoint when there is none."""
SUSPECT_S = 1.0
"""Seconds for which an endpoint that took no connection is asked after all others."""
QUIET_S = 0.05
"""Seconds of silence after a whole answer, after which a client is taken to have no question on its way."""
OPAQUE_QUIET_S = 1.0
"""The same where no end of an answer can be seen: a protocol that is not HTTP/1, or encrypted."""
HEAD_LIMIT = 4096
"""Bytes kept of each answer's beginning; a longer header counts as one that cannot be read."""

_TAIL = b"\r\n0\r\n\r\n"
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
_LAST = re.compile(rb"\r\nconnection:[^\r]*close", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r]*chunked", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*(?:\r|$)", re.IGNORECASE)

Place = tuple[str, int]
"""Address and port."""


class Endpoint(NamedTuple):
    """A port of one Pod. ``pod`` is the Pod's uid: a later Pod at the same address is another endpoint."""

    address: str
    port: int
    pod: str


class Standing(enum.Enum):
    """What an endpoint is to the connections that it has.

    ``READY``: offered to new ones. ``WITHDRAWN``: not offered any more, but its Pod still runs and answers
    what it was asked. ``GONE``: its Pod is no more, and nothing will ever come from it.
    """

    READY = "ready"
    WITHDRAWN = "withdrawn"
    GONE = "gone"


@dataclass(frozen=True)
class Table:
    """All that the proxy has to know. ``ready``: the ready endpoints of each port of each Service, sorted.
    ``pods``: the uids of all Pods that have not ended, whether a Service selects them or not: a Pod that lost
    a label, or whose Service was turned to other Pods, still answers what it was asked."""

    ready: Mapping[Place, tuple[Endpoint, ...]]
    pods: frozenset[str] = frozenset()

    @property
    def addresses(self) -> frozenset[str]:
        """The Services' own addresses."""
        return frozenset(address for address, _ in self.ready)

    def standing(self, place: Place, endpoint: Endpoint) -> Standing:
        """Of one of ``place``'s endpoints, present or past."""
        if endpoint in self.ready.get(place, ()):
            return Standing.READY
        return Standing.WITHDRAWN if endpoint.pod in self.pods else Standing.GONE

    def to_json(self) -> dict[str, Any]:
        """As `from_json` reads it; equal tables give equal values."""
        fronts = [
            {"address": address, "port": port, "ready": [list(endpoint) for endpoint in sorted(endpoints)]}
            for (address, port), endpoints in sorted(self.ready.items())
        ]
        return {"services": fronts, "pods": sorted(self.pods)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Table:
        """Raises KeyError, TypeError or ValueError for anything that is no table."""
        ready = {
            (str(front["address"]), int(front["port"])): tuple(
                sorted(Endpoint(str(ip), int(port), str(pod)) for ip, port, pod in front["ready"])
            )
            for front in value["services"]
        }
        return cls(ready, frozenset(map(str, value["pods"])))


class Turn:
    """Who is next. Goes round over whatever endpoints there are, however they change meanwhile."""

    def __init__(self) -> None:
        self._last: Endpoint | None = None

    def next(
        self, ready: Sequence[Endpoint], tried: Collection[Endpoint], suspects: Collection[Endpoint]
    ) -> Endpoint | None:
        """The endpoint to connect to; None when all of ``ready`` (sorted) have been tried.

        One of ``suspects`` is taken only when there is no other.
        """
        left = [endpoint for endpoint in ready if endpoint not in tried]
        left = [endpoint for endpoint in left if endpoint not in suspects] or left
        if not left:
            return None
        after = bisect_right(left, self._last) if self._last is not None else 0
        self._last = left[after % len(left)]
        return self._last


class Answer(enum.Enum):
    """How much of an HTTP/1 answer has passed; ``UNKNOWN`` for bytes that are none, or not to be read."""

    WHOLE = "whole"
    PARTLY = "partly"
    UNKNOWN = "unknown"


def answer_state(head: bytes, count: int, tail: bytes) -> Answer:
    """Of what a server sent since its client spoke: its first bytes (`HEAD_LIMIT` at most), how many there
    were, and the last seven of them.

    An answer that ends with its connection is never whole; nor is one to HEAD, whose length is that of a body
    that does not come. Both are rare, and PARTLY only means that nobody closes them early.
    """
    status = _STATUS.match(head)
    end = head.find(b"\r\n\r\n")
    if status is None or end < 0 or status[1] == b"101":
        return Answer.UNKNOWN
    end += 4
    if status[1].startswith(b"1"):
        return Answer.PARTLY
    if status[1] in (b"204", b"304"):
        return Answer.WHOLE
    if _CHUNKED.search(head, 0, end):
        return Answer.WHOLE if tail == _TAIL else Answer.PARTLY
    length = _LENGTH.search(head, 0, end)
    if length is None or count < end + int(length[1]):
        return Answer.PARTLY
    return Answer.WHOLE if count == end + int(length[1]) else Answer.UNKNOWN


class Exchange:
    """Who spoke last on one connection, and what. Times are seconds of any one clock."""

    __slots__ = ("_count", "_head", "_spoke_at", "_tail", "_waits")

    def __init__(self) -> None:
        self._waits = False
        self._spoke_at = 0.0
        self._head = self._tail = b""
        self._count = 0

    def client_spoke(self) -> None:
        """The client asks: nothing may be closed before the answer."""
        self._waits = True

    def server_spoke(self, data: memoryview, now: float) -> None:
        """The server answers, or goes on answering."""
        if self._waits:
            self._waits, self._head, self._count, self._tail = False, b"", 0, b""
        if len(self._head) < HEAD_LIMIT:
            self._head += data[: HEAD_LIMIT - len(self._head)]
        self._tail = (self._tail + bytes(data[-len(_TAIL) :]))[-len(_TAIL) :]
        self._count += len(data)
        self._spoke_at = now

    @property
    def answered(self) -> bool:
        """Whether the server has just said all that it was asked for, and the client has not asked again."""
        return not self._waits and answer_state(self._head, self._count, self._tail) is Answer.WHOLE

    @property
    def _unused(self) -> bool:
        """Neither side has said anything yet."""
        return not self._waits and not self._count

    @property
    def may_move(self) -> bool:
        """Whether the client may ask again here, and would not notice if another server answered.

        To close it could cross the client's next question, which nobody would answer then. A client that asks
        without waiting for answers (pipelining) is not foreseen: none that is in use does.
        """
        head = self._head.partition(b"\r\n\r\n")[0]
        again = head.startswith(b"HTTP/1.1 ") and _LAST.search(head) is None
        return self._unused or (self.answered and again)

    def quiet_in(self, now: float) -> float | None:
        """Seconds until it may be left if nobody speaks meanwhile; None: not before somebody has spoken.

        A stream that pauses is not quiet: the end of its answer is still to come.
        """
        if self._unused:
            return 0.0
        if self._waits:
            return None
        state = answer_state(self._head, self._count, self._tail)
        if state is Answer.PARTLY:
            return None
        wanted = QUIET_S if state is Answer.WHOLE else OPAQUE_QUIET_S
        return max(0.0, self._spoke_at + wanted - now)

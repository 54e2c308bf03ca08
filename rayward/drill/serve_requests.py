"""Requests of a load as it reports them, line by line, and what they sum up to. Pure.

All moments are seconds of CLOCK_MONOTONIC, which the load and the drill share.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from rayward.drill.statistics import percentile

_FIELDS = 6


class Request(NamedTuple):
    """One request. It was due at ``scheduled`` and sent ``late_ms`` later; ``latency_ms`` counts from
    ``scheduled`` to the answer or the failure, so a load that stalls hides nothing. ``words``: why it failed.
    """

    number: int
    scheduled: float
    late_ms: float
    latency_ms: float
    ok: bool
    words: str = ""

    @property
    def ended(self) -> float:
        """When the answer was there, or the failure."""
        return self.scheduled + self.latency_ms / 1000

    @property
    def sent(self) -> float:
        """When it was begun."""
        return self.scheduled + self.late_ms / 1000


def request_line(request: Request) -> str:
    """As `parse_request` reads it, with the line's end."""
    words = " ".join(request.words.split())
    return (
        f"{request.number} {request.scheduled:.6f} {request.late_ms:.3f} {request.latency_ms:.3f} "
        f"{int(request.ok)} {words}\n"
    )


def parse_request(line: str) -> Request:
    """Raises ValueError for what is no such line."""
    fields = line.rstrip("\n").split(" ", _FIELDS - 1)
    if len(fields) != _FIELDS or fields[4] not in ("0", "1"):
        raise ValueError(f"not a request: {line!r}")
    number, scheduled, late, latency, ok, words = fields
    return Request(int(number), float(scheduled), float(late), float(latency), ok == "1", words)


def due_before(moment: float, begun: float, rate: float) -> int:
    """How many requests were due before ``moment`` when number n is due at ``begun`` + n / ``rate``."""
    return max(0, math.ceil(round((moment - begun) * rate, 6)))


def served_rate(requests: Sequence[Request], begun: float, ended: float) -> float:
    """Right answers per second between two moments."""
    return sum(request.ok and begun <= request.ended < ended for request in requests) / (ended - begun)


def latency_ms(requests: Iterable[Request]) -> dict[str, float | None]:
    """p50, p99 and maximum of the requests that were answered; None each when none was."""
    found = [request.latency_ms for request in requests if request.ok]
    if not found:
        return {"p50": None, "p99": None, "max": None}
    return {"p50": percentile(found, 0.5), "p99": percentile(found, 0.99), "max": max(found)}


def per_second(requests: Iterable[Request], zero: float) -> list[dict[str, Any]]:
    """One entry for each second in which a request was due, counted from ``zero``: how many were due, how
    many of them failed, and how long the others took."""
    seconds: dict[int, list[Request]] = {}
    for request in requests:
        seconds.setdefault(math.floor(request.scheduled - zero), []).append(request)
    return [
        {
            "second": second,
            "count": len(found),
            "failed": sum(not request.ok for request in found),
            **latency_ms(found),
        }
        for second, found in sorted(seconds.items())
    ]


def missing_requests(
    requests: Iterable[Request], first: int, end: int, begun: float, rate: float
) -> list[Request]:
    """Those of numbers ``first`` to ``end`` (not included) that were never reported, as failures."""
    seen = {request.number for request in requests}
    return [
        Request(number, begun + number / rate, 0.0, 0.0, False, "nothing was heard of it")
        for number in range(first, end)
        if number not in seen
    ]

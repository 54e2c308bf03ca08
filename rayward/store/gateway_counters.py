"""What the gateway counts. Pure numbers, given out as one JSON object."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, Dict

# Upper bounds in seconds: a Redis on the same machine answers in 0.1 ms, one in another zone in 2 ms.
LATENCY_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0)


class Counters:
    """Everything since the process started, but ``parked``, ``parked_bytes``, ``held_bytes`` and ``clients``,
    which are as of now. ``refused``: commands that the gateway itself refuses; ``fenced``: how often the
    store refused a write because somebody else leads; ``latency``: that of the store, from sending a command
    to its whole answer.
    """

    __slots__ = (
        "_buckets", "_sum", "clients", "commands", "fenced", "held_bytes", "local", "parked", "parked_bytes",
        "parked_max", "reads", "reconnects", "refused", "retried", "writes",
    )  # fmt: skip

    def __init__(self) -> None:
        self.commands = 0
        self.local = 0
        self.reads = 0
        self.writes = 0
        self.refused = 0
        self.fenced = 0
        self.retried = 0
        self.reconnects = 0
        self.clients = 0
        self.parked = 0
        self.parked_bytes = 0
        self.parked_max = 0
        self.held_bytes = 0
        self._buckets = [0] * (len(LATENCY_BOUNDS) + 1)
        self._sum = 0.0

    def answered(self, seconds: float) -> None:
        """The store has answered a command after this time."""
        self._buckets[bisect_left(LATENCY_BOUNDS, seconds)] += 1
        self._sum += seconds

    def as_json(self) -> Dict[str, Any]:
        """All of it; ``latency.buckets`` counts each answer in one bucket only (the last has no bound)."""
        found: Dict[str, Any] = {
            name: getattr(self, name) for name in self.__slots__ if not name.startswith("_")
        }
        found["latency"] = {
            "count": sum(self._buckets),
            "sum": round(self._sum, 6),
            "bounds": LATENCY_BOUNDS,
            "buckets": list(self._buckets),
        }
        return found

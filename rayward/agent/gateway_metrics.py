"""The store gateway's counters in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PLAIN = (
    ("commands", "counter", "Commands that the GCS has sent."),
    ("reads", "counter", "Commands passed on as they are."),
    ("writes", "counter", "Commands passed on behind the check of the epoch."),
    ("fenced", "counter", "Writes that the store refused because another head leads."),
    ("refused", "counter", "Commands and log-ins that the gateway itself refused."),
    ("retried", "counter", "Commands sent again after a fault of the store."),
    ("reconnects", "counter", "Connections to the store that were opened anew."),
    ("parked", "gauge", "Commands that wait for the store now."),
    ("parked_bytes", "gauge", "What the waiting commands take, in bytes."),
    ("clients", "gauge", "Connections of the GCS now."),
)


def gateway_metrics(counters: Mapping[str, Any]) -> list[str]:
    """All lines for these counters; none before the gateway has reported."""
    lines: list[str] = []
    for name, kind, what in _PLAIN:
        if name in counters:
            full = f"rayward_gateway_{name}" + ("_total" if kind == "counter" else "")
            lines += [f"# HELP {full} {what}", f"# TYPE {full} {kind}", f"{full} {counters[name]}"]
    latency = counters.get("latency")
    if not isinstance(latency, Mapping):
        return lines
    name = "rayward_gateway_store_seconds"
    lines += [
        f"# HELP {name} From sending a command to the store to its whole answer.",
        f"# TYPE {name} histogram",
    ]
    below = 0
    for bound, count in zip(latency["bounds"], latency["buckets"]):
        below += count
        lines.append(f'{name}_bucket{{le="{bound:g}"}} {below}')
    lines += [
        f'{name}_bucket{{le="+Inf"}} {latency["count"]}',
        f"{name}_sum {latency['sum']}",
        f"{name}_count {latency['count']}",
    ]
    return lines

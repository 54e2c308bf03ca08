"""What the agent's HTTP port says of Ray Serve's proxy: ``/servez``, in ``/status``, in ``/metrics``."""

from __future__ import annotations

import os
import time
from typing import Any

from rayward.agent.metrics import metric
from rayward.agent.serve_hook import is_leaving
from rayward.agent.serve_watch import ServeWatch
from rayward.agent.snapshot import Snapshot


def servez(seen: Snapshot, raylet_runs: bool, serve: ServeWatch) -> tuple[int, dict[str, Any]]:
    """200 when requests to this node are answered: its raylet runs and its proxy is healthy.

    No GCS is asked for, nor, on a head, who leads: a proxy answers without. So does a node that is leaving.
    """
    state = serve.state
    reason = state.reason if raylet_runs else f"the raylet of this node does not run: {seen.reason}"
    answers = raylet_runs and state.healthy
    return (200 if answers else 503), {"answers": answers, "routes": state.routes, "reason": reason}


def serve_status(serve: ServeWatch) -> dict[str, Any]:
    """The ``serve`` part of ``/status``. ``since_s``: for how long it has been healthy, or has not."""
    state = serve.state
    return {
        "port": serve.port,
        "healthy": state.healthy,
        "routes": state.routes,
        "reason": state.reason,
        "since_s": round(time.monotonic() - state.since, 3),
        "connections": serve.connections(),
        "leaving": is_leaving(os.environ),
    }


def serve_metrics(serve: ServeWatch) -> str:
    """The lines about Serve for ``/metrics``."""
    state = serve.state
    lines: list[str] = []
    for name, what, value in (
        ("healthy", "Whether this node's Ray Serve proxy answers.", state.healthy),
        ("routes", "Routes that this node's Ray Serve proxy knows.", state.routes),
        ("connections", "Connections from elsewhere to this node's Ray Serve proxy.", serve.connections()),
    ):
        lines += metric(f"rayward_serve_{name}", "gauge", what, [("", value)])
    return "\n".join(lines) + "\n"

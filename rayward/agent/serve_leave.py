"""``leave``: what a node of Ray Serve does before it is stopped (a Pod's ``preStop``).

The node goes on serving until nobody sends any more. Taking it out of Services is Kubernetes' own doing and
has begun by then; clients that hold connections open are told to let go of them by ``serve_middleware``, in
Ray's proxy.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from rayward.agent import connections, serve_hook
from rayward.agent.connections import Connections

_LOOK_EVERY = 0.25


@dataclass(frozen=True)
class Patience:
    """Seconds. ``least``: how long Services may go on sending although the node is leaving. ``most``: when to
    leave in any case. ``quiet``: for how long there must have been no connection."""

    least: float = 2.0
    most: float = 10.0
    quiet: float = 1.0


def reason_to_go(seen: Connections, elapsed: float, quiet_for: float, patience: Patience) -> str:
    """Why the node may be stopped now; empty while it should go on serving."""
    if not seen.listens:
        return "no Serve proxy listens here"
    if elapsed >= patience.most:
        return f"the time is up; connections left: {seen.from_elsewhere}"
    if elapsed >= min(patience.least, patience.most) and quiet_for >= patience.quiet:
        return "nobody is connected any more"
    return ""


def leave_main(environ: Mapping[str, str], patience: Patience) -> int:
    """Wait until the node may be stopped; returns 0, also where there is nothing to wait for."""
    port = environ.get("RAYWARD_SERVE_PORT", "")
    if not port.isdecimal():
        return 0
    serve_hook.say_leaving(environ)
    began = quiet_since = time.monotonic()
    while True:
        seen, now = connections.look(int(port)), time.monotonic()
        if seen.from_elsewhere:
            quiet_since = now
        reason = reason_to_go(seen, now - began, now - quiet_since, patience)
        if reason:
            print(f"rayward agent: left after {now - began:.1f} s: {reason}", flush=True)
            return 0
        time.sleep(_LOOK_EVERY)

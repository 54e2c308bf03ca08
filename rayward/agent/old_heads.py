"""What a new leader tells its GCS of the head before it: that it is gone, and not to be waited for."""

from __future__ import annotations

import threading
import time

from rayward.agent.events import EventLog
from rayward.agent.gcs_nodes import unregister_heads
from rayward.agent.hang_up import hang_up

_TIMEOUT = 2.0
# The GCS begins what it wants of a head while it loads, and tries a few times more.
_HANG_UP_FOR, _HANG_UP_EVERY = 5.0, 0.1


def bury(events: EventLog, host: str, port: int, pid: int, spared: str = "") -> None:
    """Have the GCS (process ``pid``, serving at ``host:port``) forget the heads before this one, all but one
    whose raylet is at address ``spared``. Returns at once."""
    threading.Thread(target=_bury, args=(events, host, port, pid, spared), daemon=True).start()


def _bury(events: EventLog, host: str, port: int, pid: int, spared: str) -> None:
    gone, problem = unregister_heads(host, port, _TIMEOUT, spared)
    if gone or problem:
        names = ", ".join(node.node_id for node in gone) or "none found"
        told = f"the last leader's raylet is taken out of the node table ({names})"
        events.add("OldHeadUnregistered", f"{told}: {problem}" if problem else told)
    # A head that came back on its old address must not be cut off.
    hosts = {node.address for node in gone} - {host}
    end = time.monotonic() + _HANG_UP_FOR
    ended = 0
    while hosts and time.monotonic() < end:
        try:
            ended += hang_up(pid, hosts)
        except OSError as refusal:
            events.add("OldHeadStillAwaited", f"the GCS waits for its silent host, up to 20 s: {refusal}")
            break
        time.sleep(_HANG_UP_EVERY)
    if ended:
        events.add("OldHeadHungUp", f"{ended} connection attempts of the GCS to its silent host are ended")

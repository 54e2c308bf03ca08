"""How many replicas of a Redis keep up with it, read off its own report. Pure text."""

from __future__ import annotations

import re

from rayward.store.resp import Reply

# A replica reports every second. One that has been silent for longer counts as gone, though Redis itself
# waits for a minute: a head and a replica may lie on one lost machine, and the lease must not wait for it.
LAG_LIMIT_S = 3

_REPLICA = re.compile(rb"^slave\d+:(?P<fields>.*)$", re.MULTILINE)


def online_replicas(info: Reply, lag_limit: int = LAG_LIMIT_S) -> int:
    """Replicas in ``INFO replication`` that are online and reported within ``lag_limit`` seconds."""
    if not isinstance(info, bytes):
        return 0
    count = 0
    for found in _REPLICA.finditer(info):
        pairs = (pair.partition(b"=") for pair in found["fields"].strip().split(b","))
        fields = {name: value for name, _, value in pairs}
        lag = fields.get(b"lag", b"")
        if fields.get(b"state") == b"online" and lag.isdigit() and int(lag) <= lag_limit:
            count += 1
    return count

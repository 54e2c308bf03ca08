"""Waits until a cluster is whole again after a fault, and counts what must not grow from one to the next."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from rayward.agent.processes import resident_bytes
from rayward.drill import heads
from rayward.drill.injectors import agent_part, find_part
from rayward.errors import RaywardError
from rayward.local.cluster import LocalCluster

RECOVERY_LIMIT = 120.0
_LOOK_AGAIN = 0.1
_MEGABYTE = 2**20


def wait_settled(
    cluster: LocalCluster, wanted: int, limit: float = RECOVERY_LIMIT, but_leader: str = ""
) -> float:
    """Wait until one head leads and serves, ``wanted`` heads are there in all, no head that is gone has a say
    any more, and every Pod is ready; returns the moment. ``but_leader``: a head that must not be the leader
    any more.

    Raises RaywardError with what is missing.
    """
    deadline = time.monotonic() + limit
    seen = ""
    while True:
        with contextlib.suppress(RaywardError):
            views = heads.look(cluster)
            lead = heads.choose_leader(views)
            moved = lead is not None and lead.name != but_leader
            progress = cluster.progress()
            whole = moved and heads.settled(views, wanted) and progress.ready
            gone = _heard_and_gone(cluster, views) if whole else ()
            if whole and not gone:
                return time.monotonic()
            seen = ", ".join(f"{view.name} {view.role}{' serving' * view.serving}" for view in views)
            seen += "".join(f", {name} is gone and has a say" for name in gone)
            seen += "".join(f", {pod.name} {pod.status}" for pod in progress.pods if not pod.is_ready)
        if time.monotonic() > deadline:
            raise RaywardError(
                f"not whole again {limit:g} s later: {seen}",
                where=f"cluster {cluster.name}",
                todo="`rayward list`, `rayward status`",
            )
        time.sleep(_LOOK_AGAIN)


def _heard_and_gone(cluster: LocalCluster, views: Sequence[heads.HeadView]) -> tuple[str, ...]:
    """Heads that the leader would still ask for their word when the store goes away."""
    lease = heads.read_lease(cluster)
    there = {view.name for view in views}
    return tuple(name for name in lease.heads if name not in there) if lease is not None else ()


def measure(cluster: LocalCluster) -> dict[str, float]:
    """Memory and threads of the leader's agent and GCS, keys in Redis: what must not grow."""
    lead = heads.leader(cluster)
    assert lead.gcs is not None
    found = {"GCS MiB": resident_bytes(lead.gcs[0]) / _MEGABYTE}
    agent = find_part(lead.pod, lambda argv: agent_part(argv) == "head")
    if agent is not None:
        found["agent MiB"] = resident_bytes(agent[0]) / _MEGABYTE
        found["agent threads"] = float(_threads(agent[0]))
    with contextlib.suppress(RedisError, RaywardError, OSError), heads.redis_of(cluster) as (client, _):
        keys: Any = client.dbsize()
        found["keys"] = float(keys)
        found["fields"] = float(_fields(client))
    return {name: round(value, 1) for name, value in found.items()}


def _fields(client: Any) -> int:
    keys = [key for key in client.scan_iter(match="RAY*", count=1000) if client.type(key) == b"hash"]
    return sum(int(client.hlen(key)) for key in keys)


def _threads(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("Threads:"):
            return int(line.split()[1])
    return 0

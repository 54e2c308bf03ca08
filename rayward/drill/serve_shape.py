"""What a RayService looks like at one moment, and what it lacks to be as it was before a fault. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Shape:
    """``active`` and ``pending`` are names of clusters, empty where there is none; ``endpoints`` what the
    service's status counts, ``offered`` how many its address leads to (None: it has none of its own);
    ``replicas`` the Pods of each deployment's replicas, as the status has them; ``parts`` what identifies the
    GCS, Redis, the operator and the active cluster, so that another one is told from the same one."""

    active: str = ""
    pending: str = ""
    clusters: tuple[str, ...] = ()
    running: bool = False
    endpoints: int = 0
    offered: int | None = None
    replicas: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    heads: tuple[str, ...] = ()
    workers: tuple[str, ...] = ()
    not_ready: tuple[str, ...] = ()
    settled: bool = True
    parts: Mapping[str, str] = field(default_factory=dict)


def lacks(before: Shape, now: Shape, gone: frozenset[str] = frozenset(), changes: str = "") -> list[str]:
    """What is missing until the service is as it was ``before``, as phrases; empty when nothing is.

    ``gone``: Pods that must not be there any more; ``changes``: the part of which another must be there.
    """
    found = [f"{name} is still there" for name in sorted(gone & {*now.heads, *now.workers})]
    if changes and now.parts.get(changes, "") in ("", before.parts.get(changes, "")):
        found.append(f"no other {changes} is there")
    if not now.active or now.pending:
        found.append(f"{now.pending or 'a cluster'} is to take over")
    if len(now.clusters) != len(before.clusters):
        found.append(f"{len(now.clusters)} clusters")
    if not now.running:
        found.append("the applications do not all run")
    if now.endpoints < before.endpoints:
        found.append(f"{now.endpoints} of {before.endpoints} endpoints")
    if before.offered is not None and (now.offered or 0) < before.offered:
        found.append(f"its address leads to {now.offered or 0} of {before.offered} endpoints")
    pods = {*now.heads, *now.workers}
    for name, wanted in sorted(before.replicas.items()):
        there = [pod for pod in now.replicas.get(name, ()) if pod in pods]
        if len(there) < len(wanted):
            found.append(f"{name} has {len(there)} of {len(wanted)} replicas")
    for kind, then, those in (("heads", before.heads, now.heads), ("workers", before.workers, now.workers)):
        if len(those) != len(then):
            found.append(f"{len(those)} of {len(then)} {kind}")
    if not now.settled:
        found.append("no head leads and serves, or another does not stand by")
    return found + list(now.not_ready)


def news(before: Shape, now: Shape) -> list[str]:
    """What has changed from one look to the next, as phrases for a line of time."""
    found = []
    if now.active != before.active:
        found.append(f"{now.active or 'no cluster'} is active")
    if now.pending != before.pending:
        found.append(f"{now.pending} is built" if now.pending else "no cluster is pending")
    if now.offered != before.offered:
        found.append(f"the address leads to {now.offered} endpoints")
    if now.endpoints != before.endpoints:
        found.append(f"numServeEndpoints is {now.endpoints}")
    if now.running != before.running:
        found.append("all applications run" if now.running else "not all applications run")
    then, those = {*before.heads, *before.workers}, {*now.heads, *now.workers}
    found += [f"Pod {name} is gone" for name in sorted(then - those)]
    found += [f"Pod {name} is made" for name in sorted(those - then)]
    return found

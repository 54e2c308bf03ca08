"""Asks the agents of heads how they fare: who leads, which fence is in force, how the store is.

The agents need no API server to fail over; this only carries what they know into status and Events. Each
head is asked now and then, and at once when its readiness changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import async_timeout

from rayward.api.fault_tolerance import FT_ENABLED
from rayward.kube.agent_client import AgentClient
from rayward.kube.cache import Key
from rayward.kube.views import cluster_of
from rayward.plan import names
from rayward.plan.heads import has_agent
from rayward.plan.pod_state import is_ready, is_terminating

Raw = dict[str, Any]
EVERY_S, SILENT_EVERY_S = 20.0, 5.0
_ROUND_S, _AT_ONCE, _TIMEOUT_S = 1.0, 50, 2.0


@dataclass
class _Seen:
    """What a head's agent said last. ``due`` is monotonic; ``asking`` while the question is under way;
    ``asked`` once there was an answer, or none in time."""

    key: Key
    name: str
    address: str
    ready: bool
    due: float = 0.0
    answer: Raw | None = None
    asking: bool = False
    asked: bool = False


@dataclass
class AgentLooks:
    """The newest answers. ``changed(key)`` is called when one tells something new of a cluster."""

    port: int
    changed: Callable[[Key], None]
    clock: Callable[[], float] = time.monotonic
    _heads: dict[str, _Seen] = field(default_factory=dict)
    _of_cluster: dict[Key, set[str]] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def of(self, pods: Iterable[Raw]) -> Mapping[str, Raw] | None:
        """What is known of these Pods' agents, by Pod name; the silent ones are missing. None while one of
        them was not asked yet, as after the start of an operator: what was known before still holds."""
        found = {}
        for pod in pods:
            seen = self._heads.get(str(pod["metadata"].get("uid")))
            if seen is not None and not seen.asked:
                return None
            if seen is not None and seen.answer is not None:
                found[seen.name] = seen.answer
        return found

    def note(self, old: Raw | None, new: Raw | None, initial: bool) -> None:
        """A Pod changed, as the informer tells it."""
        pod = new or old
        if pod is None or not _is_asked(pod):
            return
        uid, address = str(pod["metadata"]["uid"]), str((pod.get("status") or {}).get("podIP") or "")
        if new is None or is_terminating(new) or not address:
            self._forget(uid)
            return
        seen = self._heads.get(uid)
        if seen is None or seen.address != address:
            key = cluster_of(new)
            if key is None:
                return
            seen = self._heads[uid] = _Seen(key, str(pod["metadata"]["name"]), address, False)
            self._of_cluster.setdefault(key, set()).add(uid)
        if seen.ready != is_ready(new) or seen.due == 0.0:
            seen.ready, seen.due = is_ready(new), self.clock()
            # The others of its cluster know something new as well.
            for other in self._of_cluster[seen.key]:
                self._heads[other].due = min(self._heads[other].due, self.clock())
            self._wake.set()

    def _forget(self, uid: str) -> None:
        seen = self._heads.pop(uid, None)
        if seen is not None:
            self._of_cluster[seen.key].discard(uid)
            if not self._of_cluster[seen.key]:
                del self._of_cluster[seen.key]

    async def run(self) -> None:
        """Ask whoever is due, until cancelled."""
        limit = asyncio.Semaphore(_AT_ONCE)
        running: set[asyncio.Task[None]] = set()
        async with AgentClient(_TIMEOUT_S) as client:
            while True:
                now = self.clock()
                for uid, seen in list(self._heads.items()):
                    if seen.due <= now and not seen.asking:
                        seen.asking = True
                        task = asyncio.create_task(self._ask(client, limit, uid, seen))
                        running.add(task)
                        task.add_done_callback(running.discard)
                self._wake.clear()
                # Not wait_for: before Python 3.12 it may swallow a cancellation.
                with contextlib.suppress(asyncio.TimeoutError):
                    async with async_timeout.timeout(_ROUND_S):
                        await self._wake.wait()

    async def _ask(self, client: AgentClient, limit: asyncio.Semaphore, uid: str, seen: _Seen) -> None:
        asked = self.clock()
        try:
            async with limit:
                answer = summary(await client.status(seen.address, self.port))
        except (OSError, ValueError):
            answer = None
        finally:
            seen.asking = False
        if self._heads.get(uid) is not seen:
            return
        if seen.due <= asked:
            seen.due = self.clock() + (EVERY_S if answer is not None else SILENT_EVERY_S)
        if answer != seen.answer or not seen.asked:
            seen.answer, seen.asked = answer, True
            self.changed(seen.key)


def summary(status: Raw) -> Raw:
    """The part of an agent's /status that says something about the cluster and stays the same while
    nothing happens."""
    lead = status.get("lead")
    kept: Raw = {"role": status.get("role"), "fence": status.get("fence")}
    if isinstance(lead, dict):
        wanted = ("role", "state", "epoch", "member", "leader", "paused", "store")
        kept["lead"] = {name: lead.get(name) for name in wanted}
    return kept


def _is_asked(pod: Raw) -> bool:
    """Whether it is a head whose agent knows of a lead. What another operator made has none."""
    annotations = pod["metadata"].get("annotations") or {}
    return names.node_type(pod) == names.HEAD and annotations.get(FT_ENABLED) == "true" and has_agent(pod)

"""Kubernetes Events: told to users by `kubectl describe`, never waited for, never in the way.

The same words about the same object become one Event with a count; each object has a budget, so that a
cluster in trouble cannot flood the API server.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import async_timeout

from rayward.kube.client import ApiError, KubeClient
from rayward.kube.kinds import EVENTS
from rayward.kube.rate import WHENEVER, urgency
from rayward.plan.outcome import Event
from rayward.plan.pod_state import timestamp

Raw = dict[str, Any]
REMEMBERED_S, BUDGET, REFILL_S = 600.0, 25.0, 20.0
_QUEUED, _REMEMBERED, _SAYING, _LONGEST = 10_000, 4_000, 20_000, 1000

_log = logging.getLogger("rayward.events")


@dataclass
class _Said:
    """An Event that exists: its name, how often it was said, and when last (monotonic)."""

    name: str
    count: int = 1
    last: float = 0.0


@dataclass
class _Budget:
    """How many more Events an object may have now."""

    left: float = BUDGET
    since: float = 0.0


@dataclass
class EventRecorder:
    """Takes Events at once and writes them from a task of its own (``run``)."""

    client: KubeClient
    component: str
    instance: str
    clock: Callable[[], float] = time.monotonic
    dropped: int = 0
    _queue: collections.deque[tuple[Raw, Event]] = field(default_factory=collections.deque)
    _said: collections.OrderedDict[tuple[str, ...], _Said] = field(default_factory=collections.OrderedDict)
    _budgets: collections.OrderedDict[str, _Budget] = field(default_factory=collections.OrderedDict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _busy: bool = False

    def record(self, about: Raw, event: Event) -> None:
        """Say ``event`` of the object ``about`` (raw, with kind and metadata). Never blocks or raises."""
        if len(self._queue) >= _QUEUED or not self._afford(str(about["metadata"].get("uid", ""))):
            self.dropped += 1
            return
        self._queue.append((about, event))
        self._wake.set()

    async def run(self) -> None:
        """Write what is recorded, until cancelled. Nothing else waits for it."""
        urgency.set(WHENEVER)
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                self._busy = True
                about, event = self._queue.popleft()
                try:
                    await self._write(about, event)
                except (ApiError, OSError) as error:
                    # An Event that is lost costs nobody anything; its words are in the log.
                    _log.info("event not written: %s", error)
                finally:
                    self._busy = False

    async def drain(self, seconds: float) -> None:
        """Wait until everything recorded is written, at most ``seconds``."""
        with contextlib.suppress(asyncio.TimeoutError):
            async with async_timeout.timeout(seconds):
                await self._drained()

    async def _drained(self) -> None:
        while self._queue or self._busy:
            await asyncio.sleep(0.02)

    def _afford(self, uid: str) -> bool:
        now = self.clock()
        budget = self._budgets.setdefault(uid, _Budget(since=now))
        self._budgets.move_to_end(uid)
        while len(self._budgets) > _SAYING:
            self._budgets.popitem(last=False)
        budget.left = min(BUDGET, budget.left + (now - budget.since) / REFILL_S)
        budget.since = now
        if budget.left < 1:
            return False
        budget.left -= 1
        return True

    async def _write(self, about: Raw, event: Event) -> None:
        metadata = about["metadata"]
        words = (str(metadata.get("uid", "")), event.type, event.reason, event.message)
        said = self._said.get(words)
        moment = timestamp(time.time())
        if (
            said is not None
            and self.clock() - said.last < REMEMBERED_S
            and await self._again(said, metadata, moment)
        ):
            return
        name = f"{metadata['name'][:230]}.{os.urandom(8).hex()}"
        await self.client.create(EVENTS, self._event(about, event, name, moment))
        self._said[words] = _Said(name, last=self.clock())
        self._said.move_to_end(words)
        while len(self._said) > _REMEMBERED:
            self._said.popitem(last=False)

    async def _again(self, said: _Said, metadata: Raw, moment: str) -> bool:
        body = {"count": said.count + 1, "lastTimestamp": moment}
        try:
            await self.client.patch(EVENTS, _namespace(metadata), said.name, body)
        except ApiError as error:
            if error.status == 404:  # Events end after an hour
                return False
            raise
        said.count, said.last = said.count + 1, self.clock()
        return True

    def _event(self, about: Raw, event: Event, name: str, moment: str) -> Raw:
        metadata = about["metadata"]
        subject = {
            "apiVersion": about.get("apiVersion", "v1"),
            "kind": about["kind"],
            "name": metadata["name"],
            "namespace": _namespace(metadata),
            "uid": metadata.get("uid"),
            "resourceVersion": metadata.get("resourceVersion"),
        }
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": _namespace(metadata)},
            "involvedObject": {key: value for key, value in subject.items() if value},
            "type": event.type,
            "reason": event.reason,
            "message": event.message[:_LONGEST],
            "count": 1,
            "firstTimestamp": moment,
            "lastTimestamp": moment,
            "source": {"component": self.component},
            "reportingComponent": self.component,
            "reportingInstance": self.instance,
        }


def _namespace(metadata: Raw) -> str:
    return str(metadata.get("namespace") or "default")

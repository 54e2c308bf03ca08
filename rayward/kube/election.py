"""Lets one of several operators work at a time, by a Lease object; ``lead_record`` has the rules.

A candidate watches the Lease, so that one let go is taken at once. A holder that cannot renew stops before
anybody else may start; it does not come back, its process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import async_timeout

from rayward.kube.api_error import ApiError
from rayward.kube.client import KubeClient
from rayward.kube.kinds import LEASES
from rayward.kube.lead_record import Record, Sighting, Stand, Timing, judge, released, taken

__all__ = ["Election", "Timing"]

Raw = dict[str, Any]
RELEASE_S = 5.0
_WATCH_S = 60
_SOON_S = 0.2
_log = logging.getLogger("rayward.election")


class Election:
    """One candidate. ``identity`` must be this process's alone (in a Pod its name will do: the one before in
    the same Pod is dead). ``clock`` is monotonic, ``wall`` is written for people and compared with nothing.

    ``holder`` is who leads as far as is known, ``problem`` a sentence while the Lease cannot be had.
    """

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        name: str,
        identity: str,
        timing: Timing | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.identity = identity
        self.problem: str | None = None
        self._client = client
        self._namespace, self._name = namespace, name
        self._timing = timing or Timing()
        self._clock, self._wall = clock, wall
        self._seen: Sighting | None = None
        self._moved = asyncio.Event()
        self._valid_until = 0.0
        self._leading = False

    @property
    def holder(self) -> str:
        """Who holds the Lease by the last look; empty: nobody, or not known."""
        return self._seen.record.holder if self._seen is not None else ""

    @property
    def leads(self) -> bool:
        """Whether this process may write now. False on its own clock before anybody else may."""
        return self._leading and self._clock() < self._valid_until

    async def hold(self, on_lead: Callable[[], Awaitable[None] | None], on_lost: Callable[[], None]) -> None:
        """Waits for the Lease, calls ``on_lead``, and renews until it is lost: then ``on_lost()``, and ends.

        What ``on_lead`` returns is awaited beside the renewals; what that raises ends ``hold``. Cancelled
        while it leads, ``hold`` lets the Lease go: stop the work first.
        """
        try:
            await self._win()
            _log.info("%s leads (%s/%s)", self.identity, self._namespace, self._name)
            why = await self._lead(on_lead())
            self._leading = False
            self.problem = f"the lease is lost: {why}"
            _log.error("%s leads no more: %s", self.identity, why)
            on_lost()
        finally:
            await asyncio.shield(self.release())

    async def release(self) -> None:
        """Lets the Lease go, if it is held: the next candidate takes it at once."""
        if not self._leading or self._seen is None:
            return
        self._leading = False
        record: Record | None = self._seen.record
        try:
            async with async_timeout.timeout(RELEASE_S):
                try:
                    await self._let_go(record)
                except ApiError as error:
                    if not error.conflict:
                        raise
                    # A renewal was under way when the end came.
                    await self._let_go(await self._read())
        except (ApiError, OSError, asyncio.TimeoutError) as error:
            _log.warning("the lease could not be released, others wait for its end: %s", error)

    async def _let_go(self, record: Record | None) -> None:
        if record is not None and record.holder == self.identity:
            self._note(await self._write(released(record, self._wall()), record.version))

    # -- standing by -----------------------------------------------------------------------------------

    async def _win(self) -> None:
        """Until the Lease is ours."""
        looking = asyncio.create_task(self._look())
        try:
            while not await self._try_to_take():
                self._moved.clear()
                with contextlib.suppress(asyncio.TimeoutError):
                    # Not wait_for: before Python 3.12 it may swallow a cancellation.
                    async with async_timeout.timeout(self._timing.retry):
                        await self._moved.wait()
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    async def _look(self) -> None:
        """Keeps the sighting fresh: a change is seen when it happens, not at the next try."""
        while True:
            pause = min(_SOON_S, self._timing.retry)
            try:
                record = await self._read()
                watch = self._client.watch(
                    LEASES,
                    self._namespace,
                    resource_version=record.version if record is not None else "",
                    fields=f"metadata.name={self._name}",
                    timeout_s=_WATCH_S,
                    opened=self._can_look,
                )
                async with contextlib.aclosing(watch) as events:
                    async for event in events:
                        if event.type in ("ADDED", "MODIFIED"):
                            self._note(Record.of(event.object))
            except (ApiError, OSError) as error:
                self._report(error)
                pause = self._timing.retry
            await asyncio.sleep(pause)

    def _can_look(self) -> None:
        self.problem = None

    async def _try_to_take(self) -> bool:
        if judge(self._seen, self.identity, self._timing, self._clock()) is Stand.TAKEN:
            return False
        try:
            async with async_timeout.timeout(self._timing.renew_deadline / 2):
                record = await self._read()
                if judge(self._seen, self.identity, self._timing, self._clock()) is Stand.TAKEN:
                    return False
                await self._renew(record)
        except (ApiError, OSError, asyncio.TimeoutError) as error:
            if not (isinstance(error, ApiError) and error.status == 409):  # 409: another was faster
                self._report(error)
            return False
        self._leading, self.problem = True, None
        return True

    # -- leading ---------------------------------------------------------------------------------------

    async def _lead(self, work: Awaitable[None] | None) -> str:
        """Renews beside ``work``; why the Lease was lost."""
        keep = asyncio.create_task(self._keep())
        tasks: set[asyncio.Future[Any]] = {keep}
        if work is not None:
            tasks.add(asyncio.ensure_future(work))
        pending = tasks
        try:
            while keep in pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            return keep.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self) -> str:
        """Renews until that fails for too long or somebody else holds the Lease; why it ended."""
        timing, problem, pause = self._timing, "", self._timing.retry
        record = self._seen.record if self._seen is not None else None
        while True:
            await asyncio.sleep(max(0.0, min(pause, self._valid_until - self._clock())))
            left, pause = self._valid_until - self._clock(), timing.retry
            if left <= 0:
                return f"not renewed for {timing.renew_deadline:g} s: {problem or 'this process stood still'}"
            try:
                # One call that hangs must leave time for another.
                async with async_timeout.timeout(min(left, timing.renew_deadline / 2)):
                    if problem:
                        # The write before may have arrived, or somebody else's has.
                        record = await self._read()
                        if record is not None and record.holder != self.identity:
                            return f"{record.holder or 'nobody'} holds it now"
                    record = await self._renew(record)
                problem, self.problem = "", None
            except (ApiError, OSError, asyncio.TimeoutError) as error:
                problem = self._report(error)
                if isinstance(error, ApiError) and error.conflict:
                    pause = _SOON_S

    # -- the Lease -------------------------------------------------------------------------------------

    async def _renew(self, record: Record | None) -> Record:
        """Writes that the Lease is ours, unless ``record`` (None: there is none) is not what it says now."""
        started = self._clock()
        spec = taken(record, self.identity, self._timing, self._wall())
        if record is None:
            metadata = {"name": self._name, "namespace": self._namespace}
            body = {
                "apiVersion": LEASES.api_version,
                "kind": LEASES.name,
                "metadata": metadata,
                "spec": spec,
            }
            written = Record.of(await self._client.create(LEASES, body))
        else:
            written = await self._write(spec, record.version)
        self._note(written)
        # Counted from before the request: others count from after it.
        self._valid_until = started + self._timing.renew_deadline
        return written

    async def _write(self, spec: Raw, version: str) -> Record:
        body = {"metadata": {"resourceVersion": version}, "spec": spec}
        return Record.of(await self._client.patch(LEASES, self._namespace, self._name, body))

    async def _read(self) -> Record | None:
        """The Lease; None when there is none, which changes nothing about what was seen before."""
        try:
            record = Record.of(await self._client.get(LEASES, self._namespace, self._name))
        except ApiError as error:
            if not error.not_found:
                raise
            return None
        self._note(record)
        return record

    def _note(self, record: Record) -> None:
        now = self._clock()
        before = self._seen
        self._seen = before.then(record, now) if before is not None else Sighting(record, now)
        if before is None or before.record.word != record.word:
            self._moved.set()

    def _report(self, error: BaseException) -> str:
        problem = f"lease {self._namespace}/{self._name}: {str(error) or 'no answer in time'}"
        if problem != self.problem:
            _log.warning("%s", problem)
        self.problem = problem
        return problem

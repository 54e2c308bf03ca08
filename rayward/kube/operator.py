"""The operator process: puts the pieces together, leads or waits, and goes in order.

Its caches are kept while it waits to lead, so that a second replica takes over without a first look.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial

import async_timeout

from rayward import __version__
from rayward.kube import views
from rayward.kube.agent_config_map import SELECTOR, AgentConfigMap
from rayward.kube.agent_look import AgentLooks
from rayward.kube.cache import Key
from rayward.kube.client import KubeClient
from rayward.kube.controller import Controller
from rayward.kube.election import Election
from rayward.kube.events import EventRecorder
from rayward.kube.expect import Expectations
from rayward.kube.informer import Informer
from rayward.kube.kinds import (
    CONFIGMAPS,
    JOBS,
    NODES,
    PODS,
    PVCS,
    RAYCLUSTERS,
    RAYSERVICES,
    SERVICES,
    Kind,
)
from rayward.kube.metrics import CONTROLLER, SERVICE_CONTROLLER, Metrics
from rayward.kube.raycluster import RayClusters
from rayward.kube.rayservice import RayServices
from rayward.kube.serve import Port, health, metrics
from rayward.kube.settings import OperatorSettings
from rayward.kube.views import BY_CLUSTER, BY_NODE, BY_SERVICE, BY_STORE
from rayward.kube.work_queue import WorkQueue
from rayward.plan import names

COMPONENT = "rayward-operator"
LEASE = "rayward-operator"
_STOP_S, _EVENTS_S = 20.0, 3.0
_LOOK_S, _PATIENCE_S = 0.5, 5.0

View = Callable[[views.Raw], views.Raw]
Indices = Mapping[str, Callable[[views.Raw], Iterable[str]]]
# Without these it works too: a lost node is then known only by its Pods, and an API server that does not know
# RayServices has none.
OPTIONAL = frozenset({NODES, RAYSERVICES})
# Nothing works without these: objects of all other kinds have names of their own, and one that exists is not
# made twice.
ESSENTIAL = frozenset({RAYCLUSTERS, PODS})

_log = logging.getLogger("rayward.operator")


class Operator:
    """One replica. ``run`` returns the exit code."""

    def __init__(self, client: KubeClient, settings: OperatorSettings) -> None:
        self._client, self._settings = client, settings
        self.identity = settings.identity or f"{socket.gethostname()}_{os.urandom(4).hex()}"
        self.metrics = Metrics()
        client.observe = self.metrics.asked
        self.queue: WorkQueue[Key] = WorkQueue()
        self.service_queue: WorkQueue[Key] = WorkQueue()
        self.metrics.watch_queues(
            {CONTROLLER: lambda: len(self.queue), SERVICE_CONTROLLER: lambda: len(self.service_queue)}
        )
        self.informers = _informers(client, settings.namespaces)
        service_parts = _service_informers(client, settings.namespaces)
        self._all_informers = (*self.informers.values(), *service_parts.values())
        agent = AgentConfigMap(client, self.informers[CONFIGMAPS])
        self.events = EventRecorder(client, COMPONENT, self.identity)
        self.looks = AgentLooks(settings.planning.agent_port, self.queue.add)
        self.clusters = RayClusters(
            client=client,
            informers=self.informers,
            queue=self.queue,
            expectations=Expectations(),
            events=self.events,
            agent=agent,
            looks=self.looks,
            settings=replace(settings.planning, agent_config_map=agent.name),
            metrics=self.metrics,
            steady_s=settings.steady_s,
        )
        self.controller = Controller(
            CONTROLLER,
            self.queue,
            self.clusters.reconcile,
            settings.workers,
            urgent_workers=settings.urgent_workers,
        )
        self.controller.observe = partial(self.metrics.ran, CONTROLLER)
        self.services = RayServices(
            client=client,
            informers={**service_parts, **{kind: self.informers[kind] for kind in (RAYCLUSTERS, PODS)}},
            queue=self.service_queue,
            expectations=Expectations(),
            events=self.events,
            settings=settings.planning,
            metrics=self.metrics,
            steady_s=settings.steady_s,
        )
        self.service_controller = Controller(
            SERVICE_CONTROLLER, self.service_queue, self.services.reconcile, settings.workers
        )
        self.service_controller.observe = partial(self.metrics.ran, SERVICE_CONTROLLER)
        self._leads = not settings.elect
        self._ended = asyncio.Event()
        self._lost = False
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> int:
        """Serve until told to end (SIGTERM, SIGINT: 0) or until another replica leads (1)."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ended.set)
        ports = self._ports()
        _log.info("rayward %s starts as %s", __version__, self.identity)
        try:
            self.clusters.watch()
            self.services.watch()
            for informer in self._all_informers:
                self._spawn(informer.run())
            election = asyncio.create_task(self._elect())
            election.add_done_callback(self._task_ended)
            await self._ended.wait()
            await self._stop(election)
        finally:
            for port in ports:
                port.close()
        return 1 if self._lost else 0

    def problem(self) -> str:
        """What keeps this replica from doing its work; empty when nothing does."""
        needed = [found for found in self._all_informers if found.kind not in OPTIONAL]
        for informer in needed:
            if informer.problem:
                return f"{informer.kind.plural}: {informer.problem}"
        waiting = [informer.kind.plural for informer in needed if not informer.synced.is_set()]
        return f"waiting for the first list of {', '.join(waiting)}" if waiting else ""

    # -- parts -----------------------------------------------------------------------------------------

    def _ports(self) -> list[Port]:
        found = []
        for address, routes in (
            (self._settings.metrics_address, metrics(self.metrics.registry)),
            (self._settings.health_address, health(lambda: "", self.problem)),
        ):
            if address[1] >= 0:
                found.append(Port(address, routes))
        return found

    async def _elect(self) -> None:
        if not self._settings.elect:
            await self._lead()
            return
        election = Election(self._client, self._settings.election_namespace, LEASE, self.identity)
        # A holder that cannot renew writes nothing more, before anybody else may.
        self._client.may_write = lambda: election.leads
        gauge = self.metrics.leads.labels(LEASE)
        gauge.set(0)

        async def lead() -> None:
            gauge.set(1)
            await self._lead()

        def lost() -> None:
            gauge.set(0)
            _log.error("another replica leads; this one ends")
            self._lost = True
            self._ended.set()

        await election.hold(lead, lost)

    async def _lead(self) -> None:
        started = time.monotonic()
        needed = (informer for informer in self._all_informers if informer.kind not in OPTIONAL)
        await asyncio.gather(*map(self._filled, needed))
        # What the first lists hold lives as long as the process: no need to look through it for garbage.
        gc.collect()
        gc.freeze()
        _log.info("leading; caches filled after %.2f s", time.monotonic() - started)
        self._leads = True
        self._spawn(self.events.run())
        self._spawn(self.looks.run())
        self._spawn(self.services.looks.run())
        self.controller.start()
        self.service_controller.start()

    async def _filled(self, informer: Informer) -> None:
        """Until a cache is filled; one of a kind that can be done without is not waited for when the API
        server refuses it: whoever reads /readyz or the log sees why, and clusters work as far as they can."""
        since = time.monotonic()
        while not informer.synced.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                async with async_timeout.timeout(_LOOK_S):
                    await informer.synced.wait()
            refused = informer.problem and time.monotonic() - since > _PATIENCE_S
            if refused and informer.kind not in ESSENTIAL:
                _log.error("working without a view of %s", informer.problem)
                return

    def _spawn(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)  # type: ignore[arg-type]
        task.add_done_callback(self._task_ended)
        self._tasks.append(task)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            _log.critical("a part of the operator broke", exc_info=task.exception())
            self._lost = True
            self._ended.set()

    async def _stop(self, election: asyncio.Task[None]) -> None:
        """Finish what is under way, then let another replica lead at once."""
        _log.info("stopping")
        if self._leads:
            # Once the lease is lost another replica is about to begin: there is no time to finish.
            grace = 0.0 if self._lost else _STOP_S
            await asyncio.gather(self.controller.stop(grace), self.service_controller.stop(grace))
            await self.events.drain(0.0 if self._lost else _EVENTS_S)
        for task in self._tasks:
            task.cancel()
        election.cancel()  # releases the lease
        await asyncio.gather(election, *self._tasks, return_exceptions=True)
        await self._client.close()


def _service_informers(client: KubeClient, namespaces: tuple[str, ...]) -> dict[Kind, Informer]:
    """What only the controller of RayServices needs. Their Services carry another label than those of
    RayClusters, and a selector cannot say "one or the other"."""
    owned = f"{names.OWNER_KIND}=RayService"
    found = (
        Informer(client, RAYSERVICES, view=views.cluster_view, namespaces=namespaces),
        Informer(
            client,
            SERVICES,
            view=views.plain_view,
            namespaces=namespaces,
            labels=owned,
            indices={BY_SERVICE: views.service_index},
        ),
    )
    return {item.kind: item for item in found}


def _informers(client: KubeClient, namespaces: tuple[str, ...]) -> dict[Kind, Informer]:
    parts = {BY_CLUSTER: views.cluster_index}
    pods = f"{names.NODE_TYPE} in ({names.HEAD},{names.WORKER},{names.REDIS_CLEANUP})"

    def informer(
        kind: Kind, view: View, labels: str = "", indices: Indices = parts, metadata_only: bool = False
    ) -> Informer:
        return Informer(
            client,
            kind,
            view=view,
            namespaces=namespaces if kind.namespaced else (),
            labels=labels,
            metadata_only=metadata_only,
            indices=indices,
        )

    found = (
        informer(
            RAYCLUSTERS,
            views.cluster_view,
            indices={BY_STORE: views.store_index, BY_SERVICE: views.service_index},
        ),
        informer(PODS, views.pod_view, pods, {**parts, BY_NODE: views.node_index}),
        informer(SERVICES, views.plain_view, names.CLUSTER),
        informer(PVCS, views.plain_view, names.CLUSTER),
        informer(JOBS, views.plain_view, f"{names.NODE_TYPE}={names.REDIS_CLEANUP}"),
        informer(CONFIGMAPS, views.name_view, SELECTOR, {}, metadata_only=True),
        informer(NODES, views.node_view, "", {}),
    )
    return {item.kind: item for item in found}

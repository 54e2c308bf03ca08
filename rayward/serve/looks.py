"""Keeps asking: dashboards for applications (and sends them what to serve), proxies whether they serve.

Every cluster and every head is asked by a task of its own, so that one that is slow delays no other. Shells
say whom to ask and are told when something new was heard; answers are immutable: any thread may read them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import async_timeout

from rayward.plan.names import HEAD, node_type
from rayward.plan.pod_state import is_ready, is_terminating
from rayward.plan.serve_status import read_answer
from rayward.plan.service_outcome import ServeSeen, ServicePlan, Submission
from rayward.serve.client import RefusedError, ServeClient

Key = TypeVar("Key", bound=Hashable)

TIMEOUT_S, PROXY_TIMEOUT_S = 5.0, 1.0
_BUSY_S, _SETTLED_S, _REFUSED_S = 0.5, 10.0, 30.0
_PROXY_S, _AGAIN_S = 1.0, 0.2
# From this many questions a second on the pace gets slower: a thousand services are still one process' work.
_DASHBOARDS_A_SECOND, _PROXIES_A_SECOND = 20, 100


@dataclass(frozen=True)
class Dashboard:
    """A cluster's dashboard, and what it is asked. An empty ``address``: there is no head to ask now."""

    address: str
    submission: Submission
    token: str = ""


@dataclass(frozen=True)
class Proxy:
    """The Serve proxy on a head Pod."""

    uid: str
    address: str
    port: int


def dashboard_pause_s(services: int) -> float:
    """Seconds between two looks at a dashboard of which nothing new is expected, with so many services."""
    return max(_SETTLED_S, services / _DASHBOARDS_A_SECOND)


def proxy_pause_s(services: int) -> float:
    """Seconds between two looks at a head's proxy that answers, with so many services."""
    return max(_PROXY_S, services / _PROXIES_A_SECOND)


def questions(
    plan: ServicePlan, pods: Mapping[str, Sequence[dict[str, Any]]]
) -> tuple[list[Dashboard], list[Proxy]]:
    """Whom a plan wants asked, ``pods`` being the Ray Pods by their cluster's name: of each cluster the head
    that leads, and the proxies of all its heads. Tokens are for the shell to add."""
    dashboards, proxies = [], []
    for submission in plan.serve:
        heads = [pod for pod in pods.get(submission.cluster, ()) if _may_be_asked(pod)]
        leader = next((pod for pod in heads if is_ready(pod)), None)
        dashboards.append(Dashboard(leader["status"]["podIP"] if leader else "", submission))
        proxies += [Proxy(pod["metadata"]["uid"], pod["status"]["podIP"], plan.serve_port) for pod in heads]
    return dashboards, proxies


def _may_be_asked(pod: dict[str, Any]) -> bool:
    has_address = bool((pod.get("status") or {}).get("podIP"))
    return node_type(pod) == HEAD and has_address and not is_terminating(pod)


class _Asked:
    """Something that is asked again and again by a task of its own; ``poke`` has it asked now."""

    def __init__(self) -> None:
        self.poke = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def pause(self, seconds: float) -> None:
        # Not wait_for: before Python 3.12 it may swallow a cancellation.
        with contextlib.suppress(asyncio.TimeoutError):
            async with async_timeout.timeout(seconds):
                await self.poke.wait()
        self.poke.clear()

    def end(self) -> None:
        if self.task is not None:
            self.task.cancel()


class _Cluster(_Asked):
    """One cluster's dashboard. ``refused_until`` is monotonic."""

    def __init__(self, asked: Dashboard) -> None:
        super().__init__()
        self.asked = asked
        self.seen = ServeSeen()
        self.refused_until = 0.0


class _Head(_Asked):
    """One head's proxy; ``silent`` counts answers that were missed in a row."""

    def __init__(self, proxy: Proxy, serves: bool | None) -> None:
        super().__init__()
        self.proxy = proxy
        self.serves = serves
        self.silent = 0


@dataclass
class _Service:
    clusters: dict[str, _Cluster] = field(default_factory=dict)
    heads: dict[str, _Head] = field(default_factory=dict)

    def all(self) -> list[_Asked]:
        return [*self.clusters.values(), *self.heads.values()]


class ServeLooks(Generic[Key]):
    """The newest answers, by the service's ``Key``. ``changed(key)`` is called when there is something new.

    All methods but ``seen`` and ``proxies`` belong to the event loop that ``run`` runs in; what is wished for
    before that is asked once it runs.
    """

    def __init__(self, changed: Callable[[Key], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._changed, self._clock = changed, clock
        self._services: dict[Key, _Service] = {}
        self._clients: tuple[ServeClient, ServeClient] | None = None

    def seen(self, key: Key) -> dict[str, ServeSeen]:
        """What is known of Ray Serve, by cluster."""
        service = self._services.get(key)
        return {name: found.seen for name, found in list(service.clusters.items())} if service else {}

    def proxies(self, key: Key) -> dict[str, bool]:
        """Whether the heads' proxies serve, by the uid of the Pod; without those not asked yet."""
        service = self._services.get(key)
        found = list(service.heads.items()) if service else []
        return {uid: head.serves for uid, head in found if head.serves is not None}

    def wish(self, key: Key, dashboards: Iterable[Dashboard], proxies: Iterable[Proxy]) -> None:
        """Ask these from now on for this service, and no others."""
        service = self._services.setdefault(key, _Service())
        wanted = {found.submission.cluster: found for found in dashboards}
        for name in service.clusters.keys() - wanted.keys():
            service.clusters.pop(name).end()
        for name, dashboard in wanted.items():
            found = service.clusters.get(name)
            if found is None:
                found = service.clusters[name] = _Cluster(dashboard)
                self._start(key, found)
            else:
                _change(found, dashboard)
        heads = {proxy.uid: proxy for proxy in proxies}
        for uid in service.heads.keys() - heads.keys():
            service.heads.pop(uid).end()
        for uid, proxy in heads.items():
            head = service.heads.get(uid)
            if head is None or head.proxy != proxy:
                if head is not None:
                    head.end()
                service.heads[uid] = _Head(proxy, head.serves if head else None)
                self._start(key, service.heads[uid])

    def forget(self, key: Key) -> None:
        """The service is gone."""
        service = self._services.pop(key, None)
        for found in service.all() if service is not None else ():
            found.end()

    async def run(self) -> None:
        """Ask, until cancelled."""
        async with ServeClient(TIMEOUT_S) as dashboards, ServeClient(PROXY_TIMEOUT_S, idle=0) as proxies:
            self._clients = dashboards, proxies
            try:
                for key, service in self._services.items():
                    for found in service.all():
                        self._start(key, found)
                await asyncio.Event().wait()
            finally:
                self._clients = None
                for service in self._services.values():
                    for found in service.all():
                        found.end()

    def _start(self, key: Key, found: _Asked) -> None:
        if self._clients is None:
            return
        if isinstance(found, _Cluster):
            found.task = asyncio.create_task(self._ask_dashboard(self._clients[0], key, found))
        elif isinstance(found, _Head):
            found.task = asyncio.create_task(self._ask_proxy(self._clients[1], key, found))

    # -- questions -------------------------------------------------------------------------------------

    async def _ask_dashboard(self, client: ServeClient, key: Key, cluster: _Cluster) -> None:
        while True:
            asked = cluster.asked
            if asked.address:
                seen = await self._asked(client, cluster, asked)
                if seen != cluster.seen:
                    cluster.seen = seen
                    self._changed(key)
            settled = cluster.asked.submission.settled
            await cluster.pause(dashboard_pause_s(len(self._services)) if settled else _BUSY_S)

    async def _asked(self, client: ServeClient, cluster: _Cluster, asked: Dashboard) -> ServeSeen:
        """What is known after one question and, where it has to be sent, the configuration."""
        port = asked.submission.dashboard_port
        seen = cluster.seen
        try:
            seen = await self._submitted(client, cluster, asked)
            view = read_answer(await client.applications(asked.address, port, asked.token))
            if view.applications is None:
                return replace(seen, problem="the dashboard's answer is not that of Ray Serve")
        except OSError as error:
            return replace(seen, problem=str(error))
        # Meanwhile there may be another head, or another configuration to send.
        return replace(seen, view=view, view_after=cluster.asked.address == asked.address, problem="")

    async def _submitted(self, client: ServeClient, cluster: _Cluster, asked: Dashboard) -> ServeSeen:
        wish, seen = asked.submission, cluster.seen
        lost = seen.view_after and seen.view.empty
        if wish.body is None or (seen.taken == wish.digest and not lost):
            return seen
        if seen.refused and self._clock() < cluster.refused_until:
            return seen
        try:
            await client.submit(asked.address, wish.dashboard_port, wish.body, asked.token)
        except RefusedError as error:
            cluster.refused_until = self._clock() + _REFUSED_S
            return replace(seen, refused=str(error))
        return replace(seen, taken=wish.digest, refused="", view_after=False)

    async def _ask_proxy(self, client: ServeClient, key: Key, head: _Head) -> None:
        while True:
            serves = head.serves
            try:
                serves, head.silent = await client.proxy_serves(head.proxy.address, head.proxy.port), 0
            except TimeoutError:
                # One slow answer withdraws nobody.
                head.silent += 1
                serves = bool(serves) and head.silent < 2
            except OSError:
                serves, head.silent = False, 0
            if serves != head.serves:
                head.serves = serves
                self._changed(key)
            await head.pause(_AGAIN_S if head.silent else proxy_pause_s(len(self._services)))


def _change(cluster: _Cluster, dashboard: Dashboard) -> None:
    """Ask for something else, or somebody else, from now on."""
    before, cluster.asked = cluster.asked, dashboard
    if before.submission.digest != dashboard.submission.digest:
        cluster.refused_until = 0.0
        if dashboard.submission.digest:
            cluster.seen = replace(cluster.seen, refused="")
    if before.address != dashboard.address:
        # Another head: what it says counts only once it has said it.
        cluster.seen = replace(cluster.seen, view_after=False)
    if before != dashboard:
        cluster.poke.set()

"""The controller of RayServices: gathers what exists of one, asks the planner, has it carried out.

Ray Serve is asked beside it (`serve.looks`); a pass itself never waits for a dashboard or a proxy.
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rayward.kube.apply import Applier, Failure
from rayward.kube.cache import Key, key_of
from rayward.kube.client import ApiError, KubeClient
from rayward.kube.events import EventRecorder
from rayward.kube.expect import Expectations
from rayward.kube.informer import Informer
from rayward.kube.kinds import PODS, RAYCLUSTERS, RAYSERVICES, SECRETS, SERVICES, Kind
from rayward.kube.metrics import Metrics
from rayward.kube.rate import HEAD_FIRST
from rayward.kube.views import BY_CLUSTER, BY_SERVICE, cluster_key, cluster_of
from rayward.kube.work_queue import WorkQueue
from rayward.plan import names
from rayward.plan.pod_state import is_terminating
from rayward.plan.rayservice import reconcile_service
from rayward.plan.service_outcome import ServiceObserved, ServicePlan
from rayward.plan.settings import Settings
from rayward.plan.status_writes import status_differs, written
from rayward.plan.token_secret import token_secret_of
from rayward.serve.looks import ServeLooks, questions

Raw = dict[str, Any]
FIRST_LOOK = -10
_UNSEEN_S = 0.5


@dataclass
class RayServices:
    """Reconciles one RayService at a time for each key, many keys at once. Of ``informers`` those of
    RayClusters and Pods are shared with the controller of RayClusters, that of Services is its own."""

    client: KubeClient
    informers: dict[Kind, Informer]
    queue: WorkQueue[Key]
    expectations: Expectations
    events: EventRecorder
    settings: Settings
    metrics: Metrics
    steady_s: float = 300.0
    looks: ServeLooks[Key] = field(init=False)
    _applier: Applier = field(init=False)
    _tokens: dict[Key, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.looks = ServeLooks(self.queue.add)
        self._applier = Applier(self.client, self.expectations, self.events, RAYSERVICES, _mark)

    # -- what wakes it ---------------------------------------------------------------------------------

    def watch(self) -> None:
        """Have every change that matters put its service into the queue."""
        self.informers[RAYSERVICES].on_change(self._service_changed)
        self.informers[RAYCLUSTERS].on_change(self._part_changed)
        self.informers[SERVICES].on_change(self._part_changed)
        self.informers[PODS].on_change(self._pod_changed)

    def _service_changed(self, old: Raw | None, new: Raw | None, initial: bool) -> None:
        found = new or old
        if found is not None:
            self.queue.add(key_of(found), FIRST_LOOK if initial else 0)

    def _part_changed(self, old: Raw | None, new: Raw | None, initial: bool) -> None:
        found = new or old
        key = names.service_index_key(found) if found is not None else None
        if key is not None:
            self.queue.add(key, FIRST_LOOK if initial else 0)

    def _pod_changed(self, old: Raw | None, new: Raw | None, initial: bool) -> None:
        found = new or old
        key = cluster_of(found) if found is not None else None
        cluster = self.informers[RAYCLUSTERS].get(*key) if key is not None else None
        service = names.service_index_key(cluster) if cluster is not None else None
        if found is None or service is None:
            return
        lost = names.node_type(found) == names.HEAD and (new is None or is_terminating(new))
        self.queue.add(service, FIRST_LOOK if initial else (HEAD_FIRST if lost else 0))

    # -- one pass --------------------------------------------------------------------------------------

    async def reconcile(self, key: Key) -> float | None:
        """Bring one service a step nearer; seconds until it wants another look. Raises ApiError or OSError
        for what has to be tried again."""
        owner = cluster_key(*key)
        view = self.informers[RAYSERVICES].get(*key)
        if view is None:
            self.expectations.forget(owner)
            self.looks.forget(key)
            self.metrics.forget_service(key)
            return None
        filled = {kind: informer for kind, informer in self.informers.items() if informer.synced.is_set()}
        if self.expectations.unseen(owner, filled) is not None:
            # The cache will show it, and that brings us back; the time is only for one that never does.
            return _UNSEEN_S
        service = {"apiVersion": RAYSERVICES.api_version, "kind": "RayService", **view}
        observed = self._observed(service, key)
        suffix = names.generated_name("", secrets.choice)
        plan = reconcile_service(service, observed, self.settings, time.time(), suffix=suffix)
        failures = await self._applier.carry_out(service, plan)
        self._applier.tell(service, failures)
        self.metrics.service_described(key, service["metadata"]["uid"], plan.status)
        await self._ask(key, plan, observed.pods)
        await self._write_status(service, plan, failures)
        if failures:
            raise OSError("; ".join(failure.message for failure in failures))
        return None if plan.requeue_after is None else min(plan.requeue_after, self.steady_s)

    def _observed(self, service: Raw, key: Key) -> ServiceObserved:
        owner, uid = cluster_key(*key), service["metadata"]["uid"]
        clusters = [
            {"apiVersion": RAYCLUSTERS.api_version, "kind": "RayCluster", **found}
            for found in self.informers[RAYCLUSTERS].select(BY_SERVICE, owner)
            if _belongs(found, uid)
        ]
        services = [
            found for found in self.informers[SERVICES].select(BY_SERVICE, owner) if _belongs(found, uid)
        ]
        return ServiceObserved(
            clusters=tuple(clusters),
            services=tuple(services),
            pods={found["metadata"]["name"]: self._pods(found) for found in clusters},
            serve=self.looks.seen(key),
            proxies=self.looks.proxies(key),
        )

    def _pods(self, cluster: Raw) -> tuple[Raw, ...]:
        metadata = cluster["metadata"]
        found = self.informers[PODS].select(BY_CLUSTER, cluster_key(metadata["namespace"], metadata["name"]))
        return tuple(
            pod
            for pod in found
            if names.node_type(pod) in (names.HEAD, names.WORKER) and _belongs(pod, metadata["uid"])
        )

    async def _ask(self, key: Key, plan: ServicePlan, pods: Mapping[str, Sequence[Raw]]) -> None:
        dashboards, proxies = questions(plan, pods)
        with_tokens = [
            replace(found, token=await self._token(key[0], found.submission.cluster))
            if found.address
            else found
            for found in dashboards
        ]
        self.looks.wish(key, with_tokens, proxies)

    async def _token(self, namespace: str, cluster: str) -> str:
        """Ray's token of a cluster, read once: a Secret of this kind is not changed under a running Ray."""
        found = self.informers[RAYCLUSTERS].get(namespace, cluster)
        name = token_secret_of(found) if found is not None else ""
        if not name:
            return ""
        place = (namespace, name)
        if place not in self._tokens:
            try:
                secret = await self.client.get(SECRETS, namespace, name)
            except (ApiError, OSError):
                return ""
            text = (secret.get("data") or {}).get(names.TOKEN_KEY, "")
            self._tokens[place] = base64.b64decode(text).decode()
        return self._tokens[place]

    async def _write_status(self, service: Raw, plan: ServicePlan, failures: Sequence[Failure]) -> None:
        old, status = service.get("status") or {}, written(plan.status)
        moved = (status.get("activeServiceStatus") or {}).get("rayClusterName") != (
            old.get("activeServiceStatus") or {}
        ).get("rayClusterName")
        if failures and moved:
            # Nobody is led there yet: the switch is told once the Services have followed.
            return
        if status_differs(old, status):
            await self._applier.write_status(service, status)


def _mark(service: Raw) -> dict[str, str]:
    return {names.OWNER_NAME: service["metadata"]["name"], names.OWNER_KIND: "RayService"}


def _belongs(found: Raw, uid: str) -> bool:
    """Whether it is this object's, not that of a namesake that went before."""
    owners = found["metadata"].get("ownerReferences") or ()
    return not owners or any(owner.get("uid") == uid for owner in owners)

"""The controller of RayClusters: gathers what exists of one, asks the planner, has it carried out.

Remembers nothing that it could not learn again; an operator that starts anew does the same as one that
has run for a year.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rayward.errors import RaywardError
from rayward.kube.agent_config_map import AgentConfigMap, mounts_agent
from rayward.kube.agent_look import AgentLooks
from rayward.kube.apply import Applier, Failure, namespace_ends
from rayward.kube.cache import Key, key_of
from rayward.kube.client import ApiError, KubeClient
from rayward.kube.events import EventRecorder
from rayward.kube.expect import Expectations
from rayward.kube.informer import Informer
from rayward.kube.kinds import JOBS, NODES, PODS, PVCS, RAYCLUSTERS, SERVICES, Kind
from rayward.kube.lookups import Lookups
from rayward.kube.metrics import Metrics
from rayward.kube.rate import HEAD_FIRST
from rayward.kube.views import BY_CLUSTER, BY_NODE, BY_STORE, cluster_key, cluster_of
from rayward.kube.work_queue import WorkQueue
from rayward.plan import names
from rayward.plan.deletion import cleanup_command
from rayward.plan.lost_nodes import lost_nodes
from rayward.plan.outcome import Observed, Plan
from rayward.plan.pod_state import is_terminating, phase
from rayward.plan.reconcile import reconcile
from rayward.plan.settings import Settings
from rayward.plan.status_writes import (
    is_urgent,
    status_differs,
    with_replica_failure,
    without_replica_failure,
    written,
)
from rayward.plan.store_key import sharers, store_key

Raw = dict[str, Any]
FIRST_LOOK = -10
_UNSEEN_S, _COUNTING_S = 0.5, 1.0

_log = logging.getLogger("rayward.raycluster")


@dataclass
class RayClusters:
    """Reconciles one RayCluster at a time for each key, many keys at once."""

    client: KubeClient
    informers: dict[Kind, Informer]
    queue: WorkQueue[Key]
    expectations: Expectations
    events: EventRecorder
    agent: AgentConfigMap
    looks: AgentLooks
    settings: Settings
    metrics: Metrics
    steady_s: float = 300.0
    clock: Callable[[], float] = time.monotonic
    _applier: Applier = field(init=False)
    _lookups: Lookups = field(init=False)
    _counting_since: dict[Key, float] = field(default_factory=dict)
    _lost_nodes: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self._applier = Applier(self.client, self.expectations, self.events)
        self._lookups = Lookups(self.client)

    # -- what wakes it ---------------------------------------------------------------------------------

    def watch(self) -> None:
        """Have every change that matters put its cluster into the queue."""
        self.informers[RAYCLUSTERS].on_change(self._cluster_changed)
        for kind in (SERVICES, PVCS, JOBS):
            self.informers[kind].on_change(self._part_changed)
        self.informers[PODS].on_change(self._pod_changed)
        self.informers[PODS].on_change(self.looks.note)
        self.informers[NODES].on_change(self._node_changed)
        self.agent.on_loss(self._agent_lost)

    def _cluster_changed(self, old: Raw | None, new: Raw | None, initial: bool) -> None:
        found = new or old
        if found is not None:
            self.queue.add(key_of(found), FIRST_LOOK if initial else 0)

    def _part_changed(self, old: Raw | None, new: Raw | None, initial: bool) -> None:
        found = new or old
        key = cluster_of(found) if found is not None else None
        if key is not None:
            self.queue.add(key, FIRST_LOOK if initial else 0)

    def _pod_changed(self, old: Raw | None, new: Raw | None, initial: bool) -> None:
        found = new or old
        key = cluster_of(found) if found is not None else None
        if found is None or key is None:
            return
        head_lost = names.node_type(found) == names.HEAD and (
            new is None or is_terminating(new) or phase(new) in ("Failed", "Succeeded", "Unknown")
        )
        if head_lost and not initial:
            self.metrics.head_lost(key)
        self.queue.add(key, FIRST_LOOK if initial else (HEAD_FIRST if head_lost else 0))

    def _node_changed(self, old: Raw | None, new: Raw | None, initial: bool) -> None:
        before, self._lost_nodes = self._lost_nodes, lost_nodes(self.informers[NODES].all())
        for name in before ^ self._lost_nodes:
            for pod in self.informers[PODS].select(BY_NODE, name):
                if names.node_type(pod) == names.HEAD:
                    self._pod_changed(pod, pod, initial)

    def _agent_lost(self, namespace: str) -> None:
        for cluster in self.informers[RAYCLUSTERS].all():
            if cluster["metadata"]["namespace"] == namespace:
                self.queue.add(key_of(cluster))

    # -- one pass --------------------------------------------------------------------------------------

    async def reconcile(self, key: Key) -> float | None:
        """Bring one cluster a step nearer; seconds until it wants another look. Raises ApiError or OSError
        for what has to be tried again."""
        owner = cluster_key(*key)
        view = self.informers[RAYCLUSTERS].get(*key)
        if view is None:
            self._forget(key)
            return None
        filled = {kind: informer for kind, informer in self.informers.items() if informer.synced.is_set()}
        unseen = self.expectations.unseen(owner, filled)
        if unseen is not None:
            # The cache will show it, and that brings us back; the time is only for one that never does.
            return _UNSEEN_S
        cluster = {"apiVersion": RAYCLUSTERS.api_version, "kind": "RayCluster", **view}
        observed, failures = await self._observed(cluster, key)
        plan = reconcile(cluster, observed, self.settings, time.time(), token=secrets.token_hex(32))
        failures += await self._agent_arrives(cluster, plan, observed)
        failures += await self._applier.carry_out(cluster, plan)
        if any(failure.namespace_ends for failure in failures):
            await self._end_with_namespace(cluster, plan)
            return None
        self._applier.tell(cluster, failures)
        if cluster["spec"].get("suspend") or cluster["metadata"].get("deletionTimestamp"):
            self.metrics.head_not_missed(key)
        headless = any(failure.reason == "FailedCreateHeadPod" for failure in failures)
        self.metrics.planned(key, plan, head_failed=headless)
        self.metrics.described(key, cluster, plan.status)
        wait = await self._write_status(cluster, key, plan, failures)
        if failures:
            raise OSError("; ".join(failure.message for failure in failures))
        return wait

    async def _end_with_namespace(self, cluster: Raw, plan: Plan) -> None:
        """Nothing can be made in a namespace that is being deleted, so no clean-up can run: the cluster must
        not hold it back. There can be no Event either; the log says what is left."""
        metadata = cluster["metadata"]
        for job in (body for body in plan.create if body["kind"] == "Job"):
            variables = job["spec"]["template"]["spec"]["containers"][0]["env"]
            env = {item["name"]: str(item.get("value") or "") for item in variables}
            command = cleanup_command(
                env.get("RAY_external_storage_namespace", ""), env.get("RAY_REDIS_ADDRESS", "")
            )
            words = "%s/%s: its namespace goes, keys in Redis may be left. To remove them: %s"
            _log.warning(words, metadata["namespace"], metadata["name"], command)
            self.metrics.cleanups.labels("gave_up").inc()
            kept = [name for name in metadata.get("finalizers") or () if name != names.CLEANUP_FINALIZER]
            await self._applier.write_finalizers(cluster, kept)

    async def _agent_arrives(self, cluster: Raw, plan: Plan, observed: Observed) -> list[Failure]:
        """The agent's ConfigMap must be there before a Pod that mounts it can start."""
        coming = any(mounts_agent(body) for body in plan.create)
        metadata = cluster["metadata"]
        unused = metadata.get("deletionTimestamp") or (
            (metadata.get("annotations") or {}).get(names.AGENT) == "disabled"
        )
        if not coming and (unused or not observed.pods):
            return []
        try:
            await self.agent.ensure(str(cluster["metadata"]["namespace"]))
        except (ApiError, OSError, RaywardError) as error:
            words = " ".join(str(error).split())
            message = f"{self.agent.name}: {words}"
            return [Failure("FailedCreateConfigMap", message, namespace_ends(error))]
        return []

    async def _observed(self, cluster: Raw, key: Key) -> tuple[Observed, list[Failure]]:
        """What exists of the cluster, and what could not be looked up: that counts as missing, for to make
        what exists already changes nothing."""
        owner, uid = cluster_key(*key), cluster["metadata"]["uid"]

        def mine(kind: Kind) -> tuple[Raw, ...]:
            return tuple(
                found for found in self.informers[kind].select(BY_CLUSTER, owner) if _belongs(found, uid)
            )

        jobs, claims = mine(JOBS), mine(PVCS)
        # Beside its own, the Pods of clean-up Jobs: the last words of one that failed say why.
        owners = {uid, *(job["metadata"]["uid"] for job in jobs)}
        pods = tuple(pod for pod in self.informers[PODS].select(BY_CLUSTER, owner) if _belongs(pod, *owners))
        looked = await self._lookups.look(cluster)
        found = {**looked.found, "pvcs": claims + looked.found.get("pvcs", ())}
        observed = Observed(
            pods=pods,
            services=mine(SERVICES),
            jobs=jobs,
            agents=self.looks.of(pods),
            **found,
            store_shared_with=self._sharers(cluster),
            lost_nodes=self._lost_nodes,
        )
        return observed, [Failure(reason, message) for reason, message in looked.failures]

    def _sharers(self, cluster: Raw) -> tuple[str, ...]:
        """Other live clusters on the same keys in the same Redis: asked only when keys may go."""
        place = store_key(cluster)
        if not place or not cluster["metadata"].get("deletionTimestamp"):
            return ()
        return sharers(cluster, self.informers[RAYCLUSTERS].select(BY_STORE, place))

    async def _write_status(
        self, cluster: Raw, key: Key, plan: Plan, failures: list[Failure]
    ) -> float | None:
        """Write the status if it says something new; one that only counts Pods may wait for more to count."""
        old, status = cluster.get("status") or {}, plan.status
        if failures:
            worst = min(failures, key=lambda failure: "Pod" not in failure.reason)
            status = with_replica_failure(status, worst.reason, worst.message, time.time())
        else:
            status = without_replica_failure(status)
        status = written(status)
        if not status_differs(old, status):
            self._counting_since.pop(key, None)
            return self._pause(plan)
        if not plan.status_now and not is_urgent(old, status):
            since = self._counting_since.setdefault(key, self.clock())
            left = since + _COUNTING_S - self.clock()
            if left > 0:
                return left
        self._counting_since.pop(key, None)
        await self._applier.write_status(cluster, status)
        return self._pause(plan)

    def _pause(self, plan: Plan) -> float | None:
        if plan.requeue_after is None:
            return None
        return min(plan.requeue_after, self.steady_s)

    def _forget(self, key: Key) -> None:
        self.expectations.forget(cluster_key(*key))
        self._counting_since.pop(key, None)
        self._lookups.forget(key)
        self.metrics.forget(key)


def _belongs(found: Raw, *uids: str) -> bool:
    """Whether it is this cluster's (or its Job's), not that of a namesake that went before."""
    owners = found["metadata"].get("ownerReferences") or ()
    return not owners or any(owner.get("uid") in uids for owner in owners)

"""The operator's metrics, in the names that dashboards for Kubernetes controllers and for KubeRay know.

Counters are kept where things happen; what describes clusters is read from the caches when it is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rayward.kube.cache import Key
from rayward.plan import names
from rayward.plan.conditions import find
from rayward.plan.outcome import Plan
from rayward.plan.pod_state import seconds
from rayward.plan.status import is_provisioned
from rayward.plan.status_writes import PROVISIONED

Raw = dict[str, Any]
_RECONCILE_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
CONTROLLER, SERVICE_CONTROLLER = "raycluster", "rayservice"


class Metrics:
    """Everything counted by one operator, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._clusters: dict[Key, _Described] = {}
        self._heads_lost: dict[Key, float] = {}
        self._services: dict[Key, tuple[str, dict[str, str], int]] = {}

        def counter(name: str, words: str, *labels: str) -> Counter:
            return Counter(name, words, labels, registry=self.registry)

        self.requests = counter(
            "rest_client_requests_total", "Requests to the API server", "code", "method", "resource"
        )
        self.request_seconds = Histogram(
            "rest_client_request_duration_seconds",
            "Time until the API server answered",
            ("verb",),
            registry=self.registry,
        )
        self.runs = counter(
            "controller_runtime_reconcile_total", "Reconciles by result", "controller", "result"
        )
        self.errors = counter(
            "controller_runtime_reconcile_errors_total", "Reconciles that failed", "controller"
        )
        self.run_seconds = Histogram(
            "controller_runtime_reconcile_time_seconds",
            "Time of a reconcile",
            ("controller",),
            buckets=_RECONCILE_BUCKETS,
            registry=self.registry,
        )
        self.leads = Gauge(
            "leader_election_master_status", "1 while this replica leads", ("name",), registry=self.registry
        )
        self.failovers = counter(
            "rayward_failovers_total", "Changes of the leading head", "namespace", "name"
        )
        self.head_recovery = Histogram(
            "rayward_head_pod_recovery_seconds",
            "From a head Pod seen lost until the next was created",
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
            registry=self.registry,
        )
        self.cleanups = counter(
            "rayward_redis_cleanups_total", "Ends of Redis clean-ups by outcome", "outcome"
        )
        self.registry.register(_Clusters(self._clusters))
        self.registry.register(_Services(self._services))

    def watch_queues(self, depths: Mapping[str, Callable[[], int]]) -> None:
        """Report the lengths of the controllers' work queues."""
        gauge = Gauge("workqueue_depth", "Keys that wait", ("name",), registry=self.registry)
        for controller, depth in depths.items():
            gauge.labels(controller).set_function(depth)

    def asked(self, verb: str, kind: str, code: int, took: float) -> None:
        """One request was answered."""
        self.requests.labels(str(code), verb.upper(), kind).inc()
        self.request_seconds.labels(verb.upper()).observe(took)

    def ran(self, controller: str, took: float, result: str) -> None:
        """One reconcile is over; ``result`` is success, requeue_after or error."""
        self.runs.labels(controller, result).inc()
        self.run_seconds.labels(controller).observe(took)
        if result == "error":
            self.errors.labels(controller).inc()

    def planned(self, key: Key, plan: Plan, *, head_failed: bool = False) -> None:
        """Count what a plan that was carried out says has happened; ``head_failed``: a head was not made."""
        for event in plan.events:
            if event.reason == "FailoverCompleted":
                self.failovers.labels(*key).inc()
            outcome = _CLEANUP_ENDS.get(event.reason)
            if outcome:
                self.cleanups.labels(outcome).inc()
        if not head_failed and any(
            body["kind"] == "Pod" and names.node_type(body) == names.HEAD for body in plan.create
        ):
            lost = self._heads_lost.pop(key, None)
            if lost is not None:
                self.head_recovery.observe(time.monotonic() - lost)

    def head_lost(self, key: Key) -> None:
        """A head Pod of this cluster is seen gone or going."""
        self._heads_lost.setdefault(key, time.monotonic())

    def head_not_missed(self, key: Key) -> None:
        """There shall be no head now: that it went is no loss."""
        self._heads_lost.pop(key, None)

    def described(self, key: Key, cluster: Raw, status: Raw) -> None:
        """A cluster as it is now, for the metrics that describe it."""
        metadata = cluster["metadata"]
        owners = metadata.get("ownerReferences") or ({"kind": "None"},)
        self._clusters[key] = _Described(
            uid=str(metadata.get("uid", "")),
            owner_kind=str(owners[0].get("kind")),
            created=seconds(metadata.get("creationTimestamp")),
            provisioned=seconds(find(status, PROVISIONED).get("lastTransitionTime"))
            if is_provisioned(status)
            else None,
        )

    def service_described(self, key: Key, uid: str, status: Raw) -> None:
        """A RayService as it is now, for the metrics that describe it."""
        answers = {str(item.get("type")): str(item.get("status")) for item in status.get("conditions") or ()}
        self._services[key] = (uid, answers, int(status.get("numServeEndpoints") or 0))

    def forget_service(self, key: Key) -> None:
        """The RayService is gone."""
        self._services.pop(key, None)

    def forget(self, key: Key) -> None:
        """The cluster is gone."""
        self._clusters.pop(key, None)
        self._heads_lost.pop(key, None)


_CLEANUP_ENDS = {
    "RedisCleanupDone": "done",
    "RedisCleanupFailed": "failed",
    "ForceDeletedStuckCluster": "gave_up",
    "RedisCleanupSkipped": "skipped",
    "RedisCleanupDisabled": "skipped",
}


@dataclass(frozen=True)
class _Described:
    """What the metrics say of one cluster; times are seconds since the epoch."""

    uid: str
    owner_kind: str
    created: float | None
    provisioned: float | None


class _Clusters(Collector):
    """What describes each cluster, as KubeRay's metrics do."""

    def __init__(self, clusters: dict[Key, _Described]) -> None:
        self._clusters = clusters

    def collect(self) -> Iterator[Metric]:
        labels = ("name", "namespace", "uid")
        info = GaugeMetricFamily(
            "kuberay_cluster_info", "1 for each RayCluster", labels=(*labels, "owner_kind")
        )
        provisioned = GaugeMetricFamily(
            "kuberay_cluster_condition_provisioned",
            "1 for the value that holds",
            labels=(*labels, "condition"),
        )
        took = GaugeMetricFamily(
            "kuberay_cluster_provisioned_duration_seconds",
            "From creation until all Pods were ready",
            labels=labels,
        )
        for (namespace, name), found in list(self._clusters.items()):
            values = [name, namespace, found.uid]
            info.add_metric([*values, found.owner_kind], 1)
            provisioned.add_metric([*values, "false" if found.provisioned is None else "true"], 1)
            if found.provisioned is not None and found.created is not None:
                took.add_metric(values, found.provisioned - found.created)
        yield from (info, provisioned, took)


class _Services(Collector):
    """What describes each RayService, as KubeRay's metrics do."""

    def __init__(self, services: dict[Key, tuple[str, dict[str, str], int]]) -> None:
        self._services = services

    def collect(self) -> Iterator[Metric]:
        labels = ("name", "namespace", "uid")
        info = GaugeMetricFamily("kuberay_service_info", "1 for each RayService", labels=labels)
        endpoints = GaugeMetricFamily(
            "rayward_service_endpoints", "Nodes that answer requests", labels=labels
        )
        conditions = {
            condition: GaugeMetricFamily(name, "1 for the value that holds", labels=(*labels, "condition"))
            for condition, name in _SERVICE_CONDITIONS.items()
        }
        for (namespace, name), (uid, answers, count) in list(self._services.items()):
            values = [name, namespace, uid]
            info.add_metric(values, 1)
            endpoints.add_metric(values, count)
            for condition, family in conditions.items():
                family.add_metric([*values, "true" if answers.get(condition) == "True" else "false"], 1)
        yield from (info, endpoints, *conditions.values())


_SERVICE_CONDITIONS = {
    "Ready": "kuberay_service_condition_ready",
    "UpgradeInProgress": "kuberay_service_condition_upgrade_in_progress",
}

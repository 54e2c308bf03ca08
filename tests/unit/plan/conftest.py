"""Clusters, Pods and settings that the planner's tests bend in one place."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from rayward.api.raycluster import RayCluster, parse_ray_cluster
from rayward.plan.outcome import Observed, Plan
from rayward.plan.reconcile import reconcile
from rayward.plan.settings import Settings

Raw = dict[str, Any]
NOW = 1_700_000_000.0


@pytest.fixture
def settings() -> Settings:
    return Settings()


@pytest.fixture
def raw() -> Raw:
    """The guide's cluster, as it is stored: with a uid and the cleanup finalizer."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {
            "name": "raycluster-external-redis",
            "namespace": "default",
            "uid": "66a4e2af",
            "generation": 3,
            "annotations": {},
            "labels": {},
            "finalizers": ["ray.io/gcs-ft-redis-cleanup-finalizer"],
        },
        "spec": {
            "rayVersion": "2.60.0",
            "gcsFaultToleranceOptions": {
                "redisAddress": "redis:6379",
                "redisPassword": {
                    "valueFrom": {"secretKeyRef": {"name": "redis-password-secret", "key": "password"}}
                },
            },
            "headGroupSpec": {
                "rayStartParams": {"num-cpus": "0"},
                "template": {
                    "spec": {"containers": [{"name": "ray-head", "image": "rayproject/ray:2.60.0"}]}
                },
            },
            "workerGroupSpecs": [
                {
                    "groupName": "small-group",
                    "replicas": 1,
                    "minReplicas": 1,
                    "maxReplicas": 10,
                    "rayStartParams": {"num-cpus": "1"},
                    "template": {
                        "spec": {"containers": [{"name": "ray-worker", "image": "rayproject/ray:2.60.0"}]}
                    },
                }
            ],
        },
    }


@pytest.fixture
def parsed(raw: Raw) -> Callable[[], RayCluster]:
    """Reads ``raw`` as it is by then."""
    return lambda: parse_ray_cluster(raw)


@pytest.fixture
def born() -> Callable[..., Raw]:
    """Turns a planned Pod into one that a node runs."""

    def make(pod: Raw, name: str, *, created: str = "2023-11-14T22:00:00Z", ready: bool = True) -> Raw:
        made = copy.deepcopy(pod)
        made["metadata"].update(name=name, uid=f"uid-{name}", creationTimestamp=created)
        container = made["spec"]["containers"][0]["name"]
        made["status"] = {
            "phase": "Running",
            "podIP": "10.0.0.9",
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "containerStatuses": [{"name": container, "state": {"running": {}}, "restartCount": 0}],
        }
        return made

    return make


class Standing:
    """A cluster that stands as it should: heads of the number asked for (the first one ready), all workers,
    and every object that a first pass makes. Tests bend ``raw`` and what is observed, and ``run``."""

    def __init__(self, raw: Raw, born: Callable[..., Raw]) -> None:
        self.raw, self.born, self.settings = raw, born, Settings()
        self.seen: dict[str, Any] = {}
        self.pods: list[Raw] = []
        self.objects: list[Raw] = []

    def build(self) -> Standing:
        """Make everything that the spec asks for by now."""
        self.pods, self.objects = [], []
        heads = 0
        for made in self.run().create:
            if made["kind"] != "Pod":
                self.objects.append(made)
                continue
            role = made["metadata"]["labels"]["ray.io/node-type"]
            number = len(self.pods)
            ready = role == "worker" or heads == 0
            heads += role == "head"
            pod = self.born(made, f"{role}-{'abcdefgh'[number]}", ready=ready)
            pod["status"]["podIP"] = f"10.0.0.{10 + number}"
            self.pods.append(pod)
        self.raw["status"] = self.run().status
        return self

    def pod(self, name: str) -> Raw:
        return next(pod for pod in self.pods if pod["metadata"]["name"] == name)

    def observed(self) -> Observed:
        def of(kind: str) -> tuple[Raw, ...]:
            return tuple(found for found in self.objects if found["kind"] == kind)

        seen = {
            "pods": tuple(self.pods),
            "services": of("Service"),
            "jobs": of("Job"),
            "pvcs": of("PersistentVolumeClaim"),
            "service_accounts": of("ServiceAccount"),
            "roles": of("Role"),
            "role_bindings": of("RoleBinding"),
            "secrets": of("Secret"),
            "ingresses": of("Ingress"),
        }
        return Observed(**{**seen, **self.seen})

    def run(self, now: float = NOW, token: str = "t0ken") -> Plan:
        return reconcile(self.raw, self.observed(), self.settings, now, token=token)

    def settle(self, now: float = NOW) -> Plan:
        """Run, and let the cluster have the status that came out."""
        plan = self.run(now)
        self.raw["status"] = plan.status
        return plan


@pytest.fixture
def standing(raw: Raw, born: Callable[..., Raw]) -> Standing:
    """The guide's cluster, complete: head-a, worker-b, their Services."""
    return Standing(raw, born).build()

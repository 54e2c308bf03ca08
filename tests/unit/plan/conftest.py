"""Clusters, Pods and settings that the planner's tests bend in one place."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from rayward.api.raycluster import RayCluster, parse_ray_cluster
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

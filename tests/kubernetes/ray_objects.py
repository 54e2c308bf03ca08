"""A RayCluster and a RayService with every field, their places on an API server, and a whole status."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

Raw = dict[str, Any]
_FIELDS = Path(__file__).resolve().parents[1] / "unit" / "api"
RULES_SINCE = (1, 25)

# Without empty texts: servers of 1.20 built with a later Go take some of them for null.
CLUSTER_STATUS: Raw = {
    "state": "ready",
    "head": {"podIP": "10.0.0.1", "podName": "h", "serviceIP": "10.0.0.1", "serviceName": "s"},
    "endpoints": {"client": "10001"},
    "readyWorkerReplicas": 1,
    "availableWorkerReplicas": 1,
    "desiredWorkerReplicas": 1,
    "minWorkerReplicas": 0,
    "maxWorkerReplicas": 2147483647,
    "desiredCPU": "1500m",
    "desiredMemory": "3Gi",
    "desiredGPU": "0",
    "desiredTPU": "0",
    "observedGeneration": 1,
    "lastUpdateTime": "2023-11-14T22:13:20Z",
    "stateTransitionTimes": {"ready": "2023-11-14T22:13:20Z"},
    "conditions": [
        {
            "type": "HeadPodReady",
            "status": "True",
            "reason": "HeadPodRunningAndReady",
            "message": "The head is ready",
            "lastTransitionTime": "2023-11-14T22:13:20Z",
        }
    ],
}


def path(namespace: str, name: str = "", version: str = "v1", kind: str = "RayCluster") -> str:
    plural = f"{kind.lower()}s"
    return f"/apis/ray.io/{version}/namespaces/{namespace}/{plural}{'/' if name else ''}{name}"


def everything() -> Raw:
    found: Raw = yaml.safe_load((_FIELDS / "every-field.yaml").read_text())
    return found


def whole_service() -> Raw:
    found: Raw = yaml.safe_load((_FIELDS / "every-field-service.yaml").read_text())
    found["spec"]["rayClusterConfig"] = everything()["spec"]
    return found


def whole(kind: str) -> Raw:
    return whole_service() if kind == "RayService" else everything()


def group(**fields: Any) -> Raw:
    return {"groupName": "g", "template": {"spec": {"containers": [{"name": "r", "image": "i"}]}}, **fields}


def cluster_of(raw: Raw) -> Raw:
    """The cluster's spec, wherever the kind has it."""
    found: Raw = raw["spec"].get("rayClusterConfig", raw["spec"])
    return found


def contains(whole: Any, part: Any) -> bool:
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(contains(whole.get(key), item) for key, item in part.items())
    if isinstance(part, list):
        same = isinstance(whole, list) and len(whole) == len(part)
        return same and all(contains(*pair) for pair in zip(whole, part, strict=True))
    return bool(whole == part)

"""What the agent in a Ray Pod says of its node, asked over HTTP from the host."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING, Any

from rayward.local.state import Manifest

if TYPE_CHECKING:
    from rayward.local.cluster import LocalCluster

_NODE_TYPES = ("head", "worker")


def is_ray_node(pod: Manifest) -> bool:
    """Whether a Pod is a head or a worker (the cleanup Job's Pod carries Ray's labels too)."""
    labels = pod["metadata"].get("labels", {})
    return labels.get("ray.io/is-ray-node") == "yes" and labels.get("ray.io/node-type") in _NODE_TYPES


def agent_status(cluster: LocalCluster, pod: Manifest, timeout: float = 2.0) -> dict[str, Any] | None:
    """The agent's ``/status``; None when the Pod has no agent or it does not answer within ``timeout`` s."""
    if not is_ray_node(pod):
        return None
    try:
        host, port = cluster.agent_address(pod)
        with urllib.request.urlopen(f"http://{host}:{port}/status", timeout=timeout) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except (OSError, ValueError, TypeError):
        return None


def waiting_for(cluster: LocalCluster) -> str:
    """What the first Ray node that is not ready waits for, in its agent's words; empty when all are ready."""
    for pod in cluster.pods():
        ready = [entry.get("ready") for entry in pod["status"].get("containerStatuses") or ()]
        if is_ray_node(pod) and ready and not all(ready):
            seen = agent_status(cluster, pod, timeout=0.5)
            if seen is not None and not seen["ready"]:
                return f"{pod['metadata']['name']}: {seen['reason']}"
    return ""

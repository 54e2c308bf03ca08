"""What the agent in a Ray Pod says of its node, asked over HTTP from the host.

Knows addresses, not clusters.
"""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from rayward.local.state import Manifest

_NODE_TYPES = ("head", "worker")


def is_ray_node(pod: Manifest) -> bool:
    """Whether a Pod is a head or a worker (the cleanup Job's Pod carries Ray's labels too)."""
    labels = pod["metadata"].get("labels", {})
    return labels.get("ray.io/is-ray-node") == "yes" and labels.get("ray.io/node-type") in _NODE_TYPES


def ask_agent(host: str, port: int, timeout: float) -> dict[str, Any] | None:
    """The ``/status`` of the agent at ``host:port``; None when it does not answer within ``timeout`` s."""
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/status", timeout=timeout) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except (OSError, ValueError):
        return None

"""What the agent in a Ray Pod says of its node, asked over HTTP from the host.

Knows addresses, not clusters.
"""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from rayward.errors import RaywardError
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


def tell_agent(
    host: str, port: int, path: str, body: Mapping[str, Any], token: str | None, timeout: float
) -> dict[str, Any]:
    """POST ``body`` to the agent at ``host:port``; what it answers when it agrees.

    Raises RaywardError with the agent's own words when it refuses, or when it does not answer in time.
    """
    url = f"http://{host}:{port}{path}"
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except urllib.error.HTTPError as refusal:
        words: Any = {}
        with refusal, contextlib.suppress(ValueError, OSError):
            words = json.load(refusal)
        told = words if isinstance(words, dict) else {}
        text = str(told.get("error") or f"the agent answered {refusal.code} {refusal.reason}")
        raise RaywardError(text, where=url, todo=str(told.get("todo") or "")) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise RaywardError(f"the agent does not answer: {reason}", where=url) from error

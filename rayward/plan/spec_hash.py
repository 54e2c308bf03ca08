"""A stable fingerprint of the parts of a spec whose change means new Pods.

Knows which fields may change without one; what is done about a difference is decided elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import msgspec

from rayward.api.raycluster import RayCluster


def recreate_hash(cluster: RayCluster) -> str:
    """SHA-1 of the spec without the numbers of workers and heads, tolerations, scheduling gates and upgrade
    strategy."""
    spec = msgspec.to_builtins(cluster.spec)
    for field in ("upgradeStrategy", "suspend"):
        spec.pop(field, None)
    if spec.get("gcsFaultToleranceOptions"):
        spec["gcsFaultToleranceOptions"]["enableActivePassiveHead"] = None
    for group in spec.get("workerGroupSpecs") or ():
        for field in ("replicas", "minReplicas", "maxReplicas", "scaleStrategy"):
            group.pop(field, None)
    for group in [spec["headGroupSpec"], *(spec.get("workerGroupSpecs") or ())]:
        for field in ("tolerations", "schedulingGates"):
            group["template"]["spec"].pop(field, None)
    return fingerprint(spec)


def fingerprint(value: Any) -> str:
    """The same text for the same JSON value, on every machine and in every process."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).digest()
    return base64.b32hexencode(digest).decode().lower()

"""Which machines of the cluster do not answer any more, from their Node objects.

Pure. What follows for a Pod on one is decided where Pods are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rayward.plan.conditions import find

Raw = dict[str, Any]
# As for Kubernetes' own evictions: when so many are silent at once, it is the network that failed.
MOST_LOST = 0.55
_GONE_TAINTS = frozenset(
    {
        "node.kubernetes.io/unreachable",
        "node.kubernetes.io/out-of-service",
        "node.cloudprovider.kubernetes.io/shutdown",
    }
)


def lost_nodes(nodes: Iterable[Raw]) -> frozenset[str]:
    """Names of the nodes that are lost. None when more than MOST_LOST of all seem to be: replacing
    everybody's heads would then only add to the damage."""
    everyone = list(nodes)
    lost = {str(node["metadata"]["name"]) for node in everyone if is_lost(node)}
    return frozenset(lost) if len(lost) <= MOST_LOST * len(everyone) else frozenset()


def is_lost(node: Raw) -> bool:
    """Whether Kubernetes has stopped hearing from a node, or was told that it is out of service."""
    for taint in (node.get("spec") or {}).get("taints") or ():
        if taint.get("key") in _GONE_TAINTS and taint.get("effect") in ("NoExecute", "NoSchedule"):
            return True
    return bool(find(node.get("status") or {}, "Ready").get("status") == "Unknown")

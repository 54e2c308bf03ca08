"""Which Pods belong to a workload, and how one is made from its template.

Shared by all workload kinds; knows none of their rules.
"""

from __future__ import annotations

import copy

from rayward.plan.outcome import Raw
from rayward.plan.pod_state import age_key


def owned(raw: Raw, pods: tuple[Raw, ...]) -> list[Raw]:
    """The Pods whose controller is ``raw``, oldest first. A namesake's Pods (another uid) are not."""
    return sorted((pod for pod in pods if _is_owner(raw, pod)), key=age_key)


def _is_owner(raw: Raw, pod: Raw) -> bool:
    for owner in pod["metadata"].get("ownerReferences") or ():
        if owner.get("kind") == raw["kind"] and owner.get("name") == raw["metadata"]["name"]:
            uid = raw["metadata"].get("uid")
            return uid is None or owner.get("uid") == uid
    return False


def pod_from(raw: Raw, template: Raw, labels: dict[str, str]) -> Raw:
    """A Pod of ``template`` with ``labels`` added, controlled by ``raw``; its name is left to the caller."""
    written = template.get("metadata") or {}
    owner = {
        "apiVersion": raw["apiVersion"],
        "kind": raw["kind"],
        "name": raw["metadata"]["name"],
        "uid": raw["metadata"].get("uid", ""),
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": raw["metadata"].get("namespace", "default"),
            "labels": {**(written.get("labels") or {}), **labels},
            "annotations": dict(written.get("annotations") or {}),
            "ownerReferences": [owner],
        },
        "spec": copy.deepcopy(template["spec"]),
    }

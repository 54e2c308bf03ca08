"""The claim behind an embedded (RocksDB) store.

Only for volumes that rayward manages; a claim the user brings is never touched.
"""

from __future__ import annotations

from typing import Any

from rayward.api.fault_tolerance import fault_tolerance
from rayward.api.raycluster import RayCluster
from rayward.plan import names


def gcs_pvc(cluster: RayCluster) -> dict[str, Any] | None:
    """The claim to create, None when the cluster needs none or names its own. With the Retain policy
    it has no owner, so it stays when the cluster goes."""
    storage = fault_tolerance(cluster).storage
    if storage is None or storage.claim_name is not None:
        return None
    metadata: dict[str, Any] = {
        "name": names.gcs_claim_name(cluster.name),
        "namespace": cluster.namespace,
        "labels": {names.CLUSTER: cluster.name},
    }
    if not storage.retain:
        metadata["ownerReferences"] = [names.owner_reference(cluster)]
    spec: dict[str, Any] = {
        "accessModes": list(storage.access_modes),
        "resources": {"requests": {"storage": storage.size}},
    }
    if storage.storage_class is not None:
        spec["storageClassName"] = storage.storage_class
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


def claim_owners(cluster: RayCluster, claim: dict[str, Any], *, retain: bool) -> list[Any] | None:
    """The owners that a living claim should have where they differ from those it has, else None.

    Only this cluster is added or taken away: whoever else owns it stays. It is never added to a claim that
    somebody else made (it lacks the cluster's label) or controls.
    """
    owners = list(claim["metadata"].get("ownerReferences") or ())
    others = [owner for owner in owners if owner.get("uid") != cluster.metadata.uid]
    owned = len(others) != len(owners)
    if retain:
        return others if owned else None
    ours = (claim["metadata"].get("labels") or {}).get(names.CLUSTER) == cluster.name
    if owned or not ours or any(owner.get("controller") for owner in others):
        return None
    return [*others, names.owner_reference(cluster)]

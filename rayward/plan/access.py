"""What Ray's autoscaler needs to speak to Kubernetes: an account and the rights of exactly its calls.

Only builds the objects; whether they are needed and missing is decided elsewhere.
"""

from __future__ import annotations

from typing import Any

from rayward.api.raycluster import RayCluster
from rayward.plan import names

Raw = dict[str, Any]
RBAC = "rbac.authorization.k8s.io"


def service_account(cluster: RayCluster) -> Raw | None:
    """The account to make, None when the head's template names one of the user's."""
    if cluster.head.template["spec"].get("serviceAccountName"):
        return None
    metadata = names.owned_metadata(cluster, names.side_object_name(cluster.name))
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}


def role(cluster: RayCluster) -> Raw:
    """The autoscaler looks at Pods, writes its wishes into the RayCluster, and resizes Pods in place."""
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": "Role",
        "metadata": names.owned_metadata(cluster, names.side_object_name(cluster.name)),
        "rules": [
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "patch"]},
            {"apiGroups": [""], "resources": ["pods/resize"], "verbs": ["patch"]},
            {"apiGroups": ["ray.io"], "resources": ["rayclusters"], "verbs": ["get", "patch"]},
        ],
    }


def role_binding(cluster: RayCluster) -> Raw:
    """Gives the rights to whichever account the head Pod runs under."""
    name = names.side_object_name(cluster.name)
    subject = {
        "kind": "ServiceAccount",
        "name": names.service_account_name(cluster),
        "namespace": cluster.namespace,
    }
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": names.owned_metadata(cluster, name),
        "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": name},
        "subjects": [subject],
    }

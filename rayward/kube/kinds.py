"""The kinds of objects that the operator reads or writes, and where the API server has them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind: ``plural`` as in paths, ``name`` as in manifests; the core has an empty ``group``."""

    group: str
    version: str
    plural: str
    name: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """As in a manifest: `v1`, `ray.io/v1`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """The path on the API server: of all (no namespace), of a namespace's, or of one."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if namespace and self.namespaced:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/" + "/".join(parts)


RAYCLUSTERS = Kind("ray.io", "v1", "rayclusters", "RayCluster")
RAYSERVICES = Kind("ray.io", "v1", "rayservices", "RayService")
PODS = Kind("", "v1", "pods", "Pod")
SERVICES = Kind("", "v1", "services", "Service")
CONFIGMAPS = Kind("", "v1", "configmaps", "ConfigMap")
SECRETS = Kind("", "v1", "secrets", "Secret")
PVCS = Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
SERVICE_ACCOUNTS = Kind("", "v1", "serviceaccounts", "ServiceAccount")
NODES = Kind("", "v1", "nodes", "Node", namespaced=False)
NAMESPACES = Kind("", "v1", "namespaces", "Namespace", namespaced=False)
EVENTS = Kind("", "v1", "events", "Event")
JOBS = Kind("batch", "v1", "jobs", "Job")
ROLES = Kind("rbac.authorization.k8s.io", "v1", "roles", "Role")
ROLE_BINDINGS = Kind("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")
INGRESSES = Kind("networking.k8s.io", "v1", "ingresses", "Ingress")
LEASES = Kind("coordination.k8s.io", "v1", "leases", "Lease")
CRDS = Kind(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)

BY_NAME = {
    kind.name: kind
    for kind in (
        RAYCLUSTERS, RAYSERVICES, PODS, SERVICES, CONFIGMAPS, SECRETS, PVCS, SERVICE_ACCOUNTS, NODES,
        NAMESPACES, EVENTS, JOBS, ROLES, ROLE_BINDINGS, INGRESSES, LEASES, CRDS,
    )
}  # fmt: skip

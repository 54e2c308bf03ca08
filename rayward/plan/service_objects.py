"""The objects of a RayService: its RayClusters and the two Services that lead to the active one.

Builds them as KubeRay's users know them; when which of them exists is decided elsewhere.
"""

from __future__ import annotations

import copy

from rayward.api.raycluster import RayCluster
from rayward.api.rayservice import INITIALIZING_TIMEOUT, RayService
from rayward.plan import names
from rayward.plan.outcome import Raw
from rayward.plan.services import head_ports, head_selector
from rayward.plan.settings import Settings

# What describes the RayService itself and no cluster of it.
_OWN_ANNOTATIONS = (INITIALIZING_TIMEOUT, names.SERVE_SERVICE)


def new_cluster(service: RayService, name: str) -> Raw:
    """A RayCluster for the service as its spec is now. Labels and annotations of the service come along: GCS
    fault tolerance of the older kind and the agent are switched by annotations."""
    annotations = {
        key: value
        for key, value in service.annotations.items()
        if not key.startswith("kubectl.kubernetes.io/") and key not in _OWN_ANNOTATIONS
    }
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {
            "name": name,
            "namespace": service.namespace,
            "labels": {**service.metadata.labels, **owner_labels(service)},
            "annotations": annotations,
            "ownerReferences": [owner_reference(service)],
        },
        "spec": copy.deepcopy(service.spec.ray_cluster_config),
    }


def owner_labels(service: RayService) -> dict[str, str]:
    """What marks an object as this service's."""
    return {names.OWNER_NAME: service.name, names.OWNER_KIND: "RayService"}


def owner_reference(service: RayService) -> Raw:
    """What makes the service the controller of an object."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "name": service.name,
        "uid": service.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def head_service(service: RayService, cluster: RayCluster, settings: Settings) -> Raw:
    """Leads to the leading head of ``cluster``, under a name that stays through upgrades."""
    labels = {**owner_labels(service), names.NODE_TYPE: names.HEAD}
    labels[names.IDENTIFIER] = names.trim_front(f"{service.name}-head")
    spec: Raw = {
        "type": cluster.head.service_type or "ClusterIP",
        "selector": head_selector(cluster),
        "ports": [_port(name, number) for name, number in sorted(head_ports(cluster).items())],
    }
    if spec["type"] == "ClusterIP" and not settings.cluster_ip_head_service:
        spec["clusterIP"] = "None"
    return _service(service, names.service_head_service_name(service.name), labels, {}, spec)


def serve_ports(cluster: RayCluster) -> dict[str, int]:
    """The head container's ports for Ray Serve by name; empty when it has ports and none is for Serve."""
    return {
        name: number
        for name, number in sorted(head_ports(cluster).items())
        if name == "serve" or name.startswith("serve-")
    }


def serve_service_name(service: RayService) -> str:
    """The custom Service's name, else ``<service>-serve-svc``."""
    custom = ((service.spec.serve_service or {}).get("metadata") or {}).get("name")
    return str(custom) if custom else names.serve_service_name(service.name)


def serve_service(service: RayService, cluster: RayCluster) -> Raw | None:
    """Leads to the proxies of Ray Serve on ``cluster`` that are ready. Of a custom Service name, labels,
    annotations, type and ports are kept, and the missing ports added; None when there would be no port."""
    written = copy.deepcopy(service.spec.serve_service or {})
    metadata, spec = written.get("metadata") or {}, written.get("spec") or {}
    own = list(spec.get("ports") or ())
    taken = {port.get("name") for port in own} | {port.get("port") for port in own}
    ports = [
        _port(name, number)
        for name, number in serve_ports(cluster).items()
        if name not in taken and number not in taken
    ]
    if not own and not ports:
        return None
    spec["ports"] = own + ports
    spec["selector"] = {names.CLUSTER: cluster.name, names.SERVE: "true"}
    spec.setdefault("type", cluster.head.service_type or "ClusterIP")
    labels = {
        **(metadata.get("labels") or {}),
        **owner_labels(service),
        names.SERVE: names.trim_front(f"{service.name}-serve"),
    }
    annotations = dict(metadata.get("annotations") or {})
    return _service(service, serve_service_name(service), labels, annotations, spec)


def _port(name: str, number: int) -> Raw:
    return {"name": name, "port": number, "targetPort": number, "protocol": "TCP"}


def _service(
    service: RayService, name: str, labels: dict[str, str], annotations: dict[str, str], spec: Raw
) -> Raw:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": service.namespace,
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [owner_reference(service)],
        },
        "spec": spec,
    }

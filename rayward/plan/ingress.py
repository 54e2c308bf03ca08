"""The Ingress to the head's dashboard (networking.k8s.io/v1).

Only builds the object; annotations of the RayCluster go on it, for that is how ingress controllers are told.
"""

from __future__ import annotations

import copy
from typing import Any

from rayward.api.raycluster import RayCluster
from rayward.plan import names
from rayward.plan.services import DEFAULT_PORTS, head_ports

Raw = dict[str, Any]


def head_ingress(cluster: RayCluster) -> Raw | None:
    """None unless the head group asks for it. Without ``ingressOptions`` the path is the cluster's name and
    whatever follows, as older manifests expect; with them, everything below their path."""
    if not cluster.head.enable_ingress:
        return None
    options = cluster.head.ingress_options
    port = head_ports(cluster).get("dashboard", DEFAULT_PORTS["dashboard"])
    backend = {"service": {"name": names.head_service_name(cluster), "port": {"number": port}}}
    path: Raw = {"path": f"/{cluster.name}/(.*)", "pathType": "Exact", "backend": backend}
    rule: Raw = {"http": {"paths": [path]}}
    spec: Raw = {"rules": [rule]}
    if options is not None:
        path.update(path=options.path or "/", pathType=options.path_type or "Prefix")
        if options.host:
            rule["host"] = options.host
        if options.tls:
            spec["tls"] = copy.deepcopy(options.tls)
    annotations = dict(cluster.annotations)
    ingress_class = annotations.pop(names.INGRESS_CLASS, None)
    if ingress_class:
        spec["ingressClassName"] = ingress_class
    # What kubectl remembers of the RayCluster is not about the Ingress.
    annotations.pop("kubectl.kubernetes.io/last-applied-configuration", None)
    identifier = names.trim_front(f"{cluster.name}-head")
    metadata = names.owned_metadata(cluster, names.ingress_name(cluster.name))
    metadata["labels"] = {**metadata["labels"], names.IDENTIFIER: identifier}
    metadata["annotations"] = annotations
    return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata, "spec": spec}

"""The Services of a RayCluster: to the head that leads, to the agents of all heads, to workers and Serve.

Knows which ports the head shows and how it is found; routing itself is a shell's business.
"""

from __future__ import annotations

import copy
from typing import Any

from rayward.api.agent_choice import runs_agent
from rayward.api.fault_tolerance import fault_tolerance
from rayward.api.raycluster import RayCluster
from rayward.plan import names
from rayward.plan.settings import Settings

Raw = dict[str, Any]
DEFAULT_PORTS = {"client": 10001, "gcs-server": 6379, "dashboard": 8265, "metrics": 8080, "serve": 8000}


def head_service(cluster: RayCluster, settings: Settings) -> Raw:
    """Headless unless a type other than ClusterIP is asked for, so that its name leads to the head
    itself; a custom ``headService`` keeps its type and its own ports and gets selector and defaults."""
    selector = head_selector(cluster)
    ports = _ports(cluster)
    if cluster.head.head_service is not None:
        return _custom(cluster, copy.deepcopy(cluster.head.head_service), selector, ports)
    spec: Raw = {"type": cluster.head.service_type or "ClusterIP", "selector": selector, "ports": ports}
    if spec["type"] == "ClusterIP" and not settings.cluster_ip_head_service:
        spec["clusterIP"] = "None"
        # A standby's name must not lead to a head that does not lead.
        spec["publishNotReadyAddresses"] = not fault_tolerance(cluster).standbys
    metadata = {"labels": dict(selector), "annotations": dict(cluster.spec.head_service_annotations)}
    return _service(cluster, names.head_service_name(cluster), metadata, spec)


def head_agents_service(cluster: RayCluster, settings: Settings) -> Raw | None:
    """Headless, and it leads to every head there is, ready or not: agents find out from each other who
    leads. None for a cluster whose GCS has no store, or without agents to ask."""
    if not fault_tolerance(cluster).enabled or not runs_agent(cluster, cluster.head.template):
        return None
    selector, port = head_selector(cluster), settings.agent_port
    spec: Raw = {
        "type": "ClusterIP",
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": selector,
        "ports": [
            {"name": "agent", "port": port, "targetPort": port, "protocol": "TCP", "appProtocol": "http"}
        ],
    }
    # Not labelled as a head's: KubeRay takes every Service with those labels for the head Service, and stops
    # at a second one.
    labels = names.common_labels(cluster)
    return _service(cluster, names.head_agents_service_name(cluster.name), {"labels": labels}, spec)


def headless_service(cluster: RayCluster) -> Raw | None:
    """Leads to every worker, ready or not, by which the hosts of one replica find each other; None without
    a group of several hosts per replica."""
    if all(group.hosts <= 1 for group in cluster.workers):
        return None
    spec: Raw = {
        "type": "ClusterIP",
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": {names.CLUSTER: cluster.name, names.NODE_TYPE: names.WORKER},
    }
    labels = {names.CLUSTER: cluster.name, names.HEADLESS_WORKERS: cluster.name}
    return _service(cluster, names.headless_service_name(cluster.name), {"labels": labels}, spec)


def wants_serve_service(cluster: RayCluster) -> bool:
    """Whether the annotation asks for a Service to Ray Serve's proxies."""
    return cluster.annotations.get(names.SERVE_SERVICE, "").lower() == "true"


def serve_service(cluster: RayCluster) -> Raw | None:
    """Leads to the ports of Ray Serve on all nodes that are ready; None when it is not asked for, or the
    head container has ports and none of them is for Serve."""
    ports = [
        {"name": name, "port": number, "targetPort": number, "protocol": "TCP"}
        for name, number in sorted(head_ports(cluster).items())
        if name == "serve" or name.startswith("serve-")
    ]
    if not wants_serve_service(cluster) or not ports:
        return None
    labels = {
        names.CLUSTER: cluster.name,
        names.OWNER_NAME: cluster.name,
        names.OWNER_KIND: "RayCluster",
        names.SERVE: names.trim_front(f"{cluster.name}-serve"),
    }
    spec: Raw = {
        "type": cluster.head.service_type or "ClusterIP",
        "selector": {names.CLUSTER: cluster.name},
        "ports": ports,
    }
    return _service(cluster, names.serve_service_name(cluster.name), {"labels": labels}, spec)


def _service(cluster: RayCluster, name: str, metadata: Raw, spec: Raw) -> Raw:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            **metadata,
            "name": name,
            "namespace": cluster.namespace,
            "ownerReferences": [names.owner_reference(cluster)],
        },
        "spec": spec,
    }


def _custom(cluster: RayCluster, written: Raw, selector: dict[str, str], ports: list[Raw]) -> Raw:
    metadata, spec = written.get("metadata") or {}, written.get("spec") or {}
    spec["selector"] = selector
    own = list(spec.get("ports") or ())
    taken = {port.get("name") for port in own} | {port.get("port") for port in own}
    spec["ports"] = own + [port for port in ports if port["name"] not in taken and port["port"] not in taken]
    spec.setdefault("type", cluster.head.service_type or "ClusterIP")
    labels = {**(metadata.get("labels") or {}), **selector}
    annotations = {**(metadata.get("annotations") or {}), **cluster.spec.head_service_annotations}
    metadata = {**metadata, "labels": labels, "annotations": annotations}
    return _service(cluster, names.head_service_name(cluster), metadata, spec)


def head_selector(cluster: RayCluster) -> dict[str, str]:
    """The labels by which every Service finds the heads of a cluster."""
    template = (cluster.head.template.get("metadata") or {}).get("labels") or {}
    labels = names.ray_labels(cluster, names.HEAD, names.HEAD_GROUP, {**template, **cluster.head.labels})
    kept = (names.CLUSTER, names.NODE_TYPE, names.IDENTIFIER, names.APP_NAME, names.CREATED_BY)
    return {key: labels[key] for key in kept}


def head_ports(cluster: RayCluster) -> dict[str, int]:
    """The head container's own ports by name, or the usual five; metrics in any case."""
    found: dict[str, int] = {}
    for port in cluster.head.template["spec"]["containers"][0].get("ports") or ():
        number = port["containerPort"]
        found[port.get("name") or f"{number}-port"] = number
    if not found:
        found = dict(DEFAULT_PORTS)
    found.setdefault("metrics", DEFAULT_PORTS["metrics"])
    return found


def _ports(cluster: RayCluster) -> list[Raw]:
    return [
        {"name": name, "port": number, "targetPort": number, "protocol": "TCP", "appProtocol": "tcp"}
        for name, number in sorted(head_ports(cluster).items())
    ]

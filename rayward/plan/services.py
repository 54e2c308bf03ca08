"""The Services of a RayCluster: to the head that leads, and to the agents of all heads.

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
    selector = _selector(cluster)
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
    selector, port = _selector(cluster), settings.agent_port
    spec: Raw = {
        "type": "ClusterIP",
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": selector,
        "ports": [
            {"name": "agent", "port": port, "targetPort": port, "protocol": "TCP", "appProtocol": "http"}
        ],
    }
    return _service(cluster, names.head_agents_service_name(cluster.name), {"labels": dict(selector)}, spec)


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


def _selector(cluster: RayCluster) -> dict[str, str]:
    template = (cluster.head.template.get("metadata") or {}).get("labels") or {}
    labels = names.ray_labels(cluster, names.HEAD, names.HEAD_GROUP, {**template, **cluster.head.labels})
    kept = (names.CLUSTER, names.NODE_TYPE, names.IDENTIFIER, names.APP_NAME, names.CREATED_BY)
    return {key: labels[key] for key in kept}


def _ports(cluster: RayCluster) -> list[Raw]:
    """The head container's own ports, or the usual five; metrics in any case; sorted by name."""
    found: dict[str, int] = {}
    for port in cluster.head.template["spec"]["containers"][0].get("ports") or ():
        number = port["containerPort"]
        found[port.get("name") or f"{number}-port"] = number
    if not found:
        found = dict(DEFAULT_PORTS)
    found.setdefault("metrics", DEFAULT_PORTS["metrics"])
    return [
        {
            "name": name,
            "port": found[name],
            "targetPort": found[name],
            "protocol": "TCP",
            "appProtocol": "tcp",
        }
        for name in sorted(found)
    ]

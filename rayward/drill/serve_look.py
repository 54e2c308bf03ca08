"""Looks at a RayService: its status, its Pods, where its address leads, which processes stand behind it.

Reads the cluster's folder and asks the heads' agents; what it means is for `serve_shape` to say.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Any

from rayward.drill import census, heads
from rayward.drill.injectors_network import REDIS
from rayward.drill.serve_shape import Shape
from rayward.errors import RaywardError
from rayward.local.cluster import LocalCluster
from rayward.local.service_table import own_address
from rayward.local.state import Manifest, is_alive, read_json
from rayward.plan.names import CLUSTER, HEAD, SERVE, WORKER, node_type
from rayward.plan.serve_status import placement_of
from rayward.plan.service_status import cluster_names


def service_of(cluster: LocalCluster) -> Manifest:
    """Its RayService; raises RaywardError when there is none."""
    found = cluster.folder.list("RayService")
    if not found:
        raise RaywardError(
            "no RayService is in it, and this drill sends requests to one",
            where=f"cluster {cluster.name}",
            todo="rayward up -f examples/ray-service.high-availability.yaml",
        )
    return found[0]


def look(cluster: LocalCluster, deep: bool = True) -> Shape:
    """How it is now. Not ``deep``: files of the folder only, which costs next to nothing; ``settled`` and
    ``parts`` are then left out."""
    status = service_of(cluster).get("status") or {}
    active, pending = cluster_names(status)
    pods = [pod for pod in cluster.pods() if node_type(pod) in (HEAD, WORKER)]
    deployments, running = _deployments(status)
    shape: dict[str, Any] = {
        "active": active,
        "pending": pending,
        "clusters": tuple(sorted(item["metadata"]["name"] for item in cluster.folder.list("RayCluster"))),
        "running": running and status.get("serviceStatus") == "Running",
        "endpoints": int(status.get("numServeEndpoints") or 0),
        "offered": _offered(cluster),
        "replicas": deployments,
        "heads": _named(pods, HEAD),
        "workers": _named(pods, WORKER),
    }
    if not deep:
        return Shape(**shape)
    # Processes first: an agent that is asked after another GCS was seen knows of the old one's death.
    parts = _parts(cluster, active)
    progress = cluster.progress()
    return Shape(
        **shape,
        not_ready=tuple(f"{pod.name} {pod.status}" for pod in progress.pods if not pod.is_ready),
        settled=_settled(cluster, len(shape["heads"])),
        parts=parts,
    )


def _named(pods: list[Manifest], kind: str) -> tuple[str, ...]:
    return tuple(sorted(pod["metadata"]["name"] for pod in pods if node_type(pod) == kind))


def _deployments(status: Manifest) -> tuple[dict[str, tuple[str, ...]], bool]:
    applications = (status.get("activeServiceStatus") or {}).get("applicationStatuses") or {}
    running = bool(applications)
    found = {}
    for application, said in applications.items():
        running = running and said.get("status") == "RUNNING"
        for name, deployment in (said.get("serveDeploymentStatuses") or {}).items():
            placed = placement_of(str(deployment.get("message") or ""))
            found[f"{application}/{name}"] = tuple(sorted(Counter(placed).elements()))
    return found, running


def serve_service(cluster: LocalCluster) -> Manifest | None:
    """The Service that requests go to; None as long as there is none."""
    uid = service_of(cluster)["metadata"]["uid"]
    for found in cluster.folder.list("Service"):
        owners = found["metadata"].get("ownerReferences") or ()
        if SERVE in (found["metadata"].get("labels") or {}) and any(owner["uid"] == uid for owner in owners):
            return found
    return None


def url_of(cluster: LocalCluster) -> str:
    """Where requests to the service go, as seen from this host; raises RaywardError when nowhere yet."""
    service = serve_service(cluster)
    address = own_address(service) if service is not None else None
    if service is None or address is None:
        raise RaywardError(
            "its RayService has no address that leads to it",
            where=f"cluster {cluster.name}",
            todo="it needs a network of its own (namespaces, so root), and `rayward status` says more",
        )
    return f"http://{address}:{service['spec']['ports'][0]['port']}"


def operator_of(cluster: LocalCluster) -> census.Identity | None:
    """The process that keeps the cluster, as it noted itself; None when there never was one."""
    node = read_json(cluster.folder.path / "node.json")
    return (int(node["pid"]), int(node["start_time"])) if node else None


def _offered(cluster: LocalCluster) -> int | None:
    service = serve_service(cluster)
    address = own_address(service) if service is not None else None
    if address is None:
        return None
    ready = cluster.service_table().ready
    return max((len(ends) for place, ends in ready.items() if place[0] == address), default=0)


def _settled(cluster: LocalCluster, wanted: int) -> bool:
    with contextlib.suppress(RaywardError):
        return heads.settled(heads.look(cluster), wanted)
    return False


def _parts(cluster: LocalCluster, active: str) -> dict[str, str]:
    """The moments' identities; a part that is not there is left out."""
    found = {"active": active} if active else {}
    node = operator_of(cluster)
    if node is not None and is_alive(*node):
        _put(found, "operator", node)
    for pod in cluster.pods():
        labels = pod["metadata"].get("labels") or {}
        if node_type(pod) == HEAD and labels.get(CLUSTER) == active:
            _put(found, "gcs", census.find_process(pod, census.GCS))
        elif node_type(pod) not in (HEAD, WORKER):
            _put(found, "redis", census.find_process(pod, REDIS))
    return found


def _put(found: dict[str, str], name: str, process: census.Identity | None) -> None:
    if process is not None:
        found[name] = f"{process[0]}:{process[1]}"

"""Opens the store of a cluster on this machine for reading, from outside its Pods.

What the head's container was given says where the store is; names of Services are looked up in the Pod's own
hosts file, paths in its own root.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rayward.api.fault_tolerance import Backend, fault_tolerance
from rayward.api.raycluster import parse_ray_cluster
from rayward.errors import RaywardError
from rayward.local import state
from rayward.local.cluster import LocalCluster
from rayward.local.state import read_json
from rayward.store.address import RedisAddress, parse_redis_address
from rayward.store.connection import connect
from rayward.store.redis_source import RedisSource
from rayward.store.rocksdb_source import RocksDbSource
from rayward.store.source import StateSource


def living_owner(namespace: str) -> str | None:
    """The RayCluster of this machine that keeps its state under this namespace, if it is up."""
    for folder in state.clusters():
        for manifest in folder.list("RayCluster"):
            if fault_tolerance(parse_ray_cluster(manifest)).namespace_in_use == namespace:
                return str(manifest["metadata"]["name"])
    return None


@contextlib.contextmanager
def open_source(cluster: LocalCluster) -> Iterator[tuple[StateSource, str]]:
    """The cluster's store and its namespace there; raises RaywardError when there is none to read."""
    clusters = cluster.folder.list("RayCluster")
    if not clusters:
        raise RaywardError(
            "no RayCluster is there, so it is not known where its store is",
            where=f"cluster {cluster.name}",
            todo="name a store with --redis or --rocksdb",
        )
    tolerance = fault_tolerance(parse_ray_cluster(clusters[0]))
    if tolerance.backend is Backend.MEMORY:
        raise RaywardError("its GCS keeps its state in memory", where=f"cluster {cluster.name}")
    head, spec, pid = _head(cluster)
    environment: dict[str, str] = spec["env"]
    if tolerance.backend is Backend.ROCKSDB:
        root = Path(f"/proc/{pid}/root") if cluster.mode == "namespaces" else Path("/")
        yield RocksDbSource(root / environment["RAY_gcs_storage_path"].lstrip("/")), ""
        return
    address = _resolved(parse_redis_address(environment["RAY_REDIS_ADDRESS"]), cluster.pod_folder(head))
    client = connect(address, environment.get("REDIS_USERNAME"), environment.get("REDIS_PASSWORD"))
    try:
        namespace = tolerance.namespace_in_use
        yield RedisSource(client, (namespace,)), namespace
    finally:
        client.close()


def _head(cluster: LocalCluster) -> tuple[str, dict[str, Any], int]:
    for pod in cluster.pods(ray_io_node_type="head"):
        name, container = pod["metadata"]["name"], pod["spec"]["containers"][0]["name"]
        spec = read_json(cluster.pod_folder(name) / "containers" / f"{container}.json")
        running = pod["status"].get("rayward", {}).get("containers", {}).get(container)
        if spec and running:
            return name, spec, int(running["pid"])
    raise RaywardError(
        "no head Pod runs",
        where=f"cluster {cluster.name}",
        todo="`rayward get pods`, or name a store with --redis or --rocksdb",
    )


def _resolved(address: RedisAddress, pod_folder: Path) -> RedisAddress:
    """The address with a Service's name replaced by the endpoint that the Pod itself would reach."""
    hosts = pod_folder / "hosts"
    if hosts.exists():
        for line in hosts.read_text(encoding="utf-8").splitlines():
            found, *names = line.split()
            if address.host in names:
                return RedisAddress(**{**address.__dict__, "host": found})
    return address

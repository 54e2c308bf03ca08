"""Opens the store of a cluster on this machine for reading, from outside its Pods.

What the head's container was given says where the store is; names of Services are looked up in the Pod's own
hosts file, paths in its own root.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from rayward.api.fault_tolerance import Backend, fault_tolerance
from rayward.api.raycluster import parse_ray_cluster
from rayward.errors import RaywardError
from rayward.local import state
from rayward.local.cluster import LocalCluster
from rayward.local.state import Manifest, read_json
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
    head, environment = _head(cluster)
    if tolerance.backend is Backend.ROCKSDB:
        path = environment["RAY_gcs_storage_path"]
        yield (
            RocksDbSource(_claim_folder(cluster, head, path) if cluster.mode == "namespaces" else Path(path)),
            "",
        )
        return
    address = parse_redis_address(environment["RAY_REDIS_ADDRESS"])
    address = _resolved(address, cluster.pod_folder(head["metadata"]["name"]))
    client = connect(address, environment.get("REDIS_USERNAME"), environment.get("REDIS_PASSWORD"))
    try:
        namespace = tolerance.namespace_in_use
        yield RedisSource(client, (namespace,)), namespace
    finally:
        client.close()


def _head(cluster: LocalCluster) -> tuple[Manifest, dict[str, str]]:
    """The head Pod and the environment that its Ray container was given."""
    for pod in cluster.pods(ray_io_node_type="head"):
        name, container = pod["metadata"]["name"], pod["spec"]["containers"][0]["name"]
        spec = read_json(cluster.pod_folder(name) / "containers" / f"{container}.json")
        if spec:
            return pod, spec["env"]
    raise RaywardError(
        "no head Pod runs",
        where=f"cluster {cluster.name}",
        todo="`rayward get pods`, or name a store with --redis or --rocksdb",
    )


def _claim_folder(cluster: LocalCluster, head: Manifest, path: str) -> Path:
    """Where a path inside the head's container rests on this machine, by the claim that is mounted there."""
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for volume in head["spec"].get("volumes", ())
        if "persistentVolumeClaim" in volume
    }
    for mount in head["spec"]["containers"][0].get("volumeMounts", ()):
        if mount["name"] in claims and mount["mountPath"].rstrip("/") == path.rstrip("/"):
            return cluster.folder.claims / str(claims[mount["name"]]) / str(mount.get("subPath", ""))
    raise RaywardError(f"no claim is mounted at {path}", where=f"Pod {head['metadata']['name']}")


def _resolved(address: RedisAddress, pod_folder: Path) -> RedisAddress:
    """The address with a Service's name replaced by the endpoint that the Pod itself would reach."""
    hosts = pod_folder / "hosts"
    if hosts.exists():
        for line in hosts.read_text(encoding="utf-8").splitlines():
            found, *names = line.split()
            if address.host in names:
                return RedisAddress(**{**address.__dict__, "host": found})
    return address

"""What a measurement was made on: the machine, the versions, the store, the settings that decide speed."""

from __future__ import annotations

import datetime
import os
import platform
from importlib import metadata
from typing import Any

from redis.exceptions import RedisError

from rayward import __version__
from rayward.api.fault_tolerance import fault_tolerance
from rayward.api.raycluster import parse_ray_cluster
from rayward.drill.census import head_pod
from rayward.errors import RaywardError
from rayward.local import store_access
from rayward.local.cluster import LocalCluster
from rayward.local.state import read_json
from rayward.store.redis_source import RedisSource

_PACE = ("reconnect", "check_connection_status", "reconnect_timeout")


def host_facts() -> dict[str, Any]:
    """The machine and the versions, without any cluster."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "ray": _version("ray"),
        "redis": None,
        "rayward": __version__,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def cluster_facts(cluster: LocalCluster) -> dict[str, Any]:
    """``host_facts`` and what this cluster adds: its store, its mode, its reconnect settings."""
    manifests = cluster.folder.list("RayCluster")
    tolerance = fault_tolerance(parse_ray_cluster(manifests[0])) if manifests else None
    head = head_pod(cluster)
    container = head["spec"]["containers"][0]["name"]
    spec = read_json(cluster.pod_folder(head["metadata"]["name"]) / "containers" / f"{container}.json") or {}
    environment: dict[str, str] = spec.get("env") or {}
    return {
        **host_facts(),
        "redis": _redis_version(cluster),
        "store": tolerance.backend.value if tolerance else None,
        "mode": cluster.mode,
        "pods": len(cluster.pods()),
        "settings": {
            name: value
            for name, value in sorted(environment.items())
            if name.startswith("RAY_") and any(word in name for word in _PACE)
        },
    }


def _redis_version(cluster: LocalCluster) -> str | None:
    try:
        with store_access.open_source(cluster) as (source, _):
            if not isinstance(source, RedisSource):
                return None
            server: Any = source.client.info("server")
            return str(server["redis_version"])
    except (RaywardError, OSError, RedisError):
        return None

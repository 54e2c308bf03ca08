"""The examples that differ only in where Redis is keep their promises about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rayward.api.fault_tolerance import Backend, FaultTolerance, fault_tolerance
from rayward.api.manifest import load_manifests
from rayward.api.raycluster import parse_ray_cluster
from rayward.api.validation import validate
from rayward.plan.pods import head_pod
from rayward.plan.settings import Settings
from rayward.store.address import parse_redis_address

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
Raw = dict[str, Any]


def load(name: str) -> tuple[FaultTolerance, Raw, dict[tuple[str, str], Raw]]:
    """What the example asks for, its head Pod, and all its objects by kind and name."""
    objects = load_manifests((EXAMPLES / f"ray-cluster.{name}.yaml").read_text(), name)
    (raw,) = [found for found in objects if found["kind"] == "RayCluster"]
    raw["metadata"]["uid"] = "uid"
    cluster = parse_ray_cluster(raw, name)
    assert validate(cluster) == ()
    by_name = {(found["kind"], found["metadata"]["name"]): found for found in objects}
    return fault_tolerance(cluster), head_pod(cluster, Settings()), by_name


def mounted_claims(spec: Raw, container: Raw) -> dict[str, str]:
    """The claims that a container sees: path by claim."""
    volumes = {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for volume in spec["volumes"]
        if "persistentVolumeClaim" in volume
    }
    return {
        volumes[mount["name"]]: mount["mountPath"]
        for mount in container["volumeMounts"]
        if mount["name"] in volumes
    }


def secret_password(objects: dict[tuple[str, str], Raw]) -> str:
    return str(objects["Secret", "redis-password-secret"]["stringData"]["password"])


def test_the_uri_means_the_same_redis() -> None:
    tolerance, _, objects = load("external-redis-uri")
    plain, _, _ = load("external-redis")
    assert tolerance.redis_address == "redis://redis:6379"
    assert parse_redis_address(tolerance.redis_address) == parse_redis_address(plain.redis_address)
    assert ("Service", "redis") in objects


def test_the_persistent_redis_keeps_its_data_on_a_claim_of_its_own() -> None:
    tolerance, _, objects = load("persistent-redis")
    assert tolerance.redis_address == "redis:6379"
    redis = objects["StatefulSet", "redis"]["spec"]
    assert (redis["replicas"], redis["serviceName"]) == (1, "redis")
    spec = redis["template"]["spec"]
    assert mounted_claims(spec, spec["containers"][0]) == {"redis-data": "/data"}
    assert ("PersistentVolumeClaim", "redis-data") in objects
    conf = objects["ConfigMap", "redis-config"]["data"]["redis.conf"].splitlines()
    assert {"dir /data", "appendonly yes", "appendfsync everysec", "save 60 1000"} <= set(conf)
    assert f"requirepass {secret_password(objects)}" in conf


def test_the_sidecar_is_reached_inside_the_pod_and_keeps_its_data() -> None:
    tolerance, head, objects = load("persistent-redis-sidecar")
    address = parse_redis_address(tolerance.redis_address)
    assert address.host == "127.0.0.1"
    ray, redis = head["spec"]["containers"]
    assert address.port not in {port["containerPort"] for port in ray["ports"]}
    conf = objects["ConfigMap", "redis-config"]["data"]["redis.conf"].splitlines()
    assert {f"port {address.port}", "bind 127.0.0.1", "appendonly yes", "dir /data"} <= set(conf)
    assert mounted_claims(head["spec"], redis) == {"redis-data": "/data"}
    assert ("PersistentVolumeClaim", "redis-data") in objects


def test_the_embedded_store() -> None:
    tolerance, head, objects = load("embedded-gcs-ft")
    assert tolerance.backend is Backend.ROCKSDB
    assert mounted_claims(head["spec"], head["spec"]["containers"][0]) == {
        "raycluster-embedded-gcs-ft-gcs-pvc": "/data/gcs"
    }
    assert {kind for kind, _ in objects} == {"RayCluster", "ConfigMap"}


@pytest.mark.parametrize(
    "name", ["persistent-redis", "persistent-redis-sidecar", "external-redis-uri", "embedded-gcs-ft"]
)
def test_the_guides_scripts_are_in_all_of_them(name: str) -> None:
    _, head, objects = load(name)
    scripts = objects["ConfigMap", "ray-example"]["data"]
    assert scripts == load("external-redis")[2]["ConfigMap", "ray-example"]["data"]
    mounts = {mount["mountPath"] for mount in head["spec"]["containers"][0]["volumeMounts"]}
    assert "/home/ray/samples" in mounts

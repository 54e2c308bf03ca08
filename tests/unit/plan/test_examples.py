"""Every example can be read, holds no contradiction, and plans into what it promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayward.api.fault_tolerance import Backend, fault_tolerance
from rayward.api.manifest import load_manifests
from rayward.api.raycluster import parse_ray_cluster
from rayward.api.validation import validate
from rayward.plan.pods import head_pod, worker_pod
from rayward.plan.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
EXPECTED = {
    "ray-cluster.external-redis.yaml": (Backend.REDIS, 1),
    "ray-cluster.deprecate-gcs-ft.yaml": (Backend.REDIS, 1),
    "ray-cluster.rocksdb.yaml": (Backend.ROCKSDB, 2),
    "ray-cluster.ha.yaml": (Backend.REDIS, 3),
}
HEADS = {"ray-cluster.ha.yaml": 2}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example(path: Path) -> None:
    objects = load_manifests(path.read_text(), path.name)
    for raw in (found for found in objects if found["kind"] == "RayCluster"):
        raw["metadata"]["uid"] = "uid"
        cluster = parse_ray_cluster(raw, path.name)
        assert validate(cluster) == ()
        if path.name in EXPECTED:
            backend, workers = EXPECTED[path.name]
            assert fault_tolerance(cluster).backend is backend
            assert fault_tolerance(cluster).heads == HEADS.get(path.name, 1)
            assert sum(group.desired_replicas for group in cluster.workers) == workers
        assert " --num-cpus=0 " in str(head_pod(cluster, Settings())["spec"])
        pod = worker_pod(cluster, cluster.workers[0], Settings(), replica_index=0)
        assert " --num-cpus=1 " in str(pod["spec"])


def test_the_documented_examples_are_there() -> None:
    assert EXPECTED.keys() <= {path.name for path in EXAMPLES}


@pytest.mark.parametrize("name", ["ray-cluster.external-redis.yaml", "ray-cluster.deprecate-gcs-ft.yaml"])
def test_both_ways_of_asking_give_the_guides_ray_start_line(name: str) -> None:
    raw = load_manifests((ROOT / "examples" / name).read_text(), name)[0]
    raw["metadata"]["uid"] = "uid"
    env = head_pod(parse_ray_cluster(raw), Settings())["spec"]["containers"][0]["env"]
    (start,) = [item["value"] for item in env if item["name"] == "KUBERAY_GEN_RAY_START_CMD"]
    assert start == (
        "ray start --head  --block  --dashboard-agent-listen-port=52365  --dashboard-host=0.0.0.0  "
        "--metrics-export-port=8080  --num-cpus=0  --redis-password=$REDIS_PASSWORD "
    )
    assert {"RAY_external_storage_namespace", "RAY_REDIS_ADDRESS", "REDIS_PASSWORD"} <= {
        item["name"] for item in env
    }


def test_the_cluster_without_a_file_is_the_rocksdb_example() -> None:
    default = ROOT / "rayward" / "local" / "default-cluster.yaml"
    assert default.read_text() == (ROOT / "examples" / "ray-cluster.rocksdb.yaml").read_text()

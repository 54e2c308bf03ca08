"""Names stay within what Kubernetes allows, the way the published names do."""

from __future__ import annotations

import pytest

from rayward.plan import names


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [("short", 63, "short"), ("abcdef", 3, "def"), ("abc-ef", 3, "ref"), ("a" * 64, 63, "a" * 63)],
)
def test_trim_front(text: str, limit: int, expected: str) -> None:
    assert names.trim_front(text, limit) == expected


def test_pod_prefixes_are_cut_at_fifty_and_lower_case() -> None:
    assert names.head_generate_name("c" * 53) == "c" * 50 + "-head-"
    assert names.worker_generate_name("demo", "GPU-group") == "demo-gpu-group-worker-"
    assert names.worker_generate_name("c" * 53, "g") == "c" * 50 + "-worker-"


@pytest.mark.parametrize(
    ("cluster", "name"),
    [
        ("demo", "demo-head-agents"),
        ("a" * 53, "a" * 51 + "-head-agents"),
        ("abc" + "d" * 50, "c" + "d" * 50 + "-head-agents"),
        ("ab-" + "d" * 50, "r" + "d" * 50 + "-head-agents"),
        ("ab7" + "d" * 50, "r" + "d" * 50 + "-head-agents"),
    ],
)
def test_the_service_of_the_heads_agents_fits_and_starts_with_a_letter(cluster: str, name: str) -> None:
    assert names.head_agents_service_name(cluster) == name
    assert len(name) <= 63


def test_the_cleanup_job_keeps_its_known_name_where_that_fits() -> None:
    assert names.cleanup_job_name("a" * 49) == "a" * 49 + "-redis-cleanup"


@pytest.mark.parametrize("length", [50, 53])
def test_longer_ones_differ_wherever_the_clusters_names_do(length: int) -> None:
    clusters = ["a" * length, "b" + "a" * (length - 1), "a" * (length - 1) + "b"]
    found = [names.cleanup_job_name(name) for name in clusters]
    assert len(set(found)) == 3
    assert all(len(name) == 63 and name.endswith("-redis-cleanup") for name in found)
    assert all(name.startswith(cluster[:30]) for name, cluster in zip(found, clusters, strict=True))

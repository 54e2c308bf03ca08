"""What a drill changes in manifests: the same for a RayCluster and for the cluster of a RayService."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from rayward.drill import manifests
from rayward.plan.names import AGENT


def cluster() -> dict[str, Any]:
    container = {"name": "ray", "env": [{"name": "KEPT", "value": "1"}]}
    return {
        "gcsFaultToleranceOptions": {"redisAddress": "redis:6379", "enableActivePassiveHead": True},
        "headGroupSpec": {"template": {"spec": {"containers": [copy.deepcopy(container)]}}},
        "workerGroupSpecs": [{"template": {"spec": {"containers": [copy.deepcopy(container)]}}}],
    }


OBJECTS = [
    {"kind": "RayCluster", "metadata": {"name": "plain"}, "spec": cluster()},
    {
        "kind": "RayService",
        "metadata": {"name": "served", "annotations": {"mine": "stays"}},
        "spec": {"serveConfigV2": "", "rayClusterConfig": cluster()},
    },
]


@pytest.fixture(params=OBJECTS, ids=["RayCluster", "RayService"])
def given(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = copy.deepcopy(request.param)
    return found


def spec_of(manifest: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = manifest["spec"].get("rayClusterConfig", manifest["spec"])
    return found


def names_of(group: dict[str, Any]) -> list[str]:
    return [item["name"] for item in group["template"]["spec"]["containers"][0]["env"]]


def test_stock_ray_has_one_head_no_agent_and_the_same_store(given: dict[str, Any]) -> None:
    before = copy.deepcopy(given)
    (found,) = manifests.for_stock([given])
    assert found["metadata"]["annotations"] == {
        **before["metadata"].get("annotations", {}),
        AGENT: "disabled",
    }
    assert spec_of(found)["gcsFaultToleranceOptions"] == {"redisAddress": "redis:6379"}
    assert given == before, "what was given stays as it was"


def test_the_negative_control_has_no_store(given: dict[str, Any]) -> None:
    (found,) = manifests.without_fault_tolerance([given])
    assert "gcsFaultToleranceOptions" not in spec_of(found)


def test_variables_go_to_the_heads_and_only_if_wished_to_workers(given: dict[str, Any]) -> None:
    (heads,) = manifests.with_environment([given], {"NEW": "2"})
    assert names_of(spec_of(heads)["headGroupSpec"]) == ["KEPT", "NEW"]
    assert names_of(spec_of(heads)["workerGroupSpecs"][0]) == ["KEPT"]
    (everywhere,) = manifests.with_environment([given], {"KEPT": "2"}, workers=True)
    assert names_of(spec_of(everywhere)["workerGroupSpecs"][0]) == ["KEPT"]


def test_other_kinds_stay_as_they_are() -> None:
    secret = {"kind": "Secret", "metadata": {"name": "s"}, "spec": {"headGroupSpec": None}}
    assert manifests.for_stock([secret]) == [secret]
    assert manifests.cluster_spec(secret) is None

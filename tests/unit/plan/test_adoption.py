"""Clusters whose Pods another operator, or an older rayward, has made: nothing of them restarts."""

from __future__ import annotations

from typing import Any

import pytest

from rayward.plan.merge_patch import merge_patch

Raw = dict[str, Any]
HASH, VERSION = "ray.io/upgrade-strategy-recreate-hash", "rayward.dev/version"


def made_by_another(pod: Raw, version: str | None = None) -> None:
    """As KubeRay leaves a Pod: no agent, its own annotations."""
    annotations = pod["metadata"]["annotations"]
    annotations.pop(VERSION, None)
    annotations[HASH] = "0123456789abcdef"
    if version is not None:
        annotations[VERSION] = version
        return
    container = pod["spec"]["containers"][0]
    container["env"] = [item for item in container["env"] if not item["name"].startswith("RAYWARD_")]
    container["args"] = ["ulimit -n 65536; ray start --head --block"]


def env(pod: Raw) -> dict[str, str | None]:
    return {item["name"]: item.get("value") for item in pod["spec"]["containers"][0]["env"]}


@pytest.mark.parametrize("version", [None, "0.0.1"], ids=["KubeRay's", "older rayward's"])
@pytest.mark.parametrize("strategy", [None, "None", "Recreate"])
def test_an_upgrade_of_the_operator_restarts_nothing(
    standing: Any, version: str | None, strategy: str | None
) -> None:
    if strategy:
        standing.raw["spec"]["upgradeStrategy"] = {"type": strategy}
    for pod in standing.pods:
        made_by_another(pod, version)
    plan = standing.run()
    assert (plan.create, plan.delete) == ((), ())
    assert plan.status["state"] == "ready"
    assert len(plan.update) == (strategy == "Recreate")


def test_from_then_on_recreate_follows_the_spec(standing: Any) -> None:
    standing.raw["spec"]["upgradeStrategy"] = {"type": "Recreate"}
    made_by_another(standing.pod("head-a"))
    (update,) = standing.run().update
    assert set(update["metadata"]) == {"name", "namespace", "uid", "annotations"}
    standing.pods[0] = merge_patch(standing.pods[0], update)
    plan = standing.run()
    assert (plan.update, plan.delete) == ((), ())
    container = standing.raw["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    container["image"] = "rayproject/ray:2.61.0"
    assert [found.name for found in standing.run().delete] == ["head-a", "worker-b"]


def test_a_new_worker_beside_a_head_without_agent_goes_straight_to_it(standing: Any) -> None:
    made_by_another(standing.pod("head-a"))
    standing.pods = standing.pods[:1]
    (worker,) = standing.run().create
    assert env(worker)["RAY_ADDRESS"] == "raycluster-external-redis-head-svc.default.svc.cluster.local:6379"
    assert env(worker)["RAYWARD_FORWARD"] == "off"
    standing.pods = []
    worker = standing.run().create[-1]
    assert env(worker)["RAYWARD_FORWARD"] == "on"


def test_a_head_without_fence_is_waited_for_when_it_goes(standing: Any) -> None:
    head = standing.pod("head-a")
    made_by_another(head)
    head["metadata"]["deletionTimestamp"] = "2023-11-14T22:13:20Z"
    assert standing.run().create == ()
    head["status"]["containerStatuses"][0]["state"] = {"terminated": {}}
    assert len(standing.run().create) == 1


def test_a_status_that_another_operator_wrote_is_taken_over(standing: Any) -> None:
    kept = {
        "type": "SomebodyElses",
        "status": "True",
        "reason": "R",
        "lastTransitionTime": "x",
        "message": "",
    }
    standing.raw["status"] = {"state": "ready", "conditions": [kept], "observedGeneration": 3}
    plan = standing.settle()
    assert kept in plan.status["conditions"]
    assert standing.run(2e9).status == plan.status

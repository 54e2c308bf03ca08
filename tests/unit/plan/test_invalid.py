"""A spec that cannot be used, fields that nobody acts on, and clusters of other operators."""

from __future__ import annotations

from typing import Any

import pytest

from rayward.api.problems import ManifestError
from rayward.api.raycluster import parse_ray_cluster
from rayward.plan.conditions import find
from rayward.plan.outcome import Plan

Raw = dict[str, Any]
NOW = 1_700_000_000.0


def told(plan: Plan, reason: str) -> list[str]:
    return [event.message for event in plan.events if event.reason == reason]


def spoil(standing: Any) -> None:
    standing.raw["spec"]["workerGroupSpecs"][0]["maxReplicas"] = "five"
    standing.raw["metadata"]["generation"] += 1


def test_it_is_said_once_and_stands_in_the_status(standing: Any) -> None:
    spoil(standing)
    plan = standing.settle()
    assert (plan.create, plan.delete, plan.update, plan.finalizers) == ((), (), (), None)
    (text,) = told(plan, "InvalidRayClusterSpec")
    assert "spec.workerGroupSpecs[0].maxReplicas" in text
    assert plan.status["reason"] == f"InvalidRayClusterSpec: {text}"
    assert plan.status["observedGeneration"] == 4
    assert plan.status_now
    again = standing.settle(NOW + 9)
    assert (again.events, again.status_now) == ((), False)
    assert again.status == plan.status


def test_another_problem_without_a_new_generation_is_news(standing: Any) -> None:
    standing.raw["metadata"]["annotations"]["rayward.dev/standby-heads"] = "many"
    assert told(standing.settle(), "InvalidRayClusterSpec")
    standing.raw["metadata"]["annotations"]["rayward.dev/standby-heads"] = "lots"
    assert told(standing.settle(), "InvalidRayClusterSpec")
    assert standing.run().events == ()


def test_what_runs_goes_on_and_the_status_stays_true(standing: Any) -> None:
    spoil(standing)
    assert standing.settle().status["state"] == "ready"
    standing.pods = standing.pods[1:]
    plan = standing.settle(NOW + 9)
    assert plan.create == ()
    assert plan.status["state"] == ""
    assert find(plan.status, "HeadPodReady")["status"] == "False"
    assert standing.settle(NOW + 19).status == plan.status


def test_a_spec_that_was_mended_works_and_the_reason_goes(standing: Any) -> None:
    spoil(standing)
    standing.settle()
    standing.raw["spec"]["workerGroupSpecs"][0]["maxReplicas"] = 5
    standing.raw["metadata"]["generation"] += 1
    plan = standing.settle()
    assert plan.status["state"] == "ready"
    assert not plan.status.get("reason")


def test_a_cluster_of_kueues_is_not_touched(standing: Any) -> None:
    standing.raw["spec"]["managedBy"] = "kueue.x-k8s.io/multikueue"
    standing.raw["spec"]["workerGroupSpecs"][0]["replicas"] = 5
    plan = standing.run()
    assert (plan.create, plan.delete, plan.events, plan.finalizers) == ((), (), (), None)
    assert plan.status == standing.raw["status"]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"historyServerOptions": {"collectorOptions": {}}}, "spec.historyServerOptions"),
        ({"networkPolicy": {"mode": "DenyAll"}}, "spec.networkPolicy"),
        ({"autoscalerOptions": {"version": "v1"}}, "spec.autoscalerOptions"),
        ({"authOptions": {"secretName": "mine"}}, "spec.authOptions.secretName"),
        ({"aFieldOfTomorrow": 1}, "spec: unknown field `aFieldOfTomorrow`"),
    ],
)
def test_a_field_without_effect_is_said_once_for_each_generation(
    standing: Any, change: Raw, path: str
) -> None:
    standing.raw["spec"].update(change)
    standing.raw["metadata"]["generation"] += 1
    plan = standing.settle()
    (text,) = told(plan, "UnsupportedField")
    assert path in text
    assert plan.status_now, "the status remembers that it was said"
    assert plan.status["state"] == "ready"
    assert standing.settle(NOW + 9).events == ()
    standing.raw["metadata"]["generation"] += 1
    assert told(standing.run(), "UnsupportedField") == [text]


def test_so_are_labels_for_schedulers_and_an_ingress_that_is_not_asked_for(standing: Any) -> None:
    standing.raw["metadata"].update(generation=9, labels={"volcano.sh/queue-name": "q"})
    standing.raw["spec"]["headGroupSpec"]["ingressOptions"] = {"host": "h"}
    found = told(standing.run(), "UnsupportedField")
    assert len(found) == 2
    assert "volcano.sh/queue-name" in found[0]
    assert "ingressOptions" in found[1]


def test_what_rays_own_autoscaler_reads_is_no_field_without_effect(standing: Any) -> None:
    standing.raw["spec"].update(enableInTreeAutoscaling=True)
    standing.raw["spec"]["autoscalerOptions"] = {
        "version": "v2",
        "idleTimeoutSeconds": 5,
        "upscalingMode": "Default",
    }
    standing.raw["spec"]["workerGroupSpecs"][0].update(priority=1, idleTimeoutSeconds=9)
    standing.raw["metadata"]["generation"] += 1
    plan = standing.run()
    assert told(plan, "UnsupportedField") == []
    assert told(plan, "InvalidRayClusterSpec") == []


def test_a_misspelt_field_in_a_file_is_still_an_error(standing: Any) -> None:
    standing.raw["spec"]["rayVersoin"] = "2.60.0"
    with pytest.raises(ManifestError, match="rayVersion"):
        parse_ray_cluster(standing.raw)


def test_a_name_has_its_own_reason(standing: Any) -> None:
    standing.raw["metadata"]["name"] = "a" * 54
    assert told(standing.run(), "InvalidRayClusterMetadata")


def test_many_problems_fit_into_one_event(standing: Any) -> None:
    group = standing.raw["spec"]["workerGroupSpecs"][0]
    standing.raw["spec"]["workerGroupSpecs"] = [{**group, "replicas": "x"} for _ in range(500)]
    (text,) = told(standing.run(), "InvalidRayClusterSpec")
    assert len(text) < 1000
    assert "spec.workerGroupSpecs[0].replicas" in text
    assert text.endswith(" more")


def test_a_status_that_cannot_be_is_mended_and_holds_nobody_up(standing: Any) -> None:
    for kind in ("RayClusterSuspending", "RayClusterSuspended"):
        standing.raw["status"]["conditions"].append(
            {"type": kind, "status": "True", "reason": kind, "lastTransitionTime": "x", "message": ""}
        )
    standing.pods = standing.pods[1:]
    plan = standing.settle()
    assert told(plan, "InvalidRayClusterStatus")
    assert len(plan.create) == 1
    assert told(standing.run(), "InvalidRayClusterStatus") == []

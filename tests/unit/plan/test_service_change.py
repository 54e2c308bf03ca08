"""Which change of a RayService's cluster needs another cluster."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from rayward.api.raycluster import parse_ray_cluster
from rayward.plan.service_change import Change, change_of, changed_in_place

Raw = dict[str, Any]


def spec(**changes: Any) -> Raw:
    def template(name: str) -> Raw:
        return {"spec": {"containers": [{"name": name, "image": "rayproject/ray:2.60.0"}]}}

    return {
        "rayVersion": "2.60.0",
        "headGroupSpec": {"template": template("ray-head")},
        "workerGroupSpecs": [{"groupName": "a", "replicas": 1, "template": template("ray-worker")}],
        **changes,
    }


def change(running: Raw, wanted: Raw) -> Change:
    def read(found: Raw) -> Any:
        metadata = {"name": "x"}
        return parse_ray_cluster(
            {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": metadata, "spec": found}
        )

    return change_of(read(running), read(wanted))


def group(found: Raw) -> Raw:
    first: Raw = found["workerGroupSpecs"][0]
    return first


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda s: None, Change.NOTHING),
        (lambda s: s.update(enableInTreeAutoscaling=None), Change.NOTHING),
        (lambda s: group(s).update(minReplicas=0, numOfHosts=1), Change.NOTHING),
        (lambda s: group(s)["template"]["spec"].update(tolerations=[{"key": "x"}]), Change.NOTHING),
        (lambda s: group(s).update(replicas=2), Change.IN_PLACE),
        (lambda s: group(s).update(maxReplicas=5), Change.IN_PLACE),
        (lambda s: s["workerGroupSpecs"].append({**group(s), "groupName": "b"}), Change.IN_PLACE),
        (lambda s: s["workerGroupSpecs"].insert(0, {**group(s), "groupName": "b"}), Change.NEW_CLUSTER),
        (lambda s: s["workerGroupSpecs"].clear(), Change.NEW_CLUSTER),
        (lambda s: s.update(rayVersion="2.61.0"), Change.NEW_CLUSTER),
        (lambda s: group(s).update(rayStartParams={"num-cpus": "2"}), Change.NEW_CLUSTER),
        (lambda s: group(s)["template"]["spec"]["containers"][0].update(image="other"), Change.NEW_CLUSTER),
        (lambda s: s.update(enableInTreeAutoscaling=True), Change.NEW_CLUSTER),
    ],
)
def test_what_a_change_asks_for(edit: Callable[[Raw], object], expected: Change) -> None:
    wanted = copy.deepcopy(spec())
    edit(wanted)
    assert change(spec(), wanted) is expected


def test_an_appended_group_beside_another_change_needs_a_new_cluster() -> None:
    wanted = spec(rayVersion="2.61.0")
    wanted["workerGroupSpecs"].append({**group(wanted), "groupName": "b"})
    assert change(spec(), wanted) is Change.NEW_CLUSTER


def test_in_place_takes_numbers_and_new_groups() -> None:
    running, wanted = spec(suspend=False), spec()
    group(wanted).update(replicas=3, maxReplicas=5)
    wanted["workerGroupSpecs"].append({**group(wanted), "groupName": "b"})
    found = changed_in_place(running, wanted)
    assert [(item["groupName"], item["replicas"]) for item in found["workerGroupSpecs"]] == [
        ("a", 3),
        ("b", 3),
    ]
    assert found["suspend"] is False
    assert change(found, wanted) is Change.NOTHING
    assert group(running)["replicas"] == 1, "what was given is left alone"
    assert "maxReplicas" not in group(changed_in_place(found, spec()))


def test_where_ray_scales_its_number_stays() -> None:
    running, wanted = spec(enableInTreeAutoscaling=True), spec(enableInTreeAutoscaling=True)
    group(running)["replicas"] = 4
    assert change(running, wanted) is Change.NOTHING
    group(wanted)["maxReplicas"] = 9
    assert change(running, wanted) is Change.IN_PLACE
    assert group(changed_in_place(running, wanted))["replicas"] == 4

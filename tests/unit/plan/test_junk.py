"""Junk in a spec: a definition that checks little (KubeRay's left in place, an old server, a Pod template)
lets anything in, and one bad object must end in a word about it, never in an operator that stumbles over it.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayward.plan.outcome import Observed
from rayward.plan.reconcile import reconcile
from rayward.plan.settings import Settings

Raw = dict[str, Any]
NOW = 1_700_000_000.0
EVERY_FIELD = Path(__file__).resolve().parents[1] / "api" / "every-field.yaml"
JUNK: list[Any] = [None, "", "x", -1, True, [], {}, [1], [[]], [{}], {"a": 1}, "é" * 300]
CONTAINER = {
    "command": ["c"],
    "args": ["a"],
    "env": [{"name": "A", "value": "b"}],
    "ports": [{"name": "p", "containerPort": 1}],
    "volumeMounts": [{"name": "v", "mountPath": "/v"}],
    "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
}


def everything() -> Raw:
    return copy.deepcopy(_everything())


@functools.cache
def _everything() -> Raw:
    raw: Raw = yaml.safe_load(EVERY_FIELD.read_text())
    raw["metadata"].update(
        namespace="default",
        uid="uid",
        generation=1,
        annotations={"ray.io/enable-serve-service": "true"},
        finalizers=["ray.io/gcs-ft-redis-cleanup-finalizer"],
    )
    head = raw["spec"]["headGroupSpec"]
    head["headService"]["spec"]["ports"] = [{"name": "x", "port": 1}]
    pod = head["template"]["spec"]
    pod["containers"][0].update(copy.deepcopy(CONTAINER))
    pod["containers"].append({"name": "sidecar", "image": "i", "resources": {"limits": {"cpu": "1"}}})
    pod["initContainers"] = [{"name": "first", "image": "i", "env": [{"name": "A", "value": "b"}]}]
    pod["volumes"] = [{"name": "v", "emptyDir": {}}]
    return raw


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside ``value``."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def spoilt(path: tuple[Any, ...], junk: Any) -> Raw:
    raw = everything()
    node: Any = raw["spec"]
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = copy.deepcopy(junk)
    return raw


FIELDS = sorted({str(path[0]) for path in places(everything()["spec"])})


@pytest.mark.parametrize("field", FIELDS)
def test_nothing_that_stands_in_a_spec_makes_the_planner_stumble(field: str) -> None:
    tried = 0
    for path in places(everything()["spec"]):
        if path[0] != field:
            continue
        for junk in JUNK:
            raw = spoilt(path, junk)
            plan = reconcile(raw, Observed(), Settings(), NOW, token="t")
            refused = any(event.reason.startswith("InvalidRayCluster") for event in plan.events)
            assert refused or plan.create, (path, junk)
            raw["metadata"]["deletionTimestamp"] = "2023-11-14T22:00:00Z"
            plan = reconcile(raw, Observed(), Settings(), NOW)
            assert plan.create or plan.remove_cluster, (path, junk)
            tried += 1
    assert tried >= len(JUNK)

"""Every namespace that a RayCluster could mean is its own, whatever state its manifest is in."""

from __future__ import annotations

from typing import Any

import pytest

from rayward.cli.owners import _owners, claimed_namespaces, joined
from rayward.store.orphans import Owners

IMAGE = {"name": "ray", "image": "rayproject/ray:2.60.0"}


def cluster(
    options: Any = None, annotations: dict[str, str] | None = None, env: list[Any] | None = None
) -> dict[str, Any]:
    container = {**IMAGE, "env": env or []}
    spec: dict[str, Any] = {"headGroupSpec": {"template": {"spec": {"containers": [container]}}}}
    if options is not None:
        spec["gcsFaultToleranceOptions"] = options
    metadata = {"name": "c", "namespace": "n", "uid": "uid", "annotations": annotations or {}}
    return {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": metadata, "spec": spec}


def variable(**rest: Any) -> dict[str, Any]:
    return {"name": "RAY_external_storage_namespace", **rest}


@pytest.mark.parametrize(
    ("raw", "claimed"),
    [
        (cluster(), {"uid"}),
        (cluster({}), {"uid"}),
        (cluster({"externalStorageNamespace": "x"}), {"uid", "x"}),
        (cluster(annotations={"ray.io/external-storage-namespace": "y"}), {"uid", "y"}),
        (cluster({"externalStorageNamespace": "x"}, env=[variable(value="z")]), {"uid", "x", "z"}),
        (
            cluster({"externalStorageNamespace": "x", "unknown": 1}, env=[variable(value="z")]),
            {"uid", "x", "z"},
        ),
        ({"metadata": {"name": "c", "uid": "uid"}, "spec": {"gcsFaultToleranceOptions": "?"}}, {"uid"}),
        ({"metadata": {"name": "c", "uid": "uid"}}, {"uid"}),
    ],
)
def test_all_that_could_be_meant_is_claimed(raw: dict[str, Any], claimed: set[str]) -> None:
    assert claimed_namespaces(raw) == claimed


def test_owners_are_named_with_their_place() -> None:
    assert _owners([cluster()], "in context k").known == {"uid": "RayCluster n/c in context k"}


def test_a_namespace_behind_a_reference_leaves_a_doubt() -> None:
    secret = {"secretKeyRef": {"name": "s", "key": "k"}}
    found = _owners([cluster(env=[variable(valueFrom=secret)])], "here")
    assert found.known.keys() == {"uid"}
    assert found.unasked == (
        "RayCluster n/c here takes its namespace from a reference, which is not followed",
    )


def test_joined_owners() -> None:
    found = joined([Owners({"a": "1"}, ("x",)), Owners({"a": "2", "b": "3"}, ("y",))])
    assert (dict(found.known), found.unasked) == ({"a": "1", "b": "3"}, ("x", "y"))

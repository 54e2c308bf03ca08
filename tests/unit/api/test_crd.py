"""The definitions for API servers: they know what the reader of manifests knows, nothing else."""

from __future__ import annotations

import re
import runpy
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import msgspec
import pytest
import yaml

from rayward.api.raycluster import RayClusterSpec
from rayward.api.rayservice import RayServiceSpec

Schema = dict[str, Any]
ROOT = Path(__file__).resolve().parents[3]
CRDS: dict[str, Schema] = {
    kind: yaml.safe_load((ROOT / "deploy" / "crds" / f"ray.io_{kind.lower()}s.yaml").read_text())
    for kind in ("RayCluster", "RayService")
}
SCHEMAS: dict[str, Schema] = {
    kind: version["schema"]["openAPIV3Schema"]
    for kind, found in CRDS.items()
    for version in found["spec"]["versions"]
    if version["name"] == "v1"
}
SPECS: dict[str, Schema] = {kind: schema["properties"]["spec"] for kind, schema in SCHEMAS.items()}
SPEC, SERVICE = SPECS["RayCluster"], SPECS["RayService"]
of_every_kind = pytest.mark.parametrize("kind", CRDS)


def test_the_files_are_what_the_tool_writes() -> None:
    texts = runpy.run_path(str(ROOT / "tools" / "make_crds.py"))["texts"]()
    assert texts == {path: path.read_text() for path in (ROOT / "deploy" / "crds").glob("*.yaml")}


# -- field by field, without the tool ---------------------------------------------------------------------


def alternatives(annotation: Any) -> list[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for kind in get_args(annotation) if kind is not type(None)]
    return [annotation]


def pairs(struct: type[msgspec.Struct], schema: Schema, path: str) -> Iterator[tuple[str, Any, Schema]]:
    """Every struct of the reader beside its part of the schema."""
    yield path, struct, schema
    for field in msgspec.structs.fields(struct):
        kind = alternatives(field.type)[0]
        part = schema["properties"].get(field.encode_name, {})
        if get_origin(kind) in (list, tuple):
            kind, part = get_args(kind)[0], part.get("items", {})
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            yield from pairs(kind, part, f"{path}.{field.encode_name}")


PAIRS = [
    *pairs(RayClusterSpec, SPEC, "spec"),
    *pairs(RayServiceSpec, SERVICE, "service"),
    *pairs(RayClusterSpec, SERVICE["properties"]["rayClusterConfig"], "service.rayClusterConfig"),
]


def test_all_structs_are_compared() -> None:
    assert len(PAIRS) == 12 + 3 + 12
    assert {path for path, _, _ in PAIRS} >= {
        "spec.workerGroupSpecs.scaleStrategy",
        "service.upgradeStrategy.clusterUpgradeOptions",
        "service.rayClusterConfig.workerGroupSpecs.scaleStrategy",
    }


@pytest.mark.parametrize(("path", "struct", "schema"), PAIRS, ids=[path for path, _, _ in PAIRS])
def test_reader_and_definition_agree_field_by_field(path: str, struct: Any, schema: Schema) -> None:
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    assert fields.keys() == schema["properties"].keys()
    assert {name for name, field in fields.items() if field.required} == set(schema.get("required", ()))
    for name, field in fields.items():
        part, kinds = schema["properties"][name], alternatives(field.type)
        assert part["description"], f"{path}.{name}"
        if get_origin(kinds[0]) is Literal:
            assert tuple(part["enum"]) == get_args(kinds[0])
        expected = {str: "string", bool: "boolean", dict: "object", list: "array", tuple: "array"}
        base = get_origin(kinds[0]) or kinds[0]
        if len(kinds) == 1 and base in expected:
            assert part["type"] == expected[base]


@pytest.mark.parametrize("cluster", [SPEC, SERVICE["properties"]["rayClusterConfig"]])
def test_the_defaults_are_kuberays(cluster: Schema) -> None:
    group = cluster["properties"]["workerGroupSpecs"]["items"]["properties"]
    found = {name: part["default"] for name, part in group.items() if "default" in part}
    assert found == {"replicas": 0, "minReplicas": 0, "maxReplicas": 2147483647, "numOfHosts": 1}


def without_words(node: Any) -> Any:
    """A schema as a server acts on it, transition rules and descriptions left out."""
    if isinstance(node, list):
        return [without_words(part) for part in node]
    if not isinstance(node, dict):
        return node
    kept = {name: without_words(part) for name, part in node.items() if not isinstance(part, str)}
    kept |= {name: part for name, part in node.items() if isinstance(part, str) and name != "description"}
    rules = [rule for rule in kept.pop("x-kubernetes-validations", ()) if "oldSelf" not in rule["rule"]]
    return {**kept, "rules": rules} if rules else kept


def test_the_cluster_of_a_service_is_a_cluster_in_which_nothing_is_fixed() -> None:
    """A changed backend makes another cluster; in a RayCluster it would leave the state behind."""
    inner = SERVICE["properties"]["rayClusterConfig"]
    assert without_words(inner) == without_words(SPEC)
    fixed = {
        kind: [path for path, node in nodes(spec) if "oldSelf" in str(node.get("x-kubernetes-validations"))]
        for kind, spec in SPECS.items()
    }
    assert fixed == {
        "RayCluster": [".gcsFaultToleranceOptions.backend", ".managedBy"],
        "RayService": [".managedBy"],
    }


SHOWN = {
    "RayCluster": ["desired workers", "available workers", "cpus", "memory", "gpus", "status", "age"],
    "RayService": ["service status", "num serve endpoints", "age"],
}


@pytest.mark.parametrize(
    ("kind", "plural", "short"), [("RayCluster", "rayclusters", "ray"), ("RayService", "rayservices", "rsvc")]
)
def test_names_versions_and_columns(kind: str, plural: str, short: str) -> None:
    spec = CRDS[kind]["spec"]
    assert (spec["group"], spec["scope"], spec["names"]["plural"]) == ("ray.io", "Namespaced", plural)
    assert (spec["names"]["kind"], spec["names"]["shortNames"]) == (kind, [short])
    assert spec["names"]["categories"] == ["all"]
    v1, old = spec["versions"]
    assert (v1["name"], v1["served"], v1["storage"], v1.get("deprecated")) == ("v1", True, True, None)
    assert (old["name"], old["served"], old["storage"], old["deprecated"]) == ("v1alpha1", True, False, True)
    assert all(version["subresources"] == {"status": {}} for version in (v1, old))
    shown = [column["name"] for column in v1["additionalPrinterColumns"] if not column["priority"]]
    assert shown == SHOWN[kind]
    for column in v1["additionalPrinterColumns"]:
        node = SCHEMAS[kind]
        for name in column["jsonPath"].strip(".").split("."):
            node = node["properties"].get(name, {}) if name != "metadata" else {"properties": {}}
        assert node or column["name"] == "age"


# -- structural rules of apiextensions.k8s.io/v1 -----------------------------------------------------------


def nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from nodes(part, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            yield from nodes(schema[name], f"{path}[]")


@of_every_kind
def test_the_schema_is_structural(kind: str) -> None:
    for path, node in nodes(SCHEMAS[kind]):
        if node.get("x-kubernetes-int-or-string"):
            assert "type" not in node, path
            assert node["anyOf"] == [{"type": "integer"}, {"type": "string"}], path
        else:
            assert node.get("type") in ("object", "array", "string", "boolean", "integer"), path
        assert not ("properties" in node and "additionalProperties" in node), path
        assert (node.get("type") == "array") == ("items" in node), path
        assert set(node.get("required", ())) <= set(node.get("properties", {})) or node.get(
            "x-kubernetes-preserve-unknown-fields"
        ), path
        for rule in node.get("x-kubernetes-validations", ()):
            assert rule["rule"], path
            assert rule["message"], path


@of_every_kind
def test_rules_name_only_fields_that_there_are(kind: str) -> None:
    for path, node in nodes(SCHEMAS[kind]):
        for rule in node.get("x-kubernetes-validations", ()):
            named = set(re.findall(r"(?<!oldS)(?:self)\.(\w+)", rule["rule"]))
            assert named <= set(node.get("properties", {})) | {"metadata"}, path

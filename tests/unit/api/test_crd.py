"""The RayCluster definition for API servers: it knows what the reader of manifests knows, nothing else."""

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

from rayward.api.problems import ManifestError
from rayward.api.raycluster import RayCluster, RayClusterSpec, parse_ray_cluster
from rayward.api.validation import validate

Schema = dict[str, Any]
Raw = dict[str, Any]
ROOT = Path(__file__).resolve().parents[3]
CRD = yaml.safe_load((ROOT / "deploy" / "crds" / "ray.io_rayclusters.yaml").read_text())
V1 = next(version for version in CRD["spec"]["versions"] if version["name"] == "v1")
SCHEMA: Schema = V1["schema"]["openAPIV3Schema"]
SPEC: Schema = SCHEMA["properties"]["spec"]


def test_the_file_is_what_the_tool_writes() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "make_crds.py"))
    assert tool["text"]() == (ROOT / "deploy" / "crds" / "ray.io_rayclusters.yaml").read_text()


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


PAIRS = list(pairs(RayClusterSpec, SPEC, "spec"))


def test_all_structs_are_compared() -> None:
    assert len(PAIRS) == 12
    assert {path for path, _, _ in PAIRS} >= {"spec", "spec.workerGroupSpecs.scaleStrategy"}


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


def test_the_defaults_are_kuberays() -> None:
    group = SCHEMA["properties"]["spec"]["properties"]["workerGroupSpecs"]["items"]["properties"]
    found = {name: part["default"] for name, part in group.items() if "default" in part}
    assert found == {"replicas": 0, "minReplicas": 0, "maxReplicas": 2147483647, "numOfHosts": 1}


def test_names_versions_and_columns() -> None:
    spec = CRD["spec"]
    assert (spec["group"], spec["scope"], spec["names"]["plural"]) == ("ray.io", "Namespaced", "rayclusters")
    assert (spec["names"]["categories"], spec["names"]["shortNames"]) == (["all"], ["ray"])
    v1, old = spec["versions"]
    assert (v1["name"], v1["served"], v1["storage"], v1.get("deprecated")) == ("v1", True, True, None)
    assert (old["name"], old["served"], old["storage"], old["deprecated"]) == ("v1alpha1", True, False, True)
    assert all(version["subresources"] == {"status": {}} for version in (v1, old))
    shown = [column["name"] for column in v1["additionalPrinterColumns"] if not column["priority"]]
    assert shown == ["desired workers", "available workers", "cpus", "memory", "gpus", "status", "age"]
    for column in v1["additionalPrinterColumns"]:
        node = SCHEMA
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


def test_the_schema_is_structural() -> None:
    for path, node in nodes(SCHEMA):
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


def test_rules_name_only_fields_that_there_are() -> None:
    for path, node in nodes(SCHEMA):
        for rule in node.get("x-kubernetes-validations", ()):
            named = set(re.findall(r"(?<!oldS)(?:self)\.(\w+)", rule["rule"]))
            assert named <= set(node.get("properties", {})) | {"metadata"}, path


# -- a small server ----------------------------------------------------------------------------------------


def rejected(value: Any, schema: Schema, path: str = "spec") -> Iterator[str]:
    """What a server without CEL says of ``value``: types, enums, bounds, required and unknown fields."""
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}
    if schema.get("x-kubernetes-int-or-string"):
        if not isinstance(value, int | str):
            yield f"{path}: neither number nor text"
        return
    if not isinstance(value, kinds[schema["type"]]) or (schema["type"] == "integer" and value is True):
        yield f"{path}: no {schema['type']}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: not in enum"
    if schema["type"] == "integer" and value < schema.get("minimum", value):
        yield f"{path}: too small"
    if isinstance(value, list):
        yield from rejected_list(value, schema, path)
    if isinstance(value, dict):
        yield from rejected_object(value, schema, path)


def rejected_list(value: list[Any], schema: Schema, path: str) -> Iterator[str]:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        yield f"{path}: number of items"
    for index, item in enumerate(value):
        yield from rejected(item, schema["items"], f"{path}[{index}]")


def rejected_object(value: Raw, schema: Schema, path: str) -> Iterator[str]:
    yield from (f"{path}.{name}: missing" for name in schema.get("required", ()) if name not in value)
    known, other = schema.get("properties", {}), schema.get("additionalProperties")
    for name, item in value.items():
        part = known.get(name, other)
        if part is not None:
            yield from rejected(item, part, f"{path}.{name}")
        elif not schema.get("x-kubernetes-preserve-unknown-fields"):
            yield f"{path}.{name}: unknown"


def clusters() -> Iterator[tuple[str, Raw]]:
    for path in sorted((ROOT / "examples").rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if isinstance(document, dict) and document.get("kind") == "RayCluster":
                yield path.name, document


EXAMPLES = list(clusters())


@pytest.mark.parametrize("document", [found for _, found in EXAMPLES], ids=[name for name, _ in EXAMPLES])
def test_every_example_is_accepted(document: Raw) -> None:
    assert list(rejected(document["spec"], SPEC)) == []


@pytest.fixture
def everything() -> Raw:
    found: Raw = yaml.safe_load((Path(__file__).parent / "every-field.yaml").read_text())
    return found


def test_a_manifest_with_every_field_is_read_and_accepted(everything: Raw) -> None:
    spec = everything["spec"]
    cluster = parse_ray_cluster(everything)
    assert isinstance(cluster, RayCluster)
    assert list(rejected(spec, SPEC)) == []
    assert spec.keys() == {field.encode_name for field in msgspec.structs.fields(RayClusterSpec)}


WRONG: list[tuple[str, Any]] = [
    ("rayVersion", 2.6),
    ("suspend", "maybe"),
    ("managedBy", "me"),
    ("upgradeStrategy", {"type": "Rolling"}),
    ("headGroupSpec", {"rayStartParams": {}}),
    ("headGroupSpec", {"template": {"spec": {"containers": []}}}),
    ("workerGroupSpecs", [{"groupName": "g"}]),
    ("gcsFaultToleranceOptions", {"backend": "etcd"}),
    ("gcsFaultToleranceOptions", {"storage": {"deletionPolicy": "Never"}}),
    ("autoscalerOptions", {"version": "v3"}),
    ("rayVersoin", "2.60.0"),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_what_the_reader_refuses_the_server_refuses_too(everything: Raw, field: str, value: Any) -> None:
    everything["spec"][field] = value
    assert list(rejected(everything["spec"], SPEC))
    try:
        cluster = parse_ray_cluster(everything)
    except ManifestError:
        return
    assert validate(cluster)

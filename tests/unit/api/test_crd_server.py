"""What an API server with the definitions takes, played by a small one: what the reader takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from rayward.api.problems import ManifestError
from rayward.api.raycluster import RayCluster, RayClusterSpec, parse_ray_cluster
from rayward.api.rayservice import RayServiceSpec, parse_ray_service, validate_service
from rayward.api.validation import validate

Schema = dict[str, Any]
Raw = dict[str, Any]
ROOT = Path(__file__).resolve().parents[3]
SPECS: dict[str, Schema] = {
    found["spec"]["names"]["kind"]: found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"][
        "spec"
    ]
    for found in (yaml.safe_load(path.read_text()) for path in (ROOT / "deploy" / "crds").glob("*.yaml"))
}
SPEC, SERVICE = SPECS["RayCluster"], SPECS["RayService"]


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
            if isinstance(document, dict) and document.get("kind") in SPECS:
                yield path.name, document


EXAMPLES = list(clusters())


@pytest.mark.parametrize("document", [found for _, found in EXAMPLES], ids=[name for name, _ in EXAMPLES])
def test_every_example_is_accepted(document: Raw) -> None:
    assert list(rejected(document["spec"], SPECS[document["kind"]])) == []


def test_both_kinds_are_among_the_examples() -> None:
    assert {document["kind"] for _, document in EXAMPLES} == SPECS.keys()


@pytest.fixture
def everything() -> Raw:
    found: Raw = yaml.safe_load((Path(__file__).parent / "every-field.yaml").read_text())
    return found


@pytest.fixture
def whole_service(everything: Raw) -> Raw:
    found: Raw = yaml.safe_load((Path(__file__).parent / "every-field-service.yaml").read_text())
    found["spec"]["rayClusterConfig"] = everything["spec"]
    return found


def test_a_manifest_with_every_field_is_read_and_accepted(everything: Raw) -> None:
    spec = everything["spec"]
    cluster = parse_ray_cluster(everything)
    assert isinstance(cluster, RayCluster)
    assert list(rejected(spec, SPEC)) == []
    assert spec.keys() == {field.encode_name for field in msgspec.structs.fields(RayClusterSpec)}


def test_a_service_with_every_field_is_read_and_accepted(whole_service: Raw) -> None:
    spec = whole_service["spec"]
    assert parse_ray_service(whole_service).name == "demo"
    assert list(rejected(spec, SERVICE)) == []
    assert spec.keys() == {field.encode_name for field in msgspec.structs.fields(RayServiceSpec)}


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


WRONG_SERVICE: list[tuple[str, Any]] = [
    ("rayClusterConfig", {}),
    ("rayClusterConfig", {"headGroupSpec": {"template": {"spec": {"containers": []}}}}),
    ("serveConfigV2", {"applications": []}),
    ("serveService", "mine"),
    ("upgradeStrategy", {"type": "Rolling"}),
    ("upgradeStrategy", {"clusterUpgradeOptions": {"stepSizePercent": 10}}),
    ("rayClusterDeletionDelaySeconds", -1),
    ("rayClusterDeletionDelaySeconds", "60"),
    ("excludeHeadPodFromServeSvc", "yes"),
    ("managedBy", "me"),
    ("serveConfig", "applications: []"),
]


@pytest.mark.parametrize(("field", "value"), WRONG_SERVICE)
def test_what_the_reader_refuses_of_a_service_the_server_refuses_too(
    whole_service: Raw, field: str, value: Any
) -> None:
    whole_service["spec"]["upgradeStrategy"] = {"type": "None"}
    del whole_service["spec"]["rayClusterConfig"]["suspend"]
    del whole_service["spec"]["rayClusterConfig"]["upgradeStrategy"]
    assert validate_service(parse_ray_service(whole_service)) == ()
    whole_service["spec"][field] = value
    assert list(rejected(whole_service["spec"], SERVICE))
    try:
        service = parse_ray_service(whole_service)
    except ManifestError:
        return
    assert validate_service(service)

"""Writes deploy/crds/ray.io_rayclusters.yaml from the structs that read a RayCluster, so that they agree.

    python tools/make_crds.py            writes the file
    python tools/make_crds.py --check    says whether it is up to date, with exit code 1 when it is not

Types, enums and required fields come from ``rayward.api.raycluster``; sentences, defaults and rules from
``tools/crd_fields.py``. Pod templates and Services keep every field: the API server checks them when the
objects themselves are made. Servers without CEL (before 1.25) ignore the rules, and the operator checks the
same.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import crd_fields as fields

from rayward.api.raycluster import RayClusterSpec

Schema = dict[str, Any]
TARGET = Path(__file__).resolve().parents[1] / "deploy" / "crds" / "ray.io_rayclusters.yaml"
HEADER = "# Made by tools/make_crds.py from rayward/api/raycluster.py. Do not edit by hand.\n"
ANYTHING: Schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
QUANTITY: Schema = {
    "anyOf": [{"type": "integer"}, {"type": "string"}],
    "pattern": r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?[0-9]+))?$",
    "x-kubernetes-int-or-string": True,
}


def struct_schema(struct: type[msgspec.Struct], description: str) -> Schema:
    """The schema of one struct, its fields sorted by name."""
    properties, required = {}, []
    for field in sorted(msgspec.structs.fields(struct), key=lambda found: found.encode_name):
        key = f"{struct.__name__}.{field.encode_name}"
        schema = _type_schema(field.type, key)
        properties[field.encode_name] = {
            "description": fields.DESCRIPTIONS[key],
            **schema,
            **fields.EXTRAS.get(key, {}),
        }
        if field.required:
            required.append(field.encode_name)
    schema = {"description": description, "type": "object", "properties": properties}
    if required:
        schema["required"] = required
    rules = fields.RULES.get(struct.__name__)
    if rules:
        schema["x-kubernetes-validations"] = [{"rule": rule, "message": message} for rule, message in rules]
    return schema


def _type_schema(annotation: Any, key: str) -> Schema:
    kinds = _alternatives(annotation)
    kind, origin, arguments = kinds[0], get_origin(kinds[0]), get_args(kinds[0])
    if len(kinds) > 1:
        schema = dict(QUANTITY)
    elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        schema = {name: part for name, part in struct_schema(kind, "").items() if name != "description"}
    elif origin is Annotated:
        schema = {"type": "integer", "format": "int32"}
    elif origin is Literal:
        schema = {"type": "string", "enum": list(arguments)}
    elif origin in (list, tuple):
        schema = {"type": "array", "items": _type_schema(arguments[0], key)}
    elif origin is dict and arguments[1] is str:
        schema = {"type": "object", "additionalProperties": {"type": "string"}}
    elif origin is dict:
        schema = _raw_schema(key)
    else:
        schema = {"type": {str: "string", bool: "boolean"}[kind]}
    return schema


def _alternatives(annotation: Any) -> list[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for kind in get_args(annotation) if kind is not type(None)]
    return [annotation]


def _raw_schema(key: str) -> Schema:
    """A mapping of Kubernetes' own, checked no further than that a Pod has a container."""
    if not key.endswith(".template"):
        return dict(ANYTHING)
    containers = {"type": "array", "minItems": 1, "items": {**ANYTHING, "required": ["name"]}}
    spec = {**ANYTHING, "properties": {"containers": containers}, "required": ["containers"]}
    return {**ANYTHING, "properties": {"metadata": dict(ANYTHING), "spec": spec}, "required": ["spec"]}


def resource_schema() -> Schema:
    """The whole object."""
    return {
        "description": fields.RAY_CLUSTER,
        "type": "object",
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": struct_schema(RayClusterSpec, fields.SPEC),
            "status": fields.status_schema(QUANTITY),
        },
        "required": ["spec"],
        "x-kubernetes-validations": [
            {"rule": rule, "message": message} for rule, message in fields.RULES["RayCluster"]
        ],
    }


def definition() -> Schema:
    """The CustomResourceDefinition."""
    names = {
        "kind": "RayCluster",
        "listKind": "RayClusterList",
        "plural": "rayclusters",
        "singular": "raycluster",
        "categories": ["all"],
        "shortNames": ["ray"],
    }
    common = {
        "schema": {"openAPIV3Schema": resource_schema()},
        "subresources": {"status": {}},
        "additionalPrinterColumns": fields.COLUMNS,
    }
    old = {"deprecated": True, "deprecationWarning": "ray.io/v1alpha1 is deprecated; write ray.io/v1"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "rayclusters.ray.io"},
        "spec": {
            "group": "ray.io",
            "names": names,
            "scope": "Namespaced",
            "versions": [
                {"name": "v1", "served": True, "storage": True, **common},
                {"name": "v1alpha1", "served": True, "storage": False, **old, **common},
            ],
        },
    }


class _Dumper(yaml.SafeDumper):
    """Writes everything out: readers of manifests do not expect aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def text() -> str:
    """The file as it should be."""
    return HEADER + yaml.dump(definition(), Dumper=_Dumper, sort_keys=False, width=110)


def main() -> int:
    """Entry point."""
    wanted = text()
    if sys.argv[1:] == ["--check"]:
        same = TARGET.exists() and TARGET.read_text(encoding="utf-8") == wanted
        print(f"{TARGET.name} is up to date" if same else f"{TARGET.name} is not: run tools/make_crds.py")
        return 0 if same else 1
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

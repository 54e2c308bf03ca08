"""Writes the definitions in deploy/crds from the structs that read the objects, so that they agree.

    python tools/make_crds.py            writes the files
    python tools/make_crds.py --check    says whether they are up to date, with exit code 1 when one is not

Types, enums and required fields come from ``rayward.api``; sentences, defaults and rules from
``tools/crd_fields.py`` and ``tools/crd_service_fields.py``. Pod templates and Services keep every field: the
API server checks them when the objects themselves are made. Servers without CEL (before 1.25) ignore the
rules, and the operator checks the same.
"""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import crd_fields as fields
import crd_service_fields as service_fields

from rayward.api.raycluster import RayClusterSpec
from rayward.api.rayservice import RayServiceSpec

Schema = dict[str, Any]
FOLDER = Path(__file__).resolve().parents[1] / "deploy" / "crds"
HEADER = "# Made by tools/make_crds.py from rayward/api/{}. Do not edit by hand.\n"
DESCRIPTIONS = {**fields.DESCRIPTIONS, **service_fields.DESCRIPTIONS}
EXTRAS = {**fields.EXTRAS, **service_fields.EXTRAS}
RULES = {**fields.RULES, **service_fields.RULES}
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
            "description": DESCRIPTIONS[key],
            **schema,
            **EXTRAS.get(key, {}),
        }
        if field.required:
            required.append(field.encode_name)
    schema = {"description": description, "type": "object", "properties": properties}
    if required:
        schema["required"] = required
    if struct.__name__ in RULES:
        schema["x-kubernetes-validations"] = _rules(struct.__name__)
    return schema


def _rules(name: str) -> list[Schema]:
    return [{"rule": rule, "message": message} for rule, message in RULES[name]]


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
    """A cluster's spec, or a mapping of Kubernetes' own: that is checked no further than that a Pod has a
    container."""
    if key == "RayServiceSpec.rayClusterConfig":
        return cluster_of_a_service()
    if not key.endswith(".template"):
        return dict(ANYTHING)
    containers = {"type": "array", "minItems": 1, "items": {**ANYTHING, "required": ["name"]}}
    spec = {**ANYTHING, "properties": {"containers": containers}, "required": ["containers"]}
    return {**ANYTHING, "properties": {"metadata": dict(ANYTHING), "spec": spec}, "required": ["spec"]}


def cluster_of_a_service() -> Schema:
    """The spec of a RayCluster where another cluster may take its place: what is fixed once set in a
    RayCluster is not so here."""
    schema: Schema = without_transitions(struct_schema(RayClusterSpec, ""))
    del schema["description"]
    for path, sentence in service_fields.CLUSTER_DESCRIPTIONS.items():
        part = schema
        for name in path.split("."):
            part = part["properties"][name]
        part["description"] = sentence
    return schema


def without_transitions(schema: Any) -> Any:
    """A copy without the rules that compare with the value before."""
    if isinstance(schema, list):
        return [without_transitions(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    copy = {name: without_transitions(part) for name, part in schema.items()}
    rules = copy.pop("x-kubernetes-validations", [])
    kept = [rule for rule in rules if "oldSelf" not in rule["rule"]]
    return {**copy, "x-kubernetes-validations": kept} if kept else copy


@dataclass(frozen=True)
class Definition:
    """One kind: its names, the schemas of its spec and status, its columns, and where its fields are read."""

    kind: str
    short_name: str
    description: str
    spec: Schema
    status: Schema
    columns: list[Schema]
    source: str

    @property
    def plural(self) -> str:
        return f"{self.kind.lower()}s"

    @property
    def path(self) -> Path:
        """The file."""
        return FOLDER / f"ray.io_{self.plural}.yaml"


def resource_schema(kind: Definition) -> Schema:
    """The whole object."""
    return {
        "description": kind.description,
        "type": "object",
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": kind.spec,
            "status": kind.status,
        },
        "required": ["spec"],
        "x-kubernetes-validations": _rules(kind.kind),
    }


def definitions() -> list[Definition]:
    """All kinds."""
    status = fields.status_schema(QUANTITY)
    return [
        Definition(
            kind="RayCluster",
            short_name="ray",
            description=fields.RAY_CLUSTER,
            spec=struct_schema(RayClusterSpec, fields.SPEC),
            status=status,
            columns=fields.COLUMNS,
            source="raycluster.py",
        ),
        Definition(
            kind="RayService",
            short_name="rsvc",
            description=service_fields.RAY_SERVICE,
            spec=struct_schema(RayServiceSpec, service_fields.SPEC),
            status=service_fields.status_schema(fields.conditions_schema(), status),
            columns=service_fields.COLUMNS,
            source="rayservice.py",
        ),
    ]


def definition(kind: Definition) -> Schema:
    """The CustomResourceDefinition."""
    names = {
        "kind": kind.kind,
        "listKind": f"{kind.kind}List",
        "plural": kind.plural,
        "singular": kind.kind.lower(),
        "categories": ["all"],
        "shortNames": [kind.short_name],
    }
    common = {
        "schema": {"openAPIV3Schema": resource_schema(kind)},
        "subresources": {"status": {}},
        "additionalPrinterColumns": kind.columns,
    }
    old = {"deprecated": True, "deprecationWarning": "ray.io/v1alpha1 is deprecated; write ray.io/v1"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.ray.io"},
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


def texts() -> dict[Path, str]:
    """The files as they should be."""
    return {
        kind.path: HEADER.format(kind.source)
        + yaml.dump(definition(kind), Dumper=_Dumper, sort_keys=False, width=110)
        for kind in definitions()
    }


def main() -> int:
    """Entry point."""
    wanted = texts()
    if sys.argv[1:] == ["--check"]:
        old = [
            path.name
            for path, text in wanted.items()
            if not path.exists() or path.read_text(encoding="utf-8") != text
        ]
        for path in wanted:
            print(
                f"{path.name} is not up to date: run tools/make_crds.py"
                if path.name in old
                else f"{path.name} is up to date"
            )
        return 1 if old else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

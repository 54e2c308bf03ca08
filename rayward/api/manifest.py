"""From the text of a YAML file to raw Kubernetes objects, with an error that shows where to look.

Knows YAML and the outer shape that all objects share. What is inside a kind is checked elsewhere.
"""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterator
from typing import Any

import yaml

from rayward.api.core import CORE_KINDS, check_core
from rayward.api.problems import ManifestError, Problem, shown

__all__ = ["KNOWN_KINDS", "ManifestError", "Problem", "load_manifests"]

Manifest = dict[str, Any]

RAY_KINDS = {"RayCluster": ("ray.io/v1", "ray.io/v1alpha1"), "RayService": ("ray.io/v1", "ray.io/v1alpha1")}
KNOWN_KINDS: dict[str, tuple[str, ...]] = {**RAY_KINDS, **CORE_KINDS}
MAX_DEPTH = 100
MAX_VALUES = 1_000_000


def _as_text(key: yaml.Node) -> None:
    """Make a number or switch used as a key the text that it is in JSON, before 1 and true can be equal."""
    if key.tag == "tag:yaml.org,2002:bool":
        key.value = "true" if key.value.lower() in ("true", "yes", "on", "y") else "false"
    if key.tag in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
        key.tag = "tag:yaml.org,2002:str"


class _Loader(yaml.CSafeLoader):
    """Safe YAML whose mappings may not repeat a key and whose dates stay the text they are in JSON."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            _as_text(key_node)
            key = (key_node.tag, str(key_node.value))
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f'the key "{key_node.value}" is given twice', key_node.start_mark
                )
            seen.add(key)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep=deep)
        return mapping


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def load_manifests(text: str, source: str) -> list[Manifest]:
    """All objects of a multi-document YAML (or JSON) text, whole, ``kind: List`` flattened.

    ``source`` is the file's name for messages. Raises ManifestError with every problem of the file
    (YAML itself stops at its first error, which comes with line, column and the line's text).
    """
    objects = list(_flatten(_documents(text, source)))
    if not objects:
        raise ManifestError(
            [Problem("", "holds no object")], source=source, todo="put at least one manifest into it"
        )
    problems: list[Problem] = []
    seen: set[tuple[str, str, str]] = set()
    for number, raw in enumerate(objects, start=1):
        found = list(_outer_problems(raw, f"object {number}"))
        if not found:
            identity = (raw["kind"], str(raw["metadata"].get("namespace", "")), raw["metadata"]["name"])
            if identity in seen:
                found.append(Problem("metadata.name", "is in this file twice", subject_of(raw)))
            seen.add(identity)
            found.extend(check_core(raw, subject_of(raw)))
        problems.extend(found)
    if problems:
        raise ManifestError(problems, source=source)
    return objects


def subject_of(raw: Manifest) -> str:
    """``Kind/name`` of an object, as messages name it."""
    metadata = raw.get("metadata")
    name = metadata.get("name", "") if isinstance(metadata, dict) else ""
    return f"{raw.get('kind', '')}/{name}"


def _documents(text: str, source: str) -> list[object]:
    try:
        _check_depth(text)
        budget = [MAX_VALUES]
        return [_plain(document, 0, budget) for document in yaml.load_all(text, Loader=_Loader)]
    except yaml.MarkedYAMLError as error:
        raise _yaml_error(error, text, source) from None
    except yaml.YAMLError as error:
        raise ManifestError(
            [Problem("", f"is not YAML: {str(error).splitlines()[0]}")], source=source
        ) from None
    except (RecursionError, _Unusable) as error:
        message = str(error) if isinstance(error, _Unusable) else "is nested too deeply"
        raise ManifestError([Problem("", message)], source=source) from None
    except ValueError as error:
        raise ManifestError(
            [Problem("", f"holds a value that cannot be read: {error}")], source=source
        ) from None


def _check_depth(text: str) -> None:
    """Refuse deep nesting while reading is still a loop: building the values recurses in C."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise _Unusable("is nested too deeply")


class _Unusable(Exception):
    """YAML that JSON, and so Kubernetes, cannot hold."""


def _plain(value: object, depth: int, budget: list[int]) -> object:
    """A copy without aliases and with text keys, as the API server would have stored it."""
    budget[0] -= 1
    if depth > MAX_DEPTH:
        raise _Unusable("is nested too deeply")
    if budget[0] < 0:
        raise _Unusable("is too large once its aliases are written out")
    if isinstance(value, dict):
        return {_key(key): _plain(item, depth + 1, budget) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, depth + 1, budget) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise _Unusable(f"holds a value of type {type(value).__name__}, which a manifest cannot hold")


def _key(key: object) -> str:
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, str | int | float):
        return str(key)
    raise _Unusable(f"has a key that is not text: {key!r}")


def _yaml_error(error: yaml.MarkedYAMLError, text: str, source: str) -> ManifestError:
    mark = error.problem_mark or error.context_mark
    message = error.problem or error.context or "cannot be read"
    if mark is None:
        return ManifestError([Problem("", f"is not YAML: {message}")], source=source)
    lines = text.splitlines() or [""]
    line = lines[min(mark.line, len(lines) - 1)]
    start = max(0, mark.column - 70)
    snippet = f"    {line[start : start + 100]}\n    {' ' * (mark.column - start)}^"
    where = f"line {mark.line + 1}, column {mark.column + 1}"
    return ManifestError([Problem("", f"{where}: {message}\n{snippet}")], source=source)


def _flatten(documents: list[object]) -> Iterator[Any]:
    for document in documents:
        if isinstance(document, dict) and document.get("kind") in ("List", "RayClusterList"):
            items = document.get("items")
            yield from items if isinstance(items, list) else [items]
        elif document is not None:
            yield document


def _outer_problems(raw: object, fallback: str) -> Iterator[Problem]:
    """apiVersion, kind and metadata.name, which decide how the rest is read."""
    if not isinstance(raw, dict):
        yield Problem(
            "", f"expected an object with apiVersion, kind and metadata, got {shown(raw)}", fallback
        )
        return
    subject = subject_of(raw) if raw.get("kind") else fallback
    kind, api_version, metadata = raw.get("kind"), raw.get("apiVersion"), raw.get("metadata")
    if not isinstance(kind, str) or not kind:
        yield Problem("kind", "is missing", subject)
    elif kind not in KNOWN_KINDS:
        known = ", ".join(sorted(KNOWN_KINDS))
        close = difflib.get_close_matches(kind, KNOWN_KINDS, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        yield Problem(
            "kind", f"kind {kind} is not one that rayward runs on one machine: {known}{hint}", subject
        )
    if not isinstance(api_version, str) or not api_version:
        yield Problem("apiVersion", "is missing", subject)
    elif isinstance(kind, str) and kind in KNOWN_KINDS and api_version not in KNOWN_KINDS[kind]:
        yield Problem(
            "apiVersion", f'must be {KNOWN_KINDS[kind][0]} for {kind}, got "{api_version}"', subject
        )
    if not isinstance(metadata, dict):
        yield Problem("metadata.name", "is missing", subject)
        return
    name = metadata.get("name")
    if name is None or name == "":
        yield Problem("metadata.name", "is missing", subject)
    elif not isinstance(name, str):
        yield Problem("metadata.name", "must be a string; write it in quotes", subject)

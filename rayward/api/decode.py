"""Raw mappings into typed structs, reporting every field that is wrong instead of the first.

Walks a struct field by field and leaves the leaves to msgspec. Knows no field by name.
"""

from __future__ import annotations

import difflib
import functools
import types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from rayward.api.problems import Problem, join_path, shown

S = TypeVar("S", bound=msgspec.Struct)
_NAMES = {
    int: "an integer",
    str: "a string",
    bool: "true or false",
    float: "a number",
    dict: "a mapping",
    list: "a list",
}


def decode(
    kind: type[S], raw: object, path: str, problems: list[Problem], unknown: list[Problem] | None = None
) -> S | None:
    """``raw`` as ``kind``; None when it has problems, which are appended. ``null`` counts as not written.
    Fields that the struct does not know are problems, or go to ``unknown`` when that is given."""
    if not isinstance(raw, dict):
        problems.append(Problem(path, f"expected a mapping, got {shown(raw)}"))
        return None
    before = len(problems)
    values: dict[str, Any] = {}
    fields = _fields(kind)
    if kind.__struct_config__.forbid_unknown_fields:
        known = [field.encode_name for field in fields]
        _unknown_fields(raw, known, path, problems if unknown is None else unknown)
    for field in fields:
        value = raw.get(field.encode_name)
        where = join_path(path, field.encode_name) if path else field.encode_name
        if value is None:
            if field.required:
                problems.append(Problem(where, "is missing"))
            continue
        values[field.name] = _value(field.type, value, where, problems, unknown)
    return kind(**values) if len(problems) == before else None


@functools.cache
def _fields(kind: type[msgspec.Struct]) -> tuple[Any, ...]:
    """A struct's fields; msgspec evaluates their annotations anew at every call."""
    return msgspec.structs.fields(kind)


def _unknown_fields(raw: dict[str, Any], known: list[str], path: str, problems: list[Problem]) -> None:
    for key in raw:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
            hint = f"; did you mean `{close[0]}`?" if close else ""
            problems.append(Problem(path, f"unknown field `{key}`{hint}"))


def _value(
    annotation: Any, value: Any, path: str, problems: list[Problem], unknown: list[Problem] | None
) -> Any:
    kinds = _alternatives(annotation)
    only = kinds[0] if len(kinds) == 1 else None
    if isinstance(only, type) and issubclass(only, msgspec.Struct):
        return decode(only, value, path, problems, unknown)
    origin, arguments = get_origin(only), get_args(only)
    if origin in (list, tuple) and isinstance(value, list):
        items = [
            _value(arguments[0], item, join_path(path, index), problems, unknown)
            for index, item in enumerate(value)
        ]
        return tuple(items) if origin is tuple else items
    if origin is dict and arguments[1] is str and isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(item, str):
                simple = isinstance(item, int | float | bool)
                message = (
                    "must be a string; write it in quotes"
                    if simple
                    else f"must be a string, got {shown(item)}"
                )
                problems.append(Problem(join_path(path, key), message))
        return value
    try:
        return msgspec.convert(value, annotation, strict=True)
    except msgspec.ValidationError as error:
        problems.append(Problem(path, _message(kinds, value, error)))
        return None


def _alternatives(annotation: Any) -> list[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for kind in get_args(annotation) if kind is not type(None)]
    return [annotation]


def _message(kinds: list[Any], value: object, error: msgspec.ValidationError) -> str:
    kind = kinds[0]
    if get_origin(kind) is Literal:
        return f"must be one of {', '.join(get_args(kind))}; got {shown(value)}"
    if str in kinds and len(kinds) > 1:
        return f"expected a quantity, got {shown(value)}"
    if kind is str and isinstance(value, int | float):
        return "must be a string; write it in quotes"
    base = getattr(kind, "__origin__", kind)
    if base is int and isinstance(value, int) and not isinstance(value, bool):
        return f"must fit 32 bits, got {shown(value)}"
    expected = _NAMES.get(list if base is tuple else base)
    return f"expected {expected}, got {shown(value)}" if expected else str(error)

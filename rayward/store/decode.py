"""Turn raw entries of GCS tables into values that fit into JSON, with Ray's own protobuf messages.

Which message a table holds was found by reading what Ray 2.60 wrote. Ids become hex, text stays text, and
whatever else is bytes becomes ``{"base64": ...}``. It knows no backend; entries come from a ``StateSource``.
"""

from __future__ import annotations

import base64
import importlib
import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

from rayward.errors import RaywardError
from rayward.store import schema
from rayward.store.source import StateSource

# Longer values (pickled functions, packed working directories) are cut, and say so.
MAX_VALUE_BYTES = 4096

# Table -> module of ray.core.generated, and the message in it.
_MESSAGES = {
    "ACTOR": ("gcs_pb2", "ActorTableData"),
    "ACTOR_TASK_SPEC": ("common_pb2", "TaskSpec"),
    "JOB": ("gcs_pb2", "JobTableData"),
    "NODE": ("gcs_pb2", "GcsNodeInfo"),
    "PLACEMENT_GROUP": ("gcs_pb2", "PlacementGroupTableData"),
    "WORKERS": ("gcs_pb2", "WorkerTableData"),
    "INTERNAL_CONFIG": ("gcs_pb2", "StoredConfig"),
}
_KV_PREFIX = "@namespace_"


def show_table(
    source: StateSource, namespace: str, table: str, max_value_bytes: int | None = MAX_VALUE_BYTES
) -> Iterator[dict[str, Any]]:
    """Each entry of a table as a JSON-able dict with ``key`` and ``value``, in the order of the store.

    KV entries have ``namespace`` too (Ray's KV namespace, None without one). An entry that its message
    cannot read, and a table that nobody knows, come out as raw bytes. ``max_value_bytes`` cuts long bytes;
    None cuts nothing. Raises ``RaywardError`` when Ray's Python package is missing.
    """
    decode = decoder_of(table, max_value_bytes)
    for key, value in source.entries(namespace, table):
        yield decode(key, value)


def decoder_of(table: str, max_value_bytes: int | None = MAX_VALUE_BYTES) -> Any:
    """The function ``(key, value) -> dict`` for the entries of a table."""
    if table == "KV":
        return lambda key, value: _kv_entry(key, value, max_value_bytes)
    if table == schema.JOB_COUNTER:
        return lambda key, value: {"key": text_or_base64(key), "value": _number_or_text(value)}
    message = _message_of(table)
    if message is None:
        return lambda key, value: {
            "key": text_or_base64(key),
            "value": text_or_base64(value, max_value_bytes),
        }
    return lambda key, value: _message_entry(message, key, value, max_value_bytes)


def message_to_dict(message: Any, max_value_bytes: int | None = MAX_VALUE_BYTES) -> dict[str, Any]:
    """A protobuf message as a dict: numbers, booleans and enum names always, everything else where it is set.

    Zero is a fact in these tables (state 0 is ALIVE), so it is not left out as protobuf's own JSON would.
    """
    result: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if _is_map(field):
            if value:
                result[field.name] = _map(field, value, max_value_bytes)
        elif _is_repeated(field):
            if len(value):
                result[field.name] = [_scalar(field, item, max_value_bytes) for item in value]
        elif field.has_presence:
            if message.HasField(field.name):
                result[field.name] = _scalar(field, value, max_value_bytes)
        elif value not in ("", b""):
            result[field.name] = _scalar(field, value, max_value_bytes)
    return result


def text_or_base64(value: bytes, max_bytes: int | None = None) -> Any:
    """Bytes as text where they are printable UTF-8, else ``{"base64", "bytes"}``; ``truncated`` when cut."""
    kept = value if max_bytes is None else value[:max_bytes]
    text = _printable(value)
    if text is not None:
        if len(kept) == len(value):
            return text
        # A character of several bytes may have been cut in two.
        return {"text": kept.decode("utf-8", "ignore"), "bytes": len(value), "truncated": True}
    result: dict[str, Any] = {"base64": base64.b64encode(kept).decode(), "bytes": len(value)}
    return result if len(kept) == len(value) else {**result, "truncated": True}


def to_json_lines(entries: Iterable[dict[str, Any]]) -> Iterator[str]:
    """One line of JSON per entry, keys in the order in which they were found."""
    for entry in entries:
        yield json.dumps(entry, ensure_ascii=False)


def _kv_entry(key: bytes, value: bytes, max_value_bytes: int | None) -> dict[str, Any]:
    namespace: str | None = None
    rest = key
    prefix = _KV_PREFIX.encode()
    if key.startswith(prefix):
        head, colon, tail = key[len(prefix) :].partition(b":")
        if colon:
            namespace, rest = head.decode("utf-8", "backslashreplace"), tail
    return {
        "namespace": namespace,
        "key": text_or_base64(rest),
        "value": text_or_base64(value, max_value_bytes),
    }


def _message_entry(message: Any, key: bytes, value: bytes, max_value_bytes: int | None) -> dict[str, Any]:
    # protobuf comes with Ray and loads where it is used.
    decode_error = importlib.import_module("google.protobuf.message").DecodeError
    parsed = message()
    try:
        parsed.ParseFromString(value)
    except decode_error:
        name = message.DESCRIPTOR.name
        return {"key": key.hex(), "value": text_or_base64(value, max_value_bytes), "undecoded": name}
    return {"key": key.hex(), "value": message_to_dict(parsed, max_value_bytes)}


def _message_of(table: str) -> Any:
    if table not in _MESSAGES:
        return None
    module, name = _MESSAGES[table]
    try:
        generated = importlib.import_module(f"ray.core.generated.{module}")
    except ImportError as error:
        raise RaywardError(
            f"the {table} table is written with Ray's protobuf messages, and Ray is not installed here",
            todo="pip install ray (the version that the cluster runs), or run this in a Ray image",
        ) from error
    # A version of Ray without this message shows the table raw.
    return getattr(generated, name, None)


def _scalar(field: Any, value: Any, max_value_bytes: int | None) -> Any:
    if field.type in (field.TYPE_MESSAGE, field.TYPE_GROUP):
        return message_to_dict(value, max_value_bytes)
    if field.type == field.TYPE_ENUM:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known is not None else value
    if field.type == field.TYPE_BYTES:
        return value.hex() if _is_id(field.name) else text_or_base64(value, max_value_bytes)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _map(field: Any, value: Any, max_value_bytes: int | None) -> dict[str, Any]:
    item = field.message_type.fields_by_name["value"]
    return {
        # The value's field is always named "value"; in a map of bytes only the key tells an id.
        str(key): value[key].hex()
        if item.type == item.TYPE_BYTES and _is_id(str(key))
        else _scalar(item, value[key], max_value_bytes)
        for key in sorted(value)
    }


def _is_map(field: Any) -> bool:
    return bool(field.message_type is not None and field.message_type.GetOptions().map_entry)


def _is_repeated(field: Any) -> bool:
    # protobuf 6 replaced ``label`` by ``is_repeated``; Ray runs with 3 to 7.
    repeated = getattr(field, "is_repeated", None)
    return bool(field.label == field.LABEL_REPEATED if repeated is None else repeated)


def _is_id(name: str) -> bool:
    return name in ("id", "ids") or name.endswith(("_id", "_ids"))


def _printable(value: bytes) -> str | None:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if all(character.isprintable() or character in "\n\r\t" for character in text) else None


def _number_or_text(value: bytes) -> Any:
    return int(value) if value.isdigit() else text_or_base64(value)

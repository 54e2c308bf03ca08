"""Where a RayCluster keeps its keys in Redis, read from the raw object however broken its spec is.

So that cleaning up after one cluster never wipes the keys of another. Decides nothing about clean-up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from rayward.api.fault_tolerance import EXTERNAL_STORAGE_NAMESPACE, FT_ENABLED

Raw = dict[str, Any]
_NUMBERS = re.compile(r"[0-9.]+:\d+|[0-9a-f:]*:[0-9a-f:]*:[0-9a-f:.]*:\d+")


def store_key(cluster_raw: Raw) -> str | None:
    """The storage namespace (the prefix of its keys) of a cluster that uses Redis, None for any other. Made
    to be an index over all clusters: only those of the same key can share keys."""
    options = _mapping(_mapping(cluster_raw.get("spec")).get("gcsFaultToleranceOptions"))
    annotations = _mapping(_mapping(cluster_raw.get("metadata")).get("annotations"))
    asked = "gcsFaultToleranceOptions" in _mapping(cluster_raw.get("spec")) or (
        _text(annotations.get(FT_ENABLED)).lower() == "true"
    )
    if not asked or options.get("backend") == "rocksdb":
        return None
    found = (
        _text(_head_env(cluster_raw).get("RAY_external_storage_namespace"))
        or _text(options.get("externalStorageNamespace"))
        or _text(annotations.get(EXTERNAL_STORAGE_NAMESPACE))
        or _text(_mapping(cluster_raw.get("metadata")).get("uid"))
    )
    return found or None


def sharers(cluster_raw: Raw, others: Iterable[Raw]) -> tuple[str, ...]:
    """``namespace/name`` of each of ``others`` that lives (is not being deleted) and keeps its keys where
    this cluster does. In doubt about an address it does; the cluster itself never counts."""
    key, address = store_key(cluster_raw), _address(cluster_raw)
    found = set()
    for other in others:
        metadata = _mapping(other.get("metadata"))
        itself = metadata.get("uid") == _mapping(cluster_raw.get("metadata")).get("uid")
        if itself or metadata.get("deletionTimestamp") or key is None or store_key(other) != key:
            continue
        if _may_be_one(address, _address(other)):
            found.add(f"{metadata.get('namespace', 'default')}/{metadata.get('name', '')}")
    return tuple(sorted(found))


def is_inside_the_pod(redis_address: str) -> bool:
    """Whether an address leads to a Redis beside the head, in its own Pod."""
    return _host_and_port(redis_address)[0] in ("localhost", "127.0.0.1", "::1")


def _may_be_one(one: str, other: str) -> bool:
    """Whether two addresses may lead to one server: not when both are names, or both numbers, and differ."""
    if not one or not other or one == other:
        return True
    return bool(_NUMBERS.fullmatch(one)) != bool(_NUMBERS.fullmatch(other))


def _address(cluster_raw: Raw) -> str:
    """The first server, fully written out so that two ways to write one address are equal; empty when only
    the Pod knows it."""
    options = _mapping(_mapping(cluster_raw.get("spec")).get("gcsFaultToleranceOptions"))
    metadata = _mapping(cluster_raw.get("metadata"))
    text = _text(options.get("redisAddress")) or _text(_head_env(cluster_raw).get("RAY_REDIS_ADDRESS"))
    host, port = _host_and_port(text)
    if not host or "$" in host:
        return ""
    if is_inside_the_pod(text):
        return f"{host} of {metadata.get('uid')}"
    if _NUMBERS.fullmatch(f"{host}:{port}"):
        return f"{host}:{port}"
    host = f"{host.rstrip('.')}.".partition(".svc.")[0].rstrip(".")
    if "." not in host:
        host = f"{host}.{metadata.get('namespace', 'default')}"
    return f"{host}:{port}"


def _host_and_port(address: str) -> tuple[str, str]:
    """Of the first server of an address or URI, in small letters; no check that it is one."""
    first = address.strip().split("://", 1)[-1].split(",")[0].split("/")[0].rpartition("@")[2].lower()
    host, colon, port = first.rpartition(":")
    if not colon or not port.isdecimal() or (":" in host and not host.endswith("]")):
        return first.strip("[]"), "6379"
    return host.strip("[]"), port


def _head_env(cluster_raw: Raw) -> dict[str, object]:
    head = _mapping(_mapping(cluster_raw.get("spec")).get("headGroupSpec"))
    containers = _mapping(_mapping(head.get("template")).get("spec")).get("containers")
    first = _mapping(containers[0]) if isinstance(containers, list) and containers else {}
    variables = first.get("env")
    found: dict[str, object] = {}
    for variable in variables if isinstance(variables, list) else ():
        if isinstance(variable, dict) and isinstance(variable.get("name"), str):
            found[variable["name"]] = variable.get("value")
    return found


def _mapping(value: object) -> Raw:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""

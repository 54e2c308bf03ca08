"""Names of Services in Pods' hosts files: what the cluster's DNS would answer."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rayward.local.names import service_names

Object = Mapping[str, Any]
Key = tuple[str, str]


def service_lines(
    services: Mapping[Key, Object], endpoints: Mapping[Key, Object], own: Mapping[Key, str] | None = None
) -> list[tuple[str, str, list[str]]]:
    """(namespace, address, names) for whatever a Service's name leads to; names from short to long.

    A headless Service leads to all of its ready endpoints; one with an address in ``own`` there, and its
    connections are spread; any other one straight to its first, for a hosts file cannot spread them.
    """
    lines = []
    for (namespace, name), service in sorted(services.items()):
        names = service_names({"metadata": {"name": name}}, namespace)
        address = (own or {}).get((namespace, name))
        if address is not None:
            lines.append((namespace, address, [*names]))
            continue
        found = _addresses(endpoints.get((namespace, name)) or {})
        headless = (service.get("spec") or {}).get("clusterIP") == "None"
        for ip, hostname in found if headless else found[:1]:
            below = [f"{hostname}.{text}" for text in names] if hostname and headless else []
            lines.append((namespace, ip, [*names, *below]))
    return lines


def _addresses(endpoints: Object) -> list[tuple[str, str]]:
    """Ready addresses, each with the host name that its Pod has below the Service, if any."""
    found = {
        (str(entry["ip"]), str(entry.get("hostname") or ""))
        for subset in endpoints.get("subsets") or ()
        for entry in subset.get("addresses") or ()
    }
    return sorted(found)


def hosts_text(
    pod: str, namespace: str, address: str, lines: Iterable[tuple[str, str, list[str]]], more: str = ""
) -> str:
    """/etc/hosts of one Pod: itself, ``more``, the Services; those elsewhere have no short names."""
    text = f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{address}\t{pod}\n{more}"
    for where, target, names in lines:
        known = names if where == namespace else [name for name in names if f".{where}" in name]
        text += f"{target}\t{' '.join(known)}\n"
    return text


def write_in_place(path: Path, text: str) -> bool:
    """Write a hosts file if its text is another one; whether it was.

    In place, for the Pod has this very file mounted; one write, so that nobody reads half of it.
    """
    content = text.encode()
    if path.exists() and path.read_bytes() == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(descriptor, content, 0)
        os.ftruncate(descriptor, len(content))
    finally:
        os.close(descriptor)
    return True

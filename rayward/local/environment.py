"""What a container's environment, command and arguments are once every reference in them is followed.

Pure: ConfigMaps and Secrets come through a lookup function, the Pod's address and node as plain values.
Follows the Kubernetes documents on `env`, `envFrom`, the downward API and dependent variables.
Must not know how a container is run.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rayward.errors import RaywardError

Manifest = Mapping[str, Any]
Lookup = Callable[[str, str], "Manifest | None"]

_REFERENCE = re.compile(r"\$(?:\$|\(([^()$]+)\))")
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")
_QUANTITY = re.compile(r"([0-9.]+(?:[eE][0-9]+)?)([a-zA-Z]*)")
_SUFFIXES = {
    "": 1.0,
    "m": 1e-3,
    **{letter: 1000.0**power for power, letter in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
    **{f"{letter}i": 1024.0**power for power, letter in enumerate("KMGTPE", 1)},
}


class NotYet(RaywardError):
    """Something that a container needs is missing; it may appear, so the start is tried again.

    ``reason`` is the waiting reason that Kubernetes shows for it.
    """

    def __init__(self, reason: str, what: str, *, where: str | None = None, todo: str | None = None) -> None:
        super().__init__(what, where=where, todo=todo)
        self.reason = reason


@dataclass(frozen=True)
class PodFacts:
    """What a Pod can ask about itself: its manifest, and what only the place where it runs knows."""

    pod: Manifest
    address: str
    host_address: str = "127.0.0.1"
    node_name: str = "localhost"
    lookup: Lookup = field(default=lambda kind, name: None)

    @property
    def name(self) -> str:
        """The Pod's name."""
        return str(self.pod["metadata"]["name"])


def quantity(text: str | float) -> float:
    """A Kubernetes quantity ("500m", "1Gi", 2) as a number in its base unit; ValueError if it is none."""
    match = _QUANTITY.fullmatch(str(text).strip())
    if match is None or match.group(2) not in _SUFFIXES:
        raise ValueError(f"{text!r} is not a quantity such as 500m, 2 or 1Gi")
    return float(match.group(1)) * _SUFFIXES[match.group(2)]


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace ``$(NAME)`` by the variable's value and ``$$`` by ``$``; an unknown name stays as it is."""

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name is None:
            return "$"
        return variables.get(name, match.group(0))

    return _REFERENCE.sub(value, text)


def object_data(kind: str, manifest: Manifest) -> dict[str, bytes]:
    """The entries of a ConfigMap or Secret as bytes: data, binaryData, stringData.

    Raises RaywardError when base64 is broken.
    """
    entries: dict[str, bytes] = {}
    encoded: dict[str, str] = dict(manifest.get("binaryData") or {})
    plain: dict[str, str] = dict(manifest.get("stringData") or {})
    (encoded if kind == "Secret" else plain).update(manifest.get("data") or {})
    # Kubernetes lets a Secret's stringData win over its data.
    if kind == "Secret":
        encoded = {key: text for key, text in encoded.items() if key not in plain}
    for key, text in encoded.items():
        try:
            entries[key] = base64.b64decode(str(text), validate=False)
        except (binascii.Error, ValueError):
            name = (manifest.get("metadata") or {}).get("name", "?")
            raise RaywardError(
                f"the value of key {key!r} is not base64",
                where=f"{kind} {name}",
                todo=f"encode it with base64, or use {'stringData' if kind == 'Secret' else 'data'} for text",
            ) from None
    for key, text in plain.items():
        entries[key] = str(text).encode()
    return entries


def _reference(facts: PodFacts, kind: str, reference: Manifest, key: str | None) -> dict[str, bytes] | None:
    """The entries behind a reference, or None if it is optional and its object or key is not there."""
    name = str(reference.get("name", ""))
    manifest = facts.lookup(kind, name)
    entries = None if manifest is None else object_data(kind, manifest)
    if entries is not None and (key is None or key in entries):
        return entries
    if reference.get("optional"):
        return None
    missing = f'{kind} "{name}" is not there' if entries is None else f'{kind} "{name}" has no key "{key}"'
    wanted = "" if key is None or entries is not None else f' (its key "{key}" is needed)'
    raise NotYet(
        "CreateContainerConfigError",
        missing + wanted,
        where=f"Pod {facts.name}",
        todo=f"add it to the manifest, or set `optional: true` where the Pod refers to {kind} {name}",
    )


def pod_field(path: str, facts: PodFacts) -> str:
    """The value of a downward API field path; RaywardError when the path is none that Kubernetes knows."""
    metadata = facts.pod.get("metadata") or {}
    spec = facts.pod.get("spec") or {}
    subscript = _SUBSCRIPT.fullmatch(path)
    if subscript is not None:
        return str((metadata.get(subscript.group(1)) or {}).get(subscript.group(2), ""))
    if path in ("metadata.labels", "metadata.annotations"):
        entries = metadata.get(path.partition(".")[2]) or {}
        return "".join(f'{key}="{value}"\n' for key, value in sorted(entries.items()))
    plain = {
        "metadata.name": metadata.get("name", ""),
        "metadata.namespace": metadata.get("namespace", "default"),
        "metadata.uid": metadata.get("uid", ""),
        "spec.nodeName": facts.node_name,
        "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
        "status.podIP": facts.address,
        "status.podIPs": facts.address,
        "status.hostIP": facts.host_address,
        "status.hostIPs": facts.host_address,
    }
    if path not in plain:
        raise RaywardError(
            f"fieldPath {path!r} is none of the fields a Pod can refer to",
            where=f"Pod {facts.name}",
            todo="use one of "
            + ", ".join(sorted(plain))
            + ", metadata.labels['KEY'], metadata.annotations['KEY']",
        )
    return str(plain[path])


def resource_field(reference: Manifest, container: Manifest, facts: PodFacts) -> str:
    """The value of a resourceFieldRef, rounded up to whole divisors as Kubernetes does."""
    resource = str(reference.get("resource", ""))
    divisor = quantity(reference.get("divisor") or 1) or 1.0
    named = reference.get("containerName")
    for candidate in (facts.pod.get("spec") or {}).get("containers") or ():
        if named and candidate.get("name") == named:
            container = candidate
    bound, _, what = resource.partition(".")
    amounts = (container.get("resources") or {}).get(bound) or {}
    if what in amounts:
        return str(math.ceil(quantity(amounts[what]) / divisor))
    if bound == "limits" and what in ("cpu", "memory"):
        return str(math.ceil(_capacity(what) / divisor))
    return "0"


def _capacity(what: str) -> float:
    """What the machine has: Kubernetes answers with it where no limit is set."""
    import os  # noqa: PLC0415 (only this fallback looks at the machine)

    if what == "cpu":
        return float(os.cpu_count() or 1)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _one(entry: Manifest, container: Manifest, facts: PodFacts, so_far: Mapping[str, str]) -> str | None:
    source = entry.get("valueFrom")
    if not source:
        value = entry.get("value")
        return expand("" if value is None else str(value), so_far)
    for key, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
        if key in source:
            wanted = str(source[key].get("key", ""))
            entries = _reference(facts, kind, source[key], wanted)
            return None if entries is None else entries[wanted].decode(errors="surrogateescape")
    if "fieldRef" in source:
        return pod_field(str(source["fieldRef"].get("fieldPath", "")), facts)
    if "resourceFieldRef" in source:
        return resource_field(source["resourceFieldRef"], container, facts)
    raise RaywardError(
        f"valueFrom of variable {entry.get('name')!r} names no source that is known here",
        where=f"Pod {facts.name}",
        todo="use secretKeyRef, configMapKeyRef, fieldRef or resourceFieldRef",
    )


def resolve(container: Manifest, facts: PodFacts, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a container: ``base`` (the image's), then envFrom, then env, later ones winning.

    Raises NotYet when a ConfigMap, a Secret or a key is missing and not optional.
    """
    variables: dict[str, str] = dict(base or {})
    for source in container.get("envFrom") or ():
        prefix = str(source.get("prefix") or "")
        for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            if key in source:
                entries = _reference(facts, kind, source[key], None) or {}
                for name, content in entries.items():
                    variables[prefix + name] = content.decode(errors="surrogateescape")
    for entry in container.get("env") or ():
        value = _one(entry, container, facts, variables)
        if value is not None:
            variables[str(entry["name"])] = value
    return variables


def expand_all(words: Iterable[Any] | None, variables: Mapping[str, str]) -> list[str]:
    """``expand`` for a command or its arguments."""
    return [expand(str(word), variables) for word in words or ()]

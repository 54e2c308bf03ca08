"""A Pod's volumes: from the manifest's `volumes` to folders on disk, and from `volumeMounts` to binds.

ConfigMaps and Secrets become plain files without symlinks, written once when the Pod starts. Must not know
how a container is run: it hands out (source, target, read-only) and leaves mounting to others.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rayward.errors import RaywardError
from rayward.local.environment import (
    Manifest,
    NotYet,
    PodFacts,
    expand,
    object_data,
    pod_field,
    quantity,
    resource_field,
)

MountMemory = Callable[[Path, "int | None"], None]
_FILE_MODE = 0o644


@dataclass(frozen=True)
class Mount:
    """One bind: ``source`` on the machine is seen at ``target`` in the container."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class VolumeFile:
    """One file of a ConfigMap, Secret or downward API volume, at a path relative to the volume."""

    path: str
    content: bytes
    mode: int


class ObjectFolder:
    """Manifests kept as ``KIND/NAME.json``; calling it is the lookup that `environment` asks for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, kind: str, name: str) -> Manifest | None:
        """The manifest, or None when there is none of that name."""
        if not name or "/" in name:
            return None
        try:
            loaded: dict[str, Any] = json.loads((self._folder / kind / f"{name}.json").read_text())
        except FileNotFoundError:
            return None
        return loaded


def _safe_path(path: str, where: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts:
        raise RaywardError(
            f"{path!r} leads out of the volume", where=where, todo="use a relative path without `..`"
        )
    return str(pure)


def _missing(facts: PodFacts, volume: str, what: str, todo: str) -> NotYet:
    return NotYet("ContainerCreating", what, where=f"Pod {facts.name}, volume {volume}", todo=todo)


def object_files(kind: str, source: Manifest, volume: str, facts: PodFacts) -> list[VolumeFile]:
    """The files of a `configMap` or `secret` volume source; NotYet when one is missing and needed."""
    name = str(source.get("name") or source.get("secretName") or "")
    optional = bool(source.get("optional"))
    mode = int(source.get("defaultMode") or _FILE_MODE)
    manifest = facts.lookup(kind, name)
    if manifest is None:
        if optional:
            return []
        raise _missing(facts, volume, f'{kind} "{name}" is not there', f"add {kind} {name} to the manifest")
    entries = object_data(kind, manifest)
    items = source.get("items")
    if items is None:
        return [VolumeFile(key, content, mode) for key, content in entries.items()]
    files = []
    for item in items:
        key = str(item["key"])
        if key not in entries:
            if optional:
                continue
            raise _missing(
                facts, volume, f'{kind} "{name}" has no key "{key}"', f"add the key to {kind} {name}"
            )
        path = _safe_path(str(item.get("path") or key), f"Pod {facts.name}, volume {volume}")
        files.append(VolumeFile(path, entries[key], int(item.get("mode") or mode)))
    return files


def downward_files(source: Manifest, volume: str, facts: PodFacts) -> list[VolumeFile]:
    """The files of a `downwardAPI` volume source."""
    files = []
    for item in source.get("items") or ():
        path = _safe_path(str(item["path"]), f"Pod {facts.name}, volume {volume}")
        if "fieldRef" in item:
            text = pod_field(str(item["fieldRef"].get("fieldPath", "")), facts)
        else:
            text = resource_field(item.get("resourceFieldRef") or {}, {}, facts)
        files.append(
            VolumeFile(path, text.encode(), int(item.get("mode") or source.get("defaultMode") or _FILE_MODE))
        )
    return files


def projected_files(source: Manifest, volume: str, facts: PodFacts) -> list[VolumeFile]:
    """The files of a `projected` volume source, made of configMap, secret and downwardAPI sources."""
    files: list[VolumeFile] = []
    default = {"defaultMode": source["defaultMode"]} if source.get("defaultMode") else {}
    for part in source.get("sources") or ():
        if "configMap" in part:
            files += object_files("ConfigMap", {**default, **part["configMap"]}, volume, facts)
        elif "secret" in part:
            files += object_files("Secret", {**default, **part["secret"]}, volume, facts)
        elif "downwardAPI" in part:
            files += downward_files({**default, **part["downwardAPI"]}, volume, facts)
        else:
            raise RaywardError(
                f"projected source {', '.join(part) or 'without a kind'} is not known here",
                where=f"Pod {facts.name}, volume {volume}",
                todo="use configMap, secret or downwardAPI",
            )
    return files


def write_files(folder: Path, files: list[VolumeFile]) -> None:
    """Write a volume's files, each with its mode."""
    for file in files:
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.content)
        target.chmod(file.mode)


def _host_path(source: Manifest, volume: str, facts: PodFacts) -> Path:
    path = Path(str(source.get("path", "")))
    kind = str(source.get("type") or "")
    if kind == "DirectoryOrCreate":
        path.mkdir(parents=True, exist_ok=True)
    elif kind == "FileOrCreate":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    if not path.exists():
        raise _missing(facts, volume, f"hostPath {path} is not on this machine", "create it, or set its type")
    return path.resolve()


def prepare(
    volume: Manifest, folder: Path, claims: Path | None, facts: PodFacts, memory: MountMemory
) -> Path:
    """Make one volume of the Pod ready and say where it is.

    ``folder`` is its place if it needs one of its own, ``claims`` holds one folder per PersistentVolumeClaim,
    ``memory`` mounts a tmpfs of at most so many bytes (or does what it can). Raises NotYet while something is
    missing, RaywardError for a volume that cannot be.
    """
    name = str(volume.get("name", ""))
    if "hostPath" in volume:
        return _host_path(volume["hostPath"], name, facts)
    claim = volume.get("persistentVolumeClaim")
    if claim is not None:
        return _claim(str(claim.get("claimName", "")), name, claims, facts)
    files: list[VolumeFile] = []
    if "configMap" in volume:
        files = object_files("ConfigMap", volume["configMap"] or {}, name, facts)
    elif "secret" in volume:
        files = object_files("Secret", volume["secret"] or {}, name, facts)
    elif "projected" in volume:
        files = projected_files(volume["projected"] or {}, name, facts)
    elif "downwardAPI" in volume:
        files = downward_files(volume["downwardAPI"] or {}, name, facts)
    elif "emptyDir" not in volume and set(volume) - {"name"}:
        raise RaywardError(
            f"volume kind {', '.join(sorted(set(volume) - {'name'}))} is not known here",
            where=f"Pod {facts.name}, volume {name}",
            todo="use emptyDir, configMap, secret, persistentVolumeClaim, hostPath, projected or downwardAPI",
        )
    folder.mkdir(parents=True, exist_ok=True)
    empty = volume.get("emptyDir") or {}
    if empty.get("medium") == "Memory":
        limit = empty.get("sizeLimit")
        memory(folder, None if limit is None else int(quantity(limit)))
    folder.chmod(0o777 if "configMap" not in volume and "secret" not in volume else 0o755)
    write_files(folder, files)
    return folder


def _claim(claim: str, volume: str, claims: Path | None, facts: PodFacts) -> Path:
    if claims is None or "/" in claim or not (claims / claim).is_dir():
        raise _missing(
            facts,
            volume,
            f'PersistentVolumeClaim "{claim}" is not there',
            f"add PersistentVolumeClaim {claim} to the manifest",
        )
    return (claims / claim).resolve()


def mounts_for(
    container: Manifest, sources: Mapping[str, Path], variables: Mapping[str, str], pod_name: str
) -> list[Mount]:
    """The binds of a container, outer ones first. A subPath that is not there becomes a folder.

    Raises RaywardError for a mount whose volume the Pod does not have, or a subPath that leads out of it.
    """
    mounts = []
    for entry in container.get("volumeMounts") or ():
        name = str(entry.get("name", ""))
        where = f"Pod {pod_name}, container {container.get('name')}, volumeMount {name}"
        if name not in sources:
            raise RaywardError(
                "the Pod has no volume of this name", where=where, todo=f"add {name} to `volumes`"
            )
        source = sources[name]
        below = entry.get("subPath") or expand(str(entry.get("subPathExpr") or ""), variables)
        if below:
            source = source / _safe_path(str(below), where)
            if not os.path.lexists(source):
                source.mkdir(parents=True)
            if not source.resolve().is_relative_to(sources[name].resolve()):
                raise RaywardError(
                    "the subPath leads out of the volume", where=where, todo="remove the symlink"
                )
        mounts.append(Mount(str(source), str(entry["mountPath"]), bool(entry.get("readOnly"))))
    return sorted(mounts, key=lambda mount: len(PurePosixPath(mount.target).parts))

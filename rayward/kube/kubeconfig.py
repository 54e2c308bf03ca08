"""Reads kubeconfig files as kubectl does: several in one variable, the first word on a name wins."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

DEFAULT = Path("~/.kube/config")
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_LISTS = ("clusters", "users", "contexts")
_FILES = {
    "cluster": ("certificate-authority",),
    "user": ("client-certificate", "client-key", "tokenFile"),
}


def in_a_pod() -> bool:
    """Whether this process has a Pod's service account."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and (ACCOUNT / "token").exists()


def read(paths: Sequence[Path]) -> dict[str, Any]:
    """One configuration out of several files, with absolute paths. At least one of them has to be there."""
    found: list[tuple[Path, dict[str, Any]]] = []
    for path in paths:
        if path.is_file():
            content = yaml.safe_load(path.read_text())
            if content is not None and not isinstance(content, dict):
                raise TypeError(f"{path} is not a kubeconfig: no mapping")
            found.append((path, content or {}))
    if not found:
        raise FileNotFoundError(f"no such file: {' or '.join(str(path) for path in paths)}")
    return merge([(path.parent.absolute(), content) for path, content in found])


def merge(configs: Sequence[tuple[Path, dict[str, Any]]]) -> dict[str, Any]:
    """The first entry of each name wins, and the first `current-context`; each with its file's folder."""
    merged: dict[str, Any] = {key: {} for key in _LISTS}
    context = ""
    for folder, config in configs:
        context = context or str(config.get("current-context") or "")
        for key in _LISTS:
            for entry in config.get(key) or ():
                merged[key].setdefault(entry["name"], _absolute(entry, key[:-1], folder))
    result: dict[str, Any] = {key: list(merged[key].values()) for key in _LISTS}
    if context:
        result["current-context"] = context
    return result


def _absolute(entry: dict[str, Any], key: str, folder: Path) -> dict[str, Any]:
    body = dict(entry.get(key) or {})
    for name in _FILES.get(key, ()):
        if body.get(name):
            body[name] = str(folder / Path(body[name]).expanduser())
    return {**entry, key: body}

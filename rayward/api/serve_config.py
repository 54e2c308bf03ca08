"""Ray Serve's own configuration (`serveConfigV2`): from the text in a manifest to what Ray's dashboard takes.

Checks what makes Ray refuse the whole text, so that the sentence stands at the RayService and the running
service stays untouched; what a deployment means is Ray's business.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import yaml

from rayward.api.problems import shown

Raw = dict[str, Any]
HTTP_PORT = 8000


@dataclass(frozen=True)
class ServeConfig:
    """A configuration that can be sent. ``body`` is the JSON for Ray's dashboard, the same bytes for the same
    meaning; empty ``applications``: there is nothing to serve."""

    body: bytes
    applications: tuple[str, ...] = ()
    deployments: dict[str, tuple[str, ...]] = field(default_factory=dict)
    port: int = HTTP_PORT


def read_serve_config(text: str) -> ServeConfig | list[str]:
    """The configuration, or everything that is wrong with it, a sentence each."""
    if not text.strip():
        return ServeConfig(b'{"applications":[]}')
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        return [_yaml_words(error)]
    if not isinstance(raw, dict):
        return [f"expected a mapping with applications, got {shown(raw)}"]
    return _read(raw)


def _read(raw: Raw) -> ServeConfig | list[str]:
    problems: list[str] = []
    if "import_path" in raw:
        problems.append("import_path belongs to an application: put it below applications")
    applications = raw.get("applications")
    if not isinstance(applications, list):
        return [*problems, "applications must be a list"]
    names = [_name(found, index, problems) for index, found in enumerate(applications)]
    problems += [f"two applications are called {shown(name)}" for name in _twice(names)]
    prefixes = [_prefix(found) for found in applications if isinstance(found, dict)]
    # Ray 2.60 takes it, and removes the application that had the prefix before.
    problems += [
        f"route_prefix {shown(prefix)} must start with /"
        for prefix in prefixes
        if prefix[:1] not in ("", "/")
    ]
    problems += [f"two applications have the route_prefix {shown(prefix)}" for prefix in _twice(prefixes)]
    port = _port(raw.get("http_options"), problems)
    try:
        body = json.dumps(raw, sort_keys=True, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        return [*problems, f"holds what JSON cannot say: {error}"]
    if problems:
        return problems
    deployments = {
        name: tuple(
            str(part.get("name")) for part in found.get("deployments") or () if isinstance(part, dict)
        )
        for name, found in zip(names, applications, strict=True)
    }
    return ServeConfig(body, tuple(names), deployments, port)


def _name(found: object, index: int, problems: list[str]) -> str:
    if not isinstance(found, dict):
        problems.append(f"applications[{index}]: expected a mapping, got {shown(found)}")
        return ""
    if not isinstance(found.get("import_path"), str) or not found["import_path"]:
        problems.append(f"applications[{index}].import_path is missing")
    deployments = found.get("deployments") or []
    if not isinstance(deployments, list) or not all(isinstance(part, dict) for part in deployments):
        problems.append(f"applications[{index}].deployments must be a list of mappings")
    elif not all(isinstance(part.get("name"), str) for part in deployments):
        problems.append(f"applications[{index}].deployments: each needs a name")
    name = found.get("name", "default")
    if not isinstance(name, str) or not name:
        problems.append(f"applications[{index}].name must be a text, got {shown(name)}")
        return ""
    return name


def _prefix(found: Raw) -> str:
    prefix = found.get("route_prefix", "/")
    return prefix if isinstance(prefix, str) else ""


def _port(options: object, problems: list[str]) -> int:
    port = options.get("port", HTTP_PORT) if isinstance(options, dict) else HTTP_PORT
    if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
        problems.append(f"http_options.port must be a port, got {shown(port)}")
        return HTTP_PORT
    return port


def _twice(values: list[str]) -> list[str]:
    return sorted(value for value, count in Counter(values).items() if value and count > 1)


def _yaml_words(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"is no YAML: {what}" + (f" (line {mark.line + 1}, column {mark.column + 1})" if mark else "")

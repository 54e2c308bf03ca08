"""From a file's text to a ``Config``, with every mistake that its shape has in one message.

Reads the one file and nothing else. A file that was written half is refused where that can be seen.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from rayward.api.decode import decode
from rayward.api.problems import ManifestError, Problem, shown
from rayward.errors import RaywardError
from rayward.plain.schema import Config

DEFAULT_PATH = Path("/etc/rayward/rayward.yaml")
_MAX_BYTES = 1_000_000
_TODO = "docs/plain-machines.md shows a whole file"


class _Loader(yaml.CSafeLoader):
    """Safe YAML in which no key may be given twice: the first one would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key `{key.value}` is given twice", key.start_mark
                )
            seen.add(str(key.value))
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep=deep)
        return mapping


def parse(text: str, source: str) -> Config:
    """The config in ``text``; raises RaywardError with each field that is unknown, missing or wrong.

    ``source`` is the file's name for messages.
    """
    try:
        raw = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        raise ManifestError([Problem("", _marked(error, text))], source=source, todo=_TODO) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ManifestError(
            [Problem("", f"is not YAML: {str(error).splitlines()[0]}")], source=source, todo=_TODO
        ) from None
    if raw is None:
        raise RaywardError("holds nothing", where=source, todo=_TODO)
    if not isinstance(raw, dict):
        raise RaywardError(
            f"expected fields such as `role: head`, got {shown(raw)}", where=source, todo=_TODO
        )
    problems: list[Problem] = []
    config = decode(Config, {str(key): value for key, value in raw.items()}, "", problems)
    if config is None:
        raise ManifestError(problems, source=source, todo=_TODO)
    return config


def _marked(error: yaml.MarkedYAMLError, text: str) -> str:
    mark, message = error.problem_mark or error.context_mark, error.problem or "cannot be read"
    if mark is None:
        return f"is not YAML: {message}"
    # The line itself is not shown: it may be the one with the password.
    lines = len(text.splitlines())
    place = f"line {mark.line + 1}, column {mark.column + 1}" if mark.line < lines else f"after line {lines}"
    return f"{place}: {message}" + ("; is the file whole?" if mark.line + 1 >= lines else "")


def load(path: Path) -> tuple[Config, tuple[str, ...]]:
    """The config in the file at ``path`` and warnings about the file itself; raises RaywardError."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise RaywardError(
            f"cannot be read: {(error.strerror or str(error)).lower()}",
            where=str(path),
            todo="write it (docs/plain-machines.md), or name another file with --config",
        ) from error
    if len(raw) > _MAX_BYTES:
        raise RaywardError(f"has more than {_MAX_BYTES} bytes: not a config file", where=str(path))
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise RaywardError("is not UTF-8 text", where=str(path)) from None
    config = parse(text, str(path))
    doubts = () if text.endswith("\n") else (f"{path} does not end with a line end: is it whole?",)
    return config, (*doubts, *_open_to_all(config, path, mode))


def _open_to_all(config: Config, path: Path, mode: int) -> tuple[str, ...]:
    secrets = [
        name
        for name, value in (
            ("redis.password", config.redis.password if config.redis else ""),
            ("agent.token", config.agent.token),
        )
        if value
    ]
    if secrets and mode & stat.S_IROTH:
        return (f"{path} holds {' and '.join(secrets)}, and every user can read it: chmod o-r {path}",)
    return ()

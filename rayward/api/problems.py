"""What is wrong with a manifest, as values and as one readable error.

Knows nothing of kinds or fields; every reader and check in this room reports through it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rayward.errors import RaywardError


@dataclass(frozen=True)
class Problem:
    """One thing to correct: ``path`` inside the object (``spec.workerGroupSpecs[0].maxReplicas``),
    ``message`` what is wrong with it, ``subject`` the object as ``Kind/name`` when it is known."""

    path: str
    message: str
    subject: str = ""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.subject, self.path, self.message) if part)


class ManifestError(RaywardError):
    """A document that cannot be used, with every problem that was found in it."""

    def __init__(self, problems: Iterable[Problem], *, source: str = "", todo: str | None = None) -> None:
        self.problems = tuple(problems)
        lines = [str(problem) for problem in self.problems]
        what = lines[0] if len(lines) == 1 else "\n  ".join([f"{len(lines)} problems", *lines])
        super().__init__(what, where=source or None, todo=todo)


def join_path(*parts: str | int) -> str:
    """``("spec", "groups", 0, "name")`` -> ``spec.groups[0].name``; keys with dots or slashes are quoted."""
    path = ""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier() or "[" in part or (path == "" and part):
            path += f".{part}" if path else part
        elif all(character.isalnum() or character in "-_" for character in part) and part:
            path += f".{part}"
        else:
            path += f"[{part!r}]"
    return path


def shown(value: object) -> str:
    """A value as a user wrote it, short enough for one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:56] + '..."'

"""Conditions of a status: set in one way, with a transition time that moves only when their status does.

Knows no condition by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from rayward.plan.names import SUFFIX_LENGTH, SUFFIX_LETTERS
from rayward.plan.outcome import Raw

# Numbers, generated endings of names and addresses change without the sentence saying anything else.
_CHANGING = re.compile(rf"-[{SUFFIX_LETTERS}]{{{SUFFIX_LENGTH}}}\b|0x[0-9a-f]+|\d+")
_NOT_IN_REASON = re.compile(r"[^A-Za-z0-9_,:]+")


class Conditions:
    """The conditions of one object while its new status is put together. ``now`` is a Kubernetes time."""

    def __init__(self, old: Iterable[Raw], now: str) -> None:
        self._found = {str(item["type"]): dict(item) for item in old if item.get("type")}
        self._now = now

    def set(self, kind: str, status: str, reason: str, message: str = "", *, calm: bool = False) -> None:
        """Set one. With ``calm``, a message that differs from the last in nothing but numbers and generated
        names does not replace it: for sentences of others that are never twice the same."""
        before, reason = self._found.get(kind, {}), as_reason(reason)
        same = before.get("status") == status
        said = str(before.get("message") or "")
        if calm and same and before.get("reason") == reason and same_words(said, message):
            message = said
        self._found[kind] = {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message,
            "lastTransitionTime": before.get("lastTransitionTime", self._now) if same else self._now,
        }

    def drop(self, kind: str) -> None:
        """Forget a condition that no longer applies."""
        self._found.pop(kind, None)

    def is_true(self, kind: str) -> bool:
        return self._found.get(kind, {}).get("status") == "True"

    def get(self, kind: str) -> Raw:
        """The condition of that type as it is by now, empty when there is none."""
        return dict(self._found.get(kind, {}))

    def result(self) -> list[Raw]:
        """All of them, sorted by type."""
        return [self._found[kind] for kind in sorted(self._found)]


def find(status: Raw, kind: str) -> Raw:
    """The condition of that type in ``status``, empty when there is none."""
    for item in status.get("conditions") or ():
        if item.get("type") == kind:
            return dict(item)
    return {}


def same_words(one: str, other: str) -> bool:
    """Whether two messages say the same but for numbers, addresses and generated names."""
    return _CHANGING.sub("#", one) == _CHANGING.sub("#", other)


def as_reason(text: str) -> str:
    """``text`` as the API server accepts a reason: it starts with a letter and has no spaces."""
    word = _NOT_IN_REASON.sub("", text).rstrip(",:")
    return word if word[:1].isalpha() else f"Reason{word}" if word else "Unknown"

"""JSON merge patches (RFC 7386): what one does, and the one that makes this out of that.

Pure; knows nothing of what it changes.
"""

from __future__ import annotations

from typing import Any


def merge_patch(target: Any, patch: Any) -> Any:
    """``target`` as it is after ``patch``: mappings are merged, null removes, anything else replaces.
    Neither argument is changed."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def difference(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The smallest patch that makes ``new`` of ``old``; ``new`` holds no null."""
    patch: dict[str, Any] = dict.fromkeys(old.keys() - new.keys())
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            inner = difference(before, value)
            if inner:
                patch[key] = inner
        elif key not in old or value != before:
            patch[key] = value
    return patch

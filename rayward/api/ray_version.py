"""Ray's version numbers as manifests write them.

Only comparison of major and minor; what a version implies is known where it is used.
"""

from __future__ import annotations

import re

_VERSION = re.compile(r"v?(\d{1,6})\.(\d{1,6})")


def ray_version(text: str) -> tuple[int, int] | None:
    """Major and minor of ``2.60.0`` or ``v2.60.0rc1``; None when there is nothing to compare."""
    match = _VERSION.match(text)
    return (int(match[1]), int(match[2])) if match else None

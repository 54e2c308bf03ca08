"""Real machines in network namespaces; skipped where there are no rights for them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from rayward.local import linux


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = linux.namespaces_available()
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.ray)
            item.add_marker(pytest.mark.namespaces)
            if reason is not None:
                item.add_marker(pytest.mark.skip(reason=f"no namespaces here: {reason}"))

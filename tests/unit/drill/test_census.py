"""What counts as a restart between two looks at a cluster."""

from __future__ import annotations

import pytest

from rayward.drill.census import Census, PodCount, restarts_between

HEAD = PodCount("c-head-a", True, 0, (10, 100))
WORKER = PodCount("c-worker-a", False, 1, (20, 200))


@pytest.mark.parametrize(
    ("after", "workers", "heads"),
    [
        ([HEAD, WORKER], 0, 0),
        ([HEAD, PodCount("c-worker-a", False, 3, (21, 210))], 2, 0),
        # The raylet is another process though no container restarted.
        ([HEAD, PodCount("c-worker-a", False, 1, (21, 210))], 1, 0),
        # The same pid, started later: another process all the same.
        ([HEAD, PodCount("c-worker-a", False, 1, (20, 999))], 1, 0),
        ([HEAD, PodCount("c-worker-a", False, 1, None)], 1, 0),
        ([HEAD, PodCount("c-worker-b", False, 0, (30, 300))], 1, 0),
        ([HEAD], 1, 0),
        ([PodCount("c-head-b", True, 0, (11, 110)), WORKER], 0, 1),
        ([PodCount("c-head-a", True, 1, (11, 110)), WORKER], 0, 1),
        ([PodCount("c-head-a", True, 0, (11, 110)), WORKER], 0, 1),
        # It stands by now: its raylet ended with its lead.
        ([PodCount("c-head-a", True, 0, None), WORKER], 0, 0),
    ],
)
def test_restarts(after: list[PodCount], workers: int, heads: int) -> None:
    before, now = Census((HEAD, WORKER)), Census(tuple(after))
    assert restarts_between(before, now, heads=False) == workers
    assert restarts_between(before, now, heads=True) == heads

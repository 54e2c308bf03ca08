"""Percentiles of a drill's figures. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

Spread = dict[str, float | None]
"""``{"p50", "p99", "max"}`` in seconds; each None when nothing was measured."""


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile: the smallest value that at least ``share`` (0 < share <= 1) of all values
    do not exceed. It is always one of the values, so p99 of fewer than 100 runs is their maximum.

    Raises ValueError when there are no values.
    """
    if not values:
        raise ValueError("no values")
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}")
    return sorted(values)[math.ceil(share * len(values)) - 1]


def median(values: Sequence[float]) -> float:
    """The nearest-rank median."""
    return percentile(values, 0.5)


def spread(values: Iterable[float | None]) -> Spread:
    """Median, 99th percentile and maximum of the values that were measured."""
    measured = [value for value in values if value is not None]
    if not measured:
        return {"p50": None, "p99": None, "max": None}
    return {"p50": median(measured), "p99": percentile(measured, 0.99), "max": max(measured)}


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """How many times ``ours`` goes into ``theirs``; None when either is missing or ours is zero."""
    return theirs / ours if ours and theirs is not None else None

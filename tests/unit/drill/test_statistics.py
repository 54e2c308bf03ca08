"""Percentiles by nearest rank, checked against values counted by hand."""

from __future__ import annotations

import pytest

from rayward.drill.statistics import median, percentile, ratio, spread


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([7.0], 0.5, 7.0),
        ([7.0], 0.99, 7.0),
        ([1.0, 2.0], 0.5, 1.0),
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        ([15.0, 20.0, 35.0, 40.0, 50.0], 0.3, 20.0),
        ([15.0, 20.0, 35.0, 40.0, 50.0], 0.4, 20.0),
        ([15.0, 20.0, 35.0, 40.0, 50.0], 1.0, 50.0),
        ([float(value) for value in range(1, 31)], 0.99, 30.0),
        ([float(value) for value in range(1, 201)], 0.99, 198.0),
    ],
)
def test_percentile_is_the_value_at_the_nearest_rank(
    values: list[float], share: float, expected: float
) -> None:
    assert percentile(values, share) == expected


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01])
def test_percentile_refuses_shares_that_mean_nothing(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        percentile([1.0], share)


def test_percentile_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no values"):
        median([])


def test_spread_leaves_out_what_was_not_measured() -> None:
    assert spread([None, 3.0, 1.0, None, 2.0]) == {"p50": 2.0, "p99": 3.0, "max": 3.0}
    assert spread([None, None]) == {"p50": None, "p99": None, "max": None}


def test_ratio_is_missing_where_a_side_is() -> None:
    assert ratio(0.5, 60.0) == 120.0
    assert ratio(None, 60.0) is None
    assert ratio(0.5, None) is None
    assert ratio(0.0, 60.0) is None

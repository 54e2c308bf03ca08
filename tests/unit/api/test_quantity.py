"""Quantities are exact, whatever way they are written."""

from __future__ import annotations

from fractions import Fraction

import pytest

from rayward.api.quantity import QuantityError, format_bytes, format_count, parse_quantity, whole


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", Fraction(1)),
        (2, Fraction(2)),
        (0.5, Fraction(1, 2)),
        ("500m", Fraction(1, 2)),
        ("100n", Fraction(1, 10**7)),
        ("1.5Gi", Fraction(3 * 2**29)),
        ("1G", Fraction(10**9)),
        ("1E", Fraction(10**18)),
        ("1E3", Fraction(1000)),
        ("2e-3", Fraction(2, 1000)),
        (".5", Fraction(1, 2)),
        ("5.", Fraction(5)),
        ("0.1", Fraction(1, 10)),
    ],
)
def test_parse(text: str | int | float, expected: Fraction) -> None:
    assert parse_quantity(text) == expected


@pytest.mark.parametrize("text", ["", "five", "1 Gi", "1gi", "Gi", "1e999", "--1", "1.2.3", True, "1" * 99])
def test_refuses(text: str) -> None:
    with pytest.raises(QuantityError):
        parse_quantity(text)


def test_cores_round_up_and_memory_becomes_bytes() -> None:
    assert [whole("100m"), whole("1"), whole("1001m")] == [1, 1, 2]
    assert whole("2Gi") == 2147483648


@pytest.mark.parametrize("text", ["1500m", "2", "0"])
def test_counts_come_back_as_written(text: str) -> None:
    assert format_count(parse_quantity(text)) == text


@pytest.mark.parametrize("text", ["3Gi", "1536Mi", "1000000000", "0"])
def test_bytes_come_back_as_written(text: str) -> None:
    assert format_bytes(parse_quantity(text)) == text

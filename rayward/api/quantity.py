"""Kubernetes quantities ("500m", "1.5Gi", "2e3"), read exactly.

Pure arithmetic on fractions; what a quantity is used for is decided elsewhere.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

_SUFFIXES = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    "": Fraction(1),
    **{suffix: Fraction(1000 ** (power + 1)) for power, suffix in enumerate("kMGTPE")},
    **{f"{suffix}i": Fraction(1024 ** (power + 1)) for power, suffix in enumerate("KMGTPE")},
}
_QUANTITY = re.compile(
    r"(?P<number>[+-]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40}))"
    r"(?:[eE](?P<exponent>[+-]?\d{1,2})|(?P<suffix>[numkMGTPE]|[KMGTPE]i))?"
)


class QuantityError(ValueError):
    """Text that is no Kubernetes quantity."""


def parse_quantity(value: str | int | float) -> Fraction:
    """The exact number that ``value`` stands for. Raises QuantityError for anything else."""
    text = str(value)
    match = None if isinstance(value, bool) else _QUANTITY.fullmatch(text)
    if match is None:
        raise QuantityError(f'"{text[:60]}" is not a quantity such as 500m, 2 or 1.5Gi')
    number = Fraction(match["number"].rstrip(".") if match["number"].endswith(".") else match["number"])
    if match["exponent"] is not None:
        return number * Fraction(10) ** int(match["exponent"])
    return number * _SUFFIXES[match["suffix"] or ""]


def whole(value: str | int | float) -> int:
    """The quantity rounded up: cores as Ray's ``--num-cpus`` wants them, memory in bytes."""
    return math.ceil(parse_quantity(value))


def format_count(value: Fraction) -> str:
    """A decimal quantity (cores, devices) in its shortest exact form: ``2`` or ``1500m``."""
    return str(value.numerator) if value.denominator == 1 else f"{math.ceil(value * 1000)}m"


def format_bytes(value: Fraction) -> str:
    """Memory with the largest binary suffix that divides it evenly: ``3Gi``, ``1000000000``."""
    number = math.ceil(value)
    for suffix in ("Ei", "Pi", "Ti", "Gi", "Mi", "Ki"):
        unit = _SUFFIXES[suffix].numerator
        if number and number % unit == 0:
            return f"{number // unit}{suffix}"
    return str(number)

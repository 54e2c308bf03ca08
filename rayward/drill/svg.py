"""Pictures as static SVG text: a few shapes, and axes with round numbers. Pure; knows nothing of drills.

Colours are CSS classes of the page around it, so that one picture serves light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Scale:
    """Maps values to pixels along one axis, ``low`` to ``first`` and ``high`` to ``last``."""

    low: float
    high: float
    first: float
    last: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value; values outside are kept at the edge."""
        low, high, value = (self._measure(number) for number in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.0
        return self.first + min(1.0, max(0.0, share)) * (self.last - self.first)

    def _measure(self, value: float) -> float:
        return math.log10(max(value, 1e-9)) if self.logarithmic else value


def round_steps(low: float, high: float, most: int = 8) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from ``low`` to ``high``, about ``most``."""
    if high <= low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 10) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def decades(low: float, high: float) -> list[float]:
    """Powers of ten from ``low`` to ``high`` (both above 0)."""
    return [
        10.0**power
        for power in range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
    ]


def attributes(values: dict[str, object]) -> str:
    """XML attributes; an underscore in a name stands for a dash, and a trailing one is dropped."""
    return "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(_number(value))}"' for name, value in values.items()
    )


def _number(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def shape(name: str, title: str = "", **values: object) -> str:
    """One element; ``title`` is what a browser shows on hovering."""
    inside = f"<title>{escape(title)}</title>" if title else ""
    return f"<{name}{attributes(values)}>{inside}</{name}>" if inside else f"<{name}{attributes(values)}/>"


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """A straight line."""
    return shape("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def text(x: float, y: float, words: str, class_: str = "label", anchor: str = "start") -> str:
    """A line of text with its base line at ``y``."""
    return (
        f"<text{attributes({'x': x, 'y': y, 'class': class_, 'text-anchor': anchor})}>{escape(words)}</text>"
    )


def dot(x: float, y: float, class_: str, title: str = "", radius: float = 2.0) -> str:
    """A dot."""
    return shape("circle", title, cx=x, cy=y, r=radius, class_=class_)


def picture(width: float, height: float, parts: Sequence[str], label: str) -> str:
    """The whole picture; ``label`` is read to those who cannot see it."""
    head = attributes(
        {"viewBox": f"0 0 {_number(width)} {_number(height)}", "role": "img", "aria-label": label}
    )
    return f"<svg{head}>" + "".join(parts) + "</svg>"


def spread_labels(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near the wanted ones (ascending), at least ``gap`` apart and, where there is room, within
    ``low`` and ``high``."""
    placed: list[float] = []
    for position in wanted:
        placed.append(max(position, low, placed[-1] + gap if placed else low))
    limit = high
    for index in range(len(placed) - 1, -1, -1):
        placed[index] = min(placed[index], limit)
        limit = placed[index] - gap
    return placed

"""The picture of one run of a drill on Ray Serve: latencies and failures, second by second. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayward.drill import svg
from rayward.drill.svg import Scale

WIDTH, LEFT, RIGHT = 960.0, 64.0, 24.0
_TOP, _BOTTOM, _FAILED_BOTTOM = 44.0, 250.0, 300.0
_SERIES = (("p50", "p50", "gcs"), ("p99", "p99", "task"), ("max", "slowest", "agent"))
_QUIET_SHOWN_S = 20


def seconds_picture(run: Mapping[str, Any]) -> str:
    """p50, p99 and the slowest answer of each second on a logarithmic axis, the failures under it, and when
    the fault came and the service was whole again."""
    entries = [entry for entry in run["seconds"] if entry["second"] >= -_QUIET_SHOWN_S]
    last = max([5.0, *(entry["second"] + 1.0 for entry in entries)])
    first = min([-1.0, *(float(entry["second"]) for entry in entries)])
    x = Scale(first, last, LEFT, WIDTH - RIGHT)
    slowest = max([10.0, *(entry["max"] for entry in entries if entry["max"] is not None)])
    y = Scale(1.0, slowest * 1.3, _BOTTOM, _TOP, logarithmic=True)
    parts = _axes(x, y)
    parts.append(_moment(x, 0.0, "fault", f"fault injected: {run['target']}", 14.0))
    if run["whole_s"] is not None:
        parts.append(_moment(x, run["whole_s"], "answer", f"whole again  {run['whole_s']:.1f} s", 30.0))
    parts += _dots(entries, x, y)
    parts += _failures(entries, x)
    parts += _legend()
    return svg.picture(WIDTH, _FAILED_BOTTOM + 60, parts, f"requests of run {run['run']}, second by second")


def _axes(x: Scale, y: Scale) -> list[str]:
    parts = []
    for value in svg.round_steps(x.low, x.high, 10):
        parts.append(svg.line(x.at(value), _TOP, x.at(value), _FAILED_BOTTOM, "grid"))
        parts.append(svg.text(x.at(value), _FAILED_BOTTOM + 18, f"{value:g} s", anchor="middle"))
    for value in svg.decades(y.low, y.high):
        parts.append(svg.line(x.first, y.at(value), x.last, y.at(value), "grid"))
        words = f"{value:g} ms" if value < 1000 else f"{value / 1000:g} s"
        parts.append(svg.text(x.first - 8, y.at(value) + 4, words, anchor="end"))
    parts.append(svg.line(x.first, _BOTTOM, x.last, _BOTTOM, "axis"))
    parts.append(svg.line(x.first, _FAILED_BOTTOM, x.last, _FAILED_BOTTOM, "axis"))
    parts.append(svg.text(x.first - 8, _FAILED_BOTTOM - 4, "failed", anchor="end"))
    return parts


def _moment(x: Scale, at: float, kind: str, words: str, label_y: float) -> str:
    place = x.at(at)
    left = place > (x.first + x.last) / 2
    label = svg.text(place + (-6 if left else 6), label_y, words, "label strong", "end" if left else "start")
    return svg.line(place, label_y - 10, place, _FAILED_BOTTOM, f"mark {kind}") + label


def _dots(entries: Sequence[Mapping[str, Any]], x: Scale, y: Scale) -> list[str]:
    parts = []
    for entry in entries:
        for name, words, kind in _SERIES:
            if entry[name] is not None:
                title = f"second {entry['second']}: {words} {entry[name]:.1f} ms of {entry['count']} requests"
                place = x.at(entry["second"] + 0.5)
                parts.append(svg.dot(place, y.at(entry[name]), f"dot {kind}", title, 2.6))
    return parts


def _failures(entries: Sequence[Mapping[str, Any]], x: Scale) -> list[str]:
    most = max([1, *(entry["failed"] for entry in entries)])
    width = max(1.0, x.at(x.low + 1) - x.at(x.low) - 1)
    parts = []
    for entry in entries:
        if entry["failed"]:
            height = (_FAILED_BOTTOM - _BOTTOM - 14) * entry["failed"] / most
            parts.append(
                svg.shape(
                    "rect",
                    f"second {entry['second']}: {entry['failed']} of {entry['count']} failed",
                    x=x.at(entry["second"]),
                    y=_FAILED_BOTTOM - height,
                    width=width,
                    height=height,
                    class_="call failed",
                )
            )
    return parts


def _legend() -> list[str]:
    parts, place = [], LEFT
    for _, words, kind in _SERIES:
        parts.append(svg.dot(place + 5, _FAILED_BOTTOM + 40, f"dot {kind}", radius=4.5))
        parts.append(svg.text(place + 16, _FAILED_BOTTOM + 44, words))
        place += 36 + 7.2 * len(words)
    parts.append(
        svg.text(
            WIDTH - RIGHT, _FAILED_BOTTOM + 44, "of each second, by when requests were due", anchor="end"
        )
    )
    return parts

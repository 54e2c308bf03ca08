"""The two pictures of a drill's report: one failover as a line of time, and all runs. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayward.drill import svg
from rayward.drill.svg import Scale
from rayward.drill.table import seconds

WIDTH = 960.0
_LEFT, _RIGHT = 64.0, 24.0
# About how wide a letter of a label is.
_LETTER = 7.2
_MOMENTS = {
    "FaultInjected": ("fault injected", "fault"),
    "ProcessDied": ("agent sees the death", "agent"),
    "ProcessRestarted": ("gcs_server executed again", "agent"),
    "LeaseAcquired": ("another head takes the lease", "agent"),
    "WriteRefused": ("a write of the old head is refused", "agent"),
    "SteppedDown": ("the old head steps down", "agent"),
    "GcsServes": ("GCS serves", "gcs"),
    "FaultHealed": ("fault taken away", "fault"),
    "task_answered": ("new task answered", "answer"),
    "new_actor_answered": ("new actor answered", "answer"),
    "placement_group_answered": ("new placement group placed", "answer"),
}
# An agent reports these of every process; the story is the GCS's.
_OF_ANY_PROCESS = ("ProcessDied", "ProcessRestarted")
_RUN_SERIES = (
    ("gcs_ready_s", "GCS serves", "gcs"),
    ("task_s", "new task", "task"),
    ("placement_group_s", "new placement group", "group"),
    ("new_actor_s", "new actor", "actor"),
)


def moments(run: Mapping[str, Any]) -> list[tuple[float, str, str]]:
    """The marks of a run that tell its story, first to last: when, in words, and of which kind."""
    found = []
    seen: set[str] = set()
    for mark in run["timeline"]:
        what = mark["what"]
        if what not in _MOMENTS or what in seen:
            continue
        if what in _OF_ANY_PROCESS and "gcs_server" not in mark["says"]:
            continue
        seen.add(what)
        words, kind = _MOMENTS[what]
        found.append((float(mark["at"]), words, kind))
    return sorted(found)


def failover_picture(run: Mapping[str, Any]) -> str:
    """One failover: what happened when, and under it each call to a running actor as a dot at its latency."""
    marks = moments(run)
    end = max(1.0, max(at for at, _, _ in marks) * 1.3) if marks else 1.0
    begin = -0.18 * end
    row, top = 22.0, 16.0
    plot_top = top + row * max(1, len(marks)) + 26
    plot_bottom = plot_top + 170
    x = Scale(begin, end, _LEFT, WIDTH - _RIGHT)
    parts = _time_axis(x, plot_top, plot_bottom)
    parts += _marks(marks, x, top, row, plot_bottom)
    parts += _calls(run["calls_around"], x, plot_top, plot_bottom)
    return svg.picture(WIDTH, plot_bottom + 44, parts, f"timeline of run {run['run']}")


def _time_axis(x: Scale, top: float, bottom: float) -> list[str]:
    parts = []
    for value in svg.round_steps(x.low, x.high, 10):
        parts.append(svg.line(x.at(value), top, x.at(value), bottom, "grid"))
        parts.append(svg.text(x.at(value), bottom + 18, f"{value:g} s", anchor="middle"))
    parts.append(svg.line(x.first, bottom, x.last, bottom, "axis"))
    parts.append(svg.text(x.last, bottom + 36, "seconds after the fault", "label faint", "end"))
    return parts


def _marks(
    marks: Sequence[tuple[float, str, str]], x: Scale, top: float, row: float, bottom: float
) -> list[str]:
    parts = []
    for index, (at, words, kind) in enumerate(marks):
        y, place = top + index * row, x.at(at)
        parts.append(svg.line(place, y, place, bottom, f"mark {kind}"))
        parts.append(svg.dot(place, y, f"dot {kind}", radius=4.5))
        told = words if at == 0 else f"{words}  {seconds(at)}"
        to_left = place + 10 + _LETTER * len(told) > WIDTH
        parts.append(
            svg.text(
                place + (-10 if to_left else 10), y + 4, told, "label strong", "end" if to_left else "start"
            )
        )
    return parts


def _calls(calls: Sequence[Mapping[str, Any]], x: Scale, top: float, bottom: float) -> list[str]:
    shown = [call for call in calls if x.low <= call["at"] + call["seconds"] <= x.high]
    slowest = max([call["seconds"] for call in shown], default=0.1)
    y = Scale(0.0005, max(0.1, slowest) * 1.3, bottom, top, logarithmic=True)
    parts = []
    for value in svg.decades(0.001, y.high):
        parts.append(svg.line(x.first, y.at(value), x.last, y.at(value), "grid"))
        words = f"{value * 1000:g} ms" if value < 1 else f"{value:g} s"
        parts.append(svg.text(x.first - 8, y.at(value) + 4, words, anchor="end"))
    for call in shown:
        kind = "call failed" if call["error"] else "call"
        title = f"{seconds(call['seconds'])}, begun {call['at']:+.3f} s" + (
            f": {call['error']}" if call["error"] else ""
        )
        parts.append(svg.dot(x.at(call["at"] + call["seconds"]), y.at(call["seconds"]), kind, title))
    words = "each dot: a call to a running actor, when it was answered, by how long it took"
    parts.append(svg.text(x.first, bottom + 36, words, "label faint"))
    return parts


def runs_picture(runs: Sequence[Mapping[str, Any]], stock: Sequence[Mapping[str, Any]] = ()) -> str:
    """Every run's figures as dots, one column a run, with plain Ray's runs to the right; a logarithmic axis,
    for the two may be a hundred times apart."""
    values = [
        float(run[name]) for run in (*runs, *stock) for name, _, _ in _RUN_SERIES if run[name] is not None
    ]
    high = max([1.0, *values]) * 1.5
    low = min([0.01, *(value for value in values if value > 0)]) * 0.8
    top, bottom = 34.0, 274.0
    y = Scale(max(low, 0.001), high, bottom, top, logarithmic=True)
    columns = len(runs) + (len(stock) + 1 if stock else 0)
    width = (WIDTH - _LEFT - _RIGHT) / max(1, columns)
    parts = []
    for value in svg.decades(y.low, y.high):
        parts.append(svg.line(_LEFT, y.at(value), WIDTH - _RIGHT, y.at(value), "grid"))
        words = f"{value * 1000:g} ms" if value < 1 else f"{value:g} s"
        parts.append(svg.text(_LEFT - 8, y.at(value) + 4, words, anchor="end"))
    parts.append(svg.line(_LEFT, bottom, WIDTH - _RIGHT, bottom, "axis"))
    parts += _columns(runs, 0, width, y, bottom)
    if stock:
        edge = _LEFT + (len(runs) + 0.5) * width
        parts.append(svg.line(edge, top, edge, bottom, "grid"))
        parts += _columns(stock, len(runs) + 1, width, y, bottom, "stock ")
    parts += _legend()
    return svg.picture(WIDTH, bottom + 34, parts, "all runs")


def _columns(
    runs: Sequence[Mapping[str, Any]], first: int, width: float, y: Scale, bottom: float, prefix: str = ""
) -> list[str]:
    parts = []
    every = max(1, round(26 / width)) if width < 26 else 1
    for index, run in enumerate(runs):
        x = _LEFT + (first + index + 0.5) * width
        if index % every == 0:
            words = f"{prefix}{run['run']}" if width >= 60 or not prefix else "stock"
            parts.append(svg.text(x, bottom + 18, words, "label" if run["held"] else "label bad", "middle"))
        for place, (name, words, kind) in enumerate(_RUN_SERIES):
            if run[name] is not None:
                shift = (place - 1.5) * min(9.0, width / 5)
                title = f"{prefix}run {run['run']}: {words} after {seconds(run[name])}"
                parts.append(svg.dot(x + shift, y.at(run[name]), f"dot {kind}", title, 3.5))
    return parts


def _legend() -> list[str]:
    parts, x = [], _LEFT
    for _, words, kind in _RUN_SERIES:
        parts.append(svg.dot(x + 5, 14, f"dot {kind}", radius=4.5))
        parts.append(svg.text(x + 16, 18, words))
        x += 36 + _LETTER * len(words)
    return parts

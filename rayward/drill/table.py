"""The figures of a drill's result as a table of text, beside stock Ray's and the floor. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SPREAD_ROWS = (
    ("gcs_ready_s", "GCS serves again"),
    ("new_actor_s", "a new actor has answered"),
    ("task_s", "a new task has answered"),
    ("placement_group_s", "a new placement group is placed"),
    ("call_gap_s", "longest gap between calls to a running actor"),
    ("recovered_s", "all heads are back"),
)
COUNT_ROWS = (
    ("calls", "calls to a running actor"),
    ("calls_failed", "of these failed"),
    ("tasks", "tasks"),
    ("tasks_failed", "of these failed"),
    ("worker_restarts", "restarts of workers"),
    ("head_pod_restarts", "restarts of the head Pod"),
    ("gcs_restarts", "restarts of gcs_server"),
    ("asked_again", "requests for a placement group that Ray broke off"),
    ("state_lost", "actors, placement groups, entries lost"),
    ("writes", "acknowledged writes"),
    ("writes_lost", "of these lost"),
    ("failovers", "changes of leader"),
    ("stale_writes", "writes accepted from an old epoch"),
)


def seconds(value: float | None, missing: str = "never") -> str:
    """A duration for people: milliseconds below a tenth of a second; ``missing`` where there is none."""
    if value is None:
        return missing
    if value < 0.1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def floor_of(name: str, figures: Mapping[str, Any]) -> float | None:
    """What a figure cannot go below on this machine; None where there is no such floor."""
    start, actor = figures["floor"]["gcs_start_s"], figures["floor"]["quiet_actor_s"]
    if name == "gcs_ready_s":
        return None if start is None else float(start)
    if name == "new_actor_s" and start is not None and actor is not None:
        return float(start) + float(actor)
    return None


def figures_table(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: seconds after the fault, then counts."""
    figures, stock = result["figures"], result.get("stock")
    columns = ["", "p50", "p99", "max", "floor"] + (["stock Ray p50", "times quicker"] if stock else [])
    rows = []
    # A file of an earlier version may lack what came later.
    for name, words in (row for row in SPREAD_ROWS if row[0] in figures):
        spread = figures[name]
        floor = floor_of(name, figures)
        # A GCS that was not touched has nothing to come back from.
        missing = "stayed" if name == "gcs_ready_s" and not figures["gcs_restarts"] else "never"
        row = [words, *(seconds(spread[key], missing) for key in ("p50", "p99", "max"))]
        row.append("" if floor is None else seconds(floor))
        if stock:
            factor = result["times_quicker_than_stock"].get(name)
            row += [
                seconds(stock["figures"].get(name, {}).get("p50")),
                "" if factor is None else f"{factor:.0f}" if factor >= 10 else f"{factor:.1f}",
            ]
        rows.append(row)
    for name, words in (row for row in COUNT_ROWS if row[0] in figures):
        row = [words, count(figures[name]), "", "", ""]
        rows.append(row + ([count(stock["figures"].get(name)), ""] if stock else []))
    return columns, rows


def count(value: int | None) -> str:
    """A count for people; unknown is not zero."""
    return "unknown" if value is None else f"{value:,}"

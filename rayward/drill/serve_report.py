"""The report of a drill on Ray Serve as an HTML page, and its figures as a table. Pure; works on the JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from rayward.drill import serve_charts
from rayward.drill.report import environment, machine_rows
from rayward.drill.serve_faults import known_serve_fault

_FEW = 4


def requests_table(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: one row for each run, one for all, and one for each run of stock Ray."""
    columns = [
        "run",
        "requests",
        "failed",
        "lost in flight",
        "p50",
        "p99",
        "max",
        "quiet p99",
        "ratio",
        "whole",
    ]
    rows = [[str(run["run"]), *_cells(run, run["whole_s"])] for run in result["runs"]]
    rows.append(["all", *_cells(result["figures"], result["figures"]["whole_s"]["p50"])])
    stock = result.get("stock")
    if stock is not None:
        rows += [[f"stock {run['run']}", *_cells(run, run["whole_s"])] for run in stock["runs"]]
    return columns, rows


def milliseconds(value: float | None) -> str:
    """A latency for people."""
    if value is None:
        return "-"
    return f"{value:.0f} ms" if value < 1000 else f"{value / 1000:.2f} s"


def serve_report(result: Mapping[str, Any]) -> str:
    """The page for a result (``serve_result_json``)."""
    columns, rows = requests_table(result)
    runs = result["runs"]
    stock_runs = (result.get("stock") or {"runs": []})["runs"]
    shown = sorted(runs, key=lambda run: (run["held"], -(run["latency_ms"]["p99"] or 0)))[:_FEW]
    return (
        environment()
        .get_template("serve.html")
        .render(
            title=f"rayward drill: {result['fault']}",
            result=result,
            fault=known_serve_fault(result["fault"]),
            columns=columns,
            rows=rows,
            held=sum(bool(run["held"]) for run in runs),
            p99=milliseconds(result["figures"]["latency_ms"]["p99"]),
            quiet_p99=milliseconds(result["figures"]["quiet_latency_ms"]["p99"]),
            # The pictures escape their own words.
            shown=[(run, Markup(serve_charts.seconds_picture(run))) for run in shown],
            stock=[(run, Markup(serve_charts.seconds_picture(run))) for run in stock_runs[:1]],
            machine=machine_rows(result["machine"]),
        )
    )


def _cells(figures: Mapping[str, Any], whole: float | None) -> list[str]:
    factor = figures["p99_ratio"]
    return [
        f"{figures['requests']:,}",
        f"{figures['failed']:,}",
        f"{figures['in_flight_lost']:,}",
        *(milliseconds(figures["latency_ms"][key]) for key in ("p50", "p99", "max")),
        milliseconds(figures["quiet_latency_ms"]["p99"]),
        "-" if factor is None else f"{factor:.1f}",
        "never" if whole is None else f"{whole:.1f} s",
    ]

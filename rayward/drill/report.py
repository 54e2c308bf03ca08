"""The report of a drill, and of the quickstart, as one HTML page that needs nothing else. Pure.

Works on results as JSON, so that a page can be made again from a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from rayward.drill import charts, table
from rayward.drill.faults import known_fault


def environment() -> Environment:
    """The templates, with every word from outside escaped."""
    return Environment(
        loader=PackageLoader("rayward.drill", "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def machine_rows(machine: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the measurement was made on, as names and words."""
    settings = machine.get("settings") or {}
    rows = [
        (
            "machine",
            f"{machine['cpus']} CPUs, {machine['memory_bytes'] / 2**30:.1f} GiB, Linux {machine['kernel']}",
        ),
        (
            "software",
            ", ".join(
                f"{name} {machine[name]}"
                for name in ("rayward", "ray", "python", "redis")
                if machine.get(name)
            ),
        ),
        ("store", machine.get("store") or ""),
        (
            "network",
            {"namespaces": "a namespace and an address per Pod", "host": "the host's own"}.get(
                machine.get("mode", ""), ""
            ),
        ),
        ("settings", ", ".join(f"{name}={value}" for name, value in settings.items())),
        ("made", machine["date"]),
    ]
    return [row for row in rows if row[1]]


def typical_run(runs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The run to show: the one with the median new actor; one without any only if there is no other."""
    answered = sorted(
        (run for run in runs if run["new_actor_s"] is not None), key=lambda run: run["new_actor_s"]
    )
    if answered:
        return answered[(len(answered) - 1) // 2]
    return runs[0] if runs else None


def _drill_parts(result: Mapping[str, Any]) -> dict[str, Any]:
    stock = result.get("stock")
    columns, rows = table.figures_table(result)
    shown = typical_run(result["runs"])
    return {
        "result": result,
        "stock": stock,
        "fault": known_fault(result["fault"]),
        "columns": columns,
        "rows": rows,
        "shown": shown,
        # The pictures escape their own words.
        "failover": Markup(charts.failover_picture(shown)) if shown and shown["timeline"] else None,
        "all_runs": Markup(charts.runs_picture(result["runs"], stock["runs"] if stock else ())),
        "held": sum(bool(run["held"]) for run in result["runs"]),
        "new_actor": table.seconds(result["figures"]["new_actor_s"]["p50"]),
        "gap": table.seconds(result["figures"]["call_gap_s"]["max"]),
        "stock_actor": table.seconds(stock["figures"]["new_actor_s"]["p50"]) if stock else None,
    }


def drill_report(result: Mapping[str, Any]) -> str:
    """The page for a drill's result (``result_json``)."""
    page = environment().get_template("drill.html")
    return page.render(
        title=f"rayward drill: {result['fault']}",
        machine=machine_rows(result["machine"]),
        **_drill_parts(result),
    )


def suite_report(result: Mapping[str, Any], columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The page for a suite's result (``suite.suite_json``) with its table."""
    runs = result["runs"]
    lost_heads = [run for run in runs if run["fault"] == "host-loss" and run["held"]]
    shown = typical_run(lost_heads or runs)
    stale = result["figures"]["stale_writes"]
    control = f", control {result['control']}" if result["control"] else ""
    return (
        environment()
        .get_template("suite.html")
        .render(
            title=f"rayward drill suite{control}",
            result=result,
            columns=columns,
            rows=rows,
            stale="unknown" if stale is None else stale,
            held=sum(bool(run["held"]) for run in runs),
            shown=shown,
            # The pictures escape their own words.
            failover=Markup(charts.failover_picture(shown)) if shown and shown["timeline"] else None,
            all_runs=Markup(charts.runs_picture(runs)),
            machine=machine_rows(result["machine"]),
        )
    )


def story_report(result: Mapping[str, Any], rows: Sequence[Sequence[str]]) -> str:
    """The page for the quickstart: its steps, and the drill of one of them. ``rows`` are step, expected,
    seen, seconds, verdict."""
    page = environment().get_template("story.html")
    drill = result["drill"]
    parts = _drill_parts(drill) if drill and drill["runs"] else {"shown": None}
    return page.render(
        title="rayward quickstart",
        story=result,
        steps=rows,
        machine=machine_rows(result["machine"]),
        **parts,
    )

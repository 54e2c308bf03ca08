"""``rayward drill run serve-...``: the drills on Ray Serve, for a person."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from rayward.cli import output
from rayward.cli.drill_suite import write
from rayward.drill import temporary
from rayward.drill.serve_report import requests_table, serve_report
from rayward.drill.serve_result import ServeOutcome, serve_result_json
from rayward.drill.serve_session import ServePlan, Tell, run_serve_drill
from rayward.drill.stock import run_serve_stock
from rayward.local import cluster as local
from rayward.local.cluster import LocalCluster

_OWN_CLUSTER = "drill"


def run_serve(
    plan: ServePlan,
    cluster: str | None,
    filename: Path | None,
    json_file: Path | None,
    report: Path | None,
    stock_runs: int,
) -> NoReturn:
    """Run the drill, and ``stock_runs`` times into plain Ray; write what was asked for, print the figures and
    exit: 0 only if every run held, whatever became of plain Ray."""
    plain = None
    with output.progress(f"drill {plan.fault.name}") as shown:
        with _drilled(cluster, filename, shown.say) as found:
            objects = temporary.manifests_of(found)
            outcome = run_serve_drill(found, plan, shown.say)
        if stock_runs:
            plain = run_serve_stock(objects, plan, outcome.rate, stock_runs, shown.say)
    result = serve_result_json(outcome, plain)
    write(result, json_file, serve_report(result) if report else "", report)
    _print(result, outcome)
    sys.exit(0 if outcome.ok else 1)


@contextlib.contextmanager
def _drilled(name: str | None, filename: Path | None, tell: Tell) -> Iterator[LocalCluster]:
    """The cluster of that name, or the only one; with a file one of its own, until the end."""
    if filename is None:
        yield local.find(name)
        return
    with temporary.temporary_cluster(temporary.manifests_for(filename), _OWN_CLUSTER, tell) as made:
        yield made


def _print(result: dict[str, Any], outcome: ServeOutcome) -> None:
    columns, rows = requests_table(result)
    output.table(columns, rows)
    for each in outcome.runs:
        for why in each.failures():
            print(f"run {each.number}: {why}")
    if outcome.ended_early:
        print(f"ended early: {outcome.ended_early}")
    if "stock" in result:
        stock = result["stock"]["figures"]
        print(f"stock Ray: {stock['failed']:,} of {stock['requests']:,} requests failed")
    load, promise = result["load"], result["promise"]
    measured = f"of {load['capacity']:.0f} that were measured" if load["capacity"] else "as asked for"
    print(f"load: {load['rate']:g} requests per second ({measured}), connections {load['connections']}")
    if promise["reached"] is not None:
        kept = "kept" if promise["kept"] else "MISSED"
        print(
            f"promise: p99 during the fault at most {promise['p99_ratio']:g} times the quiet p99: {kept} "
            f"({promise['reached']:.1f})"
        )
    held = sum(not each.failures() for each in outcome.runs)
    print(
        f"{'HELD' if outcome.ok else 'FAILED'}: {outcome.fault}, {held} of {outcome.asked} runs held, "
        f"seed {outcome.seed}"
    )

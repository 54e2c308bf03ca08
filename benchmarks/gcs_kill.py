"""How long a cluster is without a GCS, by fault and by store; the floor and stock Ray from the same run."""

from __future__ import annotations

import sys
from typing import Any

import click

from benchmarks import common
from rayward.drill.table import floor_of, seconds

COLUMNS = (
    "fault and store",
    "n",
    "new actor p50",
    "p99",
    "max",
    "floor",
    "GCS serves p50",
    "stock p50",
    "calls failed",
    "longest gap",
    "restarts",
    "lost",
)


@click.command(epilog="example: python -m benchmarks.gcs_kill -n 3 --freeze 2 --term 2 --stock 0")
@click.option("-n", "kills", default=30, show_default=True, help="Kills on each store.")
@click.option("--freeze", default=20, show_default=True, help="Freezes (SIGSTOP), on Redis.")
@click.option("--term", default=20, show_default=True, help="Ends by SIGTERM, on Redis.")
@click.option(
    "--stock", default=3, show_default=True, help="Runs against stock Ray, each for kill and SIGTERM."
)
@click.option("--seed", default=1, show_default=True, help="Seed of the moments of injection.")
def main(kills: int, freeze: int, term: int, stock: int, seed: int) -> None:
    """Measure, print the table, write gcs_kill.json and a report for each part."""
    asked = (
        ("gcs-kill", "redis", kills, stock),
        ("gcs-kill", "rocksdb", kills, 0),
        ("gcs-freeze", "redis", freeze, 0),
        ("gcs-term", "redis", term, stock),
    )
    parts = {}
    for fault, store, runs, stock_runs in asked:
        if runs:
            parts[f"{fault}, {store}"] = _part(fault, store, runs, stock_runs, seed)
    rows = [_row(name, part) for name, part in parts.items()]
    common.write("gcs_kill", {"parts": parts}, COLUMNS, rows)
    sys.exit(0 if all(part["ok"] for part in parts.values()) else 1)


def _part(fault: str, store: str, runs: int, stock_runs: int, seed: int) -> dict[str, Any]:
    objects = common.manifests(store)
    report = f"{fault}-{store}"
    return common.drill_part(fault, runs, seed, objects=objects, stock_runs=stock_runs, report=report)


def _row(name: str, part: dict[str, Any]) -> list[str]:
    figures, stock = part["figures"], part.get("stock")
    floor = floor_of("new_actor_s", figures)
    return [
        name,
        str(part["n"]),
        *(seconds(figures["new_actor_s"][key]) for key in ("p50", "p99", "max")),
        seconds(floor) if floor is not None else "",
        seconds(figures["gcs_ready_s"]["p50"]),
        seconds(stock["figures"]["new_actor_s"]["p50"]) if stock else "",
        f"{figures['calls_failed']} of {figures['calls']:,}",
        seconds(figures["call_gap_s"]["max"]),
        str(figures["worker_restarts"] + figures["head_pod_restarts"]),
        str(figures["state_lost"]),
    ]


if __name__ == "__main__":
    main()

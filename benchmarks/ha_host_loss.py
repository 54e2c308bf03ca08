"""The active head's host is lost: connections refused, and silence; a cold head elsewhere in the same run."""

from __future__ import annotations

import sys
from typing import Any

import click

from benchmarks import common
from rayward.drill.table import seconds

COLUMNS = (
    "head lost",
    "n",
    "GCS serves p50",
    "new actor p50",
    "p99",
    "max",
    "placement group p50",
    "promise",
    "calls failed",
    "longest gap",
    "workers restarted",
    "lost",
    "stale writes",
)
# REP-65's prototype of an active-passive head, 30 failovers: until its workers were back.
PUBLISHED = {"source": "ray-project/enhancements REP-65", "average_s": 20.80, "max_s": 28.0, "n": 30}


@click.command(epilog="example: python -m benchmarks.ha_host_loss -n 2 --cold 1")
@click.option("-n", "runs", default=30, show_default=True, help="Losses of each kind.")
@click.option("--cold", default=3, show_default=True, help="Losses of plain Ray's only head.")
@click.option("--seed", default=1, show_default=True, help="Seed of the moments of injection.")
def main(runs: int, cold: int, seed: int) -> None:
    """Measure, print the table, write ha_host_loss.json and a report for each part."""
    objects = common.two_heads()
    refused = common.drill_part("host-loss", runs, seed, objects=objects, stock_runs=cold)
    silent = common.drill_part("host-loss-silent", runs, seed, objects=objects)
    parts = {"refused or reset": refused, "silent": silent}
    rows = [row(name, part) for name, part in parts.items()]
    if cold:
        rows.append(row("plain Ray, a cold head in its place", refused["stock"]))
    rows.append(
        ["published (REP-65)", "30", "", "20.80 s (average)", "", "28.0 s", *[""] * (len(COLUMNS) - 6)]
    )
    common.write("ha_host_loss", {"parts": parts, "published": PUBLISHED}, COLUMNS, rows)
    sys.exit(0 if all(part["ok"] and part["promise"]["kept"] for part in parts.values()) else 1)


def row(name: str, part: dict[str, Any]) -> list[str]:
    """One line of the table for a drill's result; used for switchovers too."""
    figures, given = part["figures"], part.get("promise")
    stale = figures["stale_writes"]
    kept = "" if given is None else f"{given['new_actor_p50_s']:g} s {'kept' if given['kept'] else 'MISSED'}"
    return [
        name,
        str(part["n"]),
        seconds(figures["gcs_ready_s"]["p50"]),
        *(seconds(figures["new_actor_s"][key]) for key in ("p50", "p99", "max")),
        seconds(figures["placement_group_s"]["p50"]),
        kept,
        f"{figures['calls_failed']} of {figures['calls']:,}",
        seconds(figures["call_gap_s"]["max"]),
        str(figures["worker_restarts"]),
        str(figures["state_lost"] + figures["writes_lost"]),
        "unknown" if stale is None else str(stale),
    ]


if __name__ == "__main__":
    main()

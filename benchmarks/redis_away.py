"""Redis away for a minute: the same gcs_server afterwards, requests answered, no acknowledged write lost."""

from __future__ import annotations

import sys

import click

from benchmarks import common
from rayward.drill.table import seconds

COLUMNS = (
    "Redis away",
    "n",
    "held",
    "same gcs_server",
    "new actor answered, after Redis was back p50",
    "max",
    "acknowledged writes",
    "of these lost",
    "calls failed",
    "longest gap",
)


@click.command(epilog="example: python -m benchmarks.redis_away -n 1 --seconds 5")
@click.option("-n", "runs", default=3, show_default=True, help="How often.")
@click.option("--seconds", "away", default=60.0, show_default=True, help="How long Redis is away.")
@click.option("--seed", default=1, show_default=True, help="Seed of the moments of injection.")
def main(runs: int, away: float, seed: int) -> None:
    """Measure, print the table, write redis_away.json and a report."""
    objects = common.two_heads()
    part = common.drill_part("redis-restart", runs, seed, objects=objects, seconds=away)
    figures = part["figures"]
    after = sorted(
        run["new_actor_s"] - run["lasted_s"] for run in part["runs"] if run["new_actor_s"] is not None
    )
    line = [
        f"{away:g} s",
        str(part["n"]),
        str(sum(run["held"] for run in part["runs"])),
        f"{sum(run['gcs_restarts'] == 0 for run in part['runs'])} of {part['n']}",
        seconds(after[(len(after) - 1) // 2]) if after else "never",
        seconds(after[-1]) if after else "never",
        f"{figures['writes']:,}",
        str(figures["writes_lost"]),
        f"{figures['calls_failed']} of {figures['calls']:,}",
        seconds(figures["call_gap_s"]["max"]),
    ]
    common.write("redis_away", {"parts": {"redis-restart": part}}, COLUMNS, [line])
    sys.exit(0 if part["ok"] else 1)


if __name__ == "__main__":
    main()

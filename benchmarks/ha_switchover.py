"""A planned change of leader: from the request until a new actor has answered."""

from __future__ import annotations

import sys

import click

from benchmarks import common
from benchmarks.ha_host_loss import COLUMNS, row

PROMISE_S = 1.5


@click.command(epilog="example: python -m benchmarks.ha_switchover -n 2")
@click.option("-n", "runs", default=30, show_default=True, help="Switchovers.")
@click.option("--seed", default=1, show_default=True, help="Seed of the moments.")
def main(runs: int, seed: int) -> None:
    """Measure, print the table, write ha_switchover.json and a report."""
    part = common.drill_part("switchover", runs, seed, objects=common.two_heads())
    reached = part["figures"]["new_actor_s"]["p50"]
    kept = reached is not None and reached <= PROMISE_S
    part["promise"] = {"new_actor_p50_s": PROMISE_S, "reached_s": reached, "kept": kept}
    columns = ("change", *COLUMNS[1:])
    common.write("ha_switchover", {"parts": {"switchover": part}}, columns, [row("switchover", part)])
    sys.exit(0 if part["ok"] and kept else 1)


if __name__ == "__main__":
    main()

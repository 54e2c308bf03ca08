"""All faults mixed, at least 219 injections, with the negative controls and the faults that need a cluster of
their own (Sentinel, an emptied store, twenty changes in a row)."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import Any

import click

from benchmarks import common
from rayward.drill import manifests
from rayward.drill.report import suite_report
from rayward.drill.suite import (
    COLUMNS,
    CONTROLS,
    SuitePlan,
    control_faults,
    mixed,
    suite_json,
    suite_rows,
)
from rayward.drill.suite_run import Suite
from rayward.drill.temporary import temporary_cluster
from rayward.local.cluster import LocalCluster

# What the only published series of its kind injected (ray-project/ray issue 52480).
WANTED = 219


@click.command(epilog="example: python -m benchmarks.suite -n 2 --sentinel 0 --no-controls --no-extra")
@click.option("-n", "runs", default=WANTED, show_default=True, help="Injections of the mix.")
@click.option("--sentinel", default=10, show_default=True, help="Failovers of Redis by Sentinel.")
@click.option("--controls/--no-controls", default=True, help="Run the negative controls too.")
@click.option("--extra/--no-extra", default=True, help="Run redis-wiped and back-to-back too.")
@click.option("--seed", default=1, show_default=True, help="Seed of the order of faults.")
def main(runs: int, sentinel: int, controls: bool, extra: bool, seed: int) -> None:
    """Run it all, print the table, write suite.json and suite.html."""
    mix = _suite(common.two_heads(), SuitePlan(seed=seed, minutes=None, runs=runs))
    try:
        outcome = mix.run(mixed())
    except KeyboardInterrupt:
        outcome = mix.so_far("ended by hand")
    if outcome.drill.ended_early:
        controls, sentinel, extra = False, 0, False
    result = suite_json(outcome)
    rows = suite_rows(outcome.drill)
    common.OUT.mkdir(parents=True, exist_ok=True)
    (common.OUT / "suite.html").write_text(suite_report(result, COLUMNS, rows), encoding="utf-8")
    reds = {control: _control(control, seed) for control in CONTROLS} if controls else {}
    parts: dict[str, Any] = {}
    if sentinel:
        objects = common.two_heads(manifests.SENTINEL)
        parts["redis-failover"] = common.drill_part("redis-failover", sentinel, seed, objects=objects)
    if extra:
        for fault in ("redis-wiped", "back-to-back"):
            parts[fault] = common.drill_part(fault, 1, seed, objects=common.two_heads())
    told = [
        [name, *[""] * (len(COLUMNS) - 2), "held" if part["ok"] else "FAILED"] for name, part in parts.items()
    ]
    told += [
        [f"control {name}", *[""] * (len(COLUMNS) - 2), "went red as it must" if red else "stayed GREEN"]
        for name, red in reds.items()
    ]
    whole = {"suite": common.thinned(result), "parts": parts, "controls_went_red": reds}
    common.write("suite", whole, COLUMNS, [*rows, *told])
    good = outcome.ok and all(part["ok"] for part in parts.values()) and all(reds.values())
    sys.exit(0 if good else 1)


def _suite(objects: list[dict[str, Any]], plan: SuitePlan, control: str = "") -> Suite:
    def opened() -> AbstractContextManager[LocalCluster]:
        return temporary_cluster(objects, "bench", common.tell)

    return Suite(opened, plan, common.tell, control=control)


def _control(control: str, seed: int) -> bool:
    objects = common.two_heads()
    if control == "ft-off":
        objects = manifests.without_fault_tolerance(objects)
    else:
        objects = manifests.with_environment(objects, {"RAYWARD_FENCE": "off"})
    plan = SuitePlan(seed=seed, minutes=None)
    return _suite(objects, plan, control).run(control_faults(control)).ok


if __name__ == "__main__":
    main()

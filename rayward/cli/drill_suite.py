"""``rayward drill suite``: all faults mixed over one cluster, and the negative controls."""

from __future__ import annotations

import contextlib
import json
import random
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import click

from rayward.cli import kinds, output
from rayward.drill import manifests, temporary
from rayward.drill.record import failures
from rayward.drill.report import suite_report
from rayward.drill.suite import (
    COLUMNS,
    CONTROLS,
    SuiteOutcome,
    SuitePlan,
    control_faults,
    mixed,
    suite_json,
    suite_rows,
)
from rayward.drill.suite_run import OpenCluster, Suite, Tell
from rayward.errors import RaywardError
from rayward.local import cluster as local
from rayward.local.cluster import LocalCluster

_OWN_CLUSTER = "drill-suite"
_CONTROL_HELP = (
    "Run a negative control instead: a short series with fault tolerance (ft-off) or the fence (fence-off) "
    "switched off, which has to go red."
)


@click.command(epilog="example: rayward drill suite --minutes 30 --seed 7 --report out/suite.html")
@kinds.cluster_option
@click.option("-m", "--minutes", type=click.FloatRange(0.1), help="How long (default: 10, or until --runs).")
@click.option("-n", "--runs", type=click.IntRange(1, 100000), help="How many injections at the most.")
@click.option("--seed", type=int, help="Seed of the order of faults (default: a new one; it is recorded).")
@click.option(
    "--pause", default=2.0, show_default=True, type=click.FloatRange(0), help="Quiet load before each."
)
@click.option("--control", type=click.Choice(CONTROLS), help=_CONTROL_HELP)
@click.option("--sentinel", is_flag=True, help="Bring the cluster up on a Redis with Sentinels.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write JSON.")
@click.option("--report", type=click.Path(path_type=Path), metavar="FILE.html", help="Write a page.")
def suite(
    cluster: str | None,
    minutes: float | None,
    runs: int | None,
    seed: int | None,
    pause: float,
    control: str | None,
    sentinel: bool,
    json_file: Path | None,
    report: Path | None,
) -> None:
    """Inject all kinds of faults, mixed by a seed, into one cluster with two heads, under load.

    After each the whole cluster is checked and waited for. Without --cluster a cluster is brought up for it,
    and another one if a run has ruined the first. Exit status 0 only if every run held; with --control, only
    if the control went red as it must.
    """
    if control and cluster:
        raise RaywardError(
            "a control has a cluster of its own", where="--control and --cluster", todo="leave --cluster out"
        )
    plan = SuitePlan(
        seed=random.randrange(2**31) if seed is None else seed,
        minutes=minutes if minutes is not None else (None if runs else 10.0),
        runs=runs,
        pause=pause,
    )
    with output.progress(f"suite, seed {plan.seed}") as shown:
        opener = _opener(cluster, control or "", sentinel, shown.say)
        running = Suite(opener, plan, shown.say, only_one=cluster is not None, control=control or "")
        try:
            outcome = running.run(control_faults(control) if control else mixed())
        except KeyboardInterrupt:
            outcome = running.so_far("interrupted")
    result = suite_json(outcome)
    write(result, json_file, suite_report(result, COLUMNS, suite_rows(outcome.drill)), report)
    _print(outcome)
    sys.exit(130 if outcome.drill.ended_early == "interrupted" else 0 if outcome.ok else 1)


def _opener(cluster: str | None, control: str, sentinel: bool, tell: Tell) -> OpenCluster:
    def open_cluster() -> AbstractContextManager[LocalCluster]:
        if cluster is not None:
            return contextlib.nullcontext(local.find(cluster))
        objects = manifests.for_drill(manifests.own(manifests.SENTINEL if sentinel else manifests.HA))
        if control == "ft-off":
            objects = manifests.without_fault_tolerance(objects)
        elif control == "fence-off":
            objects = manifests.with_environment(objects, {"RAYWARD_FENCE": "off"})
        return temporary.temporary_cluster(objects, _OWN_CLUSTER, tell)

    return open_cluster


def write(result: dict[str, Any], json_file: Path | None, page: str, report: Path | None) -> None:
    """Write a result as JSON and as a page, where files were named; raises RaywardError when that fails."""
    try:
        for path, text in ((json_file, json.dumps(result, indent=1) + "\n"), (report, page)):
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    except OSError as problem:
        raise RaywardError(
            f"cannot be written: {(problem.strerror or str(problem)).lower()}", where=str(problem.filename)
        ) from problem


def _print(outcome: SuiteOutcome) -> None:
    drill = outcome.drill
    output.table(COLUMNS, suite_rows(drill))
    for each in drill.runs:
        for why in failures(each, drill.limit):
            print(f"run {each.run}, {each.fault}: {why}")
    for name, why in outcome.skipped.items():
        print(f"left out: {name} {why}")
    if drill.ended_early:
        print(f"ended early: {drill.ended_early}")
    if outcome.control:
        told = "went red as it must" if outcome.ok else "stayed GREEN: the drill does not see this damage"
        print(f"control {outcome.control} {told}, seed {drill.seed}")
        return
    held = sum(not failures(each, drill.limit) for each in drill.runs)
    verdict = "HELD" if outcome.ok else "FAILED"
    used = "1 cluster" if outcome.clusters == 1 else f"{outcome.clusters} clusters"
    print(f"{verdict}: suite, {held} of {len(drill.runs)} runs held, {used}, seed {drill.seed}")

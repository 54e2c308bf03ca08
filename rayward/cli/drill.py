"""``rayward drill``: breaking a cluster on purpose, and reading what that did."""

from __future__ import annotations

import contextlib
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from rayward.cli import kinds, output
from rayward.drill import temporary
from rayward.drill.drill import DrillPlan, Tell, run_drill
from rayward.drill.faults import FAULTS, Fault, find_fault
from rayward.drill.record import failures
from rayward.drill.report import drill_report
from rayward.drill.result import DrillOutcome, result_json
from rayward.drill.stock import run_stock
from rayward.drill.table import figures_table
from rayward.errors import RaywardError
from rayward.local import cluster as local
from rayward.local import state
from rayward.local.cluster import LocalCluster

_OWN_CLUSTER = "drill"
_PAUSE_HELP = "Seconds of quiet load before each run; up to 1 s at random is added."
_STOCK_HELP = "Inject the same into plain `ray start --block` too (minutes), for comparison."


@click.group()
def drill() -> None:
    """Break a running cluster on purpose, under load, and measure what its users would notice."""


@drill.command("list", epilog="example: rayward drill list")
def list_() -> None:
    """List the faults that can be injected."""
    output.table(
        ["fault", "does", "stands for"], [[fault.name, fault.does, fault.stands_for] for fault in FAULTS]
    )


def _complete_fault(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return [fault.name for fault in FAULTS if fault.name.startswith(incomplete)]


@drill.command(epilog="example: rayward drill run gcs-kill -n 10 --stock --report out/gcs-kill.html")
@click.argument("fault", shell_complete=_complete_fault)
@kinds.cluster_option
@click.option("-n", "--runs", default=3, show_default=True, type=click.IntRange(1, 1000), help="How often.")
@click.option(
    "-f", "--filename", type=click.Path(path_type=Path), help="Bring a cluster up from these manifests."
)
@click.option(
    "--seed", type=int, help="Seed of the random moments of injection (default: a new one; it is recorded)."
)
@click.option("--pause", default=2.0, show_default=True, type=click.FloatRange(0), help=_PAUSE_HELP)
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write the result as JSON."
)
@click.option(
    "--report", type=click.Path(path_type=Path), metavar="FILE.html", help="Write a report to look at."
)
@click.option("--stock", is_flag=True, help=_STOCK_HELP)
@click.option(
    "--stock-runs", default=1, show_default=True, type=click.IntRange(1, 100), help="How often, with --stock."
)
def run(
    fault: str,
    cluster: str | None,
    runs: int,
    filename: Path | None,
    seed: int | None,
    pause: float,
    json_file: Path | None,
    report: Path | None,
    stock: bool,
    stock_runs: int,
) -> None:
    """Inject a fault some times, under load, and say whether the cluster held.

    Without --cluster: the only cluster that is up; when none is, one is brought up (from -f, else the default
    one) and taken down at the end. Exit status 0 only if every run held: no call to a running actor and no
    task failed, nothing was lost, no Pod restarted, and a new actor answered within 30 s.
    """
    plan = DrillPlan(find_fault(fault), runs, random.randrange(2**31) if seed is None else seed, pause)
    if cluster is not None and filename is not None:
        raise RaywardError("--cluster and --filename exclude each other", where="rayward drill run")
    plain = None
    with output.progress(f"drill {fault}") as shown:
        with _drilled(cluster, filename, shown.say) as found:
            manifests = temporary.manifests_of(found)
            outcome = run_drill(found, plan, shown.say)
        if stock:
            plain = run_stock(manifests, plan, stock_runs, shown.say)
    _write(outcome, plain, json_file, report)
    _print(outcome, plain, plan.fault)
    sys.exit(0 if outcome.ok else 1)


@contextlib.contextmanager
def _drilled(name: str | None, filename: Path | None, tell: Tell) -> Iterator[LocalCluster]:
    if filename is None and (name is not None or state.clusters()):
        yield local.find(name)
        return
    with temporary.temporary_cluster(temporary.manifests_for(filename), _OWN_CLUSTER, tell) as made:
        yield made


def _write(
    outcome: DrillOutcome, plain: DrillOutcome | None, json_file: Path | None, report: Path | None
) -> None:
    try:
        if json_file is not None:
            json_file.parent.mkdir(parents=True, exist_ok=True)
            json_file.write_text(json.dumps(result_json(outcome, plain), indent=1) + "\n", encoding="utf-8")
        if report is not None:
            report.parent.mkdir(parents=True, exist_ok=True)
            report.write_text(drill_report(result_json(outcome, plain)), encoding="utf-8")
    except OSError as problem:
        raise RaywardError(
            f"cannot be written: {(problem.strerror or str(problem)).lower()}", where=str(problem.filename)
        ) from problem


def _print(outcome: DrillOutcome, plain: DrillOutcome | None, fault: Fault) -> None:
    result = result_json(outcome, plain)
    columns, rows = figures_table(result)
    output.table(columns, rows)
    for each in outcome.runs:
        for why in failures(each, outcome.limit):
            print(f"run {each.run}: {why}")
    if outcome.ended_early:
        print(f"ended early: {outcome.ended_early}")
    held = sum(not failures(each, outcome.limit) for each in outcome.runs)
    print(
        f"{'HELD' if outcome.ok else 'FAILED'}: {fault.name}, "
        f"{held} of {outcome.asked} runs held, seed {outcome.seed}"
    )

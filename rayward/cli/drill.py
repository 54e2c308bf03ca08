"""``rayward drill``: breaking a cluster on purpose, and reading what that did."""

from __future__ import annotations

import contextlib
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from rayward.cli import kinds, output
from rayward.cli.drill_serve import run_serve
from rayward.cli.drill_suite import suite, write
from rayward.drill import manifests, temporary
from rayward.drill.drill import DrillPlan, Tell, check_plan, run_drill
from rayward.drill.faults import FAULTS, GROUPS, Fault, find_fault
from rayward.drill.record import failures
from rayward.drill.report import drill_report
from rayward.drill.result import DrillOutcome, result_json
from rayward.drill.serve_faults import GROUP_WORDS, SERVE_FAULTS, known_serve_fault
from rayward.drill.serve_session import ServePlan
from rayward.drill.stock import run_stock
from rayward.drill.table import figures_table
from rayward.errors import RaywardError
from rayward.local import cluster as local
from rayward.local import state
from rayward.local.cluster import LocalCluster

_OWN_CLUSTER = "drill"
_PAUSE_HELP = "Seconds of quiet load before each run; up to 1 s at random is added."
_SECONDS_HELP = "How long each fault lasts, for those that last (default: the fault's own; see `drill list`)."
_RATE_HELP = "serve-*: requests per second (default: half of what is measured at the start)."
_QUIET_HELP = "serve-*: seconds of load before the first run."
_NEW_HELP = "serve-*: a new connection for each request instead of kept ones."
_STOCK_HELP = "Inject the same into plain `ray start --block` too (minutes), for comparison."


@click.group()
def drill() -> None:
    """Break a running cluster on purpose, under load, and measure what its users would notice."""
    # What a drill has broken is mended when it is interrupted; an end asked for otherwise is no worse.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


drill.add_command(suite)


@drill.command("list", epilog="example: rayward drill list")
def list_() -> None:
    """List the faults that can be injected, by what they break."""
    for group, words in GROUPS.items():
        print(f"{words}:")
        for fault in FAULTS:
            if fault.group == group:
                lasts = f" [{fault.seconds:g} s]" if fault.seconds else ""
                print(f"  {fault.name:<32} {fault.does}{lasts}: {fault.stands_for}")
    print(f"{GROUP_WORDS}:")
    for each in SERVE_FAULTS:
        print(f"  {each.name:<32} {each.does}: {each.stands_for}")


def _complete_fault(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    names = [fault.name for fault in FAULTS] + [fault.name for fault in SERVE_FAULTS]
    return [name for name in names if name.startswith(incomplete)]


@drill.command(epilog="example: rayward drill run host-loss -n 10 --report out/host-loss.html")
@click.argument("fault", shell_complete=_complete_fault)
@kinds.cluster_option
@click.option("-n", "--runs", default=3, show_default=True, type=click.IntRange(1, 1000), help="How often.")
@click.option(
    "-f", "--filename", type=click.Path(path_type=Path), help="Bring a cluster up from these manifests."
)
@click.option("--seconds", type=click.FloatRange(0.1, 600), help=_SECONDS_HELP)
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
@click.option("--rate", type=click.FloatRange(1, 100_000), help=_RATE_HELP)
@click.option(
    "--quiet-seconds", type=click.FloatRange(1, 3600), default=60.0, show_default=True, help=_QUIET_HELP
)
@click.option("--new-connections", is_flag=True, help=_NEW_HELP)
def run(
    fault: str,
    cluster: str | None,
    runs: int,
    filename: Path | None,
    seconds: float | None,
    seed: int | None,
    pause: float,
    json_file: Path | None,
    report: Path | None,
    stock: bool,
    stock_runs: int,
    rate: float | None,
    quiet_seconds: float,
    new_connections: bool,
) -> None:
    """Inject a fault some times, under load, and say whether the cluster held.

    Without --cluster: the only cluster that is up; when none is, one that can take the fault is brought up
    (or that of -f) and taken down at the end. Exit status 0 only if every run held: no call to a running
    actor and no task failed, nothing was lost, no worker restarted, only one head wrote, and a new actor
    answered within 30 s (of the fault, or of its end where it lets nothing through).

    serve-*: into a cluster with a RayService, which has to be up (or come with -f). Exit status 0 only if no
    request failed and the service was whole again each time.
    """
    chosen = random.randrange(2**31) if seed is None else seed
    if cluster is not None and filename is not None:
        raise RaywardError("--cluster and --filename exclude each other", where="rayward drill run")
    served = known_serve_fault(fault)
    if served is not None:
        if seconds is not None:
            raise RaywardError("--seconds has no meaning for it", where=f"rayward drill run {fault}")
        serve_plan = ServePlan(
            served, runs, chosen, quiet_seconds, pause, rate=rate, new_connections=new_connections
        )
        run_serve(serve_plan, cluster, filename, json_file, report, stock_runs if stock else 0)
    plan = DrillPlan(find_fault(fault), runs, chosen, pause, seconds=seconds)
    check_plan(plan)
    if rate is not None or new_connections:
        raise RaywardError(
            "--rate and --new-connections have no meaning for it",
            where=f"rayward drill run {fault}",
            todo="they are for the serve-* drills, which send requests",
        )
    if stock and plan.fault.group != "gcs" and fault != "host-loss":
        raise RaywardError(
            f"--stock has nothing to compare {fault} with", todo="gcs-kill, gcs-term, gcs-freeze"
        )
    plain = None
    with output.progress(f"drill {fault}") as shown:
        with _drilled(cluster, filename, plan.fault, shown.say) as found:
            objects = temporary.manifests_of(found)
            outcome = run_drill(found, plan, shown.say)
        if stock:
            plain = run_stock(objects, plan, stock_runs, shown.say)
    result = result_json(outcome, plain)
    write(result, json_file, drill_report(result) if report else "", report)
    _print(result, outcome, plan.fault)
    sys.exit(0 if outcome.ok else 1)


@contextlib.contextmanager
def _drilled(name: str | None, filename: Path | None, fault: Fault, tell: Tell) -> Iterator[LocalCluster]:
    if filename is None and (name is not None or state.clusters()):
        yield local.find(name)
        return
    objects = temporary.manifests_for(filename, manifests.fitting(fault))
    with temporary.temporary_cluster(objects, _OWN_CLUSTER, tell) as made:
        yield made


def _print(result: dict[str, Any], outcome: DrillOutcome, fault: Fault) -> None:
    columns, rows = figures_table(result)
    output.table(columns, rows)
    for each in outcome.runs:
        for why in failures(each, outcome.limit):
            print(f"run {each.run}: {why}")
    if outcome.ended_early:
        print(f"ended early: {outcome.ended_early}")
    for words in sorted({each.stale_writes_unknown for each in outcome.runs if each.stale_writes is None}):
        print(f"stale writes unknown: {words}")
    given = result["promise"]
    if given is not None and given["reached_s"] is not None:
        kept = "kept" if given["kept"] else "MISSED"
        print(f"promise: new actor p50 within {given['new_actor_p50_s']:g} s: {kept}")
    held = sum(not failures(each, outcome.limit) for each in outcome.runs)
    print(
        f"{'HELD' if outcome.ok else 'FAILED'}: {fault.name}, "
        f"{held} of {outcome.asked} runs held, seed {outcome.seed}"
    )

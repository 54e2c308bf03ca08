"""Requests to a RayService while its head, its GCS, a whole host, Redis or its cluster goes: how many fail.

The head is left out of the Service (excludeHeadPodFromServeSvc), as docs/rayservice.md advises; `--with-head`
shows what it costs to leave it in.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from typing import Any

import click

from benchmarks import common
from rayward.drill.serve_faults import SERVE_FAULTS, known_serve_fault
from rayward.drill.serve_report import milliseconds, serve_report
from rayward.drill.serve_result import serve_result_json
from rayward.drill.serve_session import ServePlan, run_serve_drill
from rayward.drill.stock import run_serve_stock
from rayward.drill.temporary import temporary_cluster
from rayward.local import cluster as local

MANIFEST = common.ROOT / "examples" / "ray-service.high-availability.yaml"
PROMISED = ("serve-head-delete", "serve-gcs-kill", "serve-host-loss", "serve-upgrade")
# A switch of clusters is the operator's doing, whatever starts Ray in them.
STOCK = ("serve-head-delete", "serve-gcs-kill", "serve-host-loss")
STOCK_QUIET_S = 10.0
COLUMNS = (
    "fault",
    "connections",
    "n",
    "requests",
    "failed",
    "in flight",
    "p99",
    "quiet p99",
    "whole",
    "stock",
)


@click.command(epilog="example: python -m benchmarks.serve_requests -n 2 --fault serve-gcs-kill")
@click.option("-n", "runs", default=20, show_default=True, help="Injections of each fault.")
@click.option("--fault", "chosen", multiple=True, help="Only this one; may be given again.")
@click.option("--rate", type=float, help="Requests per second (default: half of what is measured).")
@click.option("--quiet-seconds", default=60.0, show_default=True, help="Quiet load at first.")
@click.option("--new-connections", is_flag=True, help="A connection for each request.")
@click.option("--with-head", is_flag=True, help="The head's proxy is offered, too.")
@click.option("--heads", type=click.IntRange(1, 2), default=1, show_default=True, help="How many heads.")
@click.option(
    "--stock", default=3, show_default=True, help="Runs against stock Ray, for each fault of a head."
)
@click.option("--seed", default=1, show_default=True, help="Seed of the moments.")
def main(
    runs: int,
    chosen: tuple[str, ...],
    rate: float | None,
    quiet_seconds: float,
    new_connections: bool,
    with_head: bool,
    heads: int,
    stock: int,
    seed: int,
) -> None:
    """Measure, print the table, write serve_requests.json and a report for each fault."""
    parts: dict[str, Any] = {}
    for name in chosen or [fault.name for fault in SERVE_FAULTS]:
        fault = known_serve_fault(name)
        if fault is None:
            raise click.BadParameter(f"{name}: `rayward drill list` names them", param_hint="--fault")
        plan = ServePlan(
            fault, runs, seed, quiet_seconds=quiet_seconds, rate=rate, new_connections=new_connections
        )
        objects = _objects(with_head, heads)
        with temporary_cluster(objects, "bench", common.tell) as cluster:
            outcome = run_serve_drill(cluster, plan, common.tell)
        plain = None
        if stock and name in STOCK:
            short = replace(plan, quiet_seconds=min(plan.quiet_seconds, STOCK_QUIET_S))
            plain = run_serve_stock(objects, short, outcome.rate, stock, common.tell)
        parts[name] = serve_result_json(outcome, plain)
        common.OUT.mkdir(parents=True, exist_ok=True)
        page = common.OUT / f"{name}{'-new' if new_connections else ''}.html"
        page.write_text(serve_report(parts[name]), encoding="utf-8")
    name = "serve_requests_new" if new_connections else "serve_requests"
    result = {"parts": parts, "with_head": with_head, "heads": heads}
    common.write(name, result, COLUMNS, [_row(name, part) for name, part in parts.items()])
    sys.exit(0 if all(part["ok"] for name, part in parts.items() if name in PROMISED) else 1)


def _objects(with_head: bool, heads: int) -> list[dict[str, Any]]:
    objects = copy.deepcopy(local.read_manifests(MANIFEST, None)[1])
    for found in objects:
        if found["kind"] == "RayService":
            found["spec"]["excludeHeadPodFromServeSvc"] = not with_head
            options = found["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]
            options["enableActivePassiveHead"] = heads > 1
    return objects


def _row(name: str, part: dict[str, Any]) -> list[object]:
    figures = part["figures"]
    whole = figures["whole_s"]["p50"]
    return [
        name.removeprefix("serve-"),
        part["load"]["connections"],
        part["n"],
        f"{figures['requests']:,}",
        figures["failed"],
        figures["in_flight_lost"],
        milliseconds(figures["latency_ms"]["p99"]),
        milliseconds(figures["quiet_latency_ms"]["p99"]),
        "never" if whole is None else f"{whole:.1f} s",
        _failed_of_stock(part),
    ]


def _failed_of_stock(part: dict[str, Any]) -> str:
    if "stock" not in part:
        return ""
    figures = part["stock"]["figures"]
    return f"{figures['failed']:,} of {figures['requests']:,}"


if __name__ == "__main__":
    main()

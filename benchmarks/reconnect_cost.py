"""What the reconnect settings cost at rest and what they bring: rayward's against Ray's own.

At rest: processor time of raylet, gcs_server and an idle driver. In need: kill to new actor.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from benchmarks import common
from rayward.drill import census
from rayward.drill.drill import DrillPlan, run_drill
from rayward.drill.faults import find_fault
from rayward.drill.result import result_json
from rayward.local.cluster import LocalCluster

COLUMNS = (
    "settings",
    "raylet (worker)",
    "raylet (head)",
    "gcs_server",
    "idle driver",
    "new actor p50",
    "p99",
)
_PROCESSES = ("raylet (worker)", "raylet (head)", "gcs_server", "idle driver")
_DRIVER = (
    "import os, ray, sys; ray.init(log_to_driver=False, logging_level='ERROR'); "
    "print('pid', flush=True); sys.stdin.read()"
)


@click.command(epilog="example: python -m benchmarks.reconnect_cost --seconds 10 -n 2")
@click.option("--seconds", default=60.0, show_default=True, help="How long to watch at rest.")
@click.option("--settle", default=20.0, show_default=True, help="Seconds of quiet before.")
@click.option("-n", "kills", default=20, show_default=True, help="Kills with each setting.")
@click.option("--seed", default=1, show_default=True, help="Seed of the moments of injection.")
def main(seconds: float, settle: float, kills: int, seed: int) -> None:
    """Measure, print the table, write reconnect_cost.json."""
    found = {}
    for name, environment in (("rayward's", None), ("Ray's own", common.RAY_OWN_PACE)):
        common.tell(f"with {name} settings")
        found[name] = _measure(environment, seconds, settle, DrillPlan(find_fault("gcs-kill"), kills, seed))
    rows = [
        (
            name,
            *(common.percent(each["at_rest"][process]) for process in _PROCESSES),
            *(f"{each['new_actor_s'][key]:.2f} s" for key in ("p50", "p99")),
        )
        for name, each in found.items()
    ]
    common.write("reconnect_cost", {"seconds": seconds, "n": kills, "settings": found}, COLUMNS, rows)


def _measure(
    environment: Mapping[str, str] | None, seconds: float, settle: float, plan: DrillPlan
) -> dict[str, Any]:
    with common.cluster("redis", environment) as cluster:
        with _idle_driver(cluster) as driver:
            worker, head = census.worker_pods(cluster)[0], census.head_pod(cluster)
            places = ((worker, census.RAYLET), (head, census.RAYLET), (head, census.GCS))
            identities = [census.find_process(pod, program) for pod, program in places]
            pids = [identity[0] for identity in identities if identity is not None]
            watched = dict(zip(_PROCESSES, [*pids, driver], strict=True))
            common.tell(f"settling for {settle:g} s, then watching for {seconds:g} s")
            common.processor_shares(watched, settle)
            at_rest = common.processor_shares(watched, seconds)
        result = result_json(run_drill(cluster, plan, common.tell))
    return {
        "at_rest": at_rest,
        "new_actor_s": result["figures"]["new_actor_s"],
        "gcs_ready_s": result["figures"]["gcs_ready_s"],
        "settings": result["machine"]["settings"],
    }


@contextmanager
def _idle_driver(cluster: LocalCluster) -> Iterator[int]:
    """A driver in a worker Pod that connects and does nothing; yields its pid as this host sees it."""
    worker = census.worker_pods(cluster)[0]
    plan = cluster.exec_plan(worker["metadata"]["name"], None, ["python3", "-u", "-c", _DRIVER])
    child = subprocess.Popen(
        plan.argv, env=plan.env, cwd=plan.cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
        yield _own_or_child(child.pid)
    finally:
        assert child.stdin is not None
        child.stdin.close()
        child.wait(20)


def _own_or_child(pid: int) -> int:
    """The program that nsenter started is its child, where nsenter stands between."""
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        children = file.read().split()
    with open(f"/proc/{pid}/comm", encoding="ascii") as file:
        return int(children[0]) if file.read().strip() == "nsenter" and children else pid


if __name__ == "__main__":
    main()

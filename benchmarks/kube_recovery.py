"""The two faults that matter most, through Kubernetes: gcs_server killed, and the leading head's Pod lost.

Real Ray in Pods of a real API server, looked after by the operator; the drills' own faults, load and
questions, so that the figures stand beside those of one machine.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks import common, kube_common
from benchmarks.ha_host_loss import COLUMNS, row
from benchmarks.kube_cluster import KubernetesCluster
from rayward.drill import manifests
from rayward.drill.drill import DrillPlan, run_drill
from rayward.drill.faults import find_fault
from rayward.drill.report import drill_report
from rayward.drill.result import result_json
from rayward.drill.settle import wait_settled
from rayward.errors import RaywardError
from rayward.local import cluster as local
from rayward.local.state import Manifest

HA = common.ROOT / "examples" / "ray-cluster.ha.yaml"
_UP_S, _GONE_S = 240.0, 120
# The same faults on one machine, from their own benchmarks' files when they are there.
_BESIDE = {"gcs-kill": ("gcs_kill", "gcs-kill, redis"), "host-loss": ("ha_host_loss", "refused or reset")}


@click.command(epilog="example: python -m benchmarks.kube_recovery -n 2")
@click.option("-n", "runs", default=30, show_default=True, help="Faults of each kind.")
@click.option("--workers", default=2, show_default=True, help="Workers beside the two heads.")
@click.option("--seed", default=1, show_default=True, help="Seed of the moments of injection.")
def main(runs: int, workers: int, seed: int) -> None:
    """Measure, print the table, write kube_recovery.json and a report for each part."""
    kill = local.read_manifests(common.MANIFESTS["redis"], None)[1]
    loss = _with_workers(manifests.for_drill(local.read_manifests(HA, None)[1]), workers)
    with (
        kube_common.control_plane() as plane,
        kube_common.real_node(plane) as node,
        tempfile.TemporaryDirectory(prefix="rayward-bench-") as folder,
        kube_common.operator_process(plane.kubeconfig, Path(folder) / "operator.log"),
    ):
        parts = {
            fault: _part(KubernetesCluster(plane, node, fault), plane, objects, fault, runs, seed)
            for fault, objects in (("gcs-kill", kill), ("host-loss", loss))
        }
    rows = []
    for fault, part in parts.items():
        rows.append(row(f"{fault}, on Kubernetes", part))
        beside = _on_one_machine(fault)
        if beside is not None:
            rows.append(row(f"{fault}, on one machine ({beside['machine']['date'][:10]})", beside))
    result = {"kubernetes": kube_common.kubernetes_version(), "parts": parts}
    common.write("kube_recovery", result, ("fault", *COLUMNS[1:]), rows)
    sys.exit(0 if all(part["ok"] for part in parts.values()) else 1)


def _with_workers(objects: list[Manifest], workers: int) -> list[Manifest]:
    for item in objects:
        if item["kind"] == "RayCluster":
            item["spec"]["workerGroupSpecs"][0]["replicas"] = workers
    return objects


def _part(
    cluster: KubernetesCluster,
    plane: kube_common.ControlPlane,
    objects: list[Manifest],
    fault: str,
    runs: int,
    seed: int,
) -> dict[str, Any]:
    """A drill in a namespace of its own."""
    common.tell(f"{fault}: bringing the cluster up")
    kube_common.make_namespaces(plane, [cluster.namespace])
    cluster.apply(objects)
    wanted = 2 if fault == "host-loss" else 1
    try:
        wait_settled(cluster, wanted, _UP_S)
        outcome = run_drill(cluster, DrillPlan(find_fault(fault), runs, seed), common.tell)
    except RaywardError as problem:
        raise click.ClickException(f"{problem}\n{_state(plane, cluster)}") from problem
    result = result_json(outcome)
    common.OUT.mkdir(parents=True, exist_ok=True)
    (common.OUT / f"kube-{fault}.html").write_text(drill_report(result), encoding="utf-8")
    common.tell(f"{fault}: taking the cluster down")
    for kind in ("raycluster", "namespace"):
        words = ["delete", kind, *(["--all"] if kind == "raycluster" else [cluster.namespace])]
        where = ["--namespace", cluster.namespace] if kind == "raycluster" else []
        plane.kubectl(*where, *words, f"--timeout={_GONE_S}s", timeout_s=_GONE_S + 10)
    return common.thinned(result)


def _state(plane: kube_common.ControlPlane, cluster: KubernetesCluster) -> str:
    """What there is, for whoever has to find out why it is not ready."""
    words = ("--namespace", cluster.namespace, "get", "rayclusters,pods,events", "--output=wide")
    return str(plane.kubectl(*words, check=False).stdout)


def _on_one_machine(fault: str) -> dict[str, Any] | None:
    """The same fault's figures of the local benchmark, None when it has not been run."""
    name, part = _BESIDE[fault]
    path = common.OUT / f"{name}.json"
    if not path.exists():
        return None

    whole = json.loads(path.read_text(encoding="utf-8"))
    found = whole["parts"].get(part)
    return {**found, "machine": whole["machine"]} if found else None


if __name__ == "__main__":
    main()

"""What the benchmarks share: clusters for a while, processor time of processes, files, tables."""

from __future__ import annotations

import copy
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rayward.cli import output
from rayward.drill import manifests as drill_manifests
from rayward.drill.drill import DrillPlan, run_drill
from rayward.drill.faults import find_fault
from rayward.drill.machine import host_facts
from rayward.drill.report import drill_report
from rayward.drill.result import result_json
from rayward.drill.statistics import median
from rayward.drill.stock import run_stock
from rayward.drill.temporary import temporary_cluster
from rayward.local import cluster as local
from rayward.local.cluster import LocalCluster

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "out" / "benchmarks"
MANIFESTS = {
    "redis": ROOT / "examples" / "ray-cluster.external-redis.yaml",
    "rocksdb": ROOT / "examples" / "ray-cluster.rocksdb.yaml",
}
_TICKS = os.sysconf("SC_CLK_TCK")

# What Ray 2.60 itself uses where nothing is set.
RAY_OWN_PACE = {
    "RAY_grpc_client_check_connection_status_interval_milliseconds": "1000",
    "RAY_gcs_grpc_min_reconnect_backoff_ms": "1000",
    "RAY_gcs_grpc_initial_reconnect_backoff_ms": "100",
    "RAY_gcs_grpc_max_reconnect_backoff_ms": "2000",
}


def tell(text: str) -> None:
    """Progress, on stderr."""
    print(f"  {text}", file=sys.stderr, flush=True)


def write(
    name: str, result: Mapping[str, Any], columns: Sequence[str], rows: Sequence[Sequence[object]]
) -> None:
    """Print the table and write out/benchmarks/NAME.json."""
    OUT.mkdir(parents=True, exist_ok=True)
    whole = {
        "machine": host_facts(),
        **result,
        "table": {"columns": list(columns), "rows": [list(row) for row in rows]},
    }
    path = OUT / f"{name}.json"
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    output.table(columns, rows)
    machine = whole["machine"]
    print(
        f"{machine['cpus']} CPUs, Linux {machine['kernel']}, Python {machine['python']}, "
        f"Ray {machine['ray']}: {path}"
    )


def manifests(store: str, environment: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """The example on this store, with some variables set in every Ray container."""
    found = copy.deepcopy(local.read_manifests(MANIFESTS[store], None)[1])
    for manifest in found:
        if manifest["kind"] == "RayCluster":
            groups = [manifest["spec"]["headGroupSpec"], *manifest["spec"]["workerGroupSpecs"]]
            for group in groups:
                container = group["template"]["spec"]["containers"][0]
                added = [{"name": name, "value": value} for name, value in (environment or {}).items()]
                container["env"] = [*container.get("env", []), *added]
    return found


@contextmanager
def cluster(store: str, environment: Mapping[str, str] | None = None) -> Iterator[LocalCluster]:
    """A cluster for the time of the context."""
    with temporary_cluster(manifests(store, environment), "bench", tell) as made:
        yield made


def two_heads(name: str = drill_manifests.HA) -> list[dict[str, Any]]:
    """The drills' own cluster with two heads, writes audited."""
    return drill_manifests.for_drill(drill_manifests.own(name))


def drill_part(
    fault: str,
    runs: int,
    seed: int,
    *,
    objects: list[dict[str, Any]],
    seconds: float | None = None,
    stock_runs: int = 0,
    report: str = "",
) -> dict[str, Any]:
    """A drill in a cluster of its own, as its JSON, with a page at out/benchmarks/REPORT.html; with
    ``stock_runs``, plain Ray beside it."""
    plan = DrillPlan(find_fault(fault), runs, seed, seconds=seconds)
    with temporary_cluster(objects, "bench", tell) as cluster:
        outcome = run_drill(cluster, plan, tell)
    plain = run_stock(objects, plan, stock_runs, tell) if stock_runs else None
    result = result_json(outcome, plain)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{report or fault}.html").write_text(drill_report(result), encoding="utf-8")
    return thinned(result)


def thinned(result: dict[str, Any]) -> dict[str, Any]:
    """A result without every call of every run, which the report has drawn and which would make the file
    hundreds of times larger."""
    for part in (result, result.get("stock") or {}):
        for run in part.get("runs", ()):
            run["calls_around"] = []
    return result


def processor_seconds(pid: int) -> float:
    """Processor time that a process has used so far; it must be alive."""
    fields = (
        Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    )
    return (int(fields[11]) + int(fields[12])) / _TICKS


def processor_shares(pids: Mapping[str, int], seconds: float) -> dict[str, float]:
    """Which part of one core each process used over the next ``seconds``, 0.01 meaning one per cent."""
    before = {name: processor_seconds(pid) for name, pid in pids.items()}
    started = time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - started
    return {name: (processor_seconds(pid) - before[name]) / passed for name, pid in pids.items()}


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def mb(value: int) -> str:
    """Bytes, as a table says them."""
    return f"{value / 2**20:.0f} MB"


def percent(share: float) -> str:
    """A share of one core, for people."""
    return f"{share * 100:.2f} %"


def middle(values: Sequence[float]) -> str:
    """The median in seconds, for people."""
    return f"{median(values):.2f} s"

"""Hundreds to thousands of RayClusters on a real API server with hollow nodes, beside a plain script that
makes the same objects: how long, how many writes, how much memory, what rest costs, how quick a lost head is
noticed meanwhile."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click

from benchmarks import common, kube_common, kube_load
from benchmarks.kube_common import ControlPlane, NodeProcess, OperatorProcess
from benchmarks.kube_load import Bounds
from benchmarks.kube_watch import Key, Watches
from rayward.drill.statistics import spread
from rayward.drill.table import seconds
from rayward.kube.client import KubeClient
from rayward.kube.kinds import PODS
from rayward.kube.settings import OperatorSettings

# KubeRay's own benchmark on GKE (v1.1.1, operator and nodes of many machines): its "wait ready" step.
PUBLISHED = {
    "source": "KubeRay benchmark/perf-tests, v1.1.1 on GKE; another machine, image pulls and real Pods in it",
    "ready_s": {"100": 83.5, "1000": 258.3, "5000": 1213.1},
}
REACH_RATIO, REACH_WRITES, REACH_HEAD_S = 1.3, kube_load.OBJECTS_EACH + 3, 0.5
REACH_BYTES = {500: 100 << 20, 20_000: 250 << 20}
WRITES = ("create", "update", "patch", "delete", "deletecollection")
_OURS = OperatorSettings()
_QUIET_S, _HEAD_BOUND_S = 8.0, 120.0
# The share of a core below which an operator that started anew has done what it had to do.
_WORKING, _LOOK_S = 0.1, 0.05


@dataclass(frozen=True)
class Asked:
    """What to measure, beside the sizes. ``create_qps``: RayClusters that users create in a second."""

    bounds: Bounds
    create_qps: float
    rest_s: float
    heads: int
    beside: int


@click.command(epilog="example: python -m benchmarks.kube_scale --sizes 100 --beside 200 --rest 20")
@click.option("--sizes", default="100,1000,5000", show_default=True, help="Numbers of RayClusters.")
@click.option("--qps", default=_OURS.qps, show_default=True, help="The operator's, and the script's.")
@click.option("--burst", default=_OURS.burst, show_default=True, help="The operator's, and the script's.")
@click.option("--workers", default=_OURS.workers, show_default=True, help="Clusters worked on at a time.")
@click.option("--create-qps", default=100.0, show_default=True, help="RayClusters created in a second.")
@click.option("--rest", "rest_s", default=60.0, show_default=True, help="Seconds at rest.")
@click.option("--heads", default=100, show_default=True, help="Head Pods deleted, one after the other.")
@click.option("--beside", default=1000, show_default=True, help="RayClusters created meanwhile.")
def main(
    sizes: str,
    qps: float,
    burst: int,
    workers: int,
    create_qps: float,
    rest_s: float,
    heads: int,
    beside: int,
) -> None:
    """Measure, print the table, write kube_scale.json."""
    asked = Asked(Bounds(qps, burst, workers), create_qps, rest_s, heads, beside)
    parts: dict[str, dict[str, Any]] = {}
    for size in (int(text) for text in sizes.split(",")):
        common.tell(f"{size:,} RayClusters")
        parts[str(size)] = part = {"floor": _floor(size, asked)}
        part.update(_operator(size, asked))
        part["ratio"] = part["ready_s"] / part["floor"]["ready_s"]
    made_with = {"qps": qps, "burst": burst, "workers": workers, "create_qps": create_qps}
    version = kube_common.kubernetes_version()
    result = {"kubernetes": version, "asked": made_with, "parts": parts, "published": PUBLISHED}
    columns, rows = table(parts)
    common.write("kube_scale", result, columns, rows)


# -- the floor -----------------------------------------------------------------------------------------


def _namespaces(size: int) -> list[str]:
    """As in KubeRay's benchmark: 10 for the smallest, else 100."""
    return [f"bench-{number:02d}" for number in range(10 if size <= 100 else 100)]


@contextmanager
def _ground(size: int) -> Iterator[tuple[ControlPlane, NodeProcess]]:
    """An empty control plane with hollow nodes and namespaces."""
    with kube_common.control_plane() as plane, kube_common.hollow_nodes(plane) as nodes:
        kube_common.make_namespaces(plane, _namespaces(size))
        yield plane, nodes


def _pids(plane: ControlPlane, nodes: NodeProcess, operator: OperatorProcess | None = None) -> dict[str, int]:
    assert nodes.process is not None
    found = {**plane.pids(), "nodes": nodes.process.pid, "benchmark": os.getpid()}
    return {**found, "operator": operator.process.pid} if operator is not None else found


def _bound(size: int) -> float:
    return 120.0 + 2.0 * size


def _settle_s(size: int) -> float:
    """How long Events may come after what they tell of; writes after that are no remainder any more."""
    return 60.0 + 0.1 * size


def _floor(size: int, asked: Asked) -> dict[str, Any]:
    """The same objects by a plain script."""
    with _ground(size) as (plane, nodes):
        model = _model(plane, asked.bounds)
        wanted = kube_load.keys(size, _namespaces(size), "scale")
        found = asyncio.run(_run_floor(plane, nodes, model, wanted, asked))
    common.tell(f"plain script: all Pods ready after {found['ready_s']:.1f} s")
    return found


def _model(plane: ControlPlane, bounds: Bounds) -> kube_load.Model:
    """What one cluster comes to: the operator makes it once."""
    key = ("bench-model", "scale-model")
    kube_common.make_namespaces(plane, [key[0]])
    with kube_load.operator_in(plane, bounds):
        asyncio.run(_make_one(plane, key))
        model = kube_load.Model(plane, key)
    plane.kubectl("delete", "namespace", key[0], "--timeout=60s", timeout_s=90)
    return model


async def _make_one(plane: ControlPlane, key: Key) -> None:
    async with Watches(plane) as watches, kube_load.client_of(plane, 0, 1) as client:
        await kube_load.create_clusters(client, [key])
        await watches.until("one cluster is ready", lambda: key in watches.ready_clusters, 60)


async def _run_floor(
    plane: ControlPlane, nodes: NodeProcess, model: kube_load.Model, wanted: Sequence[Key], asked: Asked
) -> dict[str, Any]:
    pids, pods = _pids(plane, nodes), kube_load.PODS_EACH * len(wanted)
    async with Watches(plane) as watches:
        before = kube_common.processor(pids)
        started = await kube_load.create_by_script(plane, model, wanted, asked.create_qps, asked.bounds)
        created = time.monotonic()
        await watches.until(
            "all Pods are ready", lambda: len(watches.ready_pods) >= pods, _bound(len(wanted))
        )
        used = kube_common.cost(before, kube_common.processor(pids))
        ready = max(watches.ready_pods.values())
    return {"created_s": created - started, "ready_s": ready - started, "processor_s": used}


# -- the operator --------------------------------------------------------------------------------------


def _operator(size: int, asked: Asked) -> dict[str, Any]:
    """Everything that is measured with an operator, on a control plane of its own."""
    with _ground(size) as (plane, nodes):
        found = asyncio.run(_run_operator(plane, nodes, size, asked))
    return found


async def _run_operator(plane: ControlPlane, nodes: NodeProcess, size: int, asked: Asked) -> dict[str, Any]:
    wanted = kube_load.keys(size, _namespaces(size), "scale")
    async with Watches(plane) as watches:
        with kube_load.operator_in(plane, asked.bounds) as operator:
            found = await _until_ready(plane, nodes, operator, watches, wanted, asked)
            common.tell(f"operator: all ready after {found['ready_s']:.1f} s")
            found.update(await asyncio.to_thread(_settled, operator, size))
            common.tell(f"at rest for {asked.rest_s:g} s")
            found["rest"] = await asyncio.to_thread(_rest, operator, asked.rest_s)
        with kube_load.operator_in(plane, asked.bounds, wait=False) as operator:
            found["restart"] = await asyncio.to_thread(_restarted, operator, size)
            common.tell(f"started anew: steady after {found['restart']['steady_s']:.2f} s")
            found["heads"] = await _heads(plane, watches, wanted, asked)
    return found


async def _until_ready(
    plane: ControlPlane,
    nodes: NodeProcess,
    operator: OperatorProcess,
    watches: Watches,
    wanted: Sequence[Key],
    asked: Asked,
) -> dict[str, Any]:
    """From the first RayCluster's creation until all report that they are ready."""
    pids, size = _pids(plane, nodes, operator), len(wanted)
    empty, before = kube_common.memory(operator.process.pid), kube_common.processor(pids)
    async with kube_load.client_of(plane, asked.create_qps, 1) as user:
        started = await kube_load.create_clusters(user, wanted)
        created = time.monotonic()
        await watches.until(
            "all clusters are ready", lambda: len(watches.ready_clusters) >= size, _bound(size)
        )
    used = kube_common.cost(before, kube_common.processor(pids))
    return {
        "created_s": created - started,
        "pods_ready_s": max(watches.ready_pods.values()) - started,
        "ready_s": max(watches.ready_clusters.values()) - started,
        "processor_s": used,
        "memory_empty_bytes": empty["now"],
    }


def _settled(operator: OperatorProcess, size: int) -> dict[str, Any]:
    """What it took until nothing more is written (Events may come later than what they tell of)."""
    since = time.monotonic()
    quiet = kube_common.wait_quiet(lambda: written(kube_common.requests(operator)), _QUIET_S, _settle_s(size))
    said = written(kube_common.requests(operator))
    writes, events = split(said)
    return {
        "settled_s": time.monotonic() - since - _QUIET_S if quiet else None,
        "writes": {" ".join(key): count for key, count in sorted(said.items())},
        "writes_per_cluster": writes / size,
        "events_per_cluster": events / size,
        "memory": kube_common.memory(operator.process.pid),
        "processor_total_s": common.processor_seconds(operator.process.pid),
        "reconciles": kube_common.counted(operator, "controller_runtime_reconcile_total"),
    }


def written(found: Counter[tuple[str, str]]) -> Counter[tuple[str, str]]:
    """The writes among requests; the leader's Lease, renewed for as long as it leads, is none of them."""
    return Counter(
        {key: count for key, count in found.items() if key[0] in WRITES and key[1] != "leases" and count}
    )


def split(found: Counter[tuple[str, str]]) -> tuple[int, int]:
    """How many writes, and how many Events."""
    events = sum(count for (_, kind), count in found.items() if kind == "events")
    return found.total() - events, events


def _rest(operator: OperatorProcess, rest_s: float) -> dict[str, Any]:
    """Requests and processor time while nothing happens."""
    before = kube_common.requests(operator)
    share = common.processor_shares({"operator": operator.process.pid}, rest_s)["operator"]
    made = kube_common.requests(operator)
    made.subtract(before)
    asked = {" ".join(key): count for key, count in sorted(made.items()) if count}
    writes, events = split(written(made))
    return {"seconds": rest_s, "writes": writes + events, "requests": asked, "processor_share": share}


def _restarted(operator: OperatorProcess, size: int) -> dict[str, Any]:
    """An operator that finds everything done: how long it is busy, by its processor time; what it writes."""
    pid, started = operator.process.pid, time.monotonic()
    deadline, samples = started + _bound(size), [(started, 0.0)]
    while True:
        time.sleep(_LOOK_S)
        if operator.process.poll() is not None:
            raise click.ClickException(f"the operator has ended:\n{operator.log.read_text()[-2000:]}")
        samples.append((time.monotonic(), common.processor_seconds(pid)))
        quiet = [sample for sample in samples if sample[0] >= samples[-1][0] - 1.0]
        share = (quiet[-1][1] - quiet[0][1]) / (quiet[-1][0] - quiet[0][0])
        if len(quiet) > 5 and quiet[0][0] > started + 0.5 and share < _WORKING and operator.said("leading;"):
            looked = kube_common.counted(operator, "controller_runtime_reconcile_total")
            if looked >= size and not kube_common.counted(operator, "workqueue_depth"):
                break
        if time.monotonic() > deadline:
            raise click.ClickException("the operator that started anew does not come to rest")
    kube_common.wait_quiet(lambda: written(kube_common.requests(operator)), _QUIET_S, _settle_s(size))
    writes, events = split(written(kube_common.requests(operator)))
    return {
        "steady_s": quiet[0][0] - started,
        "processor_s": quiet[0][1],
        "writes": writes,
        "events": events,
        "memory": kube_common.memory(pid),
    }


async def _heads(
    plane: ControlPlane, watches: Watches, wanted: Sequence[Key], asked: Asked
) -> dict[str, Any]:
    """Heads deleted one by one while others create clusters: from seeing one go to seeing the next."""
    beside = kube_load.keys(asked.beside, sorted({key[0] for key in wanted}), "beside")
    due, took = len(watches.ready_clusters) + len(beside), []
    async with (
        kube_load.client_of(plane, asked.create_qps, 1) as user,
        kube_load.client_of(plane, 0, 1) as hand,
    ):
        creating = asyncio.create_task(kube_load.create_clusters(user, beside))
        try:
            for key in [*wanted][: asked.heads]:
                if len(watches.ready_clusters) >= due:
                    break
                took.append(await _replaced(hand, watches, key))
            await creating
        finally:
            creating.cancel()
    common.tell(f"{len(took)} heads replaced while {len(watches.ready_clusters) - due + len(beside)} came")
    return {"n": len(took), "replaced_s": spread(took), "all_s": took}


async def _replaced(hand: KubeClient, watches: Watches, key: Key) -> float:
    """Delete a cluster's head Pod; seconds from seeing it go until seeing the next one."""
    heads = watches.heads[key]
    ((uid, name),) = heads.items()
    await hand.delete(PODS, key[0], name, uid=uid)
    await watches.until(f"another head of {key[1]} came", lambda: bool(heads.keys() - {uid}), _HEAD_BOUND_S)
    (following,) = heads.keys() - {uid}
    return watches.head_came[following] - watches.head_going[uid]


# -- the table -----------------------------------------------------------------------------------------


def table(parts: dict[str, dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """One column for each size, beside what is to be reached."""
    megabytes = ", ".join(f"{most >> 20} MB at {pods:,} Pods" for pods, most in REACH_BYTES.items())
    lines: list[tuple[str, str, Any]] = [
        ("plain script: all Pods ready", "", lambda size, part: seconds(part["floor"]["ready_s"])),
        ("operator: all clusters ready", "", lambda size, part: seconds(part["ready_s"])),
        ("times the script's", f"{REACH_RATIO}", lambda size, part: f"{part['ratio']:.2f}"),
        (
            "KubeRay v1.1.1 on GKE, published; another machine",
            "",
            lambda size, part: seconds(PUBLISHED["ready_s"].get(size), ""),  # type: ignore[attr-defined]
        ),
        ("processor time, script", "", lambda size, part: _processors(part["floor"]["processor_s"])),
        ("processor time, operator", "", lambda size, part: _processors(part["processor_s"])),
        ("writes per cluster", str(REACH_WRITES), lambda size, part: f"{part['writes_per_cluster']:.2f}"),
        ("of these", "", lambda size, part: _by_verb(part["writes"], int(size))),
        ("Events per cluster", "", lambda size, part: f"{part['events_per_cluster']:.2f}"),
        ("operator's memory at rest", megabytes, lambda size, part: common.mb(part["memory"]["now"])),
        ("at its most", "", lambda size, part: common.mb(part["memory"]["most"])),
        ("its processor time", "", lambda size, part: seconds(part["processor_total_s"])),
        ("at rest: writes", "0", lambda size, part: str(part["rest"]["writes"])),
        ("at rest: one core", "", lambda size, part: common.percent(part["rest"]["processor_share"])),
        ("started anew: steady after", "", lambda size, part: seconds(part["restart"]["steady_s"])),
        ("writes then", "0", lambda size, part: str(part["restart"]["writes"] + part["restart"]["events"])),
        ("head Pods replaced meanwhile", "30", lambda size, part: str(part["heads"]["n"])),
        ("p50", "", lambda size, part: seconds(part["heads"]["replaced_s"]["p50"], "")),
        ("p99", f"{REACH_HEAD_S} s", lambda size, part: seconds(part["heads"]["replaced_s"]["p99"], "")),
    ]
    columns = ["", "reach", *(f"{int(size):,} clusters" for size in parts)]
    rows = [[name, reach, *(cell(size, part) for size, part in parts.items())] for name, reach, cell in lines]
    return columns, rows


def _processors(used: dict[str, float]) -> str:
    """Who used how much of the machine, the largest first."""
    short = {
        "kube-apiserver": "API server",
        "kube-controller-manager": "controllers",
        "kube-scheduler": "scheduler",
    }
    shares = sorted(((took, name) for name, took in used.items() if name != "passed_s"), reverse=True)
    told = ", ".join(f"{short.get(name, name)} {took:.0f}" for took, name in shares if took >= 1)
    return f"{told} of {used['passed_s'] * (os.cpu_count() or 1):.0f} s"


def _by_verb(writes: dict[str, int], size: int) -> str:
    found = {name: count / size for name, count in writes.items() if not name.endswith(" events")}
    return ", ".join(f"{name} {count:.2f}" for name, count in found.items())


if __name__ == "__main__":
    sys.exit(main())

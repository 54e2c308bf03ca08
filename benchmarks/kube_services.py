"""Hundreds of RayServices on a real API server with hollow nodes: what they cost at rest, whether they are
asked when it is due, and what a head that never answers does to the others.

Ray's dashboards and proxies are played by one process (`stand_in_heads`), which notes every question.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click
import yaml

from benchmarks import common, kube_common, kube_load
from benchmarks.kube_common import ControlPlane, NodeProcess, OperatorProcess
from benchmarks.kube_load import Bounds, Raw
from benchmarks.kube_scale import split, written
from benchmarks.kube_watch import CLUSTER, NODE_TYPE, Key, Watches
from benchmarks.serve_lateness import APPLICATIONS, HEALTH, SUBMIT, lateness
from benchmarks.stand_in_heads import StandInHeads, stand_in_heads
from rayward.drill.statistics import spread
from rayward.drill.table import seconds
from rayward.kube.client import KubeClient
from rayward.kube.kinds import PODS, RAYSERVICES
from rayward.kube.settings import OperatorSettings
from rayward.serve import looks

_OURS = OperatorSettings()
# Each hollow Pod has a loopback address of its own, so that a process of this machine can answer there. Such
# addresses are refused in Endpoints, which the controllers that make them would try for ever.
_ADDRESSES = "127.64.0.0/10"
_WITHOUT = "--controllers=*,-endpoint,-endpointslice,-endpointslicemirroring"
_QUIET_S, _ASKED_BOUND_S = 8.0, 60.0


@dataclass(frozen=True)
class Asks:
    """What to measure, beside the size. ``create_qps``: RayServices that users create in a second."""

    bounds: Bounds
    create_qps: float
    rest_s: float
    changes: int


@dataclass(frozen=True)
class Pace:
    """After how many seconds a dashboard and a proxy are due again while nothing changes."""

    dashboard_s: float
    proxy_s: float


def pace(size: int) -> Pace:
    """The product's own pace for so many services."""
    return Pace(looks.dashboard_pause_s(size), looks.proxy_pause_s(size))


@click.command(epilog="example: python -m benchmarks.kube_services --size 20 --rest 30")
@click.option("--size", default=500, show_default=True, help="Number of RayServices.")
@click.option("--qps", default=_OURS.qps, show_default=True, help="The operator's.")
@click.option("--burst", default=_OURS.burst, show_default=True, help="The operator's.")
@click.option("--workers", default=_OURS.workers, show_default=True, help="Services worked on at a time.")
@click.option("--create-qps", default=100.0, show_default=True, help="RayServices created in a second.")
@click.option("--rest", "rest_s", default=60.0, show_default=True, help="Seconds at rest.")
@click.option("--changes", default=20, show_default=True, help="Changed configurations, one after the other.")
def main(
    size: int, qps: float, burst: int, workers: int, create_qps: float, rest_s: float, changes: int
) -> None:
    """Measure, print the table, write kube_services.json."""
    if size <= changes:
        raise click.BadParameter("more services than changes are needed: one is to lose its head")
    asks = Asks(Bounds(qps, burst, workers), create_qps, rest_s, changes)
    found = _measured(size, asks)
    version = kube_common.kubernetes_version()
    made_with = {"qps": qps, "burst": burst, "workers": workers, "create_qps": create_qps}
    columns, rows = table(found)
    common.write("kube_services", {"kubernetes": version, "asked": made_with, **found}, columns, rows)


def ray_service(key: Key, ports: tuple[int, int], revision: int = 0) -> Raw:
    """One head and one worker, and one application. ``ports``: of dashboard and Serve."""
    resources = {"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}}

    def template(**container: Any) -> Raw:
        ray = {"name": "ray", "image": "rayproject/ray:2.60.0", "resources": resources, **container}
        return {"spec": {"containers": [ray]}}

    head = template(ports=[{"name": "serve", "containerPort": ports[1]}])
    workers = {"groupName": "small", "replicas": 1, "minReplicas": 0, "maxReplicas": 10}
    return {
        "apiVersion": RAYSERVICES.api_version,
        "kind": "RayService",
        "metadata": {"namespace": key[0], "name": key[1]},
        "spec": {
            "serveConfigV2": configuration(ports[1], revision),
            "rayClusterConfig": {
                "rayVersion": "2.60.0",
                "headGroupSpec": {
                    "rayStartParams": {"num-cpus": "0", "dashboard-port": str(ports[0])},
                    "template": head,
                },
                "workerGroupSpecs": [{**workers, "rayStartParams": {}, "template": template()}],
            },
        },
    }


def configuration(port: int, revision: int) -> str:
    """The text of a serveConfigV2, another one for each revision."""
    deployment = {"name": "Market", "num_replicas": 1, "user_config": {"price": revision}}
    application = {"name": "fruit", "import_path": "fruit:app", "deployments": [deployment]}
    return yaml.safe_dump({"http_options": {"port": port}, "applications": [application]})


# -- the scene -----------------------------------------------------------------------------------------


@dataclass
class Scene:
    """Everything that runs, and the services in it. ``addresses``: of each service's head, once known."""

    plane: ControlPlane
    nodes: NodeProcess
    operator: OperatorProcess
    watches: Watches
    heads: StandInHeads
    user: KubeClient
    keys: Sequence[Key]
    pace: Pace
    addresses: dict[Key, str]

    def pids(self) -> dict[str, int]:
        """The processes whose processor time is of interest."""
        assert self.nodes.process is not None
        own = {"operator": self.operator.process.pid, "heads": self.heads.process.pid}
        return {**own, **self.plane.pids(), "nodes": self.nodes.process.pid, "benchmark": os.getpid()}

    async def quiet(self, bound_s: float) -> bool:
        """Wait until the operator writes nothing any more, and until every head was asked once after that;
        False when it does not stop writing."""
        stopped = await asyncio.to_thread(
            kube_common.wait_quiet,
            lambda: written(kube_common.requests(self.operator)),
            _QUIET_S,
            bound_s,
        )
        since, answering = time.monotonic(), set(self.addresses.values()) - self.heads.silent
        for question, due_s in ((APPLICATIONS, self.pace.dashboard_s), (HEALTH, self.pace.proxy_s)):
            await self.heads.until_all(answering, question, since, _ASKED_BOUND_S + due_s)
        return stopped

    async def change(self, key: Key, revision: int) -> float:
        """Give a service another configuration; seconds until its dashboard has got it."""
        body = {"spec": {"serveConfigV2": configuration(self.heads.ports[1], revision)}}
        address, since = self.addresses[key], time.monotonic()
        await self.user.patch(RAYSERVICES, key[0], key[1], body)

        def sent() -> bool:
            return bool(self.heads.since(address, SUBMIT, since))

        await self.heads.until(f"the dashboard of {key[1]} gets it", sent, _ASKED_BOUND_S)
        return (self.heads.since(address, SUBMIT, since) or 0.0) - since

    def lateness(self, since: float, until: float) -> dict[str, Any]:
        """How late those that answer were asked between two moments."""
        asked = [item for item in self.heads.asked if item.address not in self.heads.silent]
        late = {
            "dashboards": lateness(asked, APPLICATIONS, self.pace.dashboard_s, since, until),
            "proxies": lateness(asked, HEALTH, self.pace.proxy_s, since, until),
        }
        return {name: {"n": len(values), **spread(values)} for name, values in late.items()}


def _measured(size: int, asks: Asks) -> dict[str, Any]:
    """Everything, on a control plane of its own."""
    namespaces = [f"bench-{number:02d}" for number in range(10)]
    with (
        kube_common.control_plane({"kube-controller-manager": [_WITHOUT]}) as plane,
        kube_common.hollow_nodes(plane, options=(f"--addresses={_ADDRESSES}",)) as nodes,
        kube_load.operator_in(plane, asks.bounds) as operator,
    ):
        kube_common.make_namespaces(plane, namespaces)
        wanted = kube_load.keys(size, namespaces, "serve")
        return asyncio.run(_run(plane, nodes, operator, wanted, asks))


async def _run(
    plane: ControlPlane, nodes: NodeProcess, operator: OperatorProcess, wanted: Sequence[Key], asks: Asks
) -> dict[str, Any]:
    async with (
        Watches(plane) as watches,
        stand_in_heads() as heads,
        kube_load.client_of(plane, asks.create_qps, 1) as user,
    ):
        due = pace(len(wanted))
        scene = Scene(plane, nodes, operator, watches, heads, user, wanted, due, {})
        found: dict[str, Any] = {"size": len(wanted)}
        found["due_s"] = {"dashboards": due.dashboard_s, "proxies": due.proxy_s}
        found["start"] = await _started(scene)
        scene.addresses = await asyncio.to_thread(_addresses, plane)
        common.tell(f"all ready after {found['start']['ready_s']:.1f} s; until nothing is written any more")
        found["settled"] = await _settled(scene)
        common.tell(f"at rest for {asks.rest_s:g} s")
        found["rest"] = await _rest(scene, asks.rest_s)
        changed = wanted[: asks.changes]
        found["changes"] = await _changed(scene, changed, 1)
        found["dead_head"] = await _dead_head(scene, changed, wanted[-1], asks.rest_s / 2)
    return found


# -- what is measured ----------------------------------------------------------------------------------


async def _started(scene: Scene) -> dict[str, Any]:
    """From the first RayService's creation until all report that they are ready."""
    pids, size = scene.pids(), len(scene.keys)
    before, due = kube_common.processor(pids), iter(scene.keys)
    started = time.monotonic()

    async def create() -> None:
        for key in due:
            await scene.user.create(RAYSERVICES, ray_service(key, scene.heads.ports))

    await asyncio.gather(*(create() for _ in range(16)))
    created, ready = time.monotonic(), scene.watches.ready_services
    await scene.watches.until("all services are ready", lambda: len(ready) >= size, 120.0 + size)
    used = kube_common.cost(before, kube_common.processor(pids))
    return {"created_s": created - started, "ready_s": max(ready.values()) - started, "processor_s": used}


def _addresses(plane: ControlPlane) -> dict[Key, str]:
    """The address of each service's head."""
    _, pods = plane.request("GET", f"{PODS.path()}?labelSelector={NODE_TYPE}%3Dhead")
    heads = {
        (pod["metadata"]["namespace"], pod["metadata"]["labels"][CLUSTER]): pod["status"]["podIP"]
        for pod in pods["items"]
    }
    _, services = plane.request("GET", RAYSERVICES.path())
    found = {}
    for service in services["items"]:
        namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
        cluster = service["status"]["activeServiceStatus"]["rayClusterName"]
        found[namespace, name] = heads[namespace, cluster]
    return found


async def _settled(scene: Scene) -> dict[str, Any]:
    """What it took until nothing more was written."""
    size = len(scene.keys)
    quiet = await scene.quiet(60.0 + 0.2 * size)
    said = written(kube_common.requests(scene.operator))
    writes, events = split(said)
    return {
        "quiet": quiet,
        "writes": {" ".join(key): count for key, count in sorted(said.items())},
        "writes_per_service": writes / size,
        "events_per_service": events / size,
        "memory": kube_common.memory(scene.operator.process.pid),
        "processor_total_s": common.processor_seconds(scene.operator.process.pid),
    }


async def _rest(scene: Scene, rest_s: float) -> dict[str, Any]:
    """Writes, questions, processor time and lateness while nothing happens."""
    requests, since = kube_common.requests(scene.operator), time.monotonic()
    shares = await asyncio.to_thread(common.processor_shares, scene.pids(), rest_s)
    until, made = time.monotonic(), kube_common.requests(scene.operator)
    made.subtract(requests)
    third, passed = (until - since) / 3, until - since
    questions = sum(since <= item.at < until for item in scene.heads.asked)
    return {
        "seconds": passed,
        "writes": sum(split(written(made))),
        "requests": {" ".join(key): count for key, count in sorted(made.items()) if count},
        "questions_per_second": questions / passed,
        "processor_share": shares,
        "memory": kube_common.memory(scene.operator.process.pid),
        "late": scene.lateness(since, until),
        "late_first_third": scene.lateness(since, since + third),
        "late_last_third": scene.lateness(until - third, until),
    }


async def _changed(scene: Scene, keys: Sequence[Key], revision: int) -> dict[str, Any]:
    """Another configuration for each of these, one after the other."""
    took = [await scene.change(key, revision) for key in keys]
    return {"n": len(took), "sent_s": spread(took), "all_s": took}


async def _dead_head(scene: Scene, keys: Sequence[Key], dead: Key, rest_s: float) -> dict[str, Any]:
    """The same changes while one head answers nothing: not when asked for its applications, not by its proxy,
    and not to a configuration that it is sent, which is what is waited for longest."""
    address, since = scene.addresses[dead], time.monotonic()
    await scene.heads.silence(address)
    await scene.change(dead, 1)
    await scene.heads.until_all({address}, HEALTH, since, _ASKED_BOUND_S)
    common.tell(f"one head is dead; {len(keys)} others get another configuration")
    changes = await _changed(scene, keys, 2)
    quiet = await scene.quiet(60.0)
    common.tell(f"beside the dead head for {rest_s:g} s")
    return {**changes, "quiet": quiet, "rest": await _rest(scene, rest_s)}


# -- the table -----------------------------------------------------------------------------------------


def table(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """One column, beside what is to be reached."""
    start, settled, rest, dead = (found[part] for part in ("start", "settled", "rest", "dead_head"))
    due = {name: seconds(value) for name, value in found["due_s"].items()}
    rows = [
        ["all services ready after", "", seconds(start["ready_s"])],
        ["operator's processor time until at rest", "", seconds(settled["processor_total_s"])],
        ["writes per service", "", f"{settled['writes_per_service']:.2f}"],
        ["Events per service", "", f"{settled['events_per_service']:.2f}"],
        ["operator's memory at rest", "", common.mb(rest["memory"]["now"])],
        ["at its most", "", common.mb(rest["memory"]["most"])],
        [f"at rest, {rest['seconds']:.0f} s: writes", "0", str(rest["writes"])],
        ["questions to heads per second", "", f"{rest['questions_per_second']:.0f}"],
        ["operator, of one core", "", common.percent(rest["processor_share"]["operator"])],
        ["stand-in for the heads, of one core", "", common.percent(rest["processor_share"]["heads"])],
    ]
    for what in ("dashboards", "proxies"):
        rows += [
            [f"{what} asked late, due after {due[what]}", "", ""],
            ["  first third of the rest", "", _spread(rest["late_first_third"][what])],
            ["  last third", "no more", _spread(rest["late_last_third"][what])],
            ["  beside a dead head", "no more", _spread(dead["rest"]["late"][what])],
        ]
    rows += [
        [f"serveConfigV2 changed, {found['changes']['n']} times: sent after", "", ""],
        ["  all heads well", "", _spread(found["changes"]["sent_s"])],
        ["  beside a dead head", "no more", _spread(dead["sent_s"])],
        [f"beside it, {dead['rest']['seconds']:.0f} s: writes", "0", str(dead["rest"]["writes"])],
        ["operator, of one core", "", common.percent(dead["rest"]["processor_share"]["operator"])],
    ]
    return ["", "reach", f"{found['size']:,} services (p50 / p99 / worst)"], rows


def _spread(values: dict[str, Any]) -> str:
    return " / ".join(_signed(values[name]) for name in ("p50", "p99", "max"))


def _signed(value: float | None) -> str:
    """Seconds for people; a question may come a moment early."""
    return f"-{seconds(-value)}" if value is not None and value < 0 else seconds(value, "-")


if __name__ == "__main__":
    sys.exit(main())

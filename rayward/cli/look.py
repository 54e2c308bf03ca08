"""``get``, ``describe``, ``status``, ``exec`` and ``logs``: looking at what runs, and into it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from rayward.cli import kinds, output, services
from rayward.errors import RaywardError
from rayward.local import cluster as local
from rayward.local import state
from rayward.local.agent_status import is_ray_node
from rayward.local.cluster import LocalCluster
from rayward.local.progress import pod_state
from rayward.plan.workloads import endpoints

Manifest = dict[str, Any]
_FORMS = click.Choice(["table", "wide", "json", "yaml", "name"])


def _objects(cluster: LocalCluster, kind: str) -> list[Manifest]:
    return cluster.pods() if kind == "Pod" else cluster.folder.list(kind)


def _selected(manifest: Manifest, selector: str | None) -> bool:
    labels = manifest["metadata"].get("labels", {})
    for part in filter(None, (selector or "").split(",")):
        key, separator, value = part.replace("==", "=").partition("=")
        if not separator:
            raise RaywardError(f"{part!r} is not KEY=VALUE", where="--selector")
        if labels.get(key) != value:
            return False
    return True


@click.command(epilog="example: rayward get pods -l ray.io/node-type=head -o yaml")
@click.argument("kind", shell_complete=kinds.complete_kind)
@click.argument("name", required=False, shell_complete=kinds.complete_object)
@click.option("-o", "--output", "form", type=_FORMS, default="table", show_default=True, help="How to print.")
@click.option("-l", "--selector", help="Labels that must match, as KEY=VALUE[,KEY=VALUE].")
@kinds.cluster_option
def get(kind: str, name: str | None, form: str, selector: str | None, cluster: str | None) -> None:
    """List objects: pods, services, rayclusters, deployments, jobs, configmaps, secrets ..."""
    kind, name = kinds.split(kind, name)
    clusters = [local.find(cluster)] if cluster or name else [local.LocalCluster(f) for f in state.clusters()]
    found = [
        (where, item) for where in clusters for item in _objects(where, kind) if _selected(item, selector)
    ]
    if name is not None:
        found = [(where, item) for where, item in found if item["metadata"]["name"] == name]
        if not found:
            raise RaywardError(
                f"{kinds.plural(kind)} {name!r} not found", where=f"cluster {clusters[0].name}"
            )
    items = [item for _, item in found]
    if form in ("json", "yaml"):
        output.dump(items[0] if name else {"apiVersion": "v1", "kind": "List", "items": items}, form)
    elif form == "name":
        for item in items:
            print(f"{kinds.plural(kind)}/{item['metadata']['name']}")
    elif not found:
        print("No resources found.", file=sys.stderr)
    else:
        columns, rows = _table(kind, found, form == "wide", len(clusters) > 1)
        output.table(columns, rows)


def _table(
    kind: str, found: list[tuple[LocalCluster, Manifest]], wide: bool, many: bool
) -> tuple[list[str], list[list[object]]]:
    columns = {
        "Pod": ["name", "ready", "status", "restarts", "age"] + (["ip", "pid", "labels"] if wide else []),
        "Service": ["name", "cluster-ip", "endpoints", "ports", "age"],
        "RayService": ["name", "service status", "num serve endpoints", "cluster", "upgrade", "age"],
        "RayCluster": ["name", "desired workers", "available workers", "status", "head", "age"],
    }.get(kind, ["name", "data", "age"] if kind in ("ConfigMap", "Secret") else ["name", "status", "age"])
    rows = []
    clusters = {where.name: where for where, _ in found if kind == "Pod"}
    leads = {name: where.leads() for name, where in clusters.items()}
    for where, item in found:
        row = _row(kind, where, item, wide)
        if kind == "Pod" and item["metadata"]["name"] in leads[where.name]:
            # A head that stands by is never ready, and that is as it should be.
            row[2] = f"{row[2]} ({leads[where.name][item['metadata']['name']].role})"
        rows.append([where.name, *row] if many else row)
    return (["cluster", *columns] if many else columns), rows


def _row(kind: str, where: LocalCluster, item: Manifest, wide: bool) -> list[object]:
    name, age, status = item["metadata"]["name"], local.age(item), item.get("status") or {}
    if kind == "Pod":
        pod = pod_state(item)
        row: list[object] = [name, f"{pod.ready}/{pod.containers}", pod.status, pod.restarts, age]
        labels = ",".join(
            f"{key}={value}" for key, value in sorted(item["metadata"].get("labels", {}).items())
        )
        return row + (
            [status.get("podIP", "<none>"), status.get("rayward", {}).get("pid", "-"), labels] if wide else []
        )
    if kind == "Service":
        ports = ",".join(
            f"{port['port']}/{port.get('protocol', 'TCP')}" for port in item["spec"].get("ports", ())
        )
        found = ",".join(endpoints(item, tuple(where.pods()))) or "<none>"
        return [name, item["spec"].get("clusterIP", "<none>"), found, ports, age]
    if kind == "RayCluster":
        workers = [status.get(f"{which}WorkerReplicas", 0) for which in ("desired", "available")]
        shown = (
            "terminating" if item["metadata"].get("deletionTimestamp") else status.get("state") or "starting"
        )
        return [name, *workers, shown, (status.get("head") or {}).get("podName", "<none>"), age]
    if kind == "RayService":
        return services.row(item, age)
    if kind in ("ConfigMap", "Secret"):
        data = {
            **(item.get("data") or {}),
            **(item.get("stringData") or {}),
            **(item.get("binaryData") or {}),
        }
        return [name, len(data), age]
    return [name, _plain_status(item), age]


def _plain_status(item: Manifest) -> str:
    status = item.get("status") or {}
    true = [entry["type"] for entry in status.get("conditions", ()) if entry.get("status") == "True"]
    if "readyReplicas" in status or "replicas" in status:
        return f"{status.get('readyReplicas', 0)}/{item['spec'].get('replicas', 1)} ready"
    return ",".join(true) or str(status.get("phase", "-"))


@click.command(epilog="example: rayward describe pod raycluster-external-redis-head-x7k2p")
@click.argument("kind", shell_complete=kinds.complete_kind)
@click.argument("name", required=False, shell_complete=kinds.complete_object)
@kinds.cluster_option
def describe(kind: str, name: str | None, cluster: str | None) -> None:
    """Show one object with its status and the events about it."""
    kind, name = kinds.split(kind, name)
    where = local.find(cluster)
    found = [item for item in _objects(where, kind) if name in (None, item["metadata"]["name"])]
    if not found:
        raise RaywardError(f"{kinds.plural(kind)} {name or ''} not found", where=f"cluster {where.name}")
    events = state.read_json(where.folder.path / "events.json") or []
    for item in found:
        output.dump(_without_secrets(item), "yaml")
        about = [event for event in events if event["name"] == item["metadata"]["name"]]
        print("events:" if about else "events: none")
        for event in about:
            print(
                f"  {event['time']} {event['type']} {event['reason']} (x{event['count']}): {event['message']}"
            )
        if kind == "Pod":
            _describe_agent(where, item)


def _without_secrets(item: Manifest) -> Manifest:
    if item["kind"] != "Secret":
        return item
    hidden = dict.fromkeys({**(item.get("data") or {}), **(item.get("stringData") or {})}, "***")
    return {
        **{key: value for key, value in item.items() if key not in ("data", "stringData")},
        "data": hidden,
    }


def _describe_agent(where: LocalCluster, pod: Manifest) -> None:
    status = where.agent_status(pod)
    if status is None:
        return
    print(f"agent: {status['phase']}, {status['reason']}")
    for event in status["events"]:
        print(f"  {event['time']} {event['reason']}: {event['message']}")


@click.command(epilog="example: rayward status --json")
@click.argument("name", required=False, shell_complete=kinds.complete_cluster)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(name: str | None, as_json: bool) -> None:
    """Show every Ray node of a cluster: what its agent sees, its fence, its store, its last recovery."""
    clusters = [local.find(name)] if name else [local.LocalCluster(folder) for folder in state.clusters()]
    report = [_status_of(cluster) for cluster in clusters]
    if as_json:
        output.print_json(report)
        return
    if not report:
        print("no cluster is up; `rayward up` starts one")
    for entry in report:
        print(f"cluster {entry['name']}: {entry['state']}, {entry['mode']}, node process {entry['node']}")
        rows = [
            [
                node["pod"],
                node["role"],
                node["leads"],
                node["phase"],
                node["gcs"],
                f"{node['store']} {node['store_health']}".strip(),
                node["restarts"],
                node["last_recovery"],
                node["reason"],
            ]
            for node in entry["nodes"]
        ]
        columns = ["pod", "role", "leads", "phase", "gcs", "store", "pod restarts", "last recovery", "says"]
        output.table(columns, rows)
        for service in entry["services"]:
            services.show(service)
        for node in entry["nodes"]:
            if node["fence"] != "-":
                print(f"fence of {node['pod']}: {node['fence']}")


def _status_of(cluster: LocalCluster) -> dict[str, Any]:
    nodes = []
    for pod in cluster.pods():
        if not is_ray_node(pod):
            continue
        labels = pod["metadata"]["labels"]
        seen = cluster.agent_status(pod) or {}
        recoveries = seen.get("recoveries") or []
        serving = seen.get("gcs", {}).get("serving")
        is_head = labels.get("ray.io/node-type") == "head"
        lead = seen.get("lead") or {}
        nodes.append(
            {
                "pod": pod["metadata"]["name"],
                "role": labels.get("ray.io/node-type"),
                "phase": seen.get("phase", pod_state(pod).status),
                "gcs": "-" if not is_head else "serving" if serving else "not serving",
                "leads": _lead_words(lead),
                "epoch": lead.get("epoch"),
                "store": seen.get("store") or "-",
                "store_health": _word(lead.get("store")),
                "fence": (_word(lead.get("fence")) or seen.get("fence", "-")) if is_head else "-",
                "restarts": pod_state(pod).restarts,
                "last_recovery": f"{recoveries[-1]['seconds']:.2f} s" if recoveries else "-",
                "reason": seen.get("reason", "no answer from its agent"),
            }
        )
    states = [item.get("status", {}).get("state") or "starting" for item in cluster.folder.list("RayCluster")]
    return {
        "name": cluster.name,
        "services": [services.report(item) for item in cluster.folder.list("RayService")],
        "state": ",".join(states) or "no RayCluster",
        "mode": "own network" if cluster.mode == "namespaces" else "host network",
        "node": "running"
        if cluster.folder.node_runs()
        else "not running (any command but `get` starts it again)",
        "nodes": nodes,
    }


def _lead_words(lead: dict[str, Any]) -> str:
    """``leader, epoch 4`` or ``standby``; a dash for a node that takes no part in an election."""
    role = str(lead.get("role") or "-")
    return f"{role}, epoch {lead['epoch']}" if role != "standby" and lead.get("epoch") else role


def _word(value: Any) -> str:
    """A part of an agent's status in a word: texts as they are, of a mapping its state and its fault."""
    if not isinstance(value, dict):
        return str(value or "")
    words = [str(value[key]) for key in ("state", "fault") if value.get(key)]
    return ": ".join(words)


@click.command(
    "exec",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="example: rayward exec quickstart-head-x7k2p -- python3 /home/ray/samples/detached_actor.py",
)
@click.option("-i", "--stdin", is_flag=True, help="Accepted for kubectl's sake: stdin is always passed.")
@click.option("-t", "--tty", is_flag=True, help="Pass this terminal's type on.")
@click.option("-c", "--container", help="Which container (default: the first).")
@kinds.cluster_option
@click.argument("pod", shell_complete=kinds.complete_pod)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(
    stdin: bool, tty: bool, container: str | None, cluster: str | None, pod: str, command: tuple[str, ...]
) -> None:
    """Run a command in a Pod's container: POD -- COMMAND [ARG ...]."""
    argv = command[1:] if command[:1] == ("--",) else command
    if not argv:
        raise RaywardError("the command is missing", where="rayward exec", todo="rayward exec POD -- COMMAND")
    plan = local.find(cluster).exec_plan(pod.removeprefix("pods/").removeprefix("pod/"), container, argv, tty)
    os.chdir(plan.cwd)
    try:
        os.execvpe(plan.argv[0], list(plan.argv), plan.env)
    except OSError as problem:
        raise RaywardError(
            f"{(problem.strerror or '').lower()}: {plan.argv[0]}", where=f"Pod {pod}"
        ) from problem


@click.command(epilog="example: rayward logs -f raycluster-external-redis-head-x7k2p")
@click.argument("pod", shell_complete=kinds.complete_pod)
@click.option("-f", "--follow", is_flag=True, help="Go on printing what comes.")
@click.option("-p", "--previous", is_flag=True, help="The container's last run before this one.")
@click.option("-c", "--container", help="Which container (default: the first).")
@click.option("--tail", type=click.IntRange(min=0), help="Only the last lines.")
@kinds.cluster_option
def logs(
    pod: str, follow: bool, previous: bool, container: str | None, tail: int | None, cluster: str | None
) -> None:
    """Print what a Pod's container has written."""
    where = local.find(cluster)
    manifest = where.pod(pod.removeprefix("pods/").removeprefix("pod/"))
    chosen = container or manifest["spec"]["containers"][0]["name"]
    folder = where.pod_folder(manifest["metadata"]["name"]) / "logs"
    path = folder / (f"{chosen}.previous.log" if previous else f"{chosen}.log")
    if not path.exists():
        names = [entry["name"] for entry in manifest["spec"]["containers"]]
        raise RaywardError(
            f"no {'previous ' if previous else ''}log of container {chosen}",
            where=f"Pod {pod}",
            todo=f"containers: {', '.join(names)}; `rayward describe pod {pod}` tells whether it has run",
        )
    for text in _lines(path, tail):
        sys.stdout.write(text)
    if follow:
        _follow(path)


def _lines(path: Path, tail: int | None) -> list[str]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    return lines if tail is None else lines[len(lines) - tail :] if tail else []


def _follow(path: Path) -> None:
    for text in _new_lines(path):
        sys.stdout.write(text)
        sys.stdout.flush()


def _new_lines(path: Path) -> Iterator[str]:
    """What is appended from now on; ends when the Pod is gone. A restarted container begins a new file."""
    file = open(path, encoding="utf-8", errors="replace")  # noqa: SIM115 - it is replaced while in use
    file.seek(0, os.SEEK_END)
    while path.parent.exists():
        text = file.read()
        if text:
            yield text
            continue
        try:
            if path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                file.close()
                file = open(path, encoding="utf-8", errors="replace")  # noqa: SIM115
        except FileNotFoundError:
            pass
        time.sleep(0.1)
    file.close()

"""Counts what a fault must not touch: the Pods of a cluster, their containers' restarts, their raylets.

Looks from outside, by the cluster's folder and /proc, so that it also sees what an agent would not tell.
"""

from __future__ import annotations

from dataclasses import dataclass

from rayward.agent.processes import all_stats, read_argv, read_stat
from rayward.errors import RaywardError
from rayward.local.agent_status import is_ray_node
from rayward.local.cluster import LocalCluster
from rayward.local.pod_process import processes_of_pods
from rayward.local.state import Manifest, read_json

GCS, RAYLET = "gcs_server", "raylet"
_COMM_LIMIT = 15

Identity = tuple[int, int]
"""A process by pid (as the host sees it) and start time: no later process has the same."""


@dataclass(frozen=True)
class PodCount:
    """One Ray Pod at one moment."""

    name: str
    is_head: bool
    restarts: int
    raylet: Identity | None


@dataclass(frozen=True)
class Census:
    """All Ray Pods of a cluster at one moment."""

    pods: tuple[PodCount, ...]


def pids_of(pod: Manifest) -> set[int]:
    """The processes of a Pod's containers, as the host sees them: what comes from their first processes, and
    what carries the Pod's mark in its environment (some servers write over theirs)."""
    entries = ((pod.get("status") or {}).get("rayward") or {}).get("containers") or {}
    stats = all_stats()
    children: dict[int, list[int]] = {}
    for stat in stats.values():
        children.setdefault(stat.parent, []).append(stat.pid)
    due = [
        int(entry["pid"])
        for entry in entries.values()
        if (first := stats.get(int(entry["pid"]))) is not None and first.start_time == entry["start_time"]
    ]
    found: set[int] = set()
    while due:
        pid = due.pop()
        if pid not in found:
            found.add(pid)
            due += children.get(pid, ())
    return found | set(processes_of_pods({str(pod["metadata"]["uid"])}))


def find_process(pod: Manifest, program: str) -> Identity | None:
    """The process in a Pod that runs ``program``, None when there is none."""
    for pid in pids_of(pod):
        stat = read_stat(pid)
        if stat is not None and stat.name == program[:_COMM_LIMIT] and stat.state != "Z":
            return pid, stat.start_time
    return None


def take(cluster: LocalCluster) -> Census:
    """Count now."""
    counts = []
    for pod in cluster.pods():
        if not is_ray_node(pod) or pod["metadata"].get("deletionTimestamp"):
            continue
        statuses = pod["status"].get("containerStatuses") or ()
        counts.append(
            PodCount(
                name=pod["metadata"]["name"],
                is_head=pod["metadata"]["labels"]["ray.io/node-type"] == "head",
                restarts=sum(int(entry.get("restartCount", 0)) for entry in statuses),
                raylet=find_process(pod, RAYLET),
            )
        )
    return Census(tuple(counts))


def _changes(before: PodCount | None, after: PodCount | None) -> int:
    if before is None or after is None:
        # A Pod that vanished counts as one restart; the one that came in its place is not counted again.
        return int(after is None)
    restarts = after.restarts - before.restarts
    # A head that comes to lead starts a raylet, and one that stands by ends its own: that is no restart.
    changed = before.raylet != after.raylet
    moved = before.is_head and (before.raylet is None or after.raylet is None)
    return max(restarts, int(changed and not moved))


def restarts_between(before: Census, after: Census, *, heads: bool) -> int:
    """How often heads, or workers, started anew between two counts: container restarts, Pods that were
    replaced, and raylets that are not the same process any more. Pure."""
    old = {pod.name: pod for pod in before.pods if pod.is_head is heads}
    new = {pod.name: pod for pod in after.pods if pod.is_head is heads}
    return sum(_changes(old.get(name), new.get(name)) for name in old.keys() | new.keys())


def head_pods(cluster: LocalCluster) -> list[Manifest]:
    """Its head Pods, those on their way out left out; raises RaywardError when there is none."""
    return _ray_pods(cluster, "head", "no head Pod runs", "a drill needs a cluster that holds a RayCluster")


def head_pod(cluster: LocalCluster) -> Manifest:
    """One of its head Pods; raises RaywardError when there is none."""
    return head_pods(cluster)[0]


def worker_pods(cluster: LocalCluster) -> list[Manifest]:
    """Its worker Pods; raises RaywardError when there is none."""
    return _ray_pods(
        cluster,
        "worker",
        "no worker Pod runs, and a drill watches what happens on workers",
        "give a workerGroupSpec at least one replica",
    )


def _ray_pods(cluster: LocalCluster, node_type: str, missing: str, todo: str) -> list[Manifest]:
    found = [
        pod
        for pod in cluster.pods(ray_io_node_type=node_type)
        if is_ray_node(pod) and not pod["metadata"].get("deletionTimestamp")
    ]
    if not found:
        raise RaywardError(missing, where=f"cluster {cluster.name}", todo=todo)
    return found


def gcs_process(head: Manifest) -> Identity:
    """The gcs_server of a head; raises RaywardError when it does not run."""
    found = find_process(head, GCS)
    if found is None:
        raise RaywardError(
            "no gcs_server runs in the head Pod",
            where=f"Pod {head['metadata']['name']}",
            todo="wait until the cluster is ready: `rayward get pods`, `rayward status`",
        )
    return found


def gcs_address(cluster: LocalCluster, head: Manifest) -> tuple[str, int] | None:
    """Where a head's GCS listens, as seen from this host; None as long as it has no address."""
    container = head["spec"]["containers"][0]
    ports = {port.get("name"): int(port["containerPort"]) for port in container.get("ports", ())}
    port = next((ports[name] for name in ("gcs-server", "gcs", "redis") if name in ports), 6379)
    if cluster.mode == "host":
        place = (read_json(cluster.pod_folder(head["metadata"]["name"]) / "pod.json") or {}).get("host")
        return (str(place["address"]), int(place["ports"].get(str(port), port))) if place else None
    address = head["status"].get("podIP")
    return (str(address), port) if address else None


def processes_of(pod: Manifest) -> dict[int, list[str]]:
    """The processes of a Pod's containers, by pid as the host sees it, with their command lines."""
    return {pid: read_argv(pid) for pid in pids_of(pod)}


def pods_running(cluster: LocalCluster, program: str) -> list[Manifest]:
    """The Pods in which a process of that name runs."""
    return [pod for pod in cluster.pods() if find_process(pod, program)]

"""Everything of one cluster that a machine could still hold once the cluster is down, as seen from
outside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rayward.local.cluster import LocalCluster
from rayward.local.network import Fabric
from rayward.local.pod_process import processes_of_pods
from rayward.local.state import is_alive, read_json


@dataclass(frozen=True)
class Traces:
    """Where to look, noted while the cluster still runs; ``network`` is None on the host's own."""

    folder: Path
    uids: frozenset[str]
    node: tuple[int, int] | None
    network: Fabric | None
    temp_dir: str


def note_traces(cluster: LocalCluster, earlier: Traces | None = None) -> Traces:
    """Note where this cluster leaves traces; Pods that ``earlier`` notes knew stay in."""
    node = read_json(cluster.folder.path / "node.json")
    separate = cluster.mode == "namespaces"
    uids = {str(pod["metadata"]["uid"]) for pod in cluster.folder.list("Pod")}
    return Traces(
        folder=cluster.folder.path,
        uids=frozenset(uids | (earlier.uids if earlier else frozenset())),
        node=(node["pid"], node["start_time"]) if node else None,
        network=Fabric(cluster.name, str(cluster.folder.setting("subnet"))) if separate else None,
        temp_dir=str(cluster.folder.setting("temp_dir") or ""),
    )


def count_leftovers(traces: Traces) -> dict[str, int]:
    """How many processes, namespaces, mounts, network interfaces and folders are still there."""
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    network = traces.network
    folders = [traces.folder, *([Path(traces.temp_dir)] if traces.temp_dir else [])]
    folders += [network.path] if network else []
    node = int(traces.node is not None and is_alive(*traces.node))
    return {
        "processes": len(set(processes_of_pods(set(traces.uids)))) + node,
        "namespaces": int(network is not None and network.exists()),
        "mounts": sum(any(str(folder) in line.split()[1] for folder in folders) for line in mounts),
        "network interfaces": int(network is not None and _is_link(network.host_interface)),
        "files": sum(folder.exists() for folder in folders),
    }


def _is_link(name: str) -> bool:
    return Path("/sys/class/net", name).exists()

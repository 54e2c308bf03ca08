"""The ground that a cluster stands on: its subnet and network, laid when it is made, swept when it goes.

Sweeping works however much is left and whoever was killed before; must not know of manifests.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator

from rayward.errors import RaywardError
from rayward.local import state
from rayward.local.addresses import loopback_subnet
from rayward.local.network import Fabric, free_subnet, host_routes
from rayward.local.pod_process import PodProcess, processes_of_pods
from rayward.local.service_keeper import end_proxy, proxy_runs
from rayward.local.state import ClusterFolder

_NODE_ENDS_S = 5.0


def lay(folder: ClusterFolder, mode: str) -> None:
    """Choose a subnet that nobody has and, in mode namespaces, make the network; raises RaywardError."""
    folder.set(mode=mode)
    if mode == "host":
        taken = [str(other.setting("subnet")) for other in state.clusters() if other.name != folder.name]
        folder.set(
            subnet=loopback_subnet(str(folder.path), taken), temp_dir=tempfile.mkdtemp(prefix="rayward-")
        )
        return
    with _machine_lock():
        taken = [str(other.setting("subnet")) for other in state.clusters() if other.setting("subnet")]
        subnet = free_subnet(taken, host_routes())
        fabric = Fabric(folder.name, subnet)
        if fabric.exists():
            raise RaywardError(
                f"network namespace rayward-{folder.name} is there already: another cluster of this name, "
                "or what is left of one",
                where="/run/netns",
                todo="`rayward up --name OTHER`, or remove it with `ip netns del`",
            )
        folder.set(subnet=subnet)
        fabric.create()


def sweep(folder: ClusterFolder) -> None:
    """End and remove by hand whatever is left, whoever was killed before it could do so itself."""
    _end_node(folder)
    # After the node, which would start it again.
    end_proxy(folder)
    processes = [PodProcess(path) for path in folder.pods.glob("*") if path.is_dir()]
    for process in processes:
        process.kill()
    uids = {str(pod["metadata"].get("uid")) for pod in folder.list("Pod")}
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        left = set(processes_of_pods(uids)) if uids else set()
        if not left and not proxy_runs(folder) and not any(process.alive() for process in processes):
            break
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    subnet = folder.setting("subnet")
    if folder.setting("mode") == "namespaces" and subnet:
        Fabric(folder.name, subnet).remove()
    temp_dir = folder.setting("temp_dir")
    if temp_dir:
        shutil.rmtree(temp_dir, ignore_errors=True)
    folder.remove()


def _end_node(folder: ClusterFolder) -> None:
    node = state.read_json(folder.path / "node.json")
    deadline = time.monotonic() + _NODE_ENDS_S
    while node and state.is_alive(node["pid"], node["start_time"]) and time.monotonic() < deadline:
        with contextlib.suppress(ProcessLookupError):
            os.kill(node["pid"], signal.SIGKILL)
        time.sleep(0.01)


@contextlib.contextmanager
def _machine_lock() -> Iterator[None]:
    """Nobody else on this machine chooses a subnet meanwhile (a lock on a folder leaves no file)."""
    descriptor = os.open("/run", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)

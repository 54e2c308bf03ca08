"""A cluster of this machine as the command line, drills and tests use it: bring up, look at, take down.

Talks to the node process through the cluster's folder only.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rayward.agent.bundle import build_zip
from rayward.api.manifest import load_manifests
from rayward.api.problems import ManifestError
from rayward.api.raycluster import parse_ray_cluster
from rayward.api.validation import validate
from rayward.errors import RaywardError
from rayward.local import linux, state
from rayward.local.addresses import AGENT_PORT, loopback_subnet
from rayward.local.agent_status import ask_agent, is_ray_node
from rayward.local.execute import ExecPlan, exec_command
from rayward.local.network import Fabric, free_subnet, host_routes
from rayward.local.node import now_text
from rayward.local.pod_process import PodProcess, package_environment, processes_of_pods
from rayward.local.progress import Progress, assess
from rayward.local.state import NAMESPACE, ClusterFolder, Manifest

MODE_VARIABLE = "RAYWARD_LOCAL_MODE"
AGENT_CONFIG_MAP = "rayward-agent"
DEFAULT_MANIFEST = Path(__file__).with_name("default-cluster.yaml")
_POLL = 0.1

Report = Callable[[Progress], None]


def choose_mode(environ: Mapping[str, str]) -> tuple[str, str]:
    """ "namespaces" or "host", and for host the reason why Pods get no network of their own."""
    asked = environ.get(MODE_VARIABLE, "")
    if asked not in ("", "namespaces", "host"):
        raise RaywardError(f"must be namespaces or host, got {asked!r}", where=MODE_VARIABLE)
    if asked == "host":
        return "host", f"{MODE_VARIABLE}=host asks for it"
    reason = linux.namespaces_available()
    if reason is None:
        return "namespaces", ""
    if asked == "namespaces":
        raise RaywardError(
            f"namespaces cannot be used: {reason}", where=MODE_VARIABLE, todo="run as root, or unset it"
        )
    return "host", reason


def read_manifests(path: Path | None, name: str | None) -> tuple[str, list[Manifest]]:
    """Load, check and name what ``up`` shall run; returns the cluster's name and its objects.

    Raises ManifestError with every problem of every RayCluster in the file.
    """
    source = path or DEFAULT_MANIFEST
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise RaywardError(f"cannot be read: {reason}", where=str(source)) from error
    manifests = load_manifests(text, str(source))
    clusters = [manifest for manifest in manifests if manifest["kind"] == "RayCluster"]
    for manifest in clusters:
        _check(manifest, str(source))
    chosen = name or (clusters or manifests)[0]["metadata"]["name"]
    if name is not None and len(clusters) == 1:
        clusters[0]["metadata"]["name"] = name
    return state.check_name(chosen), manifests


def _check(manifest: Manifest, source: str) -> None:
    cluster = parse_ray_cluster(manifest, source)
    problems = validate(cluster)
    if problems:
        raise ManifestError(problems, source=source)


class LocalCluster:
    """One cluster by name."""

    def __init__(self, folder: ClusterFolder) -> None:
        self.folder = folder
        self.name = folder.name

    # -- look ------------------------------------------------------------------------------------------

    @property
    def mode(self) -> str:
        """ "namespaces" or "host"."""
        return str(self.folder.setting("mode"))

    def pods(self, **labels: str) -> list[Manifest]:
        """The cluster's Pods with their status; keyword arguments select by label, with ``_`` for every
        character that a keyword cannot hold (``ray_io_node_type="head"``)."""
        found = []
        for pod in self.folder.list("Pod"):
            process = PodProcess(self.folder.pods / pod["metadata"]["name"])
            status = dict(process.status()) or {"phase": "Pending"}
            if process.started and not process.alive() and status["phase"] not in ("Succeeded", "Failed"):
                status.update(phase="Failed", reason="PodProcessDied", conditions=[])
            plain = {_keyword(key): value for key, value in pod["metadata"].get("labels", {}).items()}
            if all(plain.get(key) == value for key, value in labels.items()):
                found.append({**pod, "status": status})
        return found

    def pod(self, name: str) -> Manifest:
        """One Pod by name; raises RaywardError naming those that there are."""
        pods = {pod["metadata"]["name"]: pod for pod in self.pods()}
        if name not in pods:
            raise RaywardError(
                f"pod {name!r} not found",
                where=f"cluster {self.name}",
                todo=f"pods: {', '.join(pods) or 'none'}",
            )
        return pods[name]

    def pod_folder(self, name: str) -> Path:
        """Where a Pod's files are."""
        return self.folder.pods / name

    def progress(self) -> Progress:
        """How far the cluster has come."""
        workloads = [item for kind in ("Deployment", "StatefulSet") for item in self.folder.list(kind)]
        return assess(self.pods(), self.folder.list("RayCluster"), workloads)

    def agent_address(self, pod: Manifest) -> tuple[str, int]:
        """Where a Ray Pod's agent listens, as seen from this host."""
        if self.mode == "host":
            place = state.read_json(self.pod_folder(pod["metadata"]["name"]) / "pod.json")["host"]
            return str(place["address"]), int(place["ports"]["agent"])
        return str(pod["status"].get("podIP")), AGENT_PORT

    def agent_status(self, pod: Manifest, timeout: float = 2.0) -> dict[str, Any] | None:
        """What a Ray Pod's agent says of its node; None when it has no agent or that does not answer."""
        if not is_ray_node(pod) or not pod["status"].get("podIP"):
            return None
        return ask_agent(*self.agent_address(pod), timeout)

    def waiting_for(self) -> str:
        """What the first Ray node that is not ready waits for, in its agent's words; empty when all are."""
        for pod in self.pods():
            ready = [entry.get("ready") for entry in pod["status"].get("containerStatuses") or ()]
            if is_ray_node(pod) and ready and not all(ready):
                seen = self.agent_status(pod, timeout=0.5)
                if seen is not None and not seen["ready"]:
                    return f"{pod['metadata']['name']}: {seen['reason']}"
        return ""

    # -- act -------------------------------------------------------------------------------------------

    def exec_plan(self, pod: str, container: str | None, argv: Sequence[str], tty: bool = False) -> ExecPlan:
        """How to run a command in a Pod's container."""
        self.pod(pod)
        return exec_command(self.pod_folder(pod), container, list(argv), tty=tty)

    def run(
        self, pod: str, argv: Sequence[str], *, timeout: float = 120.0, container: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a Pod and collect what it prints."""
        plan = self.exec_plan(pod, container, argv)
        return subprocess.run(
            plan.argv,
            env=plan.env,
            cwd=plan.cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def ensure_node(self) -> None:
        """Start the node process if none runs (it may have been killed)."""
        if self.folder.node_runs():
            return
        with open(self.folder.path / "node.log", "ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "rayward.local.node", str(self.folder.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env=package_environment(),
            )
        deadline = time.monotonic() + 20
        while not self.folder.node_runs():
            if child.poll() is not None or time.monotonic() > deadline:
                words = (self.folder.path / "node.log").read_text(errors="replace").strip().splitlines()
                raise RaywardError(
                    f"the node process did not start: {words[-1] if words else 'no message'}",
                    where=str(self.folder.path / "node.log"),
                )
            time.sleep(0.02)

    def wait_ready(self, timeout: float, report: Report) -> Progress:
        """Wait until all Pods are ready; raises RaywardError when that cannot be or takes too long."""
        deadline = time.monotonic() + timeout
        while True:
            progress = self.progress()
            report(progress)
            if progress.ready:
                return progress
            if progress.stuck or time.monotonic() > deadline:
                late = f"not ready within {timeout:g} s: " + ", ".join(
                    [f"{pod.name} {pod.status}" for pod in progress.pods if not pod.is_ready]
                )
                why = "" if progress.stuck else self.waiting_for()
                late += f"; {why}" if why else ""
                raise RaywardError(
                    progress.stuck or late,
                    where=f"cluster {self.name}",
                    todo=f"`rayward describe`, `rayward logs POD`; `rayward down {self.name}` removes it",
                )
            time.sleep(_POLL)

    def delete(self, kind: str, name: str) -> None:
        """Mark an object for deletion; raises RaywardError when there is none."""
        with self.folder.locked():
            found = self.folder.get(kind, name)
            if found is None:
                raise RaywardError(f"{kind} {name!r} not found", where=f"cluster {self.name}")
            if kind in ("Pod", "RayCluster"):
                found["metadata"].setdefault("deletionTimestamp", now_text())
                self.folder.put(found)
            else:
                self.folder.drop(kind, name)
        self.ensure_node()

    def wait_gone(self, kind: str, name: str, timeout: float) -> bool:
        """Wait until an object (and, for a RayCluster, its Pods) is gone; False when it takes too long."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            owned = self.pods(ray_io_cluster=name) if kind == "RayCluster" else []
            if self.folder.get(kind, name) is None and not owned:
                return True
            time.sleep(_POLL)
        return False

    def down(self, timeout: float = 60.0, report: Report | None = None, force: bool = False) -> list[str]:
        """Take the cluster down and leave nothing; returns what could not be done cleanly."""
        notes: list[str] = []
        if not force:
            try:
                self._down_by_node(timeout, report)
            except RaywardError as error:
                notes.append(str(error))
            except FileNotFoundError:
                if self.folder.exists:
                    raise
                return notes  # somebody else took it down meanwhile
        self._sweep()
        return notes

    def _down_by_node(self, timeout: float, report: Report | None) -> None:
        with self.folder.locked():
            self.folder.set(down=True)
        self.ensure_node()
        deadline = time.monotonic() + timeout
        while self.folder.node_runs():
            if report is not None:
                report(self.progress())
            if time.monotonic() > deadline:
                raise RaywardError(
                    f"not down after {timeout:g} s: ended by force", where=f"cluster {self.name}"
                )
            time.sleep(_POLL)

    def _sweep(self) -> None:
        """End and remove by hand whatever is left, whoever was killed before it could do so itself."""
        node = state.read_json(self.folder.path / "node.json")
        if node and state.is_alive(node["pid"], node["start_time"]):
            os.kill(node["pid"], signal.SIGKILL)
        processes = [PodProcess(path) for path in self.folder.pods.glob("*") if path.is_dir()]
        for process in processes:
            process.kill()
        uids = {str(pod["metadata"].get("uid")) for pod in self.folder.list("Pod")}
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            left = set(processes_of_pods(uids)) if uids else set()
            if not left and not any(process.alive() for process in processes):
                break
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        subnet = self.folder.setting("subnet")
        if self.mode == "namespaces" and subnet:
            Fabric(self.name, subnet).remove()
        temp_dir = self.folder.setting("temp_dir")
        if temp_dir:
            shutil.rmtree(temp_dir, ignore_errors=True)
        self.folder.remove()


def _keyword(label: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in label)


def find(name: str | None = None) -> LocalCluster:
    """The cluster of that name, or the only one there is; raises RaywardError otherwise."""
    names = [folder.name for folder in state.clusters()]
    if name is None and len(names) == 1:
        name = names[0]
    if name is None and not names:
        raise RaywardError("no cluster is up", where=str(state.home()), todo="`rayward up`")
    if name is None:
        raise RaywardError(
            "more than one cluster is up", todo=f"say which with --cluster: {', '.join(names)}"
        )
    if name not in names:
        raise RaywardError(f"cluster {name!r} is not up", todo=f"clusters: {', '.join(names) or 'none'}")
    return LocalCluster(state.cluster(name))


@contextlib.contextmanager
def _machine_lock() -> Iterator[None]:
    """Nobody else on this machine chooses a subnet meanwhile (a lock on a folder leaves no file)."""
    descriptor = os.open("/run", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def create(name: str, manifests: Sequence[Manifest], mode: str) -> LocalCluster:
    """Make a cluster's folder, network and objects and start its node process.

    Raises RaywardError when a cluster of that name is there, or its address is taken.
    """
    folder = state.cluster(name)
    folder.create()
    made = LocalCluster(folder)
    try:
        folder.set(mode=mode)
        if mode == "host":
            taken = [str(other.setting("subnet")) for other in state.clusters() if other.name != name]
            folder.set(
                subnet=loopback_subnet(str(folder.path), taken), temp_dir=tempfile.mkdtemp(prefix="rayward-")
            )
        else:
            with _machine_lock():
                taken = [
                    str(other.setting("subnet")) for other in state.clusters() if other.setting("subnet")
                ]
                subnet = free_subnet(taken, host_routes())
                fabric = Fabric(name, subnet)
                if fabric.exists():
                    raise RaywardError(
                        f"network namespace rayward-{name} is there already: another cluster of this name, "
                        "or what is left of one",
                        where="/run/netns",
                        todo="`rayward up --name OTHER`, or remove it with `ip netns del`",
                    )
                folder.set(subnet=subnet)
                fabric.create()
        for manifest in (*manifests, _agent_config_map(folder)):
            folder.put(_admitted(manifest))
        made.ensure_node()
    except BaseException:
        made._sweep()
        raise
    return made


def _admitted(manifest: Manifest) -> Manifest:
    metadata: dict[str, Any] = {
        "namespace": NAMESPACE,
        **manifest["metadata"],
        "uid": str(uuid.uuid4()),
        "creationTimestamp": now_text(),
        "generation": 1,
    }
    return {**manifest, "metadata": metadata}


def _agent_config_map(folder: ClusterFolder) -> Manifest:
    archive = folder.path / "agent.zip"
    build_zip(archive)
    content = base64.b64encode(archive.read_bytes()).decode()
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": AGENT_CONFIG_MAP},
        "binaryData": {"agent.zip": content},
    }


def age(manifest: Manifest) -> str:
    """How old an object is, as kubectl writes it."""
    created = manifest["metadata"].get("creationTimestamp")
    if not created:
        return "<unknown>"
    then = datetime.datetime.strptime(created, "%Y-%m-%dT%H:%M:%S%z")
    seconds = int((datetime.datetime.now(datetime.timezone.utc) - then).total_seconds())
    for size, letter in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            rest = (seconds % size) // {86400: 3600, 3600: 60, 60: 1}[size]
            return f"{seconds // size}{letter}" + (f"{rest}{'hms'['dhm'.index(letter)]}" if rest else "")
    return f"{max(0, seconds)}s"

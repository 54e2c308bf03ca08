"""A cluster of this machine as the command line, drills and tests use it: bring up, look at, take down.

Talks to the node process through the cluster's folder only.
"""

from __future__ import annotations

import datetime
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rayward.errors import RaywardError
from rayward.local import disrupt, state
from rayward.local.addresses import AGENT_PORT
from rayward.local.agent_status import ask_agent, is_ray_node, tell_agent
from rayward.local.execute import ExecPlan, exec_command
from rayward.local.ground import lay, sweep
from rayward.local.intake import (
    AGENT_CONFIG_MAP,
    DEFAULT_MANIFEST,
    MODE_VARIABLE,
    admitted,
    agent_config_map,
    changed,
    choose_mode,
    now_text,
    read_manifests,
    refuse_what_host_mode_cannot,
)
from rayward.local.lead import Lead, lead_of
from rayward.local.network import Result, in_network_of
from rayward.local.pod_process import PodProcess, package_environment
from rayward.local.progress import Progress, assess
from rayward.local.service_rules import TABLE_FILE, Table
from rayward.local.service_table import has_own_address, own_address, tcp_ports
from rayward.local.state import ClusterFolder, Manifest, read_json
from rayward.plan.names import HEAD_INDEX

_POLL = 0.1
_ASK_S = 0.5

Report = Callable[[Progress], None]

__all__ = [
    "AGENT_CONFIG_MAP",
    "DEFAULT_MANIFEST",
    "MODE_VARIABLE",
    "LocalCluster",
    "Report",
    "age",
    "choose_mode",
    "create",
    "find",
    "read_manifests",
]


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
        pods = self.pods()
        services = self.folder.list("RayService")
        return assess(pods, self.folder.list("RayCluster"), workloads, self.leads(pods), services)

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
        pods = self.pods()
        leads = self.leads(pods)
        for pod in pods:
            lead = leads.get(pod["metadata"]["name"])
            if lead is not None and lead.stands_by:
                continue
            ready = [entry.get("ready") for entry in pod["status"].get("containerStatuses") or ()]
            if is_ray_node(pod) and ready and not all(ready):
                seen = self.agent_status(pod, timeout=_ASK_S)
                if seen is not None and not seen["ready"]:
                    return f"{pod['metadata']['name']}: {seen['reason']}"
        return ""

    def heads(self) -> list[Manifest]:
        """The head Pods, whether they lead or stand by."""
        return self.pods(ray_io_node_type="head")

    def leads(self, pods: Sequence[Manifest] | None = None) -> dict[str, Lead]:
        """What each head of a cluster with several says of leading, by Pod; without those that do not
        answer within half a second."""
        found = {}
        for pod in self.heads() if pods is None else pods:
            if HEAD_INDEX in pod["metadata"].get("labels", {}):
                lead = lead_of(self.agent_status(pod, _ASK_S))
                if lead is not None:
                    found[pod["metadata"]["name"]] = lead
        return found

    def leader(self) -> Manifest | None:
        """The head Pod whose agent says that it leads; None while none does. The only head of a cluster
        whose store knows no lease leads by itself."""
        heads = self.heads()
        for pod in heads:
            status = self.agent_status(pod, _ASK_S)
            lead = lead_of(status)
            if lead is not None and lead.leads:
                return pod
            if len(heads) == 1 and status is not None and "lead" not in status:
                return pod
        return None

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

    def agent_post(
        self, pod: Manifest, path: str, body: Mapping[str, Any] | None = None, timeout: float = 30.0
    ) -> dict[str, Any]:
        """Ask a Ray Pod's agent to do something (``/switchover``, ``/pause`` ...); its answer. Raises
        RaywardError with the agent's words when it refuses."""
        name = pod["metadata"]["name"]
        if not pod["status"].get("podIP"):
            raise RaywardError("it has no address yet", where=f"Pod {name}")
        container = pod["spec"]["containers"][0]["name"]
        spec = state.read_json(self.pod_folder(name) / "containers" / f"{container}.json") or {}
        token = (spec.get("env") or {}).get("RAYWARD_AGENT_TOKEN")
        return tell_agent(*self.agent_address(pod), path, body or {}, token, timeout)

    def in_pod_network(self, pod: Manifest, work: Callable[[], Result]) -> Result:
        """Run ``work`` in a Pod's network namespace, in a thread of its own: pyroute2's ``IPRoute()``, a
        socket, a program that it starts. Returns and raises what it does."""
        process = PodProcess(self.pod_folder(pod["metadata"]["name"]))
        identity = process.identity()
        if self.mode == "host" or identity is None or not process.alive():
            raise RaywardError(
                "it has no network of its own now",
                where=f"Pod {pod['metadata']['name']}",
                todo="rayward get pods",
            )
        return in_network_of(identity[0], work)

    def kill_pod_processes(self, pod: Manifest) -> float:
        """The loss of the Pod's host: see `disrupt.kill`."""
        return disrupt.kill(self.pod(pod["metadata"]["name"]), host_mode=self.mode == "host")

    def freeze(self, pod: Manifest) -> float:
        """The Pod's host stands still: see `disrupt.freeze`."""
        return disrupt.freeze(self.pod(pod["metadata"]["name"]), host_mode=self.mode == "host")

    def thaw(self, pod: Manifest) -> float:
        """It goes on: see `disrupt.thaw`."""
        return disrupt.thaw(self.pod(pod["metadata"]["name"]), host_mode=self.mode == "host")

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
            if progress.ready and self._addresses_lead():
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

    def service_table(self) -> Table:
        """Where connections to the Services' own addresses are led now."""
        found = read_json(self.folder.path / TABLE_FILE)
        return Table.from_json(found) if found else Table({})

    def _addresses_lead(self) -> bool:
        """Whether every Service's own address takes connections, and those of RayServices lead somewhere: the
        process behind them is started and told a moment after the status has said that all is ready."""
        if self.mode == "host":
            return True
        table = self.service_table()
        for service in filter(has_own_address, self.folder.list("Service")):
            address = own_address(service)
            if address is None:
                return False
            owners = service["metadata"].get("ownerReferences") or ()
            must_lead = any(owner.get("kind") == "RayService" for owner in owners)
            for number in (int(port["port"]) for port in tcp_ports(service)):
                if must_lead and not table.ready.get((address, number)):
                    return False
                try:
                    socket.create_connection((address, number), timeout=1).close()
                except OSError:
                    return False
        return True

    def apply(self, manifests: Sequence[Manifest]) -> list[tuple[Manifest, str]]:
        """Bring objects to what the manifests say: those that are there get the new content and keep what
        they are; the others are made. Returns each with "created", "configured" or "unchanged"."""
        if self.mode == "host":
            refuse_what_host_mode_cannot(manifests)
        done = []
        with self.folder.locked():
            for manifest in manifests:
                found = self.folder.get(manifest["kind"], manifest["metadata"]["name"])
                wanted = admitted(manifest) if found is None else changed(found, manifest)
                word = "created" if found is None else "unchanged" if wanted == found else "configured"
                if wanted != found:
                    self.folder.put(wanted)
                done.append((manifest, word))
        self.ensure_node()
        return done

    def delete(self, kind: str, name: str) -> None:
        """Mark an object for deletion; raises RaywardError when there is none."""
        with self.folder.locked():
            found = self.folder.get(kind, name)
            if found is None:
                raise RaywardError(f"{kind} {name!r} not found", where=f"cluster {self.name}")
            if kind in state.ENDED_IN_ORDER:
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
        sweep(self.folder)
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


def create(name: str, manifests: Sequence[Manifest], mode: str) -> LocalCluster:
    """Make a cluster's folder, network and objects and start its node process.

    Raises RaywardError when a cluster of that name is there, or its address is taken.
    """
    if mode == "host":
        refuse_what_host_mode_cannot(manifests)
    folder = state.cluster(name)
    folder.create()
    made = LocalCluster(folder)
    try:
        lay(folder, mode)
        for manifest in (*manifests, agent_config_map(folder)):
            folder.put(admitted(manifest))
        made.ensure_node()
    except BaseException:
        sweep(folder)
        raise
    return made


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

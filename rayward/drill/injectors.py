"""From a fault's name to the code that injects it and takes it away again, and the faults of processes.

An injector breaks one thing once. ``heal`` is called whatever happens, may be called more than once, and
leaves nothing broken that it broke itself; what the cluster has to mend is the cluster's.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rayward.agent.processes import Role, classify
from rayward.drill import census
from rayward.drill.census import Identity
from rayward.drill.faults import SIGNALS, Fault
from rayward.drill.heads import HeadView
from rayward.errors import RaywardError
from rayward.local import linux
from rayward.local.cluster import LocalCluster
from rayward.local.pod_process import PodProcess
from rayward.local.state import Manifest, is_alive

Tell = Callable[[str], None]

ROLES_BESIDE_GCS = (
    Role.RAYLET,
    Role.DASHBOARD,
    Role.MONITOR,
    Role.LOG_MONITOR,
    Role.CLIENT_SERVER,
    Role.DASHBOARD_AGENT,
    Role.RUNTIME_ENV_AGENT,
)


@dataclass
class Scene:
    """What an injector works on: the cluster as it was right before the fault. ``number`` counts the runs of
    a drill from 1; ``seconds`` is how long the fault shall last; ``lease_ttl`` the lease's length."""

    cluster: LocalCluster
    fault: Fault
    lead: HeadView
    standbys: Sequence[HeadView]
    workers: Sequence[Manifest]
    number: int
    seconds: float
    generator: random.Random
    tell: Tell
    lease_ttl: float = 3.0


class Injector:
    """One fault, once. ``target`` says what was hit, ``growth`` what was counted before and after.

    ``prelude``: ``inject`` plays for a while before the moment it returns, and may change ``scene.lead``.
    """

    prelude = False

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.target = ""
        self.growth: dict[str, tuple[float, float]] = {}

    def inject(self) -> float:
        """Break it; returns the moment (CLOCK_MONOTONIC) right before it was broken."""
        raise NotImplementedError

    def heal(self) -> None:
        """Take away what is still broken on purpose."""

    def aftermath(self) -> list[str]:
        """What is wrong after the fault beyond what every run checks, as sentences."""
        return []

    @staticmethod
    def now() -> float:
        """The clock of all moments: CLOCK_MONOTONIC, which the Pods of a machine share."""
        return time.monotonic()


def identities(pod: Manifest) -> list[Identity]:
    """The processes of a Pod's containers."""
    found = [(pid, linux.process_start_time(pid)) for pid in census.processes_of(pod)]
    return [(pid, start_time) for pid, start_time in found if start_time is not None]


def send(process: Identity, number: signal.Signals) -> bool:
    """Send a signal to this very process; False when it is gone."""
    pid, start_time = process
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if not is_alive(pid, start_time):
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def strike(process: Identity, number: signal.Signals, what: str) -> float:
    """Send a signal; returns the moment right before. Raises RaywardError when the process is gone."""
    moment = time.monotonic()
    if not send(process, number):
        raise RaywardError(f"{what} ended by itself before the fault was injected", where=f"pid {process[0]}")
    return moment


def is_stopped(process: Identity) -> bool:
    """Whether a process stands still after SIGSTOP."""
    with contextlib.suppress(OSError), open(f"/proc/{process[0]}/stat", encoding="utf-8") as file:
        fields = file.read().rpartition(")")[2].split()
        return fields[0] == "T" and int(fields[19]) == process[1]
    return False


def runner_of(cluster: LocalCluster, pod: Manifest) -> Identity | None:
    """The process that runs a Pod on this machine, as kubelet would: it probes, and it starts again."""
    return PodProcess(cluster.pod_folder(pod["metadata"]["name"])).identity()


def kill_pod(cluster: LocalCluster, pod: Manifest) -> float:
    """End all of a Pod at once, and with it what would start it again: its host is lost. A new Pod comes in
    its place, as one would on another host. Returns the moment (CLOCK_MONOTONIC) right before."""
    runner = runner_of(cluster, pod)
    if runner is not None:
        send(runner, signal.SIGSTOP)
    try:
        return cluster.kill_pod_processes(pod)
    finally:
        if runner is not None:
            send(runner, signal.SIGKILL)


class GcsSignal(Injector):
    """One signal to gcs_server. A process that only was stopped is ended in the end, for nothing frozen may
    stay behind."""

    def inject(self) -> float:
        assert self.scene.lead.gcs is not None
        self.target = f"gcs_server pid {self.scene.lead.gcs[0]}"
        return strike(self.scene.lead.gcs, SIGNALS[self.scene.fault.name], "gcs_server")

    def heal(self) -> None:
        gcs = self.scene.lead.gcs
        if SIGNALS[self.scene.fault.name] is signal.SIGSTOP and gcs is not None and is_stopped(gcs):
            send(gcs, signal.SIGKILL)


def agent_part(argv: Sequence[str]) -> str:
    """Which of the agent's processes a command line belongs to ("head", "gateway", "fence", ...); empty for
    anything else. The agent runs as ``python agent.zip PART`` or ``python -m rayward.agent PART``. Pure."""
    for position, word in enumerate(argv[:-1]):
        module = word == "-m" and argv[position + 1] == "rayward.agent"
        if word.endswith("agent.zip") or module:
            after = argv[position + (2 if module else 1) :]
            return after[0] if after and not after[0].startswith("-") else ""
    return ""


def find_part(pod: Manifest, wanted: Callable[[list[str]], bool]) -> Identity | None:
    """The oldest process of a Pod whose command line is ``wanted`` (children forked from it look alike)."""
    found = [
        (start_time, pid)
        for pid, argv in census.processes_of(pod).items()
        if wanted(argv) and (start_time := linux.process_start_time(pid)) is not None
    ]
    return (min(found)[1], min(found)[0]) if found else None


class ProcessKill(Injector):
    """Kills one process of the active head beside the GCS: the next one of the list in each run."""

    def inject(self) -> float:
        count = len(ROLES_BESIDE_GCS)
        for offset in range(count):
            role = ROLES_BESIDE_GCS[(self.scene.number - 1 + offset) % count]
            found = find_part(self.scene.lead.pod, lambda argv, role=role: classify(argv) is role)  # type: ignore[misc]
            if found is not None:
                self.target = f"{role.value} pid {found[0]}"
                return strike(found, signal.SIGKILL, role.value)
        raise RaywardError(
            "none of the head's processes was found",
            where=f"Pod {self.scene.lead.name}",
            todo="`rayward status`",
        )


class AgentKill(Injector):
    """Kills one of the agent's own processes on the active head."""

    parts: tuple[str, ...] = ("head",)

    def inject(self) -> float:
        found = find_part(self.scene.lead.pod, lambda argv: agent_part(argv) in self.parts)
        if found is None:
            raise RaywardError(
                f"no {self.parts[0]} process of the agent runs",
                where=f"Pod {self.scene.lead.name}",
                todo="this fault needs a head under rayward's agent, with Redis as its store",
            )
        self.target = f"{self.parts[0]} process pid {found[0]} of {self.scene.lead.name}"
        return strike(found, signal.SIGKILL, "the agent's process")


class GatewayKill(AgentKill):
    """Kills the store gateway of the active head."""

    parts = ("gateway",)


class HostLoss(Injector):
    """Ends every process of the active head's Pod."""

    def victims(self) -> list[HeadView]:
        """The heads to be lost."""
        return [self.scene.lead]

    def inject(self) -> float:
        victims = self.victims()
        self.target = ", ".join(view.name for view in victims)
        moment = time.monotonic()
        for view in victims:
            kill_pod(self.scene.cluster, view.pod)
        return moment


class BothHeadsLost(HostLoss):
    """Ends every process of all heads' Pods."""

    def victims(self) -> list[HeadView]:
        return [self.scene.lead, *self.scene.standbys]


class StandbyLoss(HostLoss):
    """Ends every process of the first standby's Pod."""

    def victims(self) -> list[HeadView]:
        return [self.scene.standbys[0]]


class HostFreeze(Injector):
    """Stops every process of the active head's Pod; thaws the GCS and its gateway first.

    The order of the thaw is the worst one: for a moment the forgotten GCS and its way to the store run while
    the agent and the fence process still stand. Only the store can refuse its writes then.
    """

    ahead_s = 0.5

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self.target = scene.lead.name
        self._first: list[Identity] = []
        self._runner: Identity | None = None

    def inject(self) -> float:
        view = self.scene.lead
        self._first = [view.gcs] if view.gcs else []
        gateway = find_part(view.pod, lambda argv: agent_part(argv) == "gateway")
        self._first += [gateway] if gateway else []
        self._runner = runner_of(self.scene.cluster, view.pod)
        moment = self.now()
        # On a frozen host nobody probes, and nobody restarts.
        if self._runner is not None:
            send(self._runner, signal.SIGSTOP)
        self.scene.cluster.freeze(view.pod)
        return moment

    def heal(self) -> None:
        for process in self._first:
            send(process, signal.SIGCONT)
        if self._first:
            time.sleep(self.ahead_s)
        with contextlib.suppress(RaywardError):  # the Pod may be gone, and another in its place
            self.scene.cluster.thaw(self.scene.lead.pod)
        if self._runner is not None:
            send(self._runner, signal.SIGCONT)
        self._first, self._runner = [], None

    def aftermath(self) -> list[str]:
        """The old GCS must be gone where another head took over meanwhile."""
        gcs = self.scene.lead.gcs
        if not self.scene.standbys or gcs is None:
            return []
        deadline = time.monotonic() + self.scene.lease_ttl + 5
        while time.monotonic() < deadline:
            if not is_alive(*gcs):
                return []
            time.sleep(0.05)
        return [f"the thawed gcs_server (pid {gcs[0]} of {self.scene.lead.name}) still runs"]


PROCESS_INJECTORS: Mapping[str, type[Injector]] = {
    **dict.fromkeys(SIGNALS, GcsSignal),
    "head-process-kill": ProcessKill,
    "agent-kill": AgentKill,
    "gateway-kill": GatewayKill,
    "host-loss": HostLoss,
    "both-heads-lost": BothHeadsLost,
    "standby-loss": StandbyLoss,
    "host-freeze": HostFreeze,
}


def heal_leftovers(cluster: LocalCluster, pods: Iterable[Manifest]) -> list[str]:
    """Set running again what a drill that was killed left stopped; returns what was found, in words.

    Only where a Pod's supervisor or first process stands: agents stop processes of their own, on purpose.
    """
    found = []
    for pod in pods:
        gates = [gate for gate in (runner_of(cluster, pod), *_first_processes(pod)) if gate is not None]
        if not any(is_stopped(gate) for gate in gates):
            continue
        stopped = [process for process in {*gates, *identities(pod)} if is_stopped(process)]
        for process in stopped:
            send(process, signal.SIGCONT)
        found.append(f"{len(stopped)} stopped processes in Pod {pod['metadata']['name']}")
    return found


def _first_processes(pod: Manifest) -> list[Identity | None]:
    """The first process of each container, and whoever started it."""
    entries = ((pod.get("status") or {}).get("rayward") or {}).get("containers") or {}
    first = [(int(entry["pid"]), int(entry["start_time"])) for entry in entries.values()]
    return [*first, *(parent_of(process) for process in first)]


def parent_of(process: Identity) -> Identity | None:
    """Who started a process: what would start it again."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{process[0]}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        parent = int(fields[1])
        start_time = linux.process_start_time(parent)
        if start_time is not None:
            return parent, start_time
    return None

"""What the loop sees of its node's processes beyond their deaths: a GCS that is silent, processes that stand.

Keeps the little memory that seeing takes (since when, how much processor time), and decides nothing.
"""

from __future__ import annotations

from typing import Callable

from rayward.agent import processes
from rayward.agent.decide import GcsView
from rayward.agent.gcs_probe import Serving
from rayward.agent.node import NodeProcesses
from rayward.agent.processes import Role
from rayward.agent.timing import Timing
from rayward.agent.watch import DemandWindow, GcsWatch


class Looking:
    """The eyes of one agent's loop."""

    def __init__(
        self, node: NodeProcesses, timing: Timing, wake: Callable[[], None], host: str, port: int
    ) -> None:
        self._node, self._timing, self._wake = node, timing, wake
        self.watch = GcsWatch(host, port, timing, wake)
        self._demand = DemandWindow(timing.hung_limit)
        self.gcs_stopped_since: float | None = None
        self._others_stopped_since: dict[Role, float] = {}
        self._looked_at = 0.0

    def watch_gcs(self, host: str, port: int) -> None:
        """Probe the GCS at this address from now on."""
        self.watch.stop()
        self._demand.clear()
        self.watch = GcsWatch(host, port, self._timing, self._wake)
        self.watch.start()

    def forget_gcs(self) -> None:
        """Another gcs_server runs from now on, or none."""
        self._demand.clear()
        self.watch.reset()

    def gcs(self, now: float, running: bool) -> GcsView | None:
        """How the gcs_server of a running node looks; None while there is none."""
        tracked = self._node.tracked.get(Role.GCS)
        if tracked is None or tracked.pid is None or not running:
            self.gcs_stopped_since = None
            return None
        stat = processes.read_stat(tracked.pid)
        stopped = stat is not None and stat.state == "T"
        self.gcs_stopped_since = (self.gcs_stopped_since or now) if stopped else None
        demand = processes.main_thread_demand(tracked.pid)
        if demand is not None:
            self._demand.add(now, demand)
        last = self.watch.last
        silent_for = self.watch.silent_for()
        tracked.had_served = tracked.had_served or self.watch.served_at is not None
        return GcsView(
            stopped_for=now - self.gcs_stopped_since if self.gcs_stopped_since else 0.0,
            silent_for=silent_for,
            served=self.watch.served_at is not None,
            main_thread_share=self._demand.share(),
            last_answer=last.serving if last else Serving.REFUSED,
            refused_for=self.watch.refused_for(),
            # Twenty-odd files to read: only asked where the answer matters.
            waits_for_disk=silent_for > self._timing.probe_interval * 2
            and processes.waits_for_disk(tracked.pid),
        )

    def stopped(self, now: float) -> tuple[tuple[Role, float], ...]:
        """Which processes other than the GCS have been stopped, and for how long; looked at rarely."""
        if now - self._looked_at >= self._timing.others_look_interval:
            self._looked_at = now
            found: dict[Role, float] = {}
            for role, tracked in self._node.tracked.items():
                stat = processes.read_stat(tracked.pid) if tracked.pid is not None else None
                if stat is not None and stat.state == "T" and role is not Role.GCS:
                    found[role] = self._others_stopped_since.get(role, now)
            self._others_stopped_since = found
        return tuple((role, now - since) for role, since in self._others_stopped_since.items())

    def forget_stopped(self, role: Role) -> None:
        """This process has just been ended."""
        self._others_stopped_since.pop(role, None)

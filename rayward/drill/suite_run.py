"""Runs a suite: faults one after another into one cluster, and into a new one when a run has ruined it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from rayward.drill.drill import run_line
from rayward.drill.faults import Fault
from rayward.drill.machine import cluster_facts
from rayward.drill.order import Order
from rayward.drill.record import RunRecord, failures
from rayward.drill.result import DrillOutcome
from rayward.drill.session import Session, lacks
from rayward.drill.suite import CONTROL_RUNS, SUITE, SuiteOutcome, SuitePlan, orders, went_red
from rayward.errors import RaywardError
from rayward.local.cluster import LocalCluster

_REVIVE_LIMIT = 60.0
_CLUSTERS = 4

Tell = Callable[[str], None]
OpenCluster = Callable[[], AbstractContextManager[LocalCluster]]


class Suite:
    """One suite on its way. ``open_cluster`` brings a cluster up for a while; with ``only_one`` it is used
    once, for a cluster that is somebody else's cannot be replaced."""

    def __init__(
        self,
        open_cluster: OpenCluster,
        plan: SuitePlan,
        tell: Tell,
        only_one: bool = False,
        control: str = "",
    ) -> None:
        self._open = open_cluster
        self._plan = plan
        self._tell = tell
        self._most = 1 if only_one else _CLUSTERS
        self._control = control
        self._runs: list[RunRecord] = []
        self._skipped: dict[str, str] = {}
        self._machine: dict[str, Any] = {}
        self._quiet: tuple[float, ...] = ()
        self._lease_ttl = 3.0
        self._clusters = 0
        self._end = float("inf")

    def run(self, faults: tuple[Fault, ...]) -> SuiteOutcome:
        """Inject until the plan's end; raises RaywardError when the first cluster cannot be drilled at all.

        After a KeyboardInterrupt `so_far` says what there is.
        """
        generator = random.Random(self._plan.seed)
        coming: Iterator[Order] | None = None
        over = False
        while not over and self._clusters < self._most:
            self._clusters += 1
            with ExitStack() as stack:
                cluster = stack.enter_context(self._open())
                session = stack.enter_context(
                    Session(cluster, self._plan.limit, self._plan.quiet_actors, self._tell)
                )
                if coming is None:
                    self._machine = cluster_facts(cluster)
                    coming = orders(self._plan, self._usable(cluster, faults))
                    self._end = time.monotonic() + 60 * (self._plan.minutes or float("inf"))
                over = self._inject(session, coming, generator)
                self._quiet += session.quiet_actors_s
                self._lease_ttl = session.lease_ttl
        return self.so_far("" if over else "no cluster is left that takes another run")

    def _usable(self, cluster: LocalCluster, faults: tuple[Fault, ...]) -> list[Fault]:
        missing = {fault.name: lacks(cluster, fault) for fault in faults}
        self._skipped = {name: f"needs {what}" for name, what in missing.items() if what}
        for name, why in self._skipped.items():
            self._tell(f"left out: {name} {why}")
        return [fault for fault in faults if fault.name not in self._skipped]

    def _done(self) -> bool:
        count = len(self._runs)
        if self._control and count:
            return count >= CONTROL_RUNS or went_red(self.so_far(""))
        return time.monotonic() >= self._end or (self._plan.runs is not None and count >= self._plan.runs)

    def _inject(self, session: Session, coming: Iterator[Order], generator: random.Random) -> bool:
        """Inject into this cluster; True when the suite is over, False when it needs another cluster."""
        while not self._done():
            order = next(coming, None)
            if order is None:
                return True
            record = self._one(session, order, generator)
            self._runs.append(record)
            self._tell(run_line(record, self._plan.limit))
            ruined = record.errors or record.recovered_s is None
            failed = bool(failures(record, self._plan.limit))
            if failed and ruined and not self._done() and not session.revive(_REVIVE_LIMIT):
                return False
        return True

    def _one(self, session: Session, order: Order, generator: random.Random) -> RunRecord:
        try:
            return session.run(order, generator)
        except RaywardError as problem:
            words = str(problem).splitlines()[0]
            return RunRecord(run=order.number, fault=order.fault.name, phase_s=order.phase, errors=(words,))

    def so_far(self, ended_early: str) -> SuiteOutcome:
        """The outcome of the runs until now; ``ended_early`` says why there will be no more."""
        drill = DrillOutcome(
            fault=SUITE,
            asked=len(self._runs),
            seed=self._plan.seed,
            limit=self._plan.limit,
            pause=self._plan.pause,
            runs=tuple(self._runs),
            quiet_actors_s=self._quiet,
            machine=self._machine,
            ended_early=ended_early,
            lease_ttl=self._lease_ttl,
        )
        return SuiteOutcome(drill, self._skipped, self._clusters, self._control)

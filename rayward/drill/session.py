"""One cluster under load, into which faults are injected one after another: the shell of drills and suites.

What a run's facts mean is for ``record`` to say; ``collect`` puts them together.
"""

from __future__ import annotations

import contextlib
import random
import secrets
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rayward.drill import audit, census, heads, injectors, settle
from rayward.drill.collect import Facts, build
from rayward.drill.cut import Cut
from rayward.drill.faults import Fault, Need
from rayward.drill.injectors import PROCESS_INJECTORS, Injector, Scene
from rayward.drill.injectors_heads import HEAD_INJECTORS
from rayward.drill.injectors_network import NETWORK_INJECTORS, fabric_of, stores
from rayward.drill.injectors_store import STORE_INJECTORS, is_sentinel
from rayward.drill.order import Order
from rayward.drill.probe_process import ProbeEndedError, ProbeProcess, ProbeSilentError
from rayward.drill.record import ANSWERS, RunRecord
from rayward.drill.watch import GcsWatch
from rayward.errors import RaywardError
from rayward.local.cluster import LocalCluster

Tell = Callable[[str], None]

INJECTORS = {**PROCESS_INJECTORS, **NETWORK_INJECTORS, **STORE_INJECTORS, **HEAD_INJECTORS}
_SET_UP_LIMIT = 90.0
_LINGER = 1.0
_CLOSED_LIMIT = 5.0
_REPORT_LIMIT = 60.0
_GRACE = 10.0
_HEADS_LIMIT = 40.0


class Healer:
    """Takes a fault away at its time, from a thread of its own, or at once when asked; once, whoever asks."""

    def __init__(self, injector: Injector) -> None:
        self._injector = injector
        self._lock = threading.Lock()
        self._asked = threading.Event()
        self._thread: threading.Thread | None = None
        self.healed_at: float | None = None
        self.problem = ""

    def after(self, moment: float) -> None:
        """Heal at ``moment`` (monotonic)."""

        def wait() -> None:
            if not self._asked.wait(max(0.0, moment - time.monotonic())):
                self._heal()

        self._thread = threading.Thread(target=wait, name="drill-heal", daemon=True)
        self._thread.start()

    def _heal(self) -> None:
        with self._lock:
            if self.healed_at is None:
                try:
                    self._injector.heal()
                except RaywardError as problem:
                    self.problem = str(problem).splitlines()[0]
                self.healed_at = time.monotonic()

    def join(self) -> None:
        """Wait for the planned healing."""
        if self._thread is not None:
            self._thread.join()

    def now(self) -> None:
        """Heal now if nobody has."""
        self._asked.set()
        self._heal()


class Session:
    """A context manager: entering checks the cluster and starts the load, leaving ends the load.

    Raises RaywardError when the cluster cannot be drilled at all.
    """

    def __init__(self, cluster: LocalCluster, limit: float, quiet_actors: int, tell: Tell) -> None:
        self.cluster = cluster
        self.limit = limit
        self.tell = tell
        self.quiet_actors_s: tuple[float, ...] = ()
        self.wanted_heads = 1
        self.lease_ttl = 3.0
        self._quiet_actors = quiet_actors
        self._probe: ProbeProcess | None = None

    def __enter__(self) -> Session:
        require_ready(self.cluster)
        for found in heal_leftovers(self.cluster):
            self.tell(f"left from an earlier drill: {found}")
        lead = heads.leader(self.cluster)
        self.wanted_heads = len(census.head_pods(self.cluster))
        self.lease_ttl = float((lead.status.get("lead") or {}).get("lease_ttl_s") or self.lease_ttl)
        try:
            self.start_load()
        except BaseException:
            self.end_load()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_load()

    def start_load(self) -> None:
        """Start the probe in a worker; it keeps state and calls until `end_load`."""
        worker = census.worker_pods(self.cluster)[0]["metadata"]["name"]
        self.tell(f"load: a probe starts in Pod {worker} (actors, tasks, a placement group, entries)")
        self._probe = ProbeProcess(self.cluster, worker)
        self._probe.send(
            "set_up",
            token=secrets.token_hex(4),
            limit=self.limit,
            entries=20,
            quiet_actors=self._quiet_actors,
            call_pause=0.005,
            task_pause=0.1,
            put_pause=0.05,
        )
        self.quiet_actors_s += tuple(self._probe.receive("set_up", _SET_UP_LIMIT)["quiet_actors"])

    def end_load(self) -> None:
        """End the probe and what it made."""
        probe, self._probe = self._probe, None
        if probe is not None:
            probe.close()

    def check(self, fault: Fault) -> None:
        """Raise RaywardError when the cluster lacks what a fault needs."""
        missing = lacks(self.cluster, fault)
        if missing:
            raise RaywardError(
                f"{fault.name} needs {missing}",
                where=f"cluster {self.cluster.name}",
                todo="without --cluster, and with none up, a drill brings up what it needs by itself",
            )

    def run(self, order: Order, generator: random.Random) -> RunRecord:
        """Wait a while under quiet load, inject, watch, heal, and wait until the cluster is whole again."""
        time.sleep(order.pause + order.phase)
        cluster, fault = self.cluster, order.fault
        views = heads.look(cluster)
        lead = heads.choose_leader(views) or heads.leader(cluster)
        lease = heads.read_lease(cluster)
        scene = Scene(
            cluster=cluster,
            fault=fault,
            lead=lead,
            standbys=heads.standbys(views, lead),
            workers=census.worker_pods(cluster),
            number=order.turn,
            seconds=order.lasts,
            generator=generator,
            tell=self.tell,
            lease_ttl=self.lease_ttl,
        )
        facts = Facts(
            order=order,
            scene=scene,
            before=census.take(cluster),
            starts=starts_of(views),
            lease=lease,
            audit_from=audit.position(cluster, lease.epoch if lease else 0),
        )
        self.tell(
            f"run {order.number}: {fault.name}, {lead.name} leads"
            + (f" epoch {lead.epoch}" * bool(lead.epoch))
        )
        injector = INJECTORS[fault.name](scene)
        healer = Healer(injector)
        try:
            self._inject(facts, injector, healer)
        finally:
            healer.now()
        return self._afterwards(facts, injector, healer)

    def _inject(self, facts: Facts, injector: Injector, healer: Healer) -> None:
        fault, scene = facts.order.fault, facts.scene
        patience = fault.expects.patience_s(self.limit, scene.seconds, len(scene.standbys)) + _GRACE
        # Some faults play for a while before their moment, and end with another leader than they began with.
        watch = GcsWatch(self.cluster, scene.lead, patience) if not injector.prelude else None
        facts.injected = injector.inject()
        watch = watch or GcsWatch(self.cluster, scene.lead, patience)
        watch.start(facts.injected)
        if scene.seconds:
            healer.after(facts.injected + scene.seconds)
        watch.wait_for(fault.asking, _CLOSED_LIMIT)
        try:
            if fault.expects.state_kept:
                self._ask(facts, facts.injected + patience)
            healer.join()
            time.sleep(_LINGER)
        except ProbeEndedError as problem:
            facts.errors.append(str(problem).splitlines()[0])
        facts.seen = watch.finish(0.0 if facts.errors else self.limit)

    def _ask(self, facts: Facts, deadline: float) -> None:
        assert self._probe is not None
        number = facts.order.number
        self._probe.send("ask", run=number, limit=deadline - _GRACE - time.monotonic())
        for _ in ANSWERS:
            # Answers come in any order; the limit is one for all, and a grace for the line itself.
            try:
                answer = self._probe.receive("answer", max(1.0, deadline - time.monotonic()), number)
            except ProbeSilentError:
                return  # what is not answered by now counts as never
            if answer["at"] is not None:
                facts.answers[answer["what"]] = float(answer["at"])
            else:
                facts.problems.append(f"{answer['what'].replace('_', ' ')}: {answer['error']}")

    def _afterwards(self, facts: Facts, injector: Injector, healer: Healer) -> RunRecord:
        facts.target, facts.healed_at = injector.target, healer.healed_at
        if healer.problem:
            facts.problems.append(healer.problem)
        try:
            facts.problems += injector.aftermath()
            facts.target, facts.growth = injector.target, injector.growth
            facts.recovered_at = settle.wait_settled(self.cluster, self.wanted_heads)
            if not facts.order.fault.expects.state_kept:
                self._begin_again(facts)
            self._report(facts)
        except ProbeEndedError as problem:
            facts.errors.append(str(problem).splitlines()[0])
        except RaywardError as problem:
            facts.problems.append(str(problem).splitlines()[0])
            self._report_late(facts)
        facts.found = audit.since(self.cluster, facts.audit_from)
        return build(self.cluster, facts)

    def _begin_again(self, facts: Facts) -> None:
        """Everything that the load had is gone with the state: a load of its own, and the questions now."""
        self.end_load()
        self.start_load()
        self._ask(facts, time.monotonic() + self.limit + _GRACE)

    def _report_late(self, facts: Facts) -> None:
        with contextlib.suppress(RaywardError):
            self._report(facts)

    def _report(self, facts: Facts) -> None:
        if self._probe is None or facts.errors:
            return
        number = facts.order.number
        self._probe.send("report", run=number)
        facts.report = self._probe.receive("report", _REPORT_LIMIT, number)
        alive = self._alive_heads(number)
        if alive != 1:
            facts.problems.append(f"{alive} nodes are living heads to the GCS, {_HEADS_LIMIT:g} s later")

    def _alive_heads(self, number: int) -> int:
        """How many heads the GCS takes for alive, once it has had the time to notice a lost one."""
        assert self._probe is not None
        deadline = time.monotonic() + _HEADS_LIMIT
        while True:
            self._probe.send("heads", run=number)
            alive = int(self._probe.receive("heads", _REPORT_LIMIT, number)["alive"])
            if alive == 1 or time.monotonic() > deadline:
                return alive
            time.sleep(0.5)

    def revive(self, limit: float) -> bool:
        """After a run that failed: whether the cluster, with a load of its own, can take another."""
        self.end_load()
        try:
            settle.wait_settled(self.cluster, self.wanted_heads, limit)
            self.start_load()
        except RaywardError as problem:
            self.tell(f"no further run here: {str(problem).splitlines()[0]}")
            return False
        return True


def starts_of(views: list[heads.HeadView]) -> dict[str, int]:
    """How often each head's agent has started a gcs_server; heads without an agent are left out."""
    found: dict[str, int] = {}
    for view in views:
        starts: Any = (view.status.get("processes") or {}).get(census.GCS, {}).get("starts")
        if starts is not None:
            found[view.name] = int(starts)
    return found


def require_ready(cluster: LocalCluster) -> None:
    """Raise RaywardError when a cluster is not there or not ready."""
    census.head_pods(cluster)
    progress = cluster.progress()
    if not progress.ready:
        states = ", ".join(f"{pod.name} {pod.status}" for pod in progress.pods if not pod.is_ready)
        raise RaywardError(
            f"not ready: {states or 'its RayCluster is not reconciled yet'}",
            where=f"cluster {cluster.name}",
            todo="wait until `rayward get pods` shows every Pod ready, then drill",
        )


def lacks(cluster: LocalCluster, fault: Fault) -> str:
    """What a cluster lacks for a fault, in words; empty when it lacks nothing."""
    for need in fault.needs:
        if not _HAS[need](cluster):
            return need.value
    return ""


def _has_standby(cluster: LocalCluster) -> bool:
    return any(view.role == "standby" for view in heads.look(cluster))


def _has_redis(cluster: LocalCluster) -> bool:
    with contextlib.suppress(RaywardError):
        return any(not is_sentinel(pod) for pod in stores(cluster))
    return False


def _has_sentinel(cluster: LocalCluster) -> bool:
    with contextlib.suppress(RaywardError):
        return any(is_sentinel(pod) for pod in stores(cluster))
    return False


_HAS: dict[Need, Callable[[LocalCluster], bool]] = {
    Need.NETWORK: lambda cluster: cluster.mode == "namespaces",
    Need.REDIS: _has_redis,
    Need.STANDBY: _has_standby,
    Need.SENTINEL: _has_sentinel,
}


def heal_leftovers(cluster: LocalCluster) -> list[str]:
    """Mend what a drill that was killed has left broken; returns what was found, in words."""
    found = injectors.heal_leftovers(cluster, cluster.pods())
    if cluster.mode == "namespaces" and Cut(fabric_of(cluster).path).heal():
        found.append("a packet filter between Pods")
    return found

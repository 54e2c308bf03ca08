"""A drill on Ray Serve: requests at a fixed rate, the same fault some times over, and what became of them.

The load begins before the first fault and ends after the last recovery; nothing of it stops in between.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from rayward.drill.machine import cluster_facts
from rayward.drill.serve_faults import ServeFault
from rayward.drill.serve_injectors import SERVE_INJECTORS, ServeInjector
from rayward.drill.serve_load import ServeLoad, measure_capacity, require_locust
from rayward.drill.serve_look import look, service_of, url_of
from rayward.drill.serve_requests import Request, missing_requests
from rayward.drill.serve_result import ServeOutcome, ServeRun
from rayward.drill.serve_shape import Shape, lacks, news
from rayward.errors import RaywardError
from rayward.local.cluster import LocalCluster

Tell = Callable[[str], None]

_SHARE = 0.5
_LINGER_S, _AT_LEAST_S = 2.0, 10.0
_POLL_S = 0.2
_WHOLE_FIRST_S = 30.0


@dataclass(frozen=True)
class ServePlan:
    """What to do: ``runs`` times ``fault``. ``quiet_seconds`` of load before the first, ``pause`` before each
    later one, and up to ``phase`` more at random (by ``seed``); ``rate`` in requests per second, None for
    half of what is measured; ``limit`` seconds for the service to be whole again."""

    fault: ServeFault
    runs: int
    seed: int
    quiet_seconds: float = 60.0
    pause: float = 5.0
    phase: float = 1.0
    rate: float | None = None
    new_connections: bool = False
    limit: float = 300.0


def run_serve_drill(cluster: LocalCluster, plan: ServePlan, tell: Tell) -> ServeOutcome:
    """Run the drill; raises RaywardError when the cluster cannot be drilled at all.

    A service that is not whole again in time ends the drill; the outcome says so and is not ok.
    """
    require_locust()
    service = service_of(cluster)["metadata"]["name"]
    require_whole(cluster)
    url = url_of(cluster)
    machine = {**cluster_facts(cluster), "load_average": os.getloadavg()[0]}
    capacity = None
    rate = plan.rate
    if rate is None:
        tell("load: measuring what can be served at the most, 5 s")
        capacity = measure_capacity(url, plan.new_connections)
        rate = max(1.0, round(capacity * _SHARE, 1))
    how = "a new connection each" if plan.new_connections else "connections kept"
    tell(f"load: {rate:g} requests per second to {url}, {how}")
    generator = random.Random(plan.seed)
    runs: list[ServeRun] = []
    ended_early = ""
    with ServeLoad(url, rate, plan.new_connections) as load:
        session = ServeSession(cluster, plan, load, tell)
        for number in range(1, plan.runs + 1):
            quiet = plan.quiet_seconds if number == 1 else plan.pause
            tell(f"run {number} of {plan.runs}: quiet load")
            try:
                runs.append(session.run(number, quiet + generator.uniform(0, plan.phase)))
            except RaywardError as error:
                # What was measured before is no worse for it.
                if not runs:
                    raise
                ended_early = f"run {number}: {error.what}"
                tell(ended_early)
                break
            tell(run_line(runs[-1]))
            if runs[-1].whole_at is None:
                ended_early = f"run {number}: the service was not whole again"
                break
    return ServeOutcome(
        fault=plan.fault.name,
        asked=plan.runs,
        seed=plan.seed,
        limit=plan.limit,
        quiet_seconds=plan.quiet_seconds,
        pause=plan.pause,
        rate=rate,
        capacity=capacity,
        new_connections=plan.new_connections,
        service=service,
        url=url,
        runs=tuple(runs),
        machine=machine,
        ended_early=ended_early,
    )


def run_line(run: ServeRun) -> str:
    """One run in a line, for somebody who watches. Pure."""
    why = run.failures()
    whole = "not whole again" if run.whole_at is None else f"whole after {run.whole_at - run.injected:.1f} s"
    lost = f", {len(run.in_flight_lost())} lost in flight" * bool(run.in_flight_lost())
    return f"run {run.number}: {len(run.requests)} requests, {len(run.failed())} failed{lost}, {whole}" + (
        f"; {'; '.join(why)}" if why else ""
    )


def require_whole(cluster: LocalCluster) -> None:
    """Wait a moment until nothing of the service is on its way, its address included; raises RaywardError
    when something is."""
    deadline = time.monotonic() + _WHOLE_FIRST_S
    while True:
        now = look(cluster)
        missing = lacks(now, now)
        if not missing and now.endpoints and (now.offered == now.endpoints or cluster.mode == "host"):
            return
        if time.monotonic() > deadline:
            raise RaywardError(
                f"its RayService is not whole: {', '.join(missing) or 'its address leads nowhere'}",
                where=f"cluster {cluster.name}",
                todo="`rayward status` says what it waits for",
            )
        time.sleep(_POLL_S)


class ServeSession:
    """One service under one load, into which faults are injected one after another."""

    def __init__(self, cluster: LocalCluster, plan: ServePlan, load: ServeLoad, tell: Tell) -> None:
        self._cluster, self._plan, self._load, self._tell = cluster, plan, load, tell
        self._begun = load.begun
        self._number = 0

    def run(self, number: int, quiet: float) -> ServeRun:
        """Quiet load for so long, then the fault, then whatever it takes until the service is whole again."""
        self._load.rest(quiet)
        fault = self._plan.fault
        before = look(self._cluster)
        injector = SERVE_INJECTORS[fault.name](self._cluster, number)
        problem, whole_at = "", None
        timeline: list[tuple[float, str]] = []
        try:
            injected = injector.inject()
            self._tell(f"run {number}: {fault.name}, {injector.target}")
            whole_at, missing = self._wait_whole(injected, before, injector, timeline)
            if whole_at is None:
                problem = f"not whole again {self._plan.limit:g} s later: {', '.join(missing)}"
            # A GCS is back in a tenth of a second; what follows from its death takes longer.
            self._load.rest(max(_LINGER_S, injected + _AT_LEAST_S - time.monotonic()))
        finally:
            injector.heal()
        ended = time.monotonic()
        begun, self._begun = self._begun, ended
        return ServeRun(
            number=number,
            target=injector.target,
            begun=begun,
            injected=injected,
            ended=ended,
            whole_at=whole_at,
            requests=self._requests(ended),
            loses_in_flight=fault.loses_in_flight,
            timeline=tuple(timeline),
            problem=problem,
        )

    def _wait_whole(
        self, injected: float, before: Shape, injector: ServeInjector, timeline: list[tuple[float, str]]
    ) -> tuple[float | None, list[str]]:
        """The moment at which nothing was missing any more, None when that did not come, with what was."""
        deadline = injected + self._plan.limit
        last, changes = before, self._plan.fault.changes
        while True:
            now = look(self._cluster, deep=False)
            moment = time.monotonic()
            timeline += [(moment, words) for words in news(last, now)]
            last = now
            # Files first: asking heads and looking through all processes would itself be a load.
            missing = lacks(before, now, injector.gone)
            if not missing:
                missing = lacks(before, look(self._cluster), injector.gone, changes)
            if not missing:
                return time.monotonic(), []
            if moment > deadline:
                return None, missing
            self._load.rest(_POLL_S)

    def _requests(self, ended: float) -> tuple[Request, ...]:
        """All that were due since the last run, also those of which nothing was heard."""
        due = self._load.reported(ended)
        first, self._number = self._number, due
        found = [request for request in self._load.requests if first <= request.number < due]
        assert self._load.rate is not None
        found += missing_requests(found, first, due, self._load.begun, self._load.rate)
        return tuple(sorted(found))

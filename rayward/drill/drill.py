"""One drill: the same fault, some times over, into one cluster under load.

``run_drill`` observes and acts; what a run's facts mean is for ``record`` and ``result`` to say.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rayward.drill import census, record
from rayward.drill.faults import Fault
from rayward.drill.injection import Injection, Seen
from rayward.drill.machine import cluster_facts
from rayward.drill.probe_process import Finding, ProbeEndedError, ProbeProcess
from rayward.drill.record import ANSWERS, RunRecord
from rayward.drill.result import DrillOutcome, stop_reason
from rayward.errors import RaywardError
from rayward.local.cluster import LocalCluster
from rayward.local.state import Manifest

_SET_UP_LIMIT = 90.0
_LINGER = 1.0
_CLOSED_LIMIT = 2.0
_REPORT_LIMIT = 45.0
_BEFORE, _AFTER = 1.0, 6.0

Tell = Callable[[str], None]


@dataclass(frozen=True)
class DrillPlan:
    """What to do: ``runs`` times ``fault``; ``pause`` seconds of quiet load before each, plus up to ``phase``
    seconds at random (by ``seed``), so that no run falls on the same beat of any timer; ``limit`` seconds to
    wait for answers."""

    fault: Fault
    runs: int
    seed: int
    pause: float = 2.0
    phase: float = 1.0
    limit: float = 30.0
    quiet_actors: int = 5


def run_drill(cluster: LocalCluster, plan: DrillPlan, tell: Tell) -> DrillOutcome:
    """Run the drill; raises RaywardError when the cluster cannot be drilled at all.

    A run that the cluster does not survive ends the drill; the outcome says so and is not ok.
    """
    _require_ready(cluster)
    census.gcs_process(cluster)
    worker = census.worker_pods(cluster)[0]["metadata"]["name"]
    machine = cluster_facts(cluster)
    generator = random.Random(plan.seed)
    runs: list[RunRecord] = []
    tell(f"load: a probe starts in Pod {worker} (actors, tasks, a placement group, entries)")
    with ProbeProcess(cluster, worker) as probe:
        probe.send(
            "set_up",
            token=secrets.token_hex(4),
            limit=plan.limit,
            entries=20,
            quiet_actors=plan.quiet_actors,
            call_pause=0.005,
            task_pause=0.1,
        )
        quiet = probe.receive("set_up", _SET_UP_LIMIT)
        ended_early = ""
        for number in range(1, plan.runs + 1):
            tell(f"run {number} of {plan.runs}: quiet load")
            phase = generator.uniform(0, plan.phase)
            time.sleep(plan.pause + phase)
            runs.append(_one_run(cluster, plan, probe, number, phase, tell))
            tell(_line(runs[-1], plan.limit))
            ended_early = stop_reason(runs, plan.limit)
            if ended_early:
                break
    return DrillOutcome(
        fault=plan.fault.name,
        asked=plan.runs,
        seed=plan.seed,
        limit=plan.limit,
        pause=plan.pause,
        runs=tuple(runs),
        quiet_actors_s=tuple(quiet["quiet_actors"]),
        machine=machine,
        ended_early=ended_early,
    )


def _require_ready(cluster: LocalCluster) -> None:
    census.head_pod(cluster)
    progress = cluster.progress()
    if not progress.ready:
        states = ", ".join(f"{pod.name} {pod.status}" for pod in progress.pods if not pod.is_ready)
        raise RaywardError(
            f"not ready: {states or 'its RayCluster is not reconciled yet'}",
            where=f"cluster {cluster.name}",
            todo="wait until `rayward get pods` shows every Pod ready, then drill",
        )


def _line(run: RunRecord, limit: float) -> str:
    """One run in a line, for somebody who watches."""
    why = record.failures(run, limit)
    told = ", ".join(
        f"{name.replace('_', ' ')} {seconds:.2f} s"
        if seconds is not None
        else f"{name.replace('_', ' ')} never"
        for name, seconds in (
            ("GCS serves", run.gcs_ready_s),
            ("new_actor", run.new_actor_s),
            ("task", run.task_s),
            ("placement_group", run.placement_group_s),
        )
    )
    gap = (
        f"longest gap between calls {run.call_gap_max_s * 1000:.0f} ms"
        if run.call_gap_max_s is not None
        else ""
    )
    verdict = "FAILED: " + "; ".join(why) if why else "held"
    return f"run {run.run}: {verdict} ({told}{', ' + gap if gap else ''})"


def _one_run(
    cluster: LocalCluster, plan: DrillPlan, probe: ProbeProcess, number: int, phase: float, tell: Tell
) -> RunRecord:
    before = census.take(cluster)
    starts = _gcs_starts(cluster)
    process = census.gcs_process(cluster)
    injection = Injection(plan.fault, process, census.gcs_address(cluster), plan.limit)
    tell(f"run {number} of {plan.runs}: {plan.fault.name}, gcs_server pid {process[0]}")
    injected = injection.start()
    if plan.fault.shuts_down:
        injection.wait_closed(_CLOSED_LIMIT)
    errors: list[str] = []
    answers: dict[str, float] = {}
    report: Finding | None = None
    try:
        probe.send("ask", run=number, limit=plan.limit)
        for _ in ANSWERS:
            # Answers come in any order; the limit is one for all, and a grace for the line itself.
            answer = probe.receive("answer", max(1.0, injected + plan.limit + 10 - time.monotonic()), number)
            if answer["at"] is not None:
                answers[answer["what"]] = float(answer["at"])
            else:
                errors.append(f"{answer['what'].replace('_', ' ')}: {answer['error']}")
        time.sleep(_LINGER)
        probe.send("report", run=number)
        report = probe.receive("report", _REPORT_LIMIT, number)
    except ProbeEndedError as problem:
        errors.append(str(problem).splitlines()[0])
    seen = injection.finish(0.0 if errors else plan.limit)
    return _record(number, phase, seen, answers, report, errors, _After(cluster, before, starts, process))


@dataclass(frozen=True)
class _After:
    """What to compare with once a run is over."""

    cluster: LocalCluster
    before: census.Census
    gcs_starts: int | None
    gcs: census.Identity


def _record(
    number: int,
    phase: float,
    seen: Seen,
    answers: dict[str, float],
    report: Finding | None,
    errors: Sequence[str],
    past: _After,
) -> RunRecord:
    injected = seen.injected
    events = _agent_events(past.cluster)
    now = census.take(past.cluster)
    calls = record.calls_of(report["calls"], injected) if report else ()
    tasks = record.calls_of(report["tasks"], injected) if report else ()
    lost = report["lost"] if report else {}
    until = float(report["now"]) - injected if report else 0.0

    def since(moment: float | None) -> float | None:
        return None if moment is None else moment - injected

    moments: dict[str, tuple[float | None, str]] = {
        "FaultInjected": (0.0, "the signal was sent"),
        "GcsDead": (since(seen.died), "the old gcs_server is gone"),
        "GcsServes": (since(seen.served), "a gcs_server answers on its port"),
    }
    moments.update(
        {
            f"{name}_answered": (
                since(answers.get(name)),
                f"a new {name.replace('_', ' ').removeprefix('new ')} answered",
            )
            for name in ANSWERS
        }
    )
    again = _restarted_at(events, injected)
    return RunRecord(
        run=number,
        gcs_dead_s=since(seen.died),
        gcs_ready_s=since(seen.served),
        gcs_start_s=seen.served - again if seen.served is not None and again is not None else None,
        new_actor_s=since(answers.get("new_actor")),
        task_s=since(answers.get("task")),
        placement_group_s=since(answers.get("placement_group")),
        call_gap_max_s=record.longest_gap(calls, 0.0, until) if report else None,
        calls=len(calls),
        calls_failed=sum(bool(call.error) for call in calls),
        tasks=len(tasks),
        tasks_failed=sum(bool(task.error) for task in tasks),
        worker_restarts=census.restarts_between(past.before, now, heads=False),
        head_pod_restarts=census.restarts_between(past.before, now, heads=True),
        gcs_restarts=_gcs_restarts(past),
        asked_again=int(report["asked_again"]) if report else 0,
        actors_lost=int(lost.get("actors", 0)),
        placement_groups_lost=int(lost.get("placement_groups", 0)),
        kv_entries_lost=int(lost.get("kv_entries", 0)),
        phase_s=phase,
        errors=tuple(errors),
        timeline=record.timeline(injected, events, moments),
        calls_around=record.around(calls, _BEFORE, max(_AFTER, (since(answers.get("new_actor")) or 0.0) + 1)),
    )


def _head_status(cluster: LocalCluster) -> dict[str, Any]:
    return cluster.agent_status(census.head_pod(cluster)) or {}


def _gcs_starts(cluster: LocalCluster) -> int | None:
    """How often the head's agent has started a gcs_server, None where there is no agent."""
    found = _head_status(cluster).get("processes", {}).get(census.GCS, {}).get("starts")
    return None if found is None else int(found)


def _gcs_restarts(past: _After) -> int:
    try:
        now = _gcs_starts(past.cluster)
        if now is not None and past.gcs_starts is not None and now >= past.gcs_starts:
            return now - past.gcs_starts
        return int(census.gcs_process(past.cluster) != past.gcs)
    except RaywardError:
        return 0


def _agent_events(cluster: LocalCluster) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for pod in _ray_pods(cluster):
        status = cluster.agent_status(pod)
        if status is not None:
            found[pod["metadata"]["name"]] = status["events"]
    return found


def _ray_pods(cluster: LocalCluster) -> list[Manifest]:
    try:
        return [census.head_pod(cluster), *census.worker_pods(cluster)]
    except RaywardError:
        return []


def _restarted_at(events: dict[str, list[dict[str, Any]]], injected: float) -> float | None:
    """When the new gcs_server was executed, in the words of the head's agent."""
    for found in events.values():
        for event in found:
            again = event["reason"] == "ProcessRestarted" and event["details"].get("role") == census.GCS
            if again and event["monotonic"] >= injected:
                return float(event["monotonic"])
    return None

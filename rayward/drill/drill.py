"""One drill: the same fault, some times over, into one cluster under load."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from rayward.drill import record
from rayward.drill.faults import Fault
from rayward.drill.machine import cluster_facts
from rayward.drill.order import Order
from rayward.drill.record import RunRecord
from rayward.drill.result import DrillOutcome, stop_reason
from rayward.drill.session import Session, require_ready
from rayward.errors import RaywardError
from rayward.local.cluster import LocalCluster

Tell = Callable[[str], None]


@dataclass(frozen=True)
class DrillPlan:
    """What to do: ``runs`` times ``fault``; ``pause`` seconds of quiet load before each, plus up to ``phase``
    seconds at random (by ``seed``), so that no run falls on the same beat of any timer; ``limit`` seconds to
    wait for answers; ``seconds`` how long each fault lasts, None for its own duration."""

    fault: Fault
    runs: int
    seed: int
    pause: float = 2.0
    phase: float = 1.0
    limit: float = 30.0
    quiet_actors: int = 5
    seconds: float | None = None


def check_plan(plan: DrillPlan) -> None:
    """Raise RaywardError for a duration that means nothing."""
    if plan.seconds is not None and not plan.fault.seconds:
        raise RaywardError(
            f"{plan.fault.name} has no duration: it is over at once", where="--seconds", todo="leave it out"
        )


def run_drill(cluster: LocalCluster, plan: DrillPlan, tell: Tell) -> DrillOutcome:
    """Run the drill; raises RaywardError when the cluster cannot be drilled at all.

    A run that the cluster does not survive ends the drill; the outcome says so and is not ok.
    """
    check_plan(plan)
    require_ready(cluster)
    machine = cluster_facts(cluster)
    generator = random.Random(plan.seed)
    runs: list[RunRecord] = []
    ended_early = ""
    with Session(cluster, plan.limit, plan.quiet_actors, tell) as session:
        session.check(plan.fault)
        for number in range(1, plan.runs + 1):
            tell(f"run {number} of {plan.runs}: quiet load")
            phase = generator.uniform(0, plan.phase)
            runs.append(
                session.run(Order(plan.fault, number, plan.pause, phase, plan.seconds, number), generator)
            )
            tell(run_line(runs[-1], plan.limit))
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
        quiet_actors_s=session.quiet_actors_s,
        machine=machine,
        ended_early=ended_early,
        lease_ttl=session.lease_ttl,
    )


def run_line(run: RunRecord, limit: float) -> str:
    """One run in a line, for somebody who watches. Pure."""
    why = record.failures(run, limit)
    serves = run.gcs_ready_s is not None or run.gcs_dead_s is not None
    named = (
        *((("GCS serves", run.gcs_ready_s),) if serves else ()),
        ("new actor", run.new_actor_s),
        ("task", run.task_s),
        ("placement group", run.placement_group_s),
    )
    told = [f"{name} {seconds:.2f} s" if seconds is not None else f"{name} never" for name, seconds in named]
    if run.call_gap_max_s is not None:
        told.append(f"longest gap between calls {run.call_gap_max_s * 1000:.0f} ms")
    if run.failover is not None:
        told.append(f"{run.failover.to_member} leads epoch {run.failover.to_epoch}")
    verdict = "FAILED: " + "; ".join(why) if why else "held"
    return f"run {run.run}, {run.fault}: {verdict} ({', '.join(told)})"

"""Which faults a suite injects, in which order, and what their results say together. Pure.

The order is drawn from a seed: the same seed and the same set of faults give the same suite.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rayward.drill.faults import FAULTS, Fault
from rayward.drill.order import Order
from rayward.drill.record import RunRecord, failures
from rayward.drill.result import DrillOutcome, changes, promise, result_json
from rayward.drill.statistics import spread
from rayward.drill.table import seconds

SUITE = "suite"
CONTROLS = ("ft-off", "fence-off")
CONTROL_RUNS = 3
_REDIS_AWAY_S = (1.0, 3.0, 3.0, 10.0, 10.0, 60.0)
_SHORTEST_S, _LONGEST_S = 5.0, 12.0


@dataclass(frozen=True)
class SuitePlan:
    """What to do: inject until ``minutes`` have passed or ``runs`` are done (None: no such end), in the order
    of ``seed``; ``pause``, ``phase`` and ``limit`` (seconds) as in a drill."""

    seed: int
    minutes: float | None = 10.0
    runs: int | None = None
    pause: float = 2.0
    phase: float = 1.0
    limit: float = 30.0
    quiet_actors: int = 5


@dataclass(frozen=True)
class SuiteOutcome:
    """What a suite measured. ``skipped``: faults that the cluster could not be given, and why; ``clusters``:
    how many were used, one more after each run that one did not survive."""

    drill: DrillOutcome
    skipped: Mapping[str, str] = field(default_factory=dict)
    clusters: int = 1
    control: str = ""

    @property
    def ok(self) -> bool:
        """Whether every run held, and there was one. A negative control has to go red instead."""
        return went_red(self) if self.control else self.drill.ok and bool(self.drill.runs)


def mixed() -> tuple[Fault, ...]:
    """The faults that a suite takes from."""
    return tuple(fault for fault in FAULTS if fault.weight)


def control_faults(control: str) -> tuple[Fault, ...]:
    """What a negative control injects, over and over."""
    wanted = {"ft-off": ("gcs-kill",), "fence-off": ("host-freeze",)}[control]
    return tuple(fault for fault in FAULTS if fault.name in wanted)


def orders(plan: SuitePlan, faults: Sequence[Fault]) -> Iterator[Order]:
    """Injections without end: first each fault once in a random order, so that none is missed, then by
    weight. ``turn`` counts the injections of each fault."""
    if not faults:
        return
    generator = random.Random(plan.seed)
    first = random.Random(plan.seed).sample(list(faults), len(faults))
    turns: dict[str, int] = {}
    number = 0
    while True:
        number += 1
        fault = first.pop() if first else generator.choices(faults, [item.weight for item in faults])[0]
        turns[fault.name] = turns.get(fault.name, 0) + 1
        yield Order(
            fault=fault,
            number=number,
            pause=plan.pause,
            phase=generator.uniform(0, plan.phase),
            seconds=_duration(fault, generator),
            turn=turns[fault.name],
        )


def _duration(fault: Fault, generator: random.Random) -> float | None:
    if not fault.seconds or fault.name == "redis-reset":
        return None
    if fault.name == "redis-restart":
        return generator.choice(_REDIS_AWAY_S)
    return round(generator.uniform(_SHORTEST_S, _LONGEST_S), 1)


def went_red(outcome: SuiteOutcome) -> bool:
    """Whether a negative control did what it has to: without fault tolerance a run fails; without the fence
    the store accepts writes of an old epoch."""
    if outcome.control == "fence-off":
        return any(run.stale_writes for run in outcome.drill.runs)
    limit = outcome.drill.limit
    return any(run.state_lost or run.writes_lost or _unanswered(run, limit) for run in outcome.drill.runs)


def _unanswered(run: RunRecord, limit: float) -> bool:
    return any(word.startswith("no new") for word in failures(run, limit))


def by_fault(outcome: DrillOutcome) -> dict[str, DrillOutcome]:
    """The runs of each fault as a drill of its own, in the order of the list of faults."""
    found: dict[str, DrillOutcome] = {}
    for fault in FAULTS:
        runs = tuple(run for run in outcome.runs if run.fault == fault.name)
        if runs:
            found[fault.name] = replace(outcome, fault=fault.name, runs=runs, asked=len(runs), ended_early="")
    return found


def suite_json(outcome: SuiteOutcome) -> dict[str, Any]:
    """The whole result: that of a drill over all runs, and for each fault its figures."""
    whole = result_json(outcome.drill)
    parts = {}
    for name, part in by_fault(outcome.drill).items():
        found = result_json(part)
        parts[name] = {key: found[key] for key in ("n", "ok", "figures", "promise")}
        parts[name]["held"] = sum(not failures(run, part.limit) for run in part.runs)
    return {
        **whole,
        "fault": SUITE,
        "ok": outcome.ok,
        "control": outcome.control or None,
        "faults": parts,
        "skipped": dict(outcome.skipped),
        "clusters": outcome.clusters,
    }


COLUMNS = (
    "fault", "held", "new actor p50", "max", "promise", "longest gap", "failovers", "workers restarted",
    "GCS restarted", "calls failed", "lost", "stale writes",
)  # fmt: skip


def suite_rows(outcome: DrillOutcome) -> list[list[str]]:
    """One row for each fault, and one for all."""
    rows = [_row(name, part) for name, part in by_fault(outcome).items()]
    return [*rows, _row("all", replace(outcome, fault=SUITE))]


def _row(name: str, part: DrillOutcome) -> list[str]:
    runs = part.runs
    actors = spread(run.new_actor_s for run in runs)
    gaps = spread(run.call_gap_max_s for run in runs)
    held = sum(not failures(run, part.limit) for run in runs)
    given = promise(part)
    counted = [run.stale_writes for run in runs if run.stale_writes is not None]
    kept = "" if given is None else f"{given['new_actor_p50_s']:g} s {'kept' if given['kept'] else 'MISSED'}"
    return [
        name,
        f"{held} of {len(runs)}",
        seconds(actors["p50"]),
        seconds(actors["max"]),
        kept,
        seconds(gaps["max"]),
        str(sum(changes(run) for run in runs)),
        str(sum(run.worker_restarts for run in runs)),
        str(sum(run.gcs_restarts for run in runs)),
        f"{sum(run.calls_failed for run in runs)} of {sum(run.calls for run in runs):,}",
        str(sum(run.state_lost + run.writes_lost for run in runs)),
        str(sum(counted)) if counted else "unknown",
    ]

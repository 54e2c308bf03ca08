"""A drill's result as JSON: the figures over all runs, the runs, and the machine. Pure.

These names are a promise to whoever reads the files; later faults add to them and rename nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rayward.drill.faults import Failover, known_fault
from rayward.drill.record import RunRecord, failures
from rayward.drill.statistics import median, ratio, spread

_SPREADS = {
    "gcs_ready_s": "gcs_ready_s",
    "new_actor_s": "new_actor_s",
    "task_s": "task_s",
    "placement_group_s": "placement_group_s",
    "call_gap_s": "call_gap_max_s",
}
_SUMS = (
    "calls",
    "calls_failed",
    "tasks",
    "tasks_failed",
    "worker_restarts",
    "head_pod_restarts",
    "gcs_restarts",
    "asked_again",
    "state_lost",
    "writes",
    "writes_lost",
)


@dataclass(frozen=True)
class DrillOutcome:
    """Everything that one drill measured. ``quiet_actors_s`` are new actors while nothing was wrong;
    ``limit`` is the bound in seconds that a run was held against; ``asked`` how many runs were asked for;
    ``lease_ttl`` the lease's length in seconds, on which the promise for a silent head rests."""

    fault: str
    asked: int
    seed: int
    limit: float
    pause: float
    runs: tuple[RunRecord, ...]
    quiet_actors_s: tuple[float, ...]
    machine: Mapping[str, Any]
    ended_early: str = ""
    lease_ttl: float = 3.0

    @property
    def ok(self) -> bool:
        """Whether every run that was asked for took place and held."""
        held = all(not failures(run, self.limit) for run in self.runs)
        return held and len(self.runs) == self.asked and not self.ended_early


def figures(outcome: DrillOutcome) -> dict[str, Any]:
    """Spreads over all runs, sums over all runs, and the floor: what no supervisor can be quicker than."""
    found: dict[str, Any] = {
        name: spread(getattr(run, attribute) for run in outcome.runs) for name, attribute in _SPREADS.items()
    }
    found.update({name: sum(getattr(run, name) for run in outcome.runs) for name in _SUMS})
    found["stale_writes"] = stale_writes(outcome.runs)
    found["failovers"] = sum(changes(run) for run in outcome.runs)
    found["recovered_s"] = spread(run.recovered_s for run in outcome.runs)
    starts = [run.gcs_start_s for run in outcome.runs if run.gcs_start_s is not None]
    found["floor"] = {
        "gcs_start_s": median(starts) if starts else None,
        "quiet_actor_s": median(outcome.quiet_actors_s) if outcome.quiet_actors_s else None,
    }
    return found


def changes(run: RunRecord) -> int:
    """How many changes of leader a run saw: one for each new epoch."""
    return max(len(run.epochs) - 1, int(run.failover is not None))


def stale_writes(runs: Sequence[RunRecord]) -> int | None:
    """Writes accepted from an old epoch, over all runs in which that could be counted; None without any."""
    counted = [run.stale_writes for run in runs if run.stale_writes is not None]
    return sum(counted) if counted else None


def promise(outcome: DrillOutcome) -> dict[str, Any] | None:
    """What is promised for the median of new_actor_s, and whether it was kept; None where nothing is."""
    fault = known_fault(outcome.fault)
    bound = fault.expects.bound_s(outcome.lease_ttl) if fault is not None else None
    alone = any(not run.standbys for run in outcome.runs)
    if fault is None or bound is None or (fault.expects.failover is Failover.YES and alone):
        return None
    reached = spread(run.new_actor_s for run in outcome.runs)["p50"]
    return {"new_actor_p50_s": bound, "reached_s": reached, "kept": reached is not None and reached <= bound}


def run_json(run: RunRecord, limit: float) -> dict[str, Any]:
    """One run, with its verdict."""
    why = failures(run, limit)
    return {**asdict(run), "state_lost": run.state_lost, "held": not why, "failures": why}


def result_json(outcome: DrillOutcome, stock: DrillOutcome | None = None) -> dict[str, Any]:
    """The whole result; with ``stock``, that of plain Ray beside it and the ratios of the medians."""
    found: dict[str, Any] = {
        "fault": outcome.fault,
        "n": len(outcome.runs),
        "ok": outcome.ok,
        "figures": figures(outcome),
        "runs": [run_json(run, outcome.limit) for run in outcome.runs],
        "machine": dict(outcome.machine),
        "asked": outcome.asked,
        "seed": outcome.seed,
        "pause_s": outcome.pause,
        "limit_s": outcome.limit,
        "ended_early": outcome.ended_early,
        "promise": promise(outcome),
    }
    if stock is not None:
        found["stock"] = {key: value for key, value in result_json(stock).items() if key != "machine"}
        found["times_quicker_than_stock"] = quicker(found["figures"], found["stock"]["figures"])
    return found


def quicker(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, float | None]:
    """By how much the medians differ, as a factor."""
    return {name: ratio(ours[name]["p50"], theirs[name]["p50"]) for name in _SPREADS if name != "call_gap_s"}


def stop_reason(runs: Sequence[RunRecord], limit: float) -> str:
    """Why no further run makes sense after the last one; empty when it does."""
    if not runs:
        return ""
    last = runs[-1]
    if last.new_actor_s is None:
        return f"run {last.run}: the cluster takes no new actor any more"
    return "" if not last.errors else f"run {last.run}: {failures(last, limit)[-1]}"

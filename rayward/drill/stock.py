"""The same drill against plain Ray: one head, ``ray start --head --block`` in a container that is restarted
when it ends, in a Pod that is replaced when its host is lost."""

from __future__ import annotations

from dataclasses import replace

from rayward.drill.drill import DrillPlan, Tell, run_drill
from rayward.drill.manifests import for_stock
from rayward.drill.record import RunRecord
from rayward.drill.result import DrillOutcome
from rayward.drill.temporary import temporary_cluster
from rayward.local.state import Manifest

STOCK_LIMIT = 180.0
_NAME = "drill-stock"


def run_stock(manifests: list[Manifest], plan: DrillPlan, runs: int, tell: Tell) -> DrillOutcome:
    """Drill plain Ray ``runs`` times, each in a cluster of its own: a second failure of the same Pod would
    also measure Kubernetes' growing restart delay, which is not Ray's doing."""
    records: list[RunRecord] = []
    outcomes: list[DrillOutcome] = []
    for number in range(1, runs + 1):

        def say(text: str, number: int = number) -> None:
            tell(f"stock Ray {number}/{runs}: {text}")

        with temporary_cluster(for_stock(manifests), _NAME, say) as cluster:
            one = replace(plan, runs=1, seed=plan.seed + number, limit=STOCK_LIMIT)
            outcomes.append(run_drill(cluster, one, say))
        records += [replace(record, run=number) for record in outcomes[-1].runs]
    last = outcomes[-1]
    quiet = tuple(seconds for outcome in outcomes for seconds in outcome.quiet_actors_s)
    ended = next((outcome.ended_early for outcome in outcomes if outcome.ended_early), "")
    return replace(
        last, asked=runs, seed=plan.seed, runs=tuple(records), quiet_actors_s=quiet, ended_early=ended
    )

"""The same drill against plain Ray: one head, ``ray start --head --block`` in a container that is restarted
when it ends, in a Pod that is replaced when its host is lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from rayward.drill.drill import DrillPlan, Tell, run_drill
from rayward.drill.manifests import for_stock
from rayward.drill.record import RunRecord
from rayward.drill.result import DrillOutcome
from rayward.drill.serve_result import ServeOutcome, ServeRun
from rayward.drill.serve_session import ServePlan, run_serve_drill
from rayward.drill.temporary import temporary_cluster
from rayward.local.cluster import LocalCluster
from rayward.local.state import Manifest

STOCK_LIMIT = 180.0
_NAME = "drill-stock"


def run_stock(manifests: list[Manifest], plan: DrillPlan, runs: int, tell: Tell) -> DrillOutcome:
    """Drill plain Ray ``runs`` times, each in a cluster of its own."""
    records: list[RunRecord] = []
    outcomes: list[DrillOutcome] = []
    for number in range(1, runs + 1):
        one = replace(plan, runs=1, seed=plan.seed + number, limit=STOCK_LIMIT)
        with _stock_cluster(manifests, number, runs, tell) as (cluster, say):
            outcomes.append(run_drill(cluster, one, say))
        records += [replace(record, run=number) for record in outcomes[-1].runs]
    quiet = tuple(seconds for outcome in outcomes for seconds in outcome.quiet_actors_s)
    return replace(
        outcomes[-1],
        asked=runs,
        seed=plan.seed,
        runs=tuple(records),
        quiet_actors_s=quiet,
        ended_early=_ended_early(outcomes),
    )


def run_serve_stock(
    manifests: list[Manifest], plan: ServePlan, rate: float, runs: int, tell: Tell
) -> ServeOutcome:
    """The same for a RayService, under ``rate`` requests per second: what rayward's own run was under."""
    records: list[ServeRun] = []
    outcomes: list[ServeOutcome] = []
    for number in range(1, runs + 1):
        one = replace(plan, runs=1, seed=plan.seed + number, limit=max(plan.limit, STOCK_LIMIT), rate=rate)
        with _stock_cluster(manifests, number, runs, tell) as (cluster, say):
            outcomes.append(run_serve_drill(cluster, one, say))
        records += [replace(record, number=number) for record in outcomes[-1].runs]
    return replace(
        outcomes[-1],
        asked=runs,
        seed=plan.seed,
        runs=tuple(records),
        ended_early=_ended_early(outcomes),
    )


@contextmanager
def _stock_cluster(
    manifests: list[Manifest], number: int, runs: int, tell: Tell
) -> Iterator[tuple[LocalCluster, Tell]]:
    """A cluster for one run: a second failure of the same Pod would also measure Kubernetes' growing restart
    delay, which is not Ray's doing."""

    def say(text: str) -> None:
        tell(f"stock Ray {number}/{runs}: {text}")

    with temporary_cluster(for_stock(manifests), _NAME, say) as cluster:
        yield cluster, say


def _ended_early(outcomes: Sequence[DrillOutcome | ServeOutcome]) -> str:
    return next((outcome.ended_early for outcome in outcomes if outcome.ended_early), "")

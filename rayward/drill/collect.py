"""Puts what was seen of one injection together into a RunRecord: moments, counts, agents' events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rayward.drill import audit, census, heads, record
from rayward.drill.census import Census
from rayward.drill.heads import Lease
from rayward.drill.injectors import Scene
from rayward.drill.order import Order
from rayward.drill.record import ANSWERS, Change, Mark, RunRecord
from rayward.drill.watch import Seen
from rayward.errors import RaywardError
from rayward.local.agent_status import is_ray_node
from rayward.local.cluster import LocalCluster

_BEFORE, _AFTER = 1.0, 6.0
NOBODY_LOOKED = audit.Finding(None, "nobody looked")
Events = dict[str, list[dict[str, Any]]]


@dataclass
class Facts:
    """One injection as it comes to be known. Moments are CLOCK_MONOTONIC."""

    order: Order
    scene: Scene
    before: Census
    starts: Mapping[str, int]
    lease: Lease | None
    audit_from: audit.Position | None
    injected: float = 0.0
    seen: Seen | None = None
    answers: dict[str, float] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    report: Mapping[str, Any] | None = None
    healed_at: float | None = None
    recovered_at: float | None = None
    target: str = ""
    growth: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    found: audit.Finding = NOBODY_LOOKED

    def since(self, moment: float | None) -> float | None:
        """Seconds from the fault to a moment."""
        return None if moment is None else moment - self.injected


def build(cluster: LocalCluster, facts: Facts) -> RunRecord:
    """The record of one injection, with what the cluster looks like now."""
    events = agent_events(cluster)
    now = census.take(cluster)
    report = facts.report or {}
    injected, lost = facts.injected, report.get("lost", {})
    calls = record.calls_of(report.get("calls", ()), injected)
    tasks = record.calls_of(report.get("tasks", ()), injected)
    served = facts.seen.served if facts.seen else None
    again = _executed_again(events, injected)
    lease = heads.read_lease(cluster)
    new_actor = facts.since(facts.answers.get("new_actor"))
    # A load that began after the fault has no gap to tell of.
    kept = bool(report) and facts.order.fault.expects.state_kept
    return RunRecord(
        run=facts.order.number,
        fault=facts.order.fault.name,
        target=facts.target,
        standbys=len(facts.scene.standbys),
        lasted_s=facts.since(facts.healed_at) or 0.0 if facts.scene.seconds else 0.0,
        recovered_s=facts.since(facts.recovered_at),
        gcs_dead_s=facts.since(facts.seen.died if facts.seen else None),
        gcs_ready_s=facts.since(served),
        gcs_start_s=served - again if served is not None and again is not None and served > again else None,
        new_actor_s=new_actor,
        task_s=facts.since(facts.answers.get("task")),
        placement_group_s=facts.since(facts.answers.get("placement_group")),
        call_gap_max_s=record.longest_gap(calls, 0.0, float(report["now"]) - injected) if kept else None,
        calls=len(calls),
        calls_failed=sum(bool(call.error) for call in calls),
        tasks=len(tasks),
        tasks_failed=sum(bool(task.error) for task in tasks),
        worker_restarts=census.restarts_between(facts.before, now, heads=False),
        head_pod_restarts=census.restarts_between(facts.before, now, heads=True),
        gcs_restarts=_gcs_restarts(cluster, facts),
        asked_again=int(report.get("asked_again", 0)),
        actors_lost=int(lost.get("actors", 0)),
        placement_groups_lost=int(lost.get("placement_groups", 0)),
        kv_entries_lost=int(lost.get("kv_entries", 0)),
        writes=int(report.get("writes", 0)),
        writes_lost=int(report.get("writes_lost", 0)),
        stale_writes=facts.found.stale,
        stale_writes_unknown=facts.found.unknown,
        failover=change_between(facts.lease, lease),
        epochs=epochs_between(facts.lease, lease),
        phase_s=facts.order.phase,
        problems=tuple(facts.problems),
        growth=dict(facts.growth),
        errors=tuple(facts.errors),
        timeline=_timeline(facts, events),
        calls_around=record.around(
            calls, _BEFORE, max([_AFTER, *(moment - injected + 1 for moment in facts.answers.values())])
        ),
    )


def change_between(before: Lease | None, after: Lease | None) -> Change | None:
    """The change of leader between two looks at the lease; None when there was none or nobody knows. Pure."""
    if before is None or after is None or before.epoch == after.epoch:
        return None
    return Change(before.holder, before.epoch, after.holder, after.epoch)


def epochs_between(before: Lease | None, after: Lease | None) -> tuple[int, ...]:
    """All epochs from the one before the fault to the last one; empty where there is no lease. Pure."""
    if before is None or after is None:
        return ()
    known = {before.epoch, after.epoch, *(epoch for epoch in after.epochs if epoch > before.epoch)}
    return tuple(sorted(known))


def _timeline(facts: Facts, events: Events) -> tuple[Mark, ...]:
    seen = facts.seen
    moments: dict[str, tuple[float | None, str]] = {
        "FaultInjected": (0.0, f"{facts.order.fault.name}: {facts.target}"),
        "GcsDead": (facts.since(seen.died if seen else None), "the old gcs_server is gone"),
        "GcsServes": (facts.since(seen.served if seen else None), "a gcs_server answers on its port"),
        "FaultHealed": (
            facts.since(facts.healed_at) if facts.scene.seconds else None,
            "the fault was taken away",
        ),
        "Recovered": (facts.since(facts.recovered_at), "all heads are back"),
    }
    for name in ANSWERS:
        words = f"a new {name.replace('_', ' ').removeprefix('new ')} answered"
        moments[f"{name}_answered"] = (facts.since(facts.answers.get(name)), words)
    return record.timeline(facts.injected, events, moments)


def _gcs_restarts(cluster: LocalCluster, facts: Facts) -> int:
    """How many gcs_servers came to serve or were started again: by the agents' counts, and at the least one
    where the leader's process is another one now. A standby's prepared one does not count."""
    try:
        lead = heads.leader(cluster)
    except RaywardError:
        return 0
    moved = int(lead.gcs != facts.scene.lead.gcs)
    if lead.name != facts.scene.lead.name:
        return moved
    starts: Any = (lead.status.get("processes") or {}).get(census.GCS, {}).get("starts")
    before = facts.starts.get(lead.name)
    return max(moved, int(starts) - before) if starts is not None and before is not None else moved


def agent_events(cluster: LocalCluster) -> Events:
    """What the agents of all Ray Pods have noted, by Pod; those that do not answer are left out."""
    found: Events = {}
    for pod in cluster.pods():
        if is_ray_node(pod) and not pod["metadata"].get("deletionTimestamp"):
            status = cluster.agent_status(pod, timeout=1.0)
            if status is not None:
                found[pod["metadata"]["name"]] = status["events"]
    return found


def _executed_again(events: Events, injected: float) -> float | None:
    """When the new gcs_server was executed, in the words of the head's agent."""
    for found in events.values():
        for event in found:
            again = event["reason"] == "ProcessRestarted" and event["details"].get("role") == census.GCS
            if again and event["monotonic"] >= injected:
                return float(event["monotonic"])
    return None

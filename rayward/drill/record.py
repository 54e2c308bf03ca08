"""One run of a drill as facts, and the verdict on it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from rayward.drill.faults import Expectation, Failover, find_fault

ANSWERS = ("new_actor", "task", "placement_group")


@dataclass(frozen=True)
class Call:
    """One call or task under load: ``at`` seconds after the fault (negative before it), how long it took,
    and what went wrong (empty when nothing did)."""

    at: float
    seconds: float
    error: str = ""


@dataclass(frozen=True)
class Mark:
    """Something that happened ``at`` seconds after the fault, in a Pod or as seen by the drill."""

    at: float
    what: str
    says: str
    where: str = ""


@dataclass(frozen=True)
class Change:
    """A change of leader: the member and the epoch before and after."""

    from_member: str
    from_epoch: int
    to_member: str
    to_epoch: int


@dataclass(frozen=True)
class RunRecord:
    """What one injected fault did. Times are seconds after the fault on CLOCK_MONOTONIC, None where the thing
    did not happen within the drill's limit: without a death of the GCS there is no ``gcs_ready_s``.

    ``gcs_start_s`` is from the new gcs_server's execution until it served, which no supervisor can shorten.
    ``asked_again`` counts requests for the new placement group that Ray broke off with an error, so that the
    caller had to ask again. ``lasted_s``: how long the fault was there. ``recovered_s``: until all heads were
    back, one serving, the others standing by. ``writes`` are acknowledged KV puts, each looked up afterwards;
    ``stale_writes`` writes that the store accepted from an old epoch, None where ``stale_writes_unknown``
    says why. ``target`` is what was hit; ``standbys`` how many heads stood by; ``problems`` what the fault's
    own check found wrong, ``growth`` what it counted before and after.
    """

    run: int
    fault: str = "gcs-kill"
    target: str = ""
    standbys: int = 0
    lasted_s: float = 0.0
    recovered_s: float | None = None
    writes: int = 0
    writes_lost: int = 0
    stale_writes: int | None = None
    stale_writes_unknown: str = "nobody looked"
    failover: Change | None = None
    epochs: tuple[int, ...] = ()
    problems: tuple[str, ...] = ()
    growth: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    gcs_dead_s: float | None = None
    gcs_ready_s: float | None = None
    gcs_start_s: float | None = None
    new_actor_s: float | None = None
    task_s: float | None = None
    placement_group_s: float | None = None
    call_gap_max_s: float | None = None
    calls: int = 0
    calls_failed: int = 0
    tasks: int = 0
    tasks_failed: int = 0
    worker_restarts: int = 0
    head_pod_restarts: int = 0
    gcs_restarts: int = 0
    asked_again: int = 0
    actors_lost: int = 0
    placement_groups_lost: int = 0
    kv_entries_lost: int = 0
    phase_s: float = 0.0
    errors: tuple[str, ...] = ()
    timeline: tuple[Mark, ...] = ()
    calls_around: tuple[Call, ...] = field(default=(), repr=False)

    @property
    def state_lost(self) -> int:
        """Everything that the GCS should have remembered and did not: actors, placement groups, entries."""
        return self.actors_lost + self.placement_groups_lost + self.kv_entries_lost


def failures(record: RunRecord, limit: float) -> list[str]:
    """Why a run did not hold, as sentences; empty when it did. ``limit`` is the longest wait, in seconds,
    for the first new actor, task and placement group: from the fault, or from its end where the fault lets
    nothing through."""
    expects = find_fault(record.fault).expects
    found = _unanswered(record, expects.patience_s(limit, record.lasted_s, record.standbys))
    if not record.calls:
        found.append("no call to the actor was answered or even made")
    restarts = 0 if expects.head_restarts else record.head_pod_restarts
    counts = [
        (restarts, f"{_restarts(restarts)} of the head Pod"),
        (record.stale_writes or 0, "writes accepted from an old epoch"),
    ]
    if expects.state_kept:
        counts += [
            (record.worker_restarts, f"{_restarts(record.worker_restarts)} of workers"),
            (record.calls_failed, f"of {record.calls} calls to a running actor failed"),
            (record.tasks_failed, f"of {record.tasks} tasks failed"),
            (record.actors_lost, "actors lost"),
            (record.placement_groups_lost, "placement groups lost"),
            (record.kv_entries_lost, "key-value entries lost"),
            (record.writes_lost, f"of {record.writes} acknowledged writes lost"),
        ]
    found += [f"{count} {what}" for count, what in counts if count]
    return [*found, *_unexpected(record, expects), *record.problems, *record.errors]


def _unanswered(record: RunRecord, limit: float) -> list[str]:
    found = []
    for name in ANSWERS:
        seconds = getattr(record, f"{name}_s")
        words = name.replace("_", " ").removeprefix("new ")
        if seconds is None:
            found.append(f"no new {words} within {limit:.0f} s")
        elif seconds > limit:
            found.append(f"the first new {words} took {seconds:.1f} s, the limit is {limit:.0f} s")
    return found


def _unexpected(record: RunRecord, expects: Expectation) -> list[str]:
    found = []
    if expects.gcs_restarts is not None and record.gcs_restarts > expects.gcs_restarts:
        found.append(
            f"{record.gcs_restarts} restarts of gcs_server, where {expects.gcs_restarts} are allowed"
        )
    if record.standbys and record.epochs:
        changed = record.failover
        if expects.failover is Failover.YES and changed is None:
            found.append("no other head took over")
        if expects.failover is Failover.NO and changed is not None:
            found.append(f"{changed.to_member} took over, which this fault does not call for")
    return found


def _restarts(count: int) -> str:
    return "restart" if count == 1 else "restarts"


def longest_gap(calls: Sequence[Call], begin: float, end: float) -> float | None:
    """The longest time between ``begin`` and ``end`` (seconds after the fault) without an answered call;
    None when no call was answered at all."""
    answered = sorted(call.at + call.seconds for call in calls if not call.error)
    if not answered:
        return None
    inside = [moment for moment in answered if begin <= moment <= end]
    moments = [begin, *inside, end]
    return max(later - earlier for earlier, later in pairwise(moments))


def calls_of(raw: Sequence[Sequence[Any]], injected: float) -> tuple[Call, ...]:
    """The probe's (start, seconds, error) triples, on the fault's own line of time."""
    return tuple(Call(float(start) - injected, float(took), error or "") for start, took, error in raw)


def around(calls: Sequence[Call], before: float, after: float, most: int = 600) -> tuple[Call, ...]:
    """The calls of a window around the fault, thinned out to ``most`` but never without the slowest ones
    and those that failed."""
    window = [call for call in calls if -before <= call.at <= after]
    if len(window) <= most:
        return tuple(window)
    notable = sorted(window, key=lambda call: (not call.error, -call.seconds))[: most // 3]
    step = len(window) / (most - len(notable))
    kept = {id(call) for call in notable}
    kept.update(id(window[int(index * step)]) for index in range(most - len(notable)))
    return tuple(call for call in window if id(call) in kept)


def timeline(
    injected: float,
    events: Mapping[str, Sequence[Mapping[str, Any]]],
    moments: Mapping[str, tuple[float | None, str]],
) -> tuple[Mark, ...]:
    """Agents' events by Pod (absolute ``monotonic``) and the drill's own moments (seconds after the fault,
    with a sentence) as one line of time."""
    marks = [
        Mark(float(event["monotonic"]) - injected, str(event["reason"]), _first_line(event["message"]), pod)
        for pod, found in events.items()
        for event in found
        if float(event["monotonic"]) >= injected
    ]
    marks += [Mark(at, what, says) for what, (at, says) in moments.items() if at is not None]
    return tuple(sorted(marks, key=lambda mark: mark.at))


def _first_line(text: object) -> str:
    return (str(text).splitlines() or [""])[0]

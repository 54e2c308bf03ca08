"""What the agent should do now: one pure function from what is to one action and the reason for it.

No I/O, no clock, no randomness, no memory between calls. The sentence is logged when it changes, shown by
``/status`` and asserted by tests, so it is written for the person who is paged.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from rayward.agent.gcs_probe import Serving
from rayward.agent.processes import Role
from rayward.agent.timing import Timing


class Kind(enum.Enum):
    """What this node is in the cluster."""

    HEAD = "head"
    WORKER = "worker"


class Phase(enum.Enum):
    """How far the node has come; the shell moves it on as it carries actions out. PREPARED: a GCS stands by,
    started and held before it has read or written anything."""

    WAITING_FOR_STORE = "waiting for the store"
    WAITING_FOR_GCS = "waiting for the GCS"
    PREPARING = "preparing"
    PREPARED = "prepared"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    FAILED = "failed"


class Step(enum.Enum):
    """The kinds of action that ``decide`` may ask for."""

    WAIT = "wait"
    START_NODE = "start node"
    ADOPT_NODE = "adopt node"
    START_PROCESS = "start process"
    KILL_GCS = "kill gcs_server"
    KILL_PROCESS = "kill process"
    RESTART_NODE = "restart node"
    PREPARE = "prepare a GCS"
    HOLD = "hold what is prepared"
    GO = "let the prepared GCS go"
    DISCARD = "discard what is prepared"
    GIVE_WAY = "hand over to a prepared head"
    STAND_BY = "stop the node and stand by"
    FAIL = "fail"


@dataclass(frozen=True)
class Action:
    """One step, why, and for START_PROCESS and KILL_PROCESS which process."""

    step: Step
    reason: str
    role: Role | None = None


@dataclass(frozen=True)
class GcsView:
    """A running gcs_server as seen from outside. ``refused_for``: since when its port is closed, 0 while it
    is not. ``main_thread_share``: which part of the last ``hung_limit`` seconds its main thread ran or wanted
    to run, 0 to 1 (1 where that is not known). ``waits_for_disk``: a thread of it does (state D)."""

    stopped_for: float
    silent_for: float
    served: bool
    main_thread_share: float
    last_answer: Serving = Serving.SERVING
    refused_for: float = 0.0
    waits_for_disk: bool = False


@dataclass(frozen=True)
class DeadProcess:
    """One of the node's processes that should run and does not."""

    role: Role
    dead_for: float
    quick_deaths: int
    cause: str


@dataclass(frozen=True)
class StoreView:
    """What the last check of the store found; ``fault`` is empty when the store answered."""

    checked: bool
    fault: str = ""
    transient: bool = True
    waited: float = 0.0


@dataclass(frozen=True)
class Observation:
    """Everything that a decision may depend on."""

    kind: Kind
    phase: Phase
    durable_store: bool = True
    store: StoreView = StoreView(checked=True)
    remote_gcs: Serving | None = None
    start_exit_code: int | None = None
    start_runs_for: float = 0.0
    failed_starts: int = 0
    since_failed_start: float = 0.0
    start_failure: str = ""
    gcs: GcsView | None = None
    gcs_died_ago: float | None = None
    gcs_away: bool = False
    dead: tuple[DeadProcess, ...] = ()
    stopped: tuple[tuple[Role, float], ...] = ()
    can_hand_over: bool = False
    recycle: str = ""


def holds_dashboard(seen: Observation, timing: Timing) -> bool:
    """Whether the dashboard should stand still now.

    One of its modules, once refused by a GCS, asks again and again without a pause until gRPC's default
    back-off of 1 s is over (seen on Ray 2.60: a whole processor for that second), just when the next GCS and
    new workers need the processor. It can do nothing useful meanwhile, so it is held until that back-off has
    passed and the GCS serves, but never for long.
    """
    ago = seen.gcs_died_ago
    if seen.phase is not Phase.RUNNING or not seen.durable_store or ago is None:
        return False
    return ago < timing.hold_least or (seen.gcs_away and ago < timing.hold_limit)


class Verdict(enum.Enum):
    """How a running gcs_server is doing. Only STOPPED and HUNG end it."""

    SERVING = "serving"
    STARTING = "starting"
    QUIET = "quiet"
    BUSY = "busy"
    STOPPED = "stopped"
    HUNG = "hung"


def judge_gcs(gcs: GcsView, timing: Timing) -> tuple[Verdict, str]:  # noqa: PLR0911 - one for each verdict
    """Tell a hung GCS from a busy one.

    Silence alone proves nothing: a GCS that loads 10,000 actors answers nobody for a while and must be
    left alone, and so must one whose disk is slow. A main thread that neither runs nor waits for a processor
    or a disk is not working on an answer. A closed port is not silence: a GCS never closes it and goes on.
    """
    if gcs.stopped_for >= timing.stopped_limit:
        return Verdict.STOPPED, f"gcs_server has been stopped for {gcs.stopped_for:.1f} s"
    if gcs.served and gcs.refused_for >= timing.closed_limit:
        return Verdict.HUNG, f"gcs_server closed its port {gcs.refused_for:.1f} s ago and has not ended since"
    if gcs.silent_for < timing.probe_interval + timing.probe_timeout:
        if gcs.served:
            return Verdict.SERVING, "gcs_server serves"
        return Verdict.STARTING, "gcs_server is starting"
    silence = f"gcs_server has given no answer for {gcs.silent_for:.1f} s ({gcs.last_answer.value})"
    if gcs.main_thread_share >= timing.busy_share or gcs.waits_for_disk:
        if gcs.silent_for < timing.busy_limit:
            doing = "it waits for its disk" if gcs.waits_for_disk else "its main thread is busy"
            return Verdict.BUSY, f"{silence} but {doing}: left alone"
        return Verdict.HUNG, f"{silence}, busy all the time: longer than {timing.busy_limit:g} s is hung"
    limit = timing.hung_limit if gcs.served else timing.start_limit
    if gcs.silent_for >= limit:
        return Verdict.HUNG, f"{silence} and its main thread does nothing"
    return (Verdict.QUIET if gcs.served else Verdict.STARTING), silence


def decide(seen: Observation, timing: Timing) -> Action:
    """The next action for this node. Called again after each action until it says WAIT."""
    if seen.phase is Phase.WAITING_FOR_STORE:
        return _decide_store(seen, timing)
    if seen.phase is Phase.WAITING_FOR_GCS:
        return _decide_remote_gcs(seen)
    if seen.phase is Phase.STARTING:
        return _decide_start(seen, timing)
    if seen.phase is Phase.RUNNING:
        return _decide_running(seen, timing)
    return Action(Step.WAIT, seen.phase.value)


def _decide_store(seen: Observation, timing: Timing) -> Action:
    if not seen.store.checked:
        return Action(Step.WAIT, "checking the store before Ray starts")
    if not seen.store.fault:
        return Action(Step.START_NODE, "the store answers")
    if not seen.store.transient:
        return Action(Step.FAIL, seen.store.fault)
    if seen.store.waited >= timing.store_patience:
        return Action(Step.FAIL, f"{seen.store.fault} (waited {timing.store_patience:g} s for it)")
    return Action(Step.WAIT, f"waiting for the store: {seen.store.fault}")


def _decide_remote_gcs(seen: Observation) -> Action:
    if seen.remote_gcs is Serving.SERVING:
        return Action(Step.START_NODE, "the GCS serves")
    found = "no answer yet" if seen.remote_gcs is None else seen.remote_gcs.value
    return Action(Step.WAIT, f"waiting for the GCS before Ray starts here: {found}")


def _decide_start(seen: Observation, timing: Timing) -> Action:
    if seen.start_exit_code == 0:
        return Action(Step.ADOPT_NODE, "ray start is done")
    if seen.start_failure:
        if seen.kind is Kind.WORKER and seen.remote_gcs is not Serving.SERVING:
            # A head that went away meanwhile is no fault of this node: its tries are not used up.
            return Action(Step.WAIT, f"ray start failed and the GCS is away: {seen.start_failure}")
        return retry_node(seen, timing, Step.START_NODE, f"ray start failed: {seen.start_failure}")
    gcs = next((process for process in seen.dead if process.role is Role.GCS), None)
    if gcs is not None and seen.durable_store:
        # `ray start` would look for it for half a minute and give up; found again, it goes on.
        delay = timing.restart_delay(gcs.quick_deaths)
        if delay is not None and gcs.dead_for >= delay:
            return Action(Step.START_PROCESS, f"gcs_server died during ray start: {gcs.cause}", Role.GCS)
    if seen.start_runs_for >= timing.start_limit * 2:
        return Action(Step.RESTART_NODE, f"ray start has not ended within {timing.start_limit * 2:g} s")
    return Action(Step.WAIT, "ray start is running")


def retry_node(seen: Observation, timing: Timing, step: Step, why: str) -> Action:
    """``step``, once the pause after the last failed start is over; FAIL after the last try."""
    delay = timing.restart_delay(seen.failed_starts)
    if delay is None:
        return Action(Step.FAIL, f"gave up after {seen.failed_starts} tries: {why}")
    if seen.since_failed_start < delay:
        return Action(Step.WAIT, f"{why}; next try {delay:g} s after the last")
    return Action(step, why)


def _decide_running(seen: Observation, timing: Timing) -> Action:
    dead = {process.role: process for process in seen.dead}
    if Role.RAYLET in dead and seen.can_hand_over and not seen.failed_starts:
        # A prepared head is there in a second; this node needs several to come back.
        return Action(Step.GIVE_WAY, f"raylet is gone ({dead[Role.RAYLET].cause})", Role.RAYLET)
    if Role.RAYLET in dead:
        return retry_node(seen, timing, Step.RESTART_NODE, f"raylet is gone ({dead[Role.RAYLET].cause})")
    if Role.GCS in dead:
        return _decide_dead_gcs(dead[Role.GCS], seen, timing)
    if seen.recycle:
        return Action(Step.RESTART_NODE, f"this node starts afresh: {seen.recycle}")
    verdict, reason = Verdict.SERVING, "all processes run"
    if seen.gcs is not None:
        verdict, reason = judge_gcs(seen.gcs, timing)
        if verdict in (Verdict.STOPPED, Verdict.HUNG):
            return Action(Step.KILL_GCS, reason)
    return _decide_others(seen, timing, reason)


def _decide_others(seen: Observation, timing: Timing, reason: str) -> Action:
    for role, seconds in seen.stopped:
        # Not those that Ray ties to the raylet: a stopped one harms less than the loss of the node.
        if seconds >= timing.others_stopped_limit and not role.tied_to_raylet:
            return Action(Step.KILL_PROCESS, f"{role.value} has been stopped for {seconds:.0f} s", role)
    for process in seen.dead:
        # Dashboard, monitor and their like never take the node down: the pace slows, the tries do not end.
        delay = timing.restart_delay(process.quick_deaths)
        delay = timing.restart_delays[-1] if delay is None else delay
        if process.dead_for >= delay:
            return Action(Step.START_PROCESS, f"{process.role.value} died: {process.cause}", process.role)
    if seen.dead:
        names = ", ".join(process.role.value for process in seen.dead)
        return Action(Step.WAIT, f"waiting before the next start of {names}")
    return Action(Step.WAIT, reason)


def _decide_dead_gcs(process: DeadProcess, seen: Observation, timing: Timing) -> Action:
    if not seen.durable_store:
        why = (
            f"gcs_server died ({process.cause}) and its state was in memory only: the head restarts and the "
            "workers start afresh; give the cluster a store (gcsFaultToleranceOptions) to keep its state"
        )
        return retry_node(seen, timing, Step.RESTART_NODE, why)
    delay = timing.restart_delay(process.quick_deaths)
    if delay is None:
        return Action(
            Step.FAIL,
            f"gcs_server died {process.quick_deaths} times in a row, each time within "
            f"{timing.stable_after:g} s of its start; last: {process.cause}",
        )
    if process.dead_for < delay:
        return Action(Step.WAIT, f"gcs_server died ({process.cause}); next start {delay:g} s after its death")
    return Action(Step.START_PROCESS, f"gcs_server died: {process.cause}", Role.GCS)

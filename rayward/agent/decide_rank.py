"""What a head does because of its rank: lead, prepare to lead, stand by, give way. Pure.

Asked before ``decide``, which then looks after the processes of a node that may run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rayward.agent.decide import Action, Observation, Phase, Step, StoreView, retry_node
from rayward.agent.lead import StoreStanding
from rayward.agent.standing import Rank, Standing
from rayward.agent.timing import Timing

_STARTED = (Phase.STARTING, Phase.RUNNING)
# Nothing that passes by itself, and nothing that an operator could mend at this agent: give up and say so.
_HOPELESS = (StoreStanding.REFUSED, StoreStanding.FOREIGN)


@dataclass(frozen=True)
class Sight:
    """What the rank rules see besides the node itself.

    ``gcs_alive``: a gcs_server of this node runs, in whatever state. ``parked``: it has asked the gateway for
    all that it starts with and waits there. ``stale``: it was prepared on another incarnation of the store.
    ``gateway_died``: since the GCS connected to it. ``waited``: seconds since this agent first asked the
    store. ``failed_prepares``: in a row, the last one ``since_failed_prepare`` seconds ago.
    """

    standing: Standing
    gcs_alive: bool = False
    parked: bool = False
    stale: bool = False
    gateway_died: bool = False
    waited: float = 0.0
    failed_prepares: int = 0
    since_failed_prepare: float = 0.0


def decide_rank(  # noqa: PLR0911 - one for each reason
    seen: Observation, sight: Sight, timing: Timing
) -> Action | None:
    """The action that this head's rank asks for; None: it may run and ``decide`` goes on."""
    standing = sight.standing
    if seen.phase is Phase.WAITING_FOR_STORE:
        return _decide_waiting(seen, sight, timing)
    if seen.phase in (Phase.PREPARING, Phase.PREPARED):
        return _decide_prepared(seen, sight, timing)
    if seen.phase not in _STARTED:
        return None
    if standing.rank is Rank.HANDING_OVER:
        if sight.gcs_alive:
            return Action(Step.KILL_GCS, f"hands over: {standing.reason}")
        return Action(Step.WAIT, f"hands over: {standing.reason}")
    if standing.rank is Rank.STANDBY:
        return Action(Step.STAND_BY, standing.reason)
    if sight.gateway_died and sight.gcs_alive:
        return Action(Step.KILL_GCS, "its store gateway died, and a GCS does not connect again")
    return None


def _decide_waiting(  # noqa: PLR0911 - one for each reason
    seen: Observation, sight: Sight, timing: Timing
) -> Action:
    standing = sight.standing
    if standing.leads:
        if seen.failed_starts:
            return retry_node(seen, timing, Step.START_NODE, seen.start_failure or "the head starts again")
        return Action(Step.START_NODE, standing.reason)
    if standing.store in _HOPELESS:
        return Action(Step.FAIL, _fault_words(standing))
    if standing.store is StoreStanding.AWAY and not standing.known_epoch:
        if sight.waited >= timing.store_patience:
            told = f"{_fault_words(standing)} (waited {timing.store_patience:g} s for it)"
            return Action(Step.FAIL, told)
        return Action(Step.WAIT, f"waiting for the store: {standing.store_fault}")
    if not (standing.leader_serves and standing.stored_before):
        return Action(Step.WAIT, standing.reason)
    # A standby that cannot prepare still stands by, starts cold when it has to, and tries again now and then.
    delays = timing.restart_delays
    pause = timing.restart_delay(sight.failed_prepares)
    if sight.failed_prepares and sight.since_failed_prepare < (delays[-1] if pause is None else pause):
        return Action(Step.WAIT, f"{standing.reason}; could not prepare a GCS yet")
    return Action(Step.PREPARE, standing.reason)


def _decide_prepared(  # noqa: PLR0911 - one for each reason
    seen: Observation, sight: Sight, timing: Timing
) -> Action:
    standing = sight.standing
    if seen.start_exit_code is not None:
        return Action(Step.DISCARD, f"ray start ended while it was prepared (code {seen.start_exit_code})")
    if sight.stale:
        return Action(Step.DISCARD, "the store is another one since this GCS was prepared")
    if seen.phase is Phase.PREPARED and not sight.gcs_alive:
        return Action(Step.DISCARD, "the prepared gcs_server is gone")
    if sight.gateway_died:
        return Action(Step.DISCARD, "the store gateway died and with it what was prepared")
    if standing.leads:
        return Action(Step.GO, standing.reason)
    if seen.phase is Phase.PREPARED:
        return Action(Step.WAIT, standing.reason)
    if sight.parked:
        return Action(Step.HOLD, "a GCS is prepared and waits at the gateway")
    if seen.start_runs_for >= timing.start_limit * 2:
        return Action(Step.DISCARD, f"no GCS was prepared within {timing.start_limit * 2:g} s")
    return Action(Step.WAIT, f"prepares a GCS; {standing.reason}")


def _fault_words(standing: Standing) -> str:
    return standing.store_fault + (f"\n  try: {standing.store_todo}" if standing.store_todo else "")


def with_lead(seen: Observation, standing: Standing) -> Observation:
    """The observation with what ``decide`` expects of the store: the elector has asked it already."""
    return replace(seen, store=StoreView(checked=True), can_hand_over=standing.can_hand_over)

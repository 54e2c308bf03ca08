"""Who may be the GCS now: one pure function from what a head sees of lease, store and heads to one step.

No I/O, no clock, no randomness. It says who leads; that only one *writes* does not rest on it: the store
refuses every write whose epoch is not the newest (``store.lease_scripts``). Each branch is named after the
reason that it reports, and the sentence is what a person reads in ``rayward list`` and in the log.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from rayward.agent.timing import LeaseTiming


class LeadStep(enum.Enum):
    """What the elector does next about the lease."""

    WAIT = "wait"
    ACQUIRE = "acquire the lease"
    RENEW = "renew the lease"
    ASK_HEADS = "ask the other heads"
    HAND_OVER = "stop the GCS and release the lease"
    STEP_DOWN = "stop the GCS: the lease is lost"


@dataclass(frozen=True)
class LeadAction:
    """One step and why. ``reason`` is a sentence without a full stop."""

    step: LeadStep
    reason: str


class StoreStanding(enum.Enum):
    """What the newest look at the store found. EMPTY and OLDER: it is not the store that this head knew.
    FOREIGN: it belongs to another cluster. REFUSED: it will not serve us as it is (password, EVAL, TLS)."""

    UNASKED = "not asked yet"
    GOOD = "good"
    AWAY = "away"
    REFUSED = "refused"
    EMPTY = "empty"
    OLDER = "older"
    FOREIGN = "foreign"


class LeaderLink(enum.Enum):
    """How the leader's agent looks from here. GONE: its host answers and refuses: the process has ended."""

    UNKNOWN = "unknown"
    CONNECTED = "connected"
    GONE = "gone"
    SILENT = "silent"


@dataclass(frozen=True)
class RecordView:
    """The lease record as a head sees it. ``unchanged_for``: seconds on this head's own clock since it first
    saw the record as it is now. ``ours``: held by this member's name. ``same_place``: its holder announced
    the address on which this very process listens now, so that holder cannot be alive. ``listed``: the
    record names this head among those that are asked when the store is away. ``for_us``: released in favour
    of this very head. ``adopted``: released by an operator's ``store adopt``, not by whoever held it."""

    holder: str
    epoch: int
    released: bool = False
    successor: str = ""
    unchanged_for: float = 0.0
    ours: bool = False
    same_place: bool = False
    listed: bool = False
    for_us: bool = False
    adopted: bool = False


@dataclass(frozen=True)
class LeadView:
    """Everything that the decision may depend on.

    ``epoch``: the epoch that this head holds, 0 when it does not lead. ``since_renewal``: seconds since the
    last renewal that succeeded was *sent*. ``since_attempt``: since a renewal was last tried.
    ``since_question``: since the other heads were last asked for their word, ``since_word``: since the
    question was sent to which all of them last gave it (None: never under this epoch). ``promise_left``: for
    how long this head has given its own word not to lead; 0 once the very lease that it was given for has
    been released. ``lost_to``: a renewal found another holder. ``store_reset``: a renewal found no lease.
    ``prepared``: a GCS stands by here, ready to go on. ``others_prepared``: members that say so of
    themselves and are connected. ``asked_to_hand_over``: None, or the member that should lead ("" for any).
    ``gave_up``: why this head can run no GCS (it crashes again and again); empty while it can.
    ``namesake``: the address of another living agent that uses this member's name, or empty.
    ``forced``: an operator asked this head to lead now, whoever holds the lease. ``none_for``: seconds since
    this head first saw that there is no lease at all. ``gcs_running``: a GCS of this head runs that is more
    than prepared.
    """

    epoch: int = 0
    paused: bool = False
    stopping: bool = False
    store: StoreStanding = StoreStanding.GOOD
    store_fault: str = ""
    record: RecordView | None = None
    link: LeaderLink = LeaderLink.UNKNOWN
    since_renewal: float = 0.0
    since_attempt: float = 0.0
    since_question: float | None = None
    since_word: float | None = None
    promise_left: float = 0.0
    lost_to: str = ""
    store_reset: bool = False
    prepared: bool = False
    others_prepared: tuple[str, ...] = ()
    asked_to_hand_over: str | None = None
    gave_up: str = ""
    fence_fired: str = ""
    fence_ready: bool = True
    namesake: str = ""
    forced: bool = False
    none_for: float = 0.0
    gcs_running: bool = False


def decide_lead(seen: LeadView, timing: LeaseTiming) -> LeadAction:
    """The next step about the lease for this head."""
    if seen.epoch:
        return _decide_leading(seen, timing)
    return _decide_standing_by(seen, timing)


def _wait(reason: str) -> LeadAction:
    return LeadAction(LeadStep.WAIT, reason)


# -- a head that leads ---------------------------------------------------------------------------------


def _decide_leading(seen: LeadView, timing: LeaseTiming) -> LeadAction:
    lost = _lost(seen, timing)
    if lost:
        return LeadAction(LeadStep.STEP_DOWN, lost)
    if seen.stopping:
        return LeadAction(LeadStep.HAND_OVER, "this head stops")
    if seen.asked_to_hand_over is not None and seen.store is StoreStanding.GOOD:
        return LeadAction(LeadStep.HAND_OVER, f"switchover to {seen.asked_to_hand_over or 'another head'}")
    if seen.gave_up and seen.others_prepared and not seen.paused:
        return LeadAction(LeadStep.HAND_OVER, f"{seen.gave_up}; {seen.others_prepared[0]} is prepared")
    return _decide_renewal(seen, timing)


def _lost(seen: LeadView, timing: LeaseTiming) -> str:
    """Why this head may not go on, or nothing."""
    if seen.lost_to:
        return f"epoch {seen.epoch} is over: {seen.lost_to}"
    if seen.fence_fired:
        return f"the fence fired: {seen.fence_fired}"
    if not seen.fence_ready:
        return "the fence process is gone: nobody would stop this GCS in time"
    vouched = seen.since_renewal if seen.since_word is None else min(seen.since_renewal, seen.since_word)
    if vouched >= timing.fence_after:
        return f"neither renewed nor vouched for by the other heads for {vouched:.1f} s"
    return ""


def _decide_renewal(seen: LeadView, timing: LeaseTiming) -> LeadAction:
    trouble = seen.store is not StoreStanding.GOOD or seen.store_reset
    # The heads first: their word keeps the GCS, and a store in trouble may take its time to say so again.
    if trouble and (seen.since_question is None or seen.since_question >= _question_pause(seen, timing)):
        return LeadAction(LeadStep.ASK_HEADS, f"cannot renew: {_store_words(seen)}")
    if seen.since_attempt >= timing.renew_interval:
        return LeadAction(LeadStep.RENEW, _leading_words(seen))
    return _wait(_leading_words(seen))


def _question_pause(seen: LeadView, timing: LeaseTiming) -> float:
    """Soon again while a head has not given its word: it may only have to find out that the store is away."""
    refused = seen.since_word is None or seen.since_question is None or seen.since_word > seen.since_question
    return timing.question_interval if refused else timing.renew_interval


def _leading_words(seen: LeadView) -> str:
    words = f"leads with epoch {seen.epoch}"
    if seen.store_reset:
        return f"{words}; the store lost its data: writes wait (`rayward store adopt` starts afresh)"
    if seen.store is not StoreStanding.GOOD:
        return f"{words}; {_store_words(seen)}: writes wait"
    if seen.paused:
        return f"{words}; paused: no failover by itself"
    return words


def _store_words(seen: LeadView) -> str:
    return seen.store_fault or f"the store is {seen.store.value}"


# -- a head that stands by -----------------------------------------------------------------------------


def _decide_standing_by(  # noqa: PLR0911 - one for each reason
    seen: LeadView, timing: LeaseTiming
) -> LeadAction:
    hindrance = _hindrance(seen)
    if hindrance:
        return _wait(hindrance)
    record = seen.record
    if seen.forced:
        return LeadAction(LeadStep.ACQUIRE, "failover asked for by an operator")
    if record is None:
        return _first_come(seen, "nobody has led yet", seen.none_for, timing)
    if record.released:
        return _decide_released(seen, record, timing)
    if record.ours and record.same_place and seen.promise_left <= 0:
        return LeadAction(LeadStep.ACQUIRE, "this member's own earlier process held the lease")
    if seen.link is LeaderLink.GONE:
        return LeadAction(
            LeadStep.ACQUIRE, f"the agent of {record.holder} is gone: its host refuses connections"
        )
    return _decide_held(seen, record, timing)


def _hindrance(seen: LeadView) -> str:  # noqa: PLR0911 - one for each reason
    """What forbids this head to lead whatever the lease says, or nothing."""
    if seen.stopping:
        return "this head stops"
    if seen.namesake:
        return f"another agent with this name runs at {seen.namesake}: give each head a name of its own"
    if seen.store is not StoreStanding.GOOD:
        return _store_words(seen)
    if not seen.fence_ready:
        return "the fence process is not there: a GCS could not be stopped in time"
    if seen.gave_up:
        return f"stands aside: {seen.gave_up}"
    if seen.gcs_running:
        return "the GCS of an earlier epoch still runs here"
    record = seen.record
    held = record is not None and not record.released and not (record.ours and record.same_place)
    if record is not None and held and seen.paused and not seen.forced:
        return f"paused: {record.holder} keeps the lease whatever happens to it"
    return ""


def _first_come(seen: LeadView, why: str, free_for: float, timing: LeaseTiming) -> LeadAction:
    """A lease that anybody may take: one that has a GCS prepared first."""
    if not seen.prepared and seen.others_prepared and free_for < timing.cold_delay:
        return _wait(f"{why}; {seen.others_prepared[0]} is prepared and goes first")
    return LeadAction(LeadStep.ACQUIRE, why)


def _decide_released(  # noqa: PLR0911 - one for each reason
    seen: LeadView, record: RecordView, timing: LeaseTiming
) -> LeadAction:
    if seen.promise_left > 0:
        return _wait(_promise_words(seen, record))
    if record.adopted and record.unchanged_for < timing.ttl:
        return _wait("the store was adopted: a GCS from before ends within one ttl")
    if record.for_us:
        return LeadAction(LeadStep.ACQUIRE, f"{record.holder} handed the lease over to this head")
    if record.successor:
        if record.unchanged_for < timing.successor_grace:
            return _wait(f"the lease was released for {record.successor}")
        return LeadAction(LeadStep.ACQUIRE, f"{record.successor} did not take the lease released for it")
    if seen.paused:
        return _wait("paused: a released lease stays free")
    return _first_come(seen, f"{record.holder} released the lease", record.unchanged_for, timing)


def _decide_held(seen: LeadView, record: RecordView, timing: LeaseTiming) -> LeadAction:
    limit = timing.ttl * (1 if record.listed else timing.newcomer_factor)
    if record.unchanged_for < limit:
        new = "" if record.listed else " (not in its record yet)"
        return _wait(f"follows {record.holder}, epoch {record.epoch}{new}")
    if seen.promise_left > 0:
        return _wait(_promise_words(seen, record))
    return LeadAction(
        LeadStep.ACQUIRE,
        f"{record.holder} has not renewed its lease for {record.unchanged_for:.1f} s",
    )


def _promise_words(seen: LeadView, record: RecordView) -> str:
    return (
        f"gave its word not to lead for another {seen.promise_left:.1f} s ({record.holder} holds the lease)"
    )


# -- the word that a head gives to a leader without a store ---------------------------------------------


@dataclass(frozen=True)
class WordView:
    """What a head knows when a leader asks it for its word not to lead for one TTL.

    ``trouble_for``: for how long the asking leader has not reached the store. ``good_look_ago``: seconds
    since this head *began* its newest look at the store, None when that did not succeed.
    """

    asked_epoch: int
    own_epoch: int
    acquiring: bool
    known_epoch: int
    trouble_for: float
    good_look_ago: float | None


def give_word(seen: WordView) -> tuple[bool, str]:
    """Whether to give the word, and why or why not.

    A head that has reached the store since the leader's trouble began does not: then the store is there, the
    leader is what is cut off, and this head should lead once the lease has run out.
    """
    if seen.own_epoch:
        return False, f"this head leads with epoch {seen.own_epoch}"
    if seen.acquiring:
        return False, "this head is taking the lease"
    if seen.known_epoch > seen.asked_epoch:
        return False, f"epoch {seen.asked_epoch} is over, {seen.known_epoch} is known here"
    if seen.good_look_ago is not None and seen.good_look_ago <= seen.trouble_for:
        return False, "the store answers here: the asking head is what is cut off"
    return True, "the store is away from here as well, or was not asked since"

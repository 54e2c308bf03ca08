"""The loop that holds or waits for the lease: looks, asks ``decide_lead``, and does what it says.

It runs in a thread of its own, so that neither Ray's processes nor an HTTP request delay a renewal. What the
supervisor may do about the GCS stands in ``standing``; what kills a GCS in time when this loop is late is the
fence process, which only a successful renewal (or the word of all other heads) re-arms.
"""

from __future__ import annotations

import threading
import time
import traceback
import uuid
from dataclasses import replace
from typing import Any, Callable

from rayward.agent.config import HeadSettings
from rayward.agent.electorate import Electorate, Question
from rayward.agent.events import EventLog
from rayward.agent.lead import (
    LeadAction,
    LeadStep,
    LeadView,
    StoreStanding,
    decide_lead,
)
from rayward.agent.memory import Memory
from rayward.agent.sighting import Sighting
from rayward.agent.standing import Rank, Standing
from rayward.agent.store_desk import StoreDesk
from rayward.agent.timing import LeaseTiming
from rayward.agent.word import Word
from rayward.store.lease_rules import writer_name
from rayward.store.ownership import Remembered


def boot_seconds() -> float:
    """The clock of the fence: monotonic, and it goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Guard:
    """What an elector needs of the processes around it: the fence timer and the store gateway."""

    def arm(self, deadline: float) -> None:
        """Let the fence kill the GCS at ``deadline`` (``boot_seconds``) unless it is armed anew before."""
        raise NotImplementedError

    def disarm(self) -> None:
        """There is no GCS to kill any more."""
        raise NotImplementedError

    def open(self, epoch: int, writer: str) -> None:
        """Let the GCS write, as ``writer`` of ``epoch``."""
        raise NotImplementedError

    def close(self) -> None:
        """Let nothing pass from the GCS to the store from now on."""
        raise NotImplementedError

    def ready(self) -> bool:
        """Whether the fence would fire."""
        raise NotImplementedError

    def fired(self) -> str:
        """Why the fence has fired since it was last armed; empty when it has not."""
        raise NotImplementedError


class Elector:
    """One head's part in the election. Public methods may be called from any thread."""

    def __init__(
        self,
        settings: HeadSettings,
        timing: LeaseTiming,
        desk: StoreDesk,
        electorate: Electorate,
        guard: Guard,
        memory: Memory,
        events: EventLog,
        on_change: Callable[[], None],
        address: str,
        gcs: str,
    ) -> None:
        self.settings, self.timing = settings, timing
        self.instance = uuid.uuid4().hex
        self.address, self.gcs = address, gcs
        self._desk, self._electorate, self._guard = desk, electorate, guard
        self._memory, self._events, self._on_change = memory, events, on_change
        self._wake = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="elector", daemon=True)
        self.standing = Standing(leader_gcs="")
        self._said = ""
        # What this loop knows; only its own thread writes it.
        self._epoch = 0
        self._rank = Rank.STANDBY
        self._word = Word(timing.ttl)
        self._look_now = False
        self._armed = False
        self._renewal_sent = self._attempt_at = 0.0
        self._question_at: float | None = None
        self._word_sent: float | None = None
        self._word_from: tuple[str, ...] = ()
        self._trouble_since: float | None = None
        self._lost_to = ""
        self._store_reset = False
        self._written_heads: tuple[str, ...] = ()
        self._sight = Sighting(settings.member, address, timing, electorate)
        self._look_at = float("-inf")
        # What others ask of it.
        self._hand_over_to: str | None = None
        self._forced = False
        self._stopping = False
        self._gcs_running = self._prepared = False
        self._gave_up = ""

    # -- asked by the supervisor and by people -----------------------------------------------------------

    def start(self) -> None:
        """Begin."""
        self._electorate.start(self.wake)
        self._thread.start()

    def wake(self) -> None:
        """Look now instead of with the next beat."""
        self._wake.set()

    def report(self, *, gcs_running: bool, prepared: bool, gave_up: str) -> None:
        """What the supervisor knows: whether a GCS of this head runs that could write, whether one stands by
        prepared, and why this head cannot run one (empty: it can)."""
        if (gcs_running, prepared, gave_up) != (self._gcs_running, self._prepared, self._gave_up):
            self._gcs_running, self._prepared, self._gave_up = gcs_running, prepared, gave_up
            self.wake()

    def hand_over(self, to: str | None) -> tuple[bool, str]:
        """Ask this leader to give the lease to ``to`` (None: any prepared head); returns at once."""
        standing = self.standing
        if standing.leads and standing.store is not StoreStanding.GOOD:
            return False, f"the store is {standing.store.value}: nobody could take the lease"
        if not standing.leads:
            return False, f"this head does not lead; {standing.leader or 'nobody'} does"
        ready = self._prepared_others()
        if to and to not in ready:
            told = ", ".join(ready) or "none"
            return False, f"{to} is not prepared to take over (prepared: {told})"
        if not ready:
            return False, "no other head is prepared to take over"
        self._hand_over_to = to or ready[0]
        self.wake()
        return True, f"hands over to {self._hand_over_to}"

    def give_way(self, reason: str) -> None:
        """The supervisor asks a prepared head to lead, because this node needs longer to come back."""
        given, why = self.hand_over(None)
        if given:
            self._events.add("GivesWay", f"{reason}: {why}")

    def take_over(self) -> tuple[bool, str]:
        """Ask this head to take the lease whoever holds it."""
        standing = self.standing
        if standing.leads:
            return False, "this head leads already"
        if standing.store is not StoreStanding.GOOD:
            return False, f"the store is {standing.store.value}: {standing.store_fault or 'not asked yet'}"
        self._forced = True
        self.wake()
        return True, "takes the lease"

    def word(self, asked_epoch: int, trouble_for: float) -> tuple[bool, str]:
        """A head that leads and cannot reach the store asks for this one's word not to lead for a TTL."""
        known = max(self._memory.now.epoch, self.standing.known_epoch)
        given, why = self._word.give(asked_epoch, trouble_for, lambda: self._epoch, known)
        if not given:
            # The next question comes soon; by then this head knows whether it reaches the store.
            self._look_now = True
            self.wake()
        return given, why

    def set_paused(self, paused: bool) -> tuple[bool, str]:
        """Switch failover by itself off or on, for all heads. Raises StoreAwayError."""
        self._desk.set_paused(paused, self.settings.member)
        self.wake()
        return True, "paused: no head takes over by itself" if paused else "failover by itself is on"

    def history(self) -> list[dict[str, Any]]:
        """Who led since when and why, oldest first. Raises StoreAwayError."""
        return self._desk.history()

    def adopt(self) -> tuple[bool, str]:
        """Take the store as it is now for this cluster's own. Raises StoreAwayError."""
        if self.standing.store not in (
            StoreStanding.EMPTY,
            StoreStanding.OLDER,
            StoreStanding.FOREIGN,
        ) and not (self._epoch and self._store_reset):
            return False, f"there is nothing to adopt: the store is {self.standing.store.value}"
        incarnation, epoch = self._desk.adopt(max(self._memory.now.epoch, self._word.epoch))
        self._memory.keep(Remembered(incarnation, epoch))
        self._events.add("StoreAdopted", "the store is taken as it is; the cluster starts from what it holds")
        self._lost_to = "the store was adopted: the cluster starts afresh from it" if self._epoch else ""
        self.wake()
        return True, "adopted: the GCS starts from what the store holds now"

    def stop(self, timeout: float) -> None:
        """Release the lease if it is held (the GCS must have ended), then end the loop."""
        self._stopping = True
        self.wake()
        self._ended.wait(timeout)
        self._electorate.stop()

    # -- the loop ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                self._wake.clear()
                try:
                    if self._cycle():
                        return
                except Exception as error:  # nobody else would end the GCS of a head without an elector
                    self._fault(error)
                self._wake.wait(self._pause())
        finally:
            self._ended.set()

    def _fault(self, error: Exception) -> None:
        """This is a bug. The GCS must not go on without somebody who renews: give everything up, go on."""
        traceback.print_exc()
        told = f"this is a bug in the elector: {type(error).__name__}: {error}"
        self._say("ElectorFault", told)
        if self._epoch:
            self._step_down(told)
        self._look_at = time.monotonic()
        self._publish(LeadAction(LeadStep.WAIT, told))

    def _pause(self) -> float:
        """Seconds until something is due by itself; whatever else matters wakes the loop."""
        if self._rank is Rank.HANDING_OVER:
            return 0.02
        look, interval = self._sight.look, self.timing.renew_interval
        if look.standing is not StoreStanding.GOOD or self._store_reset:
            return 0.1
        if self._epoch:
            return max(0.02, self._attempt_at + interval - boot_seconds())
        if self._sight.decides_soon or look.record is None or look.record.released:
            return 0.05
        return max(0.05, self._look_at + interval - time.monotonic())

    def _cycle(self) -> bool:
        """One look, one decision, one step; True when the loop is over."""
        if not self._epoch:
            self._look_at_store()
            if self._armed and not self._gcs_running:
                self._armed = False
                self._guard.disarm()  # or it would kill the next GCS that is prepared here
        promised_until = self._word.until
        action = decide_lead(self._view(), self.timing)
        if action.step is LeadStep.ACQUIRE:
            self._acquire(action, promised_until)
        elif action.step is LeadStep.RENEW:
            self._renew()
        elif action.step is LeadStep.ASK_HEADS:
            self._ask_heads()
        elif action.step is LeadStep.STEP_DOWN:
            self._step_down(action.reason)
        elif action.step is LeadStep.HAND_OVER:
            self._hand(action.reason)
        self._forced = False
        self._publish(action)
        if self._stopping and not self._epoch:
            self._desk.forget_member(self.settings.member)
            return True
        return False

    def _view(self) -> LeadView:
        boot, look = boot_seconds(), self._sight.look
        return LeadView(
            epoch=self._epoch,
            paused=look.paused,
            stopping=self._stopping,
            store=look.standing,
            store_fault=look.fault,
            record=self._sight.record(),
            link=self._sight.link(),
            since_renewal=boot - self._renewal_sent,
            since_attempt=boot - self._attempt_at,
            since_question=None if self._question_at is None else boot - self._question_at,
            since_word=None if self._word_sent is None else boot - self._word_sent,
            promise_left=self._word.left(self._sight.released_epoch()),
            lost_to=self._lost_to,
            store_reset=self._store_reset,
            prepared=self._prepared,
            others_prepared=self._prepared_others(),
            asked_to_hand_over=self._hand_over_to,
            gave_up=self._gave_up,
            fence_fired=self._guard.fired() if self._epoch else "",
            fence_ready=self._guard.ready(),
            namesake=look.namesake,
            forced=self._forced,
            none_for=self._sight.unchanged_for,
            gcs_running=self._gcs_running,
        )

    # -- a standby's steps -------------------------------------------------------------------------------

    def _look_at_store(self) -> None:
        now = time.monotonic()
        woken = (
            self._sight.decides_soon
            or self._electorate.changed_since(self._look_at)
            or self._forced
            or self._look_now
        )
        if now - self._look_at < self.timing.renew_interval and not woken:
            return
        before = self._sight.look
        self._look_at, self._look_now = now, False
        look = self._desk.look(self._entry(), before, self._memory.now)
        self._word.looked(now, look.standing is StoreStanding.GOOD)
        if look.standing is StoreStanding.GOOD:
            known = look.record.epoch if look.record else 0
            self._memory.keep(Remembered(look.incarnation, max(known, self._memory.now.epoch)))
        self._sight.take(look)

    def _entry(self) -> dict[str, Any]:
        state = self._rank.value if self._epoch else "prepared" if self._prepared else "standing by"
        return {
            "address": self.address, "gcs": self.gcs, "instance": self.instance,
            "role": self._rank.value, "state": state, "time": round(time.time(), 3),
        }  # fmt: skip

    def _acquire(self, action: LeadAction, decided_until: float) -> None:
        if not self._word.begin_acquiring(decided_until):
            return
        unsure = True
        try:
            unsure = self._take(action)
        finally:
            self._word.end_acquiring(unsure)

    def _take(self, action: LeadAction) -> bool:
        """Try to take the lease; whether nobody can say if it was taken."""
        sent = boot_seconds()
        heads = self._electorate.heads_with_a_say(self._sight.look.members, self.settings.member)
        own = self._sight.look.record is not None and self._sight.look.record.holder == self.settings.member
        took = self._desk.acquire(
            self._entry(),
            self._sight.look,
            heads,
            self._memory.now.epoch,
            action.reason,
            heed_pause=not (self._forced or own),
        )
        if not took.epoch:
            self._look_at = float("-inf")
            self._say("LeaseNotTaken", f"{action.reason}, but {took.why}")
            return took.unknown
        if boot_seconds() - sent >= self.timing.fence_after:
            self._say("LeaseNotTaken", "the store answered too late for the lease to be of use")
            return False
        self._arm(sent)
        self._epoch, self._rank = took.epoch, Rank.LEADING
        self._guard.open(took.epoch, writer_name(took.epoch, self.instance))
        self._renewal_sent = self._attempt_at = sent
        self._question_at = self._word_sent = self._trouble_since = None
        self._lost_to, self._store_reset, self._hand_over_to = "", False, None
        self._written_heads, self._word_from = heads, ()
        self._memory.keep(Remembered(took.incarnation, took.epoch))
        self._events.add(
            "LeaseAcquired", f"leads with epoch {took.epoch}: {action.reason}", epoch=took.epoch,
            replicas=took.replicas,
        )  # fmt: skip
        return False

    # -- a leader's steps --------------------------------------------------------------------------------

    def _renew(self) -> None:
        sent = self._attempt_at = boot_seconds()
        heads = self._electorate.heads_with_a_say(self._sight.look.members, self.settings.member)
        # Until an answer says which list the record holds, every list that was sent may be it.
        self._written_heads = tuple(sorted({*self._written_heads, *heads}))
        look, lost_to, reset = self._desk.renew(self._entry(), self._epoch, heads, self._sight.look)
        self._sight.look, self._store_reset = look, reset
        if lost_to:
            self._lost_to = lost_to
            return
        if look.standing is not StoreStanding.GOOD or reset:
            self._trouble_since = self._trouble_since or sent
            return
        if look.fault:
            self._events.add("StoreForgot", look.fault)
        self._renewal_sent, self._written_heads = sent, heads
        self._question_at = self._word_sent = self._trouble_since = None
        self._word_from = ()
        self._arm(sent)

    def _ask_heads(self) -> None:
        sent = self._question_at = boot_seconds()
        trouble_for = sent - (self._trouble_since or sent)
        question = Question(self._epoch, self.settings.member, trouble_for, self.settings.cluster_uid)
        gave, why_not = self._electorate.ask_all(self._written_heads, self._sight.look.members, question)
        if why_not:
            self._say("WordRefused", f"the store is away and a head does not vouch: {why_not}")
            return
        self._word_sent, self._word_from = sent, gave
        self._arm(sent)

    def _step_down(self, reason: str) -> None:
        self._guard.close()
        epoch = self._end_epoch()
        self._events.add("SteppedDown", f"epoch {epoch} ends here: {reason}", epoch=epoch)

    def _hand(self, reason: str) -> None:
        if self._rank is Rank.LEADING:
            self._rank = Rank.HANDING_OVER
            self._guard.close()
            self._events.add("HandingOver", reason, epoch=self._epoch)
        if self._gcs_running:
            return
        self._armed = False
        self._guard.disarm()
        successor = self._hand_over_to or ""
        if not successor and not self._stopping:
            successor = next(iter(self._prepared_others()), "")
        released, why = self._desk.release(self.settings.member, self.instance, self._epoch, successor)
        epoch = self._end_epoch()
        told = f"released epoch {epoch}" + (f" for {successor}" if successor else "")
        self._events.add("LeaseReleased", told if released else f"{told} failed: {why}", epoch=epoch)

    def _arm(self, sent: float) -> None:
        """Count the fence's time from ``sent``: when a renewal left, or a question that all have answered."""
        self._armed = True
        self._guard.arm(sent + self.timing.fence_after)

    def _end_epoch(self) -> int:
        """A standby from here on, which looks at once; the epoch that it held."""
        epoch = self._epoch
        self._epoch, self._rank = 0, Rank.STANDBY
        self._hand_over_to, self._look_at = None, float("-inf")
        return epoch

    # -- tell --------------------------------------------------------------------------------------------

    def _say(self, reason: str, sentence: str) -> None:
        """An event, unless the same was said just before."""
        kind = reason + "".join(letter for letter in sentence if not letter.isdigit())
        if kind != self._said:
            self._said = kind
            self._events.add(reason, sentence)

    def _publish(self, action: LeadAction) -> None:
        look, before = self._sight.look, self.standing
        leader = self._electorate.leader()
        record = look.record
        vouched = max(self._renewal_sent, self._word_sent or 0.0)
        self.standing = Standing(
            rank=self._rank,
            epoch=self._epoch,
            known_epoch=max(self._epoch, record.epoch if record else 0),
            reason=action.reason,
            leader=self.settings.member if self._epoch else self._leader_name(),
            leader_gcs=self.gcs if self._epoch else (leader.gcs if leader else ""),
            leader_serves=leader is not None and leader.serving,
            paused=look.paused,
            store=look.standing,
            store_fault=look.fault,
            store_todo=look.todo,
            incarnation=self._memory.now.incarnation,
            lease_left=max(0.0, vouched + self.timing.fence_after - boot_seconds()) if self._epoch else 0.0,
            can_hand_over=self._can_hand_over(),
            stored_before=record is not None and look.has_data,
            word_from=self._word_from,
            members=look.members,
        )
        if (before.rank, before.epoch) != (self._rank, self._epoch):
            self._said = ""
        if replace(before, lease_left=0.0, members=()) != replace(self.standing, lease_left=0.0, members=()):
            self._on_change()

    def _prepared_others(self) -> tuple[str, ...]:
        return self._electorate.prepared_heads(self._sight.look.members, self.settings.member)

    def _can_hand_over(self) -> bool:
        look = self._sight.look
        return bool(self._prepared_others()) and not look.paused and look.standing is StoreStanding.GOOD

    def _leader_name(self) -> str:
        record = self._sight.look.record
        return record.holder if record is not None and not record.released else ""

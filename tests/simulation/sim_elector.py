"""One head's elector as a model: what ``rayward.agent.elector`` does around ``decide_lead``, step by step.

A call to the store takes time, may time out though it took effect, and blocks the loop; ``decide_lead``,
``give_word`` and ``LeaseTiming`` are the real ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rayward.agent.lead import (
    LeadAction,
    LeaderLink,
    LeadStep,
    LeadView,
    RecordView,
    StoreStanding,
    WordView,
    decide_lead,
    give_word,
)
from rayward.store.lease_rules import RELEASED, Lease, LeaseToken, RenewOutcome
from sim_store import Entry, Seen

if TYPE_CHECKING:
    from sim_run import Simulation

STANDBY, LEADING, HANDING_OVER = 0, 1, 2
NEVER = float("-inf")
GOOD = StoreStanding.GOOD


class SimElector:
    """``alive``: its agent's process runs. ``memory``: the incarnation and epoch that it keeps on disk."""

    def __init__(self, sim: Simulation, head: int) -> None:
        self.sim, self.world, self.head = sim, sim.world, head
        self.owner = 3 * head
        self.alive = False
        self.memory = (0, 0)
        self.call = self.pending = self.tick = self.round = 0
        self.lives = -1
        self.marks = 0
        self.links = [LeaderLink.UNKNOWN] * self.world.heads
        self.stall = 0.0
        self._fresh()

    def _fresh(self) -> None:
        self.lives += 1
        self.instance = f"{self.head}.{self.lives}"
        self.epoch, self.rank, self.seq = 0, STANDBY, 0
        self.acquiring = self.unsure = self.busy = self.woken = False
        self.promise_until = self.promise_seen = NEVER
        self.promised_epoch = 0
        self.renewal_sent = self.attempt_at = 0.0
        self.question_at: float | None = None
        self.word_sent: float | None = None
        self.trouble_since: float | None = None
        self.lost_to = ""
        self.store_reset = False
        self.written: tuple[int, ...] = ()
        self.standing, self.paused = StoreStanding.UNASKED, False
        self.record: Lease | None = None
        self.record_heads: tuple[int, ...] = ()
        self.token: LeaseToken | None = None
        self.token_since = self.instance_since = 0.0
        self.members: tuple[Entry | None, ...] = ()
        self.look_at = self.good_look_at = NEVER
        self.seen_at = 0.0
        self.marks_seen: dict[int, tuple[tuple[str, int], float]] = {}
        self.hand_over_to: str | None = None
        self.forced = self.stopping = False
        self.gcs_running = False
        self.ready_at = 0.0

    def start(self) -> None:
        """The agent's process begins."""
        self._fresh()
        self.alive = True
        self.token_since = self.instance_since = self.world.mono(self.head)
        self.ready_at = self.token_since + 2.0
        self._rest(self.world.between(0.0, 0.3))

    def die(self) -> None:
        """The agent's process is gone."""
        self.alive = False
        self.epoch, self.rank = 0, STANDBY
        self.pending = 0
        self.world.end(self.owner)

    # the loop

    def wake(self) -> None:
        """Look now."""
        self.woken = True
        if self.alive and not self.busy:
            self._rest(0.01 * self.world.random())

    def _rest(self, delay: float) -> None:
        self.busy = False
        self.tick += 1
        self.world.after(delay, self.owner, self._step, self.tick)

    def _step(self, tick: int) -> None:
        if tick != self.tick or self.busy:
            return
        self.woken = False
        if self.epoch:
            self._decide()
            return
        self.busy = True
        self.look_at = self.world.mono(self.head)
        self._call(self.sim.store.look, (self.head, self._entry()), self._looked)

    def _decide(self) -> None:
        self.busy = True
        self.promise_seen = self.promise_until
        action = decide_lead(self._view(), self.sim.timing)
        if self.world.trace is not None and action.step is not LeadStep.WAIT:
            self.says(f"{action.step.name}: {action.reason}")
        if self.stall:
            stall, self.stall = self.stall, 0.0
            self.world.after(stall, self.owner, self._act, action)
        else:
            self._act(action)

    def _act(self, action: LeadAction) -> None:
        step = action.step
        if step is LeadStep.WAIT:
            self._pause()
        elif step is LeadStep.RENEW:
            self._renew()
        elif step is LeadStep.ACQUIRE:
            self._acquire()
        elif step is LeadStep.ASK_HEADS:
            self._ask()
        elif step is LeadStep.STEP_DOWN:
            self._step_down(action.reason)
        else:
            self._hand()

    def _pause(self) -> None:
        """Wait until something may be due; the real loop looks more often and finds nothing new."""
        if self.woken:
            self._rest(0.001)
            return
        timing, world = self.sim.timing, self.world
        if self.rank == HANDING_OVER:
            self._rest(0.05)
            return
        if self.epoch:
            boot = world.boot(self.head)
            due = self.attempt_at + timing.renew_interval - boot
            if self.trouble_since is not None and self.question_at is not None:
                refused = self.word_sent is None or self.word_sent < self.question_at
                pause = timing.question_interval if refused else timing.renew_interval
                due = min(due, self.question_at + pause - boot)
            self._rest(max(due, 0.0) + 0.1 * world.random())
            return
        mono = world.mono(self.head)
        due = max(0.0, self.look_at + timing.renew_interval - mono) + 0.05 * world.random()
        unchanged = mono - self.token_since
        for moment in self._moments():
            left = moment - unchanged
            if 0.0 < left < due:
                due = left + 0.05 * world.random()
        self._rest(due)

    def _moments(self) -> tuple[float, ...]:
        """For how long the record must be unchanged before something new is due."""
        timing = self.sim.timing
        if self.record is None:
            return (timing.cold_delay,)
        if self.record.state == RELEASED:
            return (timing.cold_delay, timing.successor_grace, timing.ttl)
        word = self.promise_until - self.token_since
        gone = self.instance_since + timing.gone_after - self.token_since
        limit = timing.ttl if self.head in self.record_heads else timing.ttl * timing.newcomer_factor
        return (limit, word, gone)

    # what it sees

    def _entry(self) -> Entry:
        self.marks += 1
        return Entry(self.instance, self.marks, self._prepared())

    def _prepared(self) -> bool:
        return not self.epoch and not self.gcs_running and self.world.mono(self.head) >= self.ready_at

    def _others_prepared(self) -> tuple[str, ...]:
        return tuple(
            str(other)
            for other, entry in enumerate(self.members)
            if entry is not None
            and entry.prepared
            and other != self.head
            and self.links[other] is LeaderLink.CONNECTED
        )

    def _view(self) -> LeadView:
        node, boot = self.sim.nodes[self.head], self.world.boot(self.head)
        if self.epoch:
            return LeadView(
                epoch=self.epoch,
                paused=self.paused,
                stopping=self.stopping,
                store=self.standing,
                since_renewal=boot - self.renewal_sent,
                since_attempt=boot - self.attempt_at,
                since_question=None if self.question_at is None else boot - self.question_at,
                since_word=None if self.word_sent is None else boot - self.word_sent,
                lost_to=self.lost_to,
                store_reset=self.store_reset,
                asked_to_hand_over=self.hand_over_to,
                fence_fired=node.fired,
                fence_ready=node.fence_alive,
            )
        mono, record = self.world.mono(self.head), self.record
        return LeadView(
            paused=self.paused,
            stopping=self.stopping,
            store=self.standing,
            record=None if record is None else self._record_view(record, mono),
            link=LeaderLink.UNKNOWN if record is None else self._link(record, mono),
            promise_left=0.0 if self._freed() else max(0.0, self.promise_until - mono),
            prepared=self._prepared(),
            others_prepared=self._others_prepared(),
            fence_ready=node.fence_alive,
            forced=self.forced,
            none_for=mono - self.token_since,
            gcs_running=self.gcs_running and self.sim.rules.own_gcs_ended,
        )

    def _freed(self) -> bool:
        """Whether the lease that the word was given for has been released, by its own holder."""
        record = self.record
        if record is None or record.state != RELEASED:
            return False
        by_holder = record.instance != "" and record.epoch == self.promised_epoch
        return by_holder or not self.sim.rules.word_outlives_adoption

    def _record_view(self, record: Lease, mono: float) -> RecordView:
        own = record.holder == str(self.head)
        return RecordView(
            holder=record.holder,
            epoch=record.epoch,
            released=record.state == RELEASED,
            successor=record.successor,
            unchanged_for=mono - self.token_since,
            ours=own,
            same_place=own,
            listed=self.head in self.record_heads,
            for_us=record.successor == str(self.head),
            adopted=record.state == RELEASED and not record.instance and self.sim.rules.adopted_lease_rests,
        )

    def _link(self, record: Lease, mono: float) -> LeaderLink:
        fresh = mono - self.instance_since < self.sim.timing.gone_after
        if record.holder == str(self.head) or fresh:
            return LeaderLink.UNKNOWN
        return self.links[int(record.holder)]

    def _with_a_say(self) -> tuple[int, ...]:
        """The other heads that wrote of themselves lately, on this head's own clock."""
        mono, current = self.world.mono(self.head), {}
        for other, entry in enumerate(self.members):
            if entry is None or other == self.head:
                continue
            mark = entry[:2]
            before = self.marks_seen.get(other)
            current[other] = before if before is not None and before[0] == mark else (mark, mono)
        self.marks_seen = current
        limit = self.sim.timing.forget_after
        return tuple(other for other, (_, at) in current.items() if mono - at < limit)

    # calls to the store

    def _call(self, method: Callable[..., Any], words: tuple[Any, ...], done: Callable[[Any], None]) -> None:
        self.call += 1
        self.pending = self.call
        self.sim.ask_store(self.head, self.owner, method, words, self._answered, self.call, done)
        self.world.after(self.sim.timing.store_timeout, self.owner, self._answered, None, self.call, done)

    def _answered(self, result: Any, call: int, done: Callable[[Any], None]) -> None:
        if call == self.pending and self.alive:
            self.pending = 0
            done(result)

    def _take(self, seen: Seen) -> None:
        token = seen.lease.token if seen.lease is not None else None
        if token != self.token:
            if self.token is None or token is None or token.instance != self.token.instance:
                self.instance_since = self.world.mono(self.head)
            self.token, self.token_since = token, self.world.mono(self.head)
        self.record, self.record_heads = seen.lease, seen.heads
        self.paused, self.members, self.seen_at = seen.paused, seen.members, seen.at

    def _looked(self, seen: Seen | None) -> None:
        if seen is None:
            self.standing = StoreStanding.AWAY
            if self.sim.rules.failed_look_frees_word:
                self.good_look_at = NEVER
        else:
            self._take(seen)
            self.standing = self._standing(seen)
            if self.standing is GOOD:
                self.good_look_at = self.look_at
                self.unsure = False
                epoch = seen.lease.epoch if seen.lease is not None else 0
                self.memory = (seen.incarnation, max(epoch, self.memory[1]))
        self._decide()

    def _standing(self, seen: Seen) -> StoreStanding:
        incarnation, epoch = self.memory
        if not seen.incarnation:
            return StoreStanding.EMPTY if incarnation else GOOD
        if seen.incarnation == incarnation and epoch > (seen.lease.epoch if seen.lease is not None else 0):
            return StoreStanding.OLDER
        return GOOD

    # a standby's steps

    def _acquire(self) -> None:
        if self.sim.rules.word_checked_again and self.promise_until > self.promise_seen:
            self._pause()
            return
        self.acquiring = True
        sent, heads = self.world.boot(self.head), self._with_a_say()
        incarnation, floor = self.memory
        words = (self.head, self.instance, self.token, floor, heads, incarnation, self.forced, self.seen_at)

        def done(answer: tuple[bool, Seen] | None) -> None:
            self._acquired(answer, sent, heads)

        self._call(self.sim.store.acquire, words, done)

    def _acquired(self, answer: tuple[bool, Seen] | None, sent: float, heads: tuple[int, ...]) -> None:
        self.acquiring = False
        self.unsure = answer is None
        self.forced = False
        self.look_at = NEVER
        if answer is None or not answer[0]:
            self._rest(0.01)
            return
        sent = sent if self.sim.rules.stamped_by_sending else self.world.boot(self.head)
        taken = answer[1]
        assert taken.lease is not None
        before_heads = self.record_heads
        self._take(taken)
        self.memory = (taken.incarnation, taken.lease.epoch)
        if self.world.boot(self.head) - sent >= self.sim.timing.fence_after:
            self._rest(0.01)
            return
        self.epoch, self.rank, self.seq = taken.lease.epoch, LEADING, taken.lease.seq
        node = self.sim.nodes[self.head]
        node.arm(sent + self.sim.timing.fence_after)
        node.gateway_epoch = self.epoch
        self.renewal_sent = self.attempt_at = sent
        self.question_at = self.word_sent = self.trouble_since = None
        self.lost_to, self.store_reset, self.hand_over_to = "", False, None
        self.written, self.standing = heads, GOOD
        self.says(f"leads with epoch {self.epoch}, lists {heads}")
        self.sim.took_over(self.head, before_heads)
        node.supervise_soon()
        self._pause()

    # a leader's steps

    def _renew(self) -> None:
        sent = self.attempt_at = self.world.boot(self.head)
        heads = self._with_a_say()
        if self.sim.rules.ask_all_listed:
            self.written, narrow = tuple(sorted({*self.written, *heads})), heads
        else:
            narrow = heads
        words = (self.head, self.instance, self.epoch, self.seq, heads, self._entry())

        def done(answer: tuple[RenewOutcome, Seen] | None) -> None:
            self._renewed(answer, sent, narrow)

        self._call(self.sim.store.renew, words, done)

    def _renewed(
        self, answer: tuple[RenewOutcome, Seen] | None, sent: float, heads: tuple[int, ...]
    ) -> None:
        if answer is None:
            self.standing = StoreStanding.AWAY
        else:
            self._take(answer[1])
            self.standing = GOOD
            self.store_reset = answer[0] is RenewOutcome.LOST_STORE
            if answer[0] is RenewOutcome.PREEMPTED:
                self.lost_to = f"{answer[1].lease} is in the store"
                self._decide()
                return
        if answer is None or self.store_reset:
            self.trouble_since = sent if self.trouble_since is None else self.trouble_since
            self._decide()
            return
        lease = answer[1].lease
        assert lease is not None
        if not self.sim.rules.stamped_by_sending:
            sent = self.world.boot(self.head)
        self.seq = lease.seq
        self.renewal_sent, self.written = sent, heads
        self.question_at = self.word_sent = self.trouble_since = None
        self.sim.nodes[self.head].arm(sent + self.sim.timing.fence_after)
        self._decide()

    def _ask(self) -> None:
        sent = self.question_at = self.world.boot(self.head)
        trouble_for = sent - (sent if self.trouble_since is None else self.trouble_since)
        self.round += 1
        self.missing = set(self.written)
        if not self.missing:
            self._asked(self.round, sent)
            return
        for other in self.written:
            words = (self.head, self.round, self.epoch, trouble_for, sent)
            asked = self.sim.electors[other]
            self.world.message(self.head, other, asked.owner, asked.give, *words)
        self.world.after(self.sim.timing.peer_timeout, self.owner, self._asked, self.round, None)

    def give(self, asker: int, number: int, epoch: int, trouble_for: float, sent: float) -> None:
        """Another head asks for this one's word."""
        leader = self.sim.electors[asker]
        if not self.alive:
            return
        given, why = give_word(self._word_view(epoch, trouble_for))
        if given:
            self.promise_until = self.world.mono(self.head) + self.sim.timing.ttl
            self.promised_epoch = epoch
        elif not self.epoch and self.sim.rules.question_wakes:
            self.wake()
        if self.world.trace is not None:
            self.says(f"asked by {asker} for its word: {given}, {why}")
        self.world.message(self.head, asker, leader.owner, leader.heard, number, self.head, given, sent)

    def _word_view(self, epoch: int, trouble_for: float) -> WordView:
        rules = self.sim.rules
        known = max(self.memory[1], self.record.epoch if self.record is not None else 0)
        ago = self.world.mono(self.head) - self.good_look_at if self.good_look_at != NEVER else None
        return WordView(
            asked_epoch=epoch,
            own_epoch=self.epoch,
            acquiring=self.acquiring or (rules.no_word_when_unsure and self.unsure),
            known_epoch=known,
            trouble_for=trouble_for,
            good_look_ago=ago if rules.words_look_at_store else None,
        )

    def heard(self, number: int, other: int, given: bool, sent: float) -> None:
        """One answer of a round."""
        if number != self.round or not self.alive or not self.epoch:
            return
        if not given:
            self._asked(number, None)
            return
        self.missing.discard(other)
        if not self.missing:
            self._asked(number, sent)

    def _asked(self, number: int, sent: float | None) -> None:
        if number != self.round:
            return
        self.round += 1
        if sent is not None:
            self.word_sent = sent
            self.sim.nodes[self.head].arm(sent + self.sim.timing.fence_after)
        self._decide()

    def _step_down(self, reason: str) -> None:
        if not self.sim.rules.self_kill and not self.lost_to:
            self.attempt_at = self.world.boot(self.head)
            self._renew()
            return
        self._give_up_lead()
        self._rest(0.01)

    def _give_up_lead(self) -> None:
        node = self.sim.nodes[self.head]
        node.gateway_epoch = 0
        self.epoch, self.rank, self.hand_over_to = 0, STANDBY, None
        self.store_reset = False
        self.ready_at = self.world.mono(self.head) + 2.0
        self.look_at = NEVER
        self.sim.excused[self.head] = False
        node.supervise_soon()

    def _hand(self) -> None:
        node = self.sim.nodes[self.head]
        if self.rank == LEADING:
            self.rank = HANDING_OVER
            node.gateway_epoch = 0
            node.supervise_soon()
        if self.gcs_running:
            self._pause()
            return
        node.disarm()
        successor = self.hand_over_to or ""
        if not successor and not self.stopping:
            successor = (*self._others_prepared(), "")[0]
        self._call(
            self.sim.store.release, (self.head, self.instance, self.epoch, successor), self._released
        )

    def _released(self, answer: Any) -> None:
        self._give_up_lead()
        self._rest(0.01)

    def says(self, what: str) -> None:
        """One line of the trace."""
        if self.world.trace is not None:
            self.world.says(f"head {self.head}", what)

"""One head's elector as a model: what ``rayward.agent.elector`` does around ``decide_lead``, step by step.

A call to the store takes time, may time out though it took effect, and blocks the loop; ``decide_lead``,
``give_word`` and ``LeaseTiming`` are the real ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sim_sight import GOOD, HANDING_OVER, LEADING, NEVER, STANDBY, SimSight
from sim_store import Seen

from rayward.agent.lead import (
    LeadAction,
    LeadStep,
    StoreStanding,
    decide_lead,
    give_word,
)
from rayward.store.lease_rules import RenewOutcome


class SimElector(SimSight):
    """The loop and its steps."""

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
        self._count_silence()

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

    def _renewed(self, answer: tuple[RenewOutcome, Seen] | None, sent: float, heads: tuple[int, ...]) -> None:
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
        self._call(self.sim.store.release, (self.head, self.instance, self.epoch, successor), self._released)

    def _released(self, answer: Any) -> None:
        self._give_up_lead()
        self._rest(0.01)

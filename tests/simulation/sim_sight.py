"""What one head's elector in the model knows and sees: its state, and the views for the real decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim_store import Entry, Seen

from rayward.agent.lead import (
    LeaderLink,
    LeadView,
    RecordView,
    StoreStanding,
    WordView,
)
from rayward.store.lease_rules import RELEASED, Lease, LeaseToken

if TYPE_CHECKING:
    from sim_run import Simulation

STANDBY, LEADING, HANDING_OVER = 0, 1, 2
NEVER = float("-inf")
GOOD = StoreStanding.GOOD


class SimSight:
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

    def _count_silence(self) -> None:
        """Since when, on this head's own clock, the others have written nothing new; at each look."""
        mono, current = self.world.mono(self.head), {}
        for other, entry in enumerate(self.members):
            if entry is None or other == self.head:
                continue
            mark = entry[:2]
            before = self.marks_seen.get(other)
            current[other] = before if before is not None and before[0] == mark else (mark, mono)
        self.marks_seen = current

    def _with_a_say(self) -> tuple[int, ...]:
        """The other heads that wrote of themselves lately."""
        mono, limit = self.world.mono(self.head), self.sim.timing.forget_after
        return tuple(other for other, (_, at) in self.marks_seen.items() if mono - at < limit)

    def _standing(self, seen: Seen) -> StoreStanding:
        incarnation, epoch = self.memory
        if not seen.incarnation:
            return StoreStanding.EMPTY if incarnation else GOOD
        if seen.incarnation == incarnation and epoch > (seen.lease.epoch if seen.lease is not None else 0):
            return StoreStanding.OLDER
        return GOOD

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

    def says(self, what: str) -> None:
        """One line of the trace."""
        if self.world.trace is not None:
            self.world.says(f"head {self.head}", what)

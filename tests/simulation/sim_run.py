"""One schedule from its seed: builds the world, breaks it, mends it, and says what did not hold.

By hand: ``python tests/simulation/sim_run.py SEED`` replays a seed and prints the last 40 steps.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from sim_elector import SimElector
from sim_faults import Faults
from sim_node import SimNode
from sim_sight import LEADING
from sim_store import SimStore
from sim_world import ViolationError, World

from rayward.agent.lead import StoreStanding
from rayward.agent.timing import LeaseTiming
from rayward.store.lease_rules import HELD

DEFAULT = LeaseTiming()
THAW_GRACE = 0.1  # seconds that a thawed fence may need to get a processor


@dataclass(frozen=True)
class Rules:
    """What the parts around ``decide_lead`` keep to; each can be switched off to see what it is for.

    ``fence``: the store compares epochs. ``self_kill``: fence process, and stepping down for want of time.
    ``words_look_at_store``: no word from a head that reaches the store. ``stamped_by_sending``: a renewal
    counts from when it was sent. ``ask_all_listed``: the heads of every list tried since the last renewal
    that succeeded are asked. ``word_checked_again``: a word given since the decision stops an acquisition.
    ``no_word_when_unsure``: no word while an acquisition has an unknown outcome. ``old_connections_reset``:
    what a closed connection held never arrives. ``own_gcs_ended``: no acquisition while a GCS of an earlier
    epoch runs here.
    ``word_outlives_adoption``: a word holds for a released lease too, unless the holder itself released the
    very epoch that the word was given to (not an operator who adopted the store, nor an earlier holder).
    ``adopted_lease_rests``: one that an operator released by adopting the store is left alone for one TTL.
    ``failed_look_frees_word``: a look that failed undoes the good one before it, when asked for a word.
    ``question_wakes``: a head that refuses its word looks at the store at once. ``unique_writer``: what a
    write carries names one acquisition, not its epoch alone.
    """

    fence: bool = True
    self_kill: bool = True
    words_look_at_store: bool = True
    stamped_by_sending: bool = True
    ask_all_listed: bool = True
    word_checked_again: bool = True
    no_word_when_unsure: bool = True
    old_connections_reset: bool = True
    own_gcs_ended: bool = True
    word_outlives_adoption: bool = True
    adopted_lease_rests: bool = True
    failed_look_frees_word: bool = True
    question_wakes: bool = True
    unique_writer: bool = True


@dataclass(frozen=True)
class Outcome:
    """How a schedule went. ``violation`` is empty when all held. ``recovery``: seconds from the last mending
    until a write was accepted."""

    seed: int
    violation: str = ""
    what: str = ""
    steps: int = 0
    writes: int = 0
    epochs: int = 0
    recovery: float = 0.0
    trace: tuple[str, ...] = ()


class Simulation:
    """One cluster of two or three heads and a store."""

    def __init__(self, seed: int, rules: Rules, timing: LeaseTiming, traced: bool = False) -> None:
        self.rules, self.timing = rules, timing
        first = seed % 10
        self.world = World(seed, 3 if first < 4 else 2, traced)
        rng = self.world.rng
        heads = range(self.world.heads)
        self.world.rate = [1.0 + rng.uniform(-0.005, 0.005) for _ in heads]
        self.store = SimStore(self.world, fence_off=not rules.fence, unique_writer=rules.unique_writer)
        self.numbers = 0
        self.excused = [False for _ in heads]
        self.excused_until = [0.0 for _ in heads]
        self.still = [False for _ in heads]
        self.host_up = [True for _ in heads]
        self.host_answers = [True for _ in heads]
        self.electors = [SimElector(self, head) for head in heads]
        self.nodes = [SimNode(self, head) for head in heads]
        self.faults = Faults(self)
        self.outage_only = first == 9
        self.recovery = 0.0

    def ask_store(
        self,
        head: int,
        owner: int,
        method: Callable[..., Any],
        words: tuple[Any, ...],
        reply: Callable[..., None],
        *reply_words: Any,
    ) -> None:
        """``method(*words)`` happens at the store, and ``reply(result, *reply_words)`` back at the head."""
        target = self.world.store
        arrival = (head, owner, method, words, reply, reply_words)
        self.world.message(head, target, self.world.store_owner, self._at_store, *arrival)

    def _at_store(self, head: int, owner: int, method: Any, words: Any, reply: Any, reply_words: Any) -> None:
        world = self.world
        if not self.store.up:
            world.message(world.store, head, owner, reply, None, *reply_words)
        elif self.store.slow:
            rest = (head, owner, method, words, reply, reply_words)
            world.after(self.store.slow, world.store_owner, self._do, *rest)
        else:
            self._do(head, owner, method, words, reply, reply_words)

    def _do(self, head: int, owner: int, method: Any, words: Any, reply: Any, reply_words: Any) -> None:
        result = method(*words)
        self.world.message(self.world.store, head, owner, reply, result, *reply_words)

    # processes

    def agent_starts(self, head: int) -> None:
        """A new agent with a fence and a gateway; a GCS left over is ended first."""
        node = self.nodes[head]
        node.end_gcs("a new agent starts")
        self.world.end(node.fence_owner)
        self.world.end(node.owner)
        node.fence_alive, node.timer_runs, node.deadline, node.fired = True, False, None, ""
        node.gateway_epoch, node.starting, node.killing = 0, False, False
        self.electors[head].start()
        self.faults.links_change()

    def agent_dies(self, head: int) -> None:
        """The agent's process ends; fence and gateway find out by their pipes."""
        node = self.nodes[head]
        if not self.electors[head].alive:
            return
        self.electors[head].die()
        self.excused[head] = False
        self.world.after(0.02 * self.world.random(), node.fence_owner, node.agent_gone)
        self.faults.links_change()

    def host_dies(self, head: int, answers: bool) -> None:
        """All of a head's processes end at once."""
        self.agent_dies(head)
        node = self.nodes[head]
        node.end_gcs("the host died")
        self.world.end(node.fence_owner)
        self.world.end(node.owner)
        self.still[head] = False
        node.fence_alive, node.timer_runs, node.gateway_epoch = False, False, 0
        self.host_up[head], self.host_answers[head] = False, answers

    def host_starts(self, head: int) -> None:
        """A head that had ended is back."""
        self.host_up[head] = self.host_answers[head] = True
        self.agent_starts(head)

    def freeze_head(self, head: int) -> None:
        """All processes of a head stand still."""
        for owner in range(3 * head, 3 * head + 3):
            self.world.freeze(owner)
        self.faults.links_change()

    def thaw_head(self, head: int) -> None:
        """They go on, unless their machine stands still."""
        if self.still[head]:
            return
        self.excuse_for(head, THAW_GRACE if self.world.frozen[3 * head + 1] else 0.0)
        for owner in range(3 * head, 3 * head + 3):
            self.world.thaw(owner)
        self.faults.links_change()

    def adopt(self) -> None:
        """An operator runs `rayward store adopt` at a head that finds the store empty or older."""
        for elector in self.electors:
            found = elector.standing in (StoreStanding.EMPTY, StoreStanding.OLDER) or elector.store_reset
            if found and self._reaches_store(elector):
                self._adopt_at(elector)
                return

    def _reaches_store(self, elector: SimElector) -> bool:
        head, links, store = elector.head, self.world.links, self.world.store
        reached = self.store.up and links[head][store] and links[store][head]
        return elector.alive and reached and not self.world.frozen[3 * head]

    def _adopt_at(self, elector: SimElector) -> None:
        before = self.store.lease
        if before is not None and before.state == HELD and before.holder != str(elector.head):
            self.excused[int(before.holder)] = True  # deposed by hand
        _, seen = self.store.adopt(elector.head, max(elector.memory[1], elector.promised_epoch))
        elector.memory = (seen.incarnation, elector.memory[1])
        elector.lost_to = "the store was adopted" if elector.epoch else ""
        elector.says("adopts the store")
        elector.wake()

    def roll_back(self) -> None:
        """The store forgets its newest seconds. A leader whose acquisition or renewal it forgot may find
        another one beside it until its own next renewal; only that other one's writes are accepted."""
        self.store.roll_back()
        newest = self.store.lease.epoch if self.store.lease is not None else 0
        for elector in self.electors:
            self.excused[elector.head] = self.excused[elector.head] or elector.epoch > newest
            self.excuse_for(elector.head, self.timing.ttl)

    # what must hold

    def took_over(self, head: int, listed: tuple[int, ...]) -> None:
        """I3, at its earliest: nobody else's GCS may run when a head takes the lease. Notes who may be
        surprised: a leader that did not list its successor, or one deposed by hand."""
        for other in self.electors:
            if other.head == head or not other.epoch:
                continue
            unlisted = head not in listed and head not in other.written
            if unlisted or other.head in self.store.deposed:
                self.excused[other.head] = True
        self.store.deposed.clear()
        self.check_leaders(head)

    def excuse_for(self, head: int, length: float) -> None:
        """A head whose fence had no chance to run, for ``length`` seconds."""
        if length:
            until = self.world.now + length
            self.excused_until[head] = max(self.excused_until[head], until)
            self.world.after(length + 0.001, self.world.operator, self.check_leaders)

    def check_leaders(self, taker: int = -1) -> None:
        """I3: two running GCS whose agents both believe that they lead; ``taker``'s counts as running."""
        leading = [
            elector.head
            for elector in self.electors
            if elector.rank == LEADING and (self.nodes[elector.head].gcs or elector.head == taker)
            and not self.world.frozen[3 * elector.head + 1]
            and not self.excused[elector.head] and self.world.now >= self.excused_until[elector.head]
        ]  # fmt: skip
        if len(leading) > 1:
            told = ", ".join(f"head {head} with epoch {self.electors[head].epoch}" for head in leading)
            raise ViolationError("I3", f"two running GCS whose agents lead: {told}")

    # the schedule

    def run(self) -> None:
        """Warm up, break, mend, and wait for a leader. Raises ViolationError."""
        world = self.world
        for head in range(world.heads):
            world.after(world.between(0.0, 1.5), world.operator, self._first_start, head)
        world.run(4.0)
        if self.outage_only:
            world.run(4.0 + self.faults.plan_outages())
            self._check_outage()
        else:
            length = world.between(3.0, 15.0)
            self.faults.plan(length)
            world.run(4.0 + length + 1.0)
        self._mend()
        self._expect_leader()

    def _first_start(self, head: int) -> None:
        self.agent_starts(head)

    def _check_outage(self) -> None:
        for node in self.nodes:
            if node.fires or self.electors[node.head].lives > 1:
                raise ViolationError("I5", f"a store outage alone cost the GCS of head {node.head}")
        if self.store.lease is not None and self.store.lease.epoch != 1:
            raise ViolationError("I5", f"a store outage alone ended epoch 1: {self.store.lease}")

    def _mend(self) -> None:
        """Everything is well again, or, as often, only one head and its way to the store."""
        world, faults = self.world, self.faults
        world.end(world.operator)  # what was planned does not happen any more
        self.healthy = world.rng.randrange(world.heads)
        whole = world.rng.random() < 0.6
        faults.network_heals()
        faults.store_fast()
        faults.store_returns()
        faults.resume()
        world.thaw(world.store_owner)
        for head in range(world.heads):
            if not (whole or head == self.healthy):
                continue
            for other in range(world.heads + 1):
                if whole or other == world.store:
                    world.links[head][other] = world.links[other][head] = True
            self._mend_head(head)
        faults.links_change()
        if world.trace is not None:
            world.says("MENDED", "everything" if whole else f"head {self.healthy} and its way to the store")

    def _mend_head(self, head: int) -> None:
        if self.still[head]:
            self.still[head] = False
            self.excuse_for(head, self.timing.ttl * 1.1)
        self.thaw_head(head)
        if self.electors[head].stopping:
            self.agent_dies(head)
        if not self.electors[head].alive:
            self.host_starts(head)

    def bound(self) -> float:
        """Seconds within which somebody leads and writes once one head and its way to the store are well."""
        timing = self.timing
        wait = timing.ttl * timing.newcomer_factor  # a head that the record does not list
        calls = 2 * timing.renew_interval + 4 * timing.store_timeout
        start = 3.0  # a GCS that nobody has prepared
        return wait * 1.02 + timing.ttl + timing.successor_grace + calls + start

    def _expect_leader(self) -> None:
        world, store = self.world, self.store
        begin, mark = world.now, store.accepted

        def wrote() -> bool:
            return store.accepted > mark and world.now - begin > 0.5

        end = begin + self.bound()
        while world.now < end:
            world.run(min(world.now + 1.0, end), wrote)
            if store.accepted > mark:
                self.recovery = store.last_accepted_at - begin
                return
            self.adopt()
        raise ViolationError("I4", f"nobody leads and writes {end - begin:.1f} s after the faults ended")


def simulate(
    seed: int, rules: Rules = Rules(), timing: LeaseTiming = DEFAULT, traced: bool = False
) -> Outcome:
    """Run one schedule."""
    sim = Simulation(seed, rules, timing, traced)
    name = what = ""
    try:
        sim.run()
    except ViolationError as violation:
        name, what = violation.name, str(violation)
        sim.world.says("VIOLATION", what)
    epochs = sim.store.lease.epoch if sim.store.lease is not None else 0
    return Outcome(
        seed, name, what, sim.world.steps, sim.store.accepted, epochs, sim.recovery,
        tuple(sim.world.trace or ()),
    )  # fmt: skip


def explain(outcome: Outcome, rules: Rules = Rules(), timing: LeaseTiming = DEFAULT) -> str:
    """A seed's story: what did not hold and the last steps before it."""
    traced = simulate(outcome.seed, rules, timing, traced=True)
    head = f"seed {outcome.seed}: {traced.what or 'all held'}"
    return "\n".join([head, *traced.trace])


if __name__ == "__main__":
    switched_off = dict.fromkeys(sys.argv[2:], False)
    print(explain(Outcome(int(sys.argv[1])), Rules(**switched_off)))

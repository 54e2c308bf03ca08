"""The faults of a schedule: what breaks, when, and how it mends. Times and victims come from the seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rayward.agent.lead import LeaderLink

if TYPE_CHECKING:
    from sim_run import Simulation


class Faults:
    """Breaks one simulation."""

    def __init__(self, sim: Simulation) -> None:
        self.sim, self.world = sim, sim.world
        self.between, self.rng = sim.world.between, sim.world.rng
        self.kinds: list[tuple[int, Callable[[], None]]] = [
            (10, self.agent_crash), (8, self.host_crash), (8, self.agent_freeze), (10, self.host_freeze),
            (3, self.host_sleep), (3, self.machine_pause), (14, self.cut_from_store), (10, self.cut_heads),
            (6, self.isolate), (8, self.bad_network), (8, self.store_down), (6, self.store_freeze),
            (5, self.store_slow), (2, self.store_wiped), (2, self.store_rolled_back), (4, self.fence_killed),
            (5, self.gcs_crash), (6, self.switchover), (4, self.pause), (2, self.force), (6, self.stall),
            (4, self.agent_stop),
        ]  # fmt: skip
        self.weights = [weight for weight, _ in self.kinds]
        self.outages = [self._store_ends, self._store_freezes, self._store_cut]

    def plan(self, length: float) -> None:
        """Choose the faults of the next ``length`` seconds."""
        for _ in range(1 + min(int(self.rng.expovariate(0.25)), 14)):
            kind = self.rng.choices(self.kinds, self.weights)[0][1]
            self.later(self.between(0.0, length), kind)

    def plan_outages(self) -> float:
        """Nothing but outages of the store, with enough service between them for one renewal; returns when
        the last one is over."""
        timing, at = self.sim.timing, 0.0
        for _ in range(self.rng.randrange(1, 4)):
            length = self.between(0.05, 1.0) if self.rng.random() < 0.3 else self.between(1.0, 12.0)
            at += self.between(0.0, 1.5)
            self.later(at, self.rng.choice(self.outages), length)
            at += length + timing.renew_interval + 2 * timing.store_timeout + timing.peer_timeout
        return at

    def later(self, delay: float, step: Callable[..., None], *words: object) -> None:
        """The operator's (or fate's) own clock."""
        self.world.after(delay, self.world.operator, step, *words)

    def victim(self) -> int:
        """A head: often the one that leads."""
        leading = [elector.head for elector in self.sim.electors if elector.epoch]
        if leading and self.rng.random() < 0.6:
            return leading[0]
        return self.rng.randrange(self.world.heads)

    def says(self, what: str) -> None:
        if self.world.trace is not None:
            self.world.says("FAULT", what)

    # links between agents

    def links_change(self) -> None:
        """Every head finds out about every other: a refusal or a new stream soon, silence after 1.5 s."""
        for head in range(self.world.heads):
            for other in range(self.world.heads):
                if head != other:
                    owner = 3 * head
                    self.world.after(self.between(0.02, 0.3), owner, self._relink, head, other, False)
                    self.world.after(self.between(1.5, 1.8), owner, self._relink, head, other, True)

    def _relink(self, head: int, other: int, silent_too: bool) -> None:
        world, elector = self.world, self.sim.electors[head]
        if world.links[head][other] and world.links[other][head] and self.sim.host_answers[other]:
            if not self.sim.electors[other].alive:
                found = LeaderLink.GONE
            elif not world.frozen[3 * other]:
                found = LeaderLink.CONNECTED
            else:
                found = LeaderLink.SILENT
        else:
            found = LeaderLink.SILENT
        if found is LeaderLink.SILENT and not silent_too:
            return
        if elector.links[other] is not found:
            elector.links[other] = found
            elector.wake()

    # processes

    def agent_crash(self) -> None:
        head = self.victim()
        if self.sim.still[head]:
            return
        self.says(f"the agent of head {head} crashes")
        self.sim.agent_dies(head)
        self.later(self.between(0.2, 6.0), self._agent_returns, head)

    def _agent_returns(self, head: int) -> None:
        if self.sim.still[head]:
            self.later(1.0, self._agent_returns, head)
        elif not self.sim.electors[head].alive and self.sim.host_up[head]:
            self.says(f"the agent of head {head} starts again")
            self.sim.agent_starts(head)

    def agent_stop(self) -> None:
        head = self.victim()
        elector = self.sim.electors[head]
        self.says(f"the agent of head {head} is stopped in good order")
        elector.stopping = True
        elector.wake()
        self.later(self.between(1.0, 4.0), self._agent_stopped, head)

    def _agent_stopped(self, head: int) -> None:
        if self.sim.still[head]:
            self.later(1.0, self._agent_stopped, head)
            return
        self.sim.agent_dies(head)
        self.later(self.between(0.2, 3.0), self._agent_returns, head)

    def host_crash(self) -> None:
        head, answers = self.victim(), self.rng.random() < 0.5
        self.says(f"everything on head {head} ends; its host {'answers' if answers else 'is silent'}")
        self.sim.host_dies(head, answers)
        self.later(self.between(1.0, 8.0), self._host_returns, head)

    def _host_returns(self, head: int) -> None:
        if not self.sim.host_up[head]:
            self.says(f"head {head} starts again")
            self.sim.host_starts(head)

    def agent_freeze(self) -> None:
        head = self.victim()
        # Agent frozen and fence killed at once are two faults that nothing survives.
        if self.sim.nodes[head].fence_alive:
            self.says(f"the agent of head {head} is frozen")
            self.world.freeze(3 * head)
            self.links_change()
            self.later(self.between(0.1, 8.0), self.sim.thaw_head, head)

    def host_freeze(self) -> None:
        head = self.victim()
        self.says(f"everything on head {head} is frozen")
        self.sim.freeze_head(head)
        self.later(self.between(0.1, 10.0), self.sim.thaw_head, head)

    def host_sleep(self) -> None:
        self._still(self.world.slept, "sleeps: its monotonic clock stands still")

    def machine_pause(self) -> None:
        self._still(self.world.stood, "is a paused virtual machine: all its clocks stand still")

    def _still(self, clocks: list[float], how: str) -> None:
        head, length = self.victim(), self.between(0.1, 8.0)
        if self.sim.still[head] or any(self.world.frozen[3 * head : 3 * head + 3]):
            return
        self.says(f"head {head} {how}")
        self.sim.still[head] = True
        self.sim.freeze_head(head)
        self.later(length, self._goes_on, head, clocks, self.world.now)

    def _goes_on(self, head: int, clocks: list[float], since: float) -> None:
        if not self.sim.still[head]:
            return
        clocks[head] += self.world.now - since
        self.sim.still[head] = False
        if clocks is self.world.stood:
            self.sim.excuse_for(head, self.sim.timing.ttl * 1.1)
        self.sim.thaw_head(head)

    def fence_killed(self) -> None:
        head = self.victim()
        if self.sim.electors[head].alive and not self.world.frozen[3 * head]:
            self.says(f"the fence process of head {head} is killed")
            self.sim.nodes[head].kill_fence()

    def gcs_crash(self) -> None:
        head = self.victim()
        if self.sim.nodes[head].gcs:
            self.says(f"the GCS of head {head} crashes")
            self.sim.nodes[head].end_gcs("it crashed")

    def stall(self) -> None:
        head = self.victim()
        self.sim.electors[head].stall = self.between(0.05, 2.0)
        self.says(f"the loop of head {head} will stall between a decision and its step")

    # network

    def _cut(self, pairs: list[tuple[int, int]], length: float) -> None:
        for source, target in pairs:
            self.world.links[source][target] = False
        self.says(f"cut off: {', '.join(f'{source}->{target}' for source, target in pairs)}")
        self.links_change()
        self.later(length, self._mend, pairs)

    def _mend(self, pairs: list[tuple[int, int]]) -> None:
        for source, target in pairs:
            self.world.links[source][target] = True
        self.says(f"mended: {', '.join(f'{source}->{target}' for source, target in pairs)}")
        self.links_change()

    def _some_ways(self, one: int, other: int) -> list[tuple[int, int]]:
        return [[(one, other), (other, one)], [(one, other)], [(other, one)]][
            min(2, int(self.rng.random() * 4) % 3)
        ]

    def cut_from_store(self) -> None:
        self._cut(self._some_ways(self.victim(), self.world.store), self.between(0.1, 10.0))

    def _store_cut(self, length: float) -> None:
        heads, store = range(self.world.heads), self.world.store
        ways = [(head, store) for head in heads] + [(store, head) for head in heads]
        self._cut(ways, length)

    def cut_heads(self) -> None:
        one = self.victim()
        other = (one + 1 + self.rng.randrange(self.world.heads - 1)) % self.world.heads
        self._cut(self._some_ways(one, other), self.between(0.1, 10.0))

    def isolate(self) -> None:
        head = self.victim()
        others = [other for other in range(self.world.heads + 1) if other != head]
        ways = [(head, other) for other in others] + [(other, head) for other in others]
        self._cut(ways, self.between(0.2, 8.0))

    def bad_network(self) -> None:
        self.world.loss = self.between(0.02, 0.4)
        self.world.latency = self.rng.choice([0.002, 0.02, 0.2])
        self.says(f"messages get lost ({self.world.loss:.2f}) and take {self.world.latency} s")
        self.later(self.between(0.5, 5.0), self.network_heals)

    def network_heals(self) -> None:
        """Messages arrive again."""
        self.world.loss, self.world.latency = 0.0, 0.002

    # store

    def store_down(self) -> None:
        self._store_ends(self.between(0.05, 12.0))

    def _store_ends(self, length: float) -> None:
        self.says("the store's process ends")
        self.sim.store.up = False
        self.world.end(self.world.store_owner)
        self.later(length, self.store_returns)

    def store_returns(self) -> None:
        """The store's process runs again."""
        if not self.sim.store.up:
            self.says("the store is back")
            self.sim.store.up = True

    def store_freeze(self) -> None:
        self._store_freezes(self.between(0.1, 10.0))

    def _store_freezes(self, length: float) -> None:
        self.says("the store's process is frozen")
        self.world.freeze(self.world.store_owner)
        self.later(length, self._store_thaws)

    def _store_thaws(self) -> None:
        self.says("the store's process goes on")
        self.world.thaw(self.world.store_owner)

    def store_slow(self) -> None:
        self.sim.store.slow = self.between(0.1, 2.0)
        self.says(f"the store takes {self.sim.store.slow:.1f} s for everything")
        self.later(self.between(1.0, 6.0), self.store_fast)

    def store_fast(self) -> None:
        """The store answers at once again."""
        self.sim.store.slow = 0.0

    def store_wiped(self) -> None:
        if all(elector.memory[0] for elector in self.sim.electors):
            self.says("the store loses everything")
            self._store_ends(self.between(0.05, 2.0))
            self.sim.store.lose_everything()
            self.later(self.between(2.5, 8.0), self.sim.adopt)

    def store_rolled_back(self) -> None:
        self.sim.store.take_snapshot()
        self.later(self.between(0.5, 6.0), self._roll_back)

    def _roll_back(self) -> None:
        self.says("the store forgets its newest seconds")
        self._store_ends(self.between(0.05, 2.0))
        self.sim.roll_back()
        self.later(self.between(2.5, 8.0), self.sim.adopt)

    # operators

    def switchover(self) -> None:
        for elector in self.sim.electors:
            if elector.alive and elector.rank == 1:
                ready = elector._others_prepared()
                if ready:
                    self.says(f"switchover from {elector.head} to {ready[0]}")
                    elector.hand_over_to = ready[0]
                    elector.wake()

    def pause(self) -> None:
        if self.sim.store.up:
            self.says("paused")
            self.sim.store.set_paused(True)
            self.later(self.between(1.0, 10.0), self.resume)

    def resume(self) -> None:
        """Failover by itself is on again."""
        self.sim.store.set_paused(False)

    def force(self) -> None:
        elector = self.sim.electors[self.rng.randrange(self.world.heads)]
        if elector.alive and not elector.epoch:
            self.says(f"failover to {elector.head} by hand")
            elector.forced = True
            elector.wake()

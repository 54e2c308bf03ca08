"""What runs beside an elector on one head, as a model: fence process, store gateway, GCS and supervisor.

The GCS writes all the time. A write is acknowledged when its answer is back; the gateway sends one again
whose answer did not come. The fence ends the GCS at its deadline, on its own, and at once when the
agent dies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim_sight import LEADING

if TYPE_CHECKING:
    from sim_run import Simulation

ANSWER_LIMIT = 1.0  # seconds after which the gateway opens a new connection and sends again


class SimNode:
    """``gcs``: a gcs_server runs that could write. ``born``: the epoch for which it was started."""

    def __init__(self, sim: Simulation, head: int) -> None:
        self.sim, self.world, self.head = sim, sim.world, head
        self.elector = sim.electors[head]
        self.fence_owner, self.owner = 3 * head + 1, 3 * head + 2
        self.fence_alive = False
        self.deadline: float | None = None
        self.timer_runs = False
        self.fired = ""
        self.fires = 0
        self.gateway_epoch = 0
        self.gcs = self.starting = self.killing = False
        self.born = self.gcs_life = 0
        self.attempt = 0

    # the fence

    def arm(self, deadline: float) -> None:
        """End the GCS at ``deadline`` unless armed anew."""
        self.deadline, self.fired = deadline, ""
        if not self.timer_runs and self.fence_alive:
            self.timer_runs = True
            self._wait(deadline)

    def disarm(self) -> None:
        """There is no GCS to end."""
        self.deadline = None

    def _wait(self, deadline: float) -> None:
        left = max(0.0, deadline - self.world.boot(self.head)) / self.world.rate[self.head]
        self.world.after(left + 0.002, self.fence_owner, self._timer)

    def _timer(self) -> None:
        deadline = self.deadline
        if deadline is None or not self.fence_alive:
            self.timer_runs = False
        elif self.world.boot(self.head) < deadline:
            self._wait(deadline)
        else:
            self.timer_runs = False
            if self.sim.rules.self_kill:
                self._fire()

    def _fire(self) -> None:
        self.fired = "not armed in time"
        if self.gcs:
            self.fires += 1
            self.end_gcs("the fence fired")
        if self.elector.alive:
            self.elector.wake()

    def agent_gone(self) -> None:
        """The fence's pipe from the agent closed."""
        if self.fence_alive and self.sim.rules.self_kill:
            self.end_gcs("the agent is gone")

    def kill_fence(self) -> None:
        """The fence process dies; the agent starts another one, which gets the same deadline."""
        self.world.end(self.fence_owner)
        self.fence_alive = self.timer_runs = False
        self.world.after(self.world.between(0.05, 0.3), self.elector.owner, self.start_fence)
        self.elector.wake()

    def start_fence(self) -> None:
        """A fence process runs from now on."""
        self.fence_alive = True
        self.fired = ""
        if self.deadline is not None:
            self.arm(self.deadline)

    # the supervisor

    def supervise_soon(self) -> None:
        """The supervisor's loop turns within its tick."""
        delay = 0.25 * self.world.random() if self.world.random() < 0.1 else 0.03 * self.world.random()
        self.world.after(delay, self.elector.owner, self._supervise)

    def _supervise(self) -> None:
        if self.elector.rank == LEADING:
            if not self.gcs and not self.starting and not self.killing:
                self.starting = True
                prepared = self.world.mono(self.head) >= self.elector.ready_at
                delay = self.world.between(0.05, 0.3) if prepared else self.world.between(0.5, 2.5)
                self.world.after(delay, self.elector.owner, self._started)
        elif self.gcs and not self.killing:
            self.killing = True
            self.world.after(self.world.between(0.0, 0.08), self.elector.owner, self._killed)

    def _killed(self) -> None:
        self.killing = False
        if self.gcs:
            self.end_gcs("the supervisor ended it")
        else:
            self._ended()

    def _started(self) -> None:
        self.starting = False
        elector = self.elector
        if elector.rank != LEADING or self.gcs:
            return
        if self.sim.rules.self_kill and self.fired:
            self.supervise_soon()
            return
        self.gcs, self.born = True, elector.epoch
        self.gcs_life += 1
        elector.gcs_running = True
        if self.world.trace is not None:
            elector.says(f"its GCS runs, for epoch {self.born}")
        self.sim.check_leaders()
        self.world.after(0.0, self.owner, self._write, self.gcs_life)

    def end_gcs(self, why: str) -> None:
        """The GCS is gone at once."""
        if self.gcs:
            self.gcs = False
            self.gcs_life += 1
            if self.world.trace is not None:
                self.elector.says(f"its GCS ends: {why}")
        if self.elector.alive:
            self.world.after(0.02 * self.world.random(), self.elector.owner, self._ended)

    def _ended(self) -> None:
        if not self.gcs:
            self.elector.gcs_running = False
            self.elector.wake()
            self._supervise()

    # GCS and gateway

    def _write(self, life: int) -> None:
        if life == self.gcs_life:
            self.sim.numbers += 1
            self._send(life, self.sim.numbers, self.sim.numbers & 1)

    def _send(self, life: int, number: int, key: int) -> None:
        if life != self.gcs_life:
            return
        self.attempt += 1
        epoch = self.gateway_epoch
        if not epoch:
            self.world.after(0.2, self.owner, self._send, life, number, key)
            return
        words = (self.elector.instance, epoch, self.born, key, number, self.attempt)
        self.sim.ask_store(
            self.head, self.owner, self._at_store, words, self._written, life, number, key, self.attempt
        )
        self.world.after(ANSWER_LIMIT, self.owner, self._unanswered, life, number, key, self.attempt)

    def _at_store(
        self, instance: str, epoch: int, born: int, key: int, number: int, attempt: int
    ) -> tuple[str, int]:
        store = self.sim.store
        if attempt < self.attempt and self.sim.rules.old_connections_reset:
            return "reset", 0
        return store.write(self.head, instance, epoch, born, key, number), store.losses

    def _unanswered(self, life: int, number: int, key: int, attempt: int) -> None:
        if attempt == self.attempt:
            self._send(life, number, key)

    def _written(
        self, answer: tuple[str, int] | None, life: int, number: int, key: int, attempt: int
    ) -> None:
        if life != self.gcs_life or attempt != self.attempt:
            return
        self.attempt += 1
        if answer is not None and answer[0] == "ok":
            self.sim.store.acknowledge(key, number, answer[1])
            self.world.after(self.world.between(0.1, 0.5), self.owner, self._write, life)
            return
        self.world.after(0.3, self.owner, self._send, life, number, key)

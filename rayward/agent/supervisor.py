"""The agent's loop: observe, decide, act, every quarter second and at once when a child dies.

Observing and acting happen here; what to do is ``decide``'s to say. Everything slow (probing a GCS, asking
the store, serving HTTP) runs elsewhere, so the loop is never late for a death.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rayward.agent import processes
from rayward.agent.config import AgentConfig
from rayward.agent.decide import (
    Action,
    DeadProcess,
    Kind,
    Observation,
    Phase,
    Step,
    decide,
    holds_dashboard,
)
from rayward.agent.decide_rank import decide_rank, with_lead
from rayward.agent.events import EventLog
from rayward.agent.forwarder import Forwarder
from rayward.agent.gcs_probe import Serving
from rayward.agent.head_lead import HeadLead
from rayward.agent.looking import Looking
from rayward.agent.news import News
from rayward.agent.node import Ended, NodeProcesses
from rayward.agent.old_heads import bury
from rayward.agent.processes import Role
from rayward.agent.serve_watch import ServeWatch
from rayward.agent.snapshot import Snapshot, take, tell_death, write_termination_message
from rayward.agent.store_check import StoreCheck
from rayward.agent.timing import Timing

_ESSENTIAL = {Kind.HEAD: (Role.GCS, Role.RAYLET), Kind.WORKER: (Role.RAYLET,)}


class Supervisor:
    """Runs one Ray node until it is told to stop or has to give up; ``run`` returns the exit code.

    A head whose store several may reach gets its ``lead`` by ``give_lead`` before ``run``.
    """

    def __init__(self, config: AgentConfig, timing: Timing, events: EventLog) -> None:
        self.config = config
        self.events = events
        self.lead: HeadLead | None = None
        self.forwarder: Forwarder | None = None
        self.serve: ServeWatch | None = None
        self.news = News()
        self._timing = timing
        self._node = NodeProcesses(config.ray_start, timing.stable_after)
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)
        os.set_blocking(self._wake_reader, False)
        self._eyes = Looking(self._node, timing, self.wake, config.gcs_host, config.gcs_port)
        self._store = StoreCheck(config, timing, self.wake)
        self._phase = self._first_phase()
        self._failed_starts = 0
        self._failed_start_at = self._failed_prepare_at = 0.0
        self._failed_prepares = 0
        self._prepared_at = 0.0
        self._recycle_reason = ""
        self._adopted_at: float | None = None
        self._start_failure = ""
        self._said = ""
        self._stop_signal: int | None = None
        self._gcs_down_since: float | None = None
        self._gcs_died_at: float | None = None
        self._recoveries: list[dict[str, Any]] = []
        self._exit_code: int | None = None
        self.snapshot = Snapshot(self._phase, "", {}, False, time.monotonic())

    def _first_phase(self) -> Phase:
        if self.config.kind is Kind.WORKER:
            return Phase.WAITING_FOR_GCS
        return Phase.WAITING_FOR_STORE

    def give_lead(self, lead: HeadLead) -> None:
        """Let ``lead`` say when this head may run a GCS. Before ``run``."""
        self.lead = lead
        self._node.set_command(lead.ray_start(self.config.ray_start))

    def wake(self) -> None:
        """Make the loop look now; safe from any thread and from signal handlers."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_writer, b"!")

    def give_forwarder(self, forwarder: Forwarder) -> None:
        """Reach the GCS through ``forwarder``, which listens already. Before ``run``."""
        self.forwarder = forwarder

    def give_serve(self, serve: ServeWatch) -> None:
        """Show others what ``serve`` knows of this node's Serve proxy. Before the agent's port is open."""
        self.serve = serve

    def raylet(self) -> tuple[Sequence[str], float] | None:
        """The raylet's command line and for how long it runs; None while it does not. From any thread."""
        tracked = self._node.tracked.get(Role.RAYLET)
        if tracked is None or tracked.pid is None or self.snapshot.phase is not Phase.RUNNING:
            return None
        return tracked.launch.argv, time.monotonic() - tracked.started

    def recycle(self, reason: str) -> None:
        """Start this node's Ray afresh; safe from any thread."""
        self._recycle_reason = reason
        self.wake()

    def note_lead(self) -> None:
        """The elector has decided something; safe from any thread."""
        self.news.tell()
        self.wake()

    def request_stop(self, number: int) -> None:
        """Ask the loop to end the node cleanly, as SIGTERM does."""
        self._stop_signal = number
        self.wake()

    def forward(self, number: int) -> None:
        """Pass a signal on to Ray's processes."""
        self._node.forward(number)

    def run(self) -> int:
        """Loop until the node is stopped (0) or has failed for good (1)."""
        if self.lead is not None:
            self.lead.start()
            self._node.environment = self.lead.ray_environment()
        else:
            self._store.start()
        if self.config.kind is Kind.WORKER:
            self._eyes.watch.start()
        while self._exit_code is None:
            self._cycle()
            if self._exit_code is None:
                self._sleep()
        self._eyes.watch.stop()
        return self._exit_code

    def _cycle(self) -> None:
        for ended in self._node.reap():
            self._report_death(ended)
        if self._stop_signal is not None:
            self._stop()
            return
        self._note_gcs_recovery()
        self._forget_old_failures()
        for _ in range(len(Role) + 2):
            self._tell_lead()
            seen = self._observe()
            action = self._decide(seen)
            self._say(action)
            self._act(action)
            if action.step in (Step.WAIT, Step.GIVE_WAY) or self._exit_code is not None:
                break
        if holds_dashboard(seen, self._timing):
            self._node.hold(Role.DASHBOARD)
        elif self._phase is not Phase.PREPARED:
            self._node.release()
        self._publish(action.reason)

    def _decide(self, seen: Observation) -> Action:
        if self.lead is None:
            return decide(seen, self._timing)
        sight = replace(
            self.lead.sight(),
            failed_prepares=self._failed_prepares,
            since_failed_prepare=time.monotonic() - self._failed_prepare_at,
        )
        return decide_rank(seen, sight, self._timing) or decide(with_lead(seen, sight.standing), self._timing)

    def _tell_lead(self) -> None:
        """Let the fence and the elector know which gcs_server there is, as soon as there is one."""
        if self.lead is None:
            return
        self.lead.look_after()
        self._node.spared = self.lead.own_pids
        if self._phase in (Phase.PREPARING, Phase.STARTING) and Role.GCS not in self._node.tracked:
            found = self._node.adopt(Role.GCS)
            if Role.GCS in found and self._phase is Phase.STARTING:
                # Workers and clients need the GCS only: they are told as soon as it serves.
                self._eyes.watch_gcs(*self._gcs_place())
        tracked = self._node.tracked.get(Role.GCS)
        prepared = self._phase in (Phase.PREPARING, Phase.PREPARED)
        self.lead.note_gcs(tracked.pid if tracked is not None else None, prepared)

    def _sleep(self) -> None:
        poller = select.poll()
        for descriptor in (self._wake_reader, *self._node.watch_descriptors()):
            poller.register(descriptor, select.POLLIN)
        hurry = self.lead is not None and self._phase in (Phase.PREPARING, Phase.STARTING)
        poller.poll(self._timing.tick * (200 if hurry else 1000))
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_reader, 4096)

    def _forget_old_failures(self) -> None:
        """A node that has run long enough starts with a clean slate when it fails again."""
        ran_for = time.monotonic() - self._adopted_at if self._adopted_at is not None else 0.0
        if ran_for >= self._timing.stable_after:
            self._failed_starts = 0
        lasted = time.monotonic() - self._prepared_at if self._phase is Phase.PREPARED else 0.0
        if lasted >= self._timing.stable_after:
            self._failed_prepares = 0

    # -- observe ---------------------------------------------------------------------------------------

    def _observe(self) -> Observation:
        now = time.monotonic()
        start = self._node.ray_start
        return Observation(
            kind=self.config.kind,
            phase=self._phase,
            durable_store=self.config.durable,
            store=self._store.view(),
            remote_gcs=self._eyes.watch.last.serving if self._eyes.watch.last else None,
            start_exit_code=start.exit_code if start else None,
            start_runs_for=now - start.started if start else 0.0,
            failed_starts=self._failed_starts,
            since_failed_start=now - self._failed_start_at,
            start_failure=self._start_failure,
            gcs=self._eyes.gcs(now, self._phase is Phase.RUNNING),
            gcs_died_ago=now - self._gcs_died_at if self._gcs_died_at is not None else None,
            gcs_away=self._gcs_down_since is not None,
            dead=tuple(
                DeadProcess(role, now - tracked.died, tracked.quick_deaths, tracked.cause)
                for role, tracked in self._node.tracked.items()
                if tracked.pid is None and not role.tied_to_raylet
            ),
            stopped=self._eyes.stopped(now),
            recycle=self._recycle_reason,
        )

    # -- act -------------------------------------------------------------------------------------------

    def _act(self, action: Action) -> None:
        if action.step is Step.START_PROCESS and action.role is not None:
            self._start_process(action.role)
        elif action.step is Step.KILL_GCS:
            # Stopped, or told to end and stuck in that: somebody did this to it, it does not crash.
            from_outside = self._eyes.gcs_stopped_since is not None or self._eyes.watch.refused_for() > 0
            self._node.kill(Role.GCS, action.reason, from_outside or self.lead is not None)
            self._node.await_death(Role.GCS, 1.0)
            self._eyes.gcs_stopped_since = None
            self._eyes.watch.reset()
            for ended in self._node.reap():
                self._report_death(ended)
        elif action.step is Step.KILL_PROCESS and action.role is not None:
            self._eyes.forget_stopped(action.role)
            self._node.kill(action.role, action.reason, from_outside=True)
        else:
            self._act_on_node(action)

    def _act_on_node(self, action: Action) -> None:
        if action.step in (Step.START_NODE, Step.PREPARE):
            self._start_node(Phase.STARTING if action.step is Step.START_NODE else Phase.PREPARING)
        elif action.step is Step.ADOPT_NODE:
            self._adopt_node()
        elif action.step is Step.RESTART_NODE:
            self._restart_node(action.reason)
        elif action.step is Step.FAIL:
            self._fail(action.reason)
        elif self.lead is not None:
            self._act_on_rank(action, self.lead)

    def _act_on_rank(self, action: Action, lead: HeadLead) -> None:
        if action.step is Step.HOLD:
            tracked = self._node.tracked.get(Role.GCS)
            own = processes.option(tracked.launch.argv, "session-name") if tracked is not None else None
            stored = lead.foreign_session(own or "")
            if stored:
                self._discard(f"ray start began session {own}, but the store holds {stored}")
                return
            self._node.hold_start()
            self._phase, self._prepared_at = Phase.PREPARED, time.monotonic()
            self.events.add("Prepared", "a GCS stands by: started, and held before it reads the store")
        elif action.step is Step.GO:
            self._node.release()
            if self._node.ray_start is not None:
                self._node.ray_start.started = time.monotonic()  # what it waited does not count
            self._phase = Phase.STARTING
            self._gcs_down_since = time.monotonic()
            self._eyes.watch_gcs(*self._gcs_place())
            self.events.add("Promoted", f"the prepared GCS goes on: {action.reason}")
        elif action.step is Step.GIVE_WAY:
            lead.elector.give_way(action.reason)
        elif action.step is Step.DISCARD:
            self._discard(action.reason)
        elif action.step is Step.STAND_BY:
            self._stand_by(action.reason, lead)

    def _discard(self, reason: str) -> None:
        self.events.add("Discarded", reason)
        self._failed_prepares, self._failed_prepare_at = self._failed_prepares + 1, time.monotonic()
        self._node.stop(0.5)
        self._phase = self._first_phase()

    def _stand_by(self, reason: str, lead: HeadLead) -> None:
        """End the node at once, the GCS first; what it was belongs to another head now."""
        self._node.kill(Role.GCS, f"this head no longer leads: {reason}", from_outside=True)
        self._node.await_death(Role.GCS, 1.0)
        lead.note_gcs(None, prepared=False)
        self.events.add("StandsBy", f"this head's processes end: {reason}")
        self._eyes.watch.stop()
        self._eyes.watch.reset()
        self._node.stop(0.5)
        self._gcs_down_since = self._gcs_died_at = self._adopted_at = None
        self._failed_starts = 0
        self._phase = self._first_phase()

    def _gcs_place(self) -> tuple[str, int]:
        tracked = self._node.tracked.get(Role.GCS)
        argv = tracked.launch.argv if tracked is not None else ()
        host = processes.option(argv, "node-ip-address") or self.config.gcs_host
        return host, int(processes.option(argv, "gcs_server_port") or 0) or self.config.gcs_port

    def _start_node(self, phase: Phase) -> None:
        self._phase, self._start_failure = phase, ""
        if self.lead is not None:
            self.lead.note_start()
        try:
            start = self._node.start_node()
        except OSError as error:
            command = self.config.ray_start[0]
            self._fail(f"cannot run {command}: {(error.strerror or str(error)).lower()}")
            return
        self.events.add("NodeStarting", f"ray start runs as pid {start.pid}", pid=start.pid)

    def _adopt_node(self) -> None:
        found = self._node.adopt()
        missing = [role.value for role in _ESSENTIAL[self.config.kind] if role not in found]
        if missing:
            self._note_failed_start(f"ray start ended well but left no {' and no '.join(missing)}")
            return
        self._phase, self._adopted_at = Phase.RUNNING, time.monotonic()
        if self.config.kind is Kind.WORKER:
            self._eyes.watch.stop()
        elif self._eyes.watch.ended or self._eyes.watch.served_at is None:
            self._eyes.watch_gcs(*self._gcs_place())
        names = ", ".join(sorted(role.value for role in found))
        self.events.add("NodeStarted", f"watching {names}", roles=sorted(role.value for role in found))

    def _start_process(self, role: Role) -> None:
        tracked = self._node.tracked[role]
        try:
            pid = self._node.start_again(role)
        except OSError as error:
            tracked.died, tracked.quick_deaths = time.monotonic(), tracked.quick_deaths + 1
            tracked.cause = f"could not be started again: {error.strerror or error}"
            self.events.add("StartFailed", f"{role.value} {tracked.cause}", role=role.value)
            return
        if role is Role.GCS:
            self._eyes.forget_gcs()
        after = tracked.started - tracked.died
        self.events.add(
            "ProcessRestarted",
            f"{role.value} runs again as pid {pid}, {after * 1000:.0f} ms after its death",
            role=role.value, pid=pid, seconds=after, starts=tracked.starts,
        )  # fmt: skip

    def _restart_node(self, reason: str) -> None:
        self.events.add("NodeRestarting", reason)
        self._recycle_reason = ""
        self._failed_starts, self._failed_start_at = self._failed_starts + 1, time.monotonic()
        self._adopted_at = None
        self._eyes.watch.stop()
        self._node.stop(self._timing.stop_grace)
        self._phase = self._first_phase()
        if self.lead is None:
            self._store.start()
        if self.config.kind is Kind.WORKER:
            self._eyes.watch_gcs(self.config.gcs_host, self.config.gcs_port)

    def _note_failed_start(self, why: str) -> None:
        self._failed_starts, self._failed_start_at = self._failed_starts + 1, time.monotonic()
        self._start_failure = why
        self.events.add("NodeStartFailed", why, tries=self._failed_starts)
        self._node.stop(self._timing.stop_grace)

    def _fail(self, reason: str) -> None:
        self._phase, self._exit_code = Phase.FAILED, 1
        self.events.add("NodeFailed", reason)
        self._publish(reason)
        self._node.stop(self._timing.stop_grace)
        self._end_lead()
        write_termination_message(reason)

    def _stop(self) -> None:
        name = signal.Signals(self._stop_signal or signal.SIGTERM).name
        self._phase = Phase.STOPPING
        self.events.add("NodeStopping", f"got {name}")
        self._publish(f"got {name}")
        if self.forwarder is not None:
            threading.Thread(target=_end_leaderless, args=(self.forwarder,), daemon=True).start()
        if self.lead is not None and self.lead.standing.can_hand_over:
            # The next head need not wait until this one's raylet has drained.
            self._node.kill(Role.GCS, "this head stops and another is prepared", from_outside=True)
            self._node.await_death(Role.GCS, 1.0)
            self._end_lead()
        self._node.stop(self._timing.stop_grace)
        self._end_lead()
        self.events.add("NodeStopped", "all of its processes are gone")
        self._exit_code = 0

    def _end_lead(self) -> None:
        if self.lead is not None:
            self.lead.stop()
            self.lead = None

    # -- tell ------------------------------------------------------------------------------------------

    def _report_death(self, ended: Ended) -> None:
        tell_death(self.events, ended)
        if ended.role is Role.GCS:
            self._gcs_down_since = self._gcs_died_at = self._node.tracked[Role.GCS].died
            self._eyes.watch.reset()

    def _note_gcs_recovery(self) -> None:
        start = self._node.ray_start
        failed = start is not None and start.exit_code not in (None, 0)
        starting = self._phase is Phase.STARTING
        if starting and failed and start and not self._start_failure:
            self._note_failed_start(f"exit code {start.exit_code}")
        served = self._eyes.watch.served_at
        if self._gcs_down_since is None or served is None or served < self._gcs_down_since:
            return
        seconds = served - self._gcs_down_since
        since = "its death" if self._gcs_died_at == self._gcs_down_since else "this head was given the lead"
        self._recoveries = [*self._recoveries, {"died": self._gcs_down_since, "seconds": seconds}][-50:]
        self._gcs_down_since = None
        if self.lead is not None and Role.RAYLET not in self._node.tracked:
            # Later in the same start a head in the table may be this one's own raylet.
            host, port = self._gcs_place()
            gcs = self._node.tracked[Role.GCS]
            bury(self.events, host, port, gcs.pid or 0, spared="" if gcs.starts == 1 else host)
        self.events.add(
            "GcsRecovered", f"the GCS serves again, {seconds:.2f} s after {since}", seconds=seconds
        )

    def _say(self, action: Action) -> None:
        """Log a reason when it changes its kind; the numbers in it change all the time."""
        kind = "".join(letter for letter in action.reason if not letter.isdigit())
        if kind != self._said and action.step is Step.WAIT and self._phase is not Phase.STARTING:
            self.events.add("State", action.reason)
        self._said = kind

    def _publish(self, reason: str) -> None:
        before = self.snapshot
        self.snapshot = take(self._phase, reason, self._node.tracked, self._gcs_serving(), self._recoveries)
        now = self.snapshot
        if (before.phase, before.gcs_serving) != (now.phase, now.gcs_serving):
            self.news.tell()

    def _gcs_serving(self) -> bool | None:
        if self.config.kind is Kind.WORKER and self._phase is Phase.RUNNING:
            return None
        gone = self.config.kind is Kind.HEAD and Role.GCS not in self._node.tracked
        return (
            not gone
            and self._eyes.watch.last is not None
            and self._eyes.watch.last.serving is Serving.SERVING
        )


def _end_leaderless(forwarder: Forwarder) -> None:
    """A raylet that stops says so to its GCS. Where no head leads any more it is refused at once: parked, it
    would wait until it is killed."""
    while forwarder.status().leads:
        time.sleep(0.05)
    forwarder.stop()

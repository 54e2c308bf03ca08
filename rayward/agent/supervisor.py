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
from dataclasses import dataclass
from typing import Any

from rayward.agent import processes
from rayward.agent.config import AgentConfig
from rayward.agent.decide import (
    Action,
    DeadProcess,
    GcsView,
    Kind,
    Observation,
    Phase,
    Step,
    decide,
    holds_dashboard,
)
from rayward.agent.events import EventLog
from rayward.agent.gcs_probe import Serving
from rayward.agent.node import Ended, NodeProcesses
from rayward.agent.processes import Role
from rayward.agent.store_check import StoreCheck
from rayward.agent.timing import Timing
from rayward.agent.watch import DemandWindow, GcsWatch

_ESSENTIAL = {Kind.HEAD: (Role.GCS, Role.RAYLET), Kind.WORKER: (Role.RAYLET,)}
_TERMINATION_LOG = "/dev/termination-log"


@dataclass(frozen=True)
class Snapshot:
    """What other threads may know of the loop; replaced whole, never changed. ``gcs_serving`` is None where
    nobody asks: on a worker that runs, whose raylet knows best."""

    phase: Phase
    reason: str
    processes: dict[str, dict[str, Any]]
    gcs_serving: bool | None
    looked_at: float
    recoveries: tuple[dict[str, Any], ...] = ()


class Supervisor:
    """Runs one Ray node until it is told to stop or has to give up; ``run`` returns the exit code."""

    def __init__(self, config: AgentConfig, timing: Timing, events: EventLog) -> None:
        self.config = config
        self.events = events
        self._timing = timing
        self._node = NodeProcesses(config.ray_start, timing.stable_after)
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)
        os.set_blocking(self._wake_reader, False)
        self._watch = self._new_watch(config.gcs_host, config.gcs_port)
        self._demand = DemandWindow(timing.hung_limit)
        self._store = StoreCheck(config, timing, self.wake)
        self._phase = self._first_phase()
        self._stopped_since: float | None = None
        self._others_stopped_since: dict[Role, float] = {}
        self._stopped_looked_at = 0.0
        self._failed_starts = 0
        self._failed_start_at = 0.0
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

    def _new_watch(self, host: str, port: int) -> GcsWatch:
        return GcsWatch(host, port, self._timing, self.wake)

    def wake(self) -> None:
        """Make the loop look now; safe from any thread and from signal handlers."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_writer, b"!")

    def request_stop(self, number: int) -> None:
        """Ask the loop to end the node cleanly, as SIGTERM does."""
        self._stop_signal = number
        self.wake()

    def forward(self, number: int) -> None:
        """Pass a signal on to Ray's processes."""
        self._node.forward(number)

    def run(self) -> int:
        """Loop until the node is stopped (0) or has failed for good (1)."""
        self._store.start()
        if self.config.kind is Kind.WORKER:
            self._watch.start()
        while self._exit_code is None:
            self._cycle()
            if self._exit_code is None:
                self._sleep()
        self._watch.stop()
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
            seen = self._observe()
            action = decide(seen, self._timing)
            self._say(action)
            self._act(action)
            if action.step is Step.WAIT or self._exit_code is not None:
                break
        if holds_dashboard(seen, self._timing):
            self._node.hold(Role.DASHBOARD)
        else:
            self._node.release()
        self._publish(action.reason)

    def _sleep(self) -> None:
        poller = select.poll()
        for descriptor in (self._wake_reader, *self._node.watch_descriptors()):
            poller.register(descriptor, select.POLLIN)
        poller.poll(self._timing.tick * 1000)
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_reader, 4096)

    def _forget_old_failures(self) -> None:
        """A node that has run long enough starts with a clean slate when it fails again."""
        ran_for = time.monotonic() - self._adopted_at if self._adopted_at is not None else 0.0
        if ran_for >= self._timing.stable_after:
            self._failed_starts = 0

    # -- observe ---------------------------------------------------------------------------------------

    def _observe(self) -> Observation:
        now = time.monotonic()
        start = self._node.ray_start
        return Observation(
            kind=self.config.kind,
            phase=self._phase,
            durable_store=self.config.durable,
            store=self._store.view(),
            remote_gcs=self._watch.last.serving if self._watch.last else None,
            start_exit_code=start.exit_code if start else None,
            start_runs_for=now - start.started if start else 0.0,
            failed_starts=self._failed_starts,
            since_failed_start=now - self._failed_start_at,
            start_failure=self._start_failure,
            gcs=self._observe_gcs(now),
            gcs_died_ago=now - self._gcs_died_at if self._gcs_died_at is not None else None,
            gcs_away=self._gcs_down_since is not None,
            dead=tuple(
                DeadProcess(role, now - tracked.died, tracked.quick_deaths, tracked.cause)
                for role, tracked in self._node.tracked.items()
                if tracked.pid is None and not role.tied_to_raylet
            ),
            stopped=self._observe_stopped(now),
        )

    def _observe_gcs(self, now: float) -> GcsView | None:
        tracked = self._node.tracked.get(Role.GCS)
        if tracked is None or tracked.pid is None or self._phase is not Phase.RUNNING:
            self._stopped_since = None
            return None
        stat = processes.read_stat(tracked.pid)
        stopped = stat is not None and stat.state == "T"
        self._stopped_since = (self._stopped_since or now) if stopped else None
        demand = processes.main_thread_demand(tracked.pid)
        if demand is not None:
            self._demand.add(now, demand)
        last = self._watch.last
        silent_for = self._watch.silent_for()
        tracked.had_served = tracked.had_served or self._watch.served_at is not None
        return GcsView(
            stopped_for=now - self._stopped_since if self._stopped_since else 0.0,
            silent_for=silent_for,
            served=self._watch.served_at is not None,
            main_thread_share=self._demand.share(),
            last_answer=last.serving if last else Serving.REFUSED,
            refused_for=self._watch.refused_for(),
            # Twenty-odd files to read: only asked where the answer matters.
            waits_for_disk=silent_for > self._timing.probe_interval * 2
            and processes.waits_for_disk(tracked.pid),
        )

    def _observe_stopped(self, now: float) -> tuple[tuple[Role, float], ...]:
        """Which processes other than the GCS have been stopped, and for how long; looked at rarely."""
        if now - self._stopped_looked_at >= self._timing.others_look_interval:
            self._stopped_looked_at = now
            found: dict[Role, float] = {}
            for role, tracked in self._node.tracked.items():
                stat = processes.read_stat(tracked.pid) if tracked.pid is not None else None
                if stat is not None and stat.state == "T" and role is not Role.GCS:
                    found[role] = self._others_stopped_since.get(role, now)
            self._others_stopped_since = found
        return tuple((role, now - since) for role, since in self._others_stopped_since.items())

    # -- act -------------------------------------------------------------------------------------------

    def _act(self, action: Action) -> None:
        if action.step is Step.START_NODE:
            self._start_node()
        elif action.step is Step.ADOPT_NODE:
            self._adopt_node()
        elif action.step is Step.START_PROCESS and action.role is not None:
            self._start_process(action.role)
        elif action.step is Step.KILL_GCS:
            # Stopped, or told to end and stuck in that: somebody did this to it, it does not crash.
            from_outside = self._stopped_since is not None or self._watch.refused_for() > 0
            self._node.kill(Role.GCS, action.reason, from_outside)
            self._stopped_since = None
            self._watch.reset()
        elif action.step is Step.KILL_PROCESS and action.role is not None:
            self._others_stopped_since.pop(action.role, None)
            self._node.kill(action.role, action.reason, from_outside=True)
        elif action.step is Step.RESTART_NODE:
            self._restart_node(action.reason)
        elif action.step is Step.FAIL:
            self._fail(action.reason)

    def _start_node(self) -> None:
        self._phase, self._start_failure = Phase.STARTING, ""
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
        self._demand.clear()
        self._watch.stop()
        if self.config.kind is Kind.HEAD:
            argv = self._node.tracked[Role.GCS].launch.argv
            host = processes.option(argv, "node-ip-address") or self.config.gcs_host
            port = int(processes.option(argv, "gcs_server_port") or 0) or self.config.gcs_port
            self._watch = self._new_watch(host, port)
            self._watch.start()
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
            self._demand.clear()
            self._watch.reset()
        after = tracked.started - tracked.died
        self.events.add(
            "ProcessRestarted",
            f"{role.value} runs again as pid {pid}, {after * 1000:.0f} ms after its death",
            role=role.value, pid=pid, seconds=after, starts=tracked.starts,
        )  # fmt: skip

    def _restart_node(self, reason: str) -> None:
        self.events.add("NodeRestarting", reason)
        self._failed_starts, self._failed_start_at = self._failed_starts + 1, time.monotonic()
        self._adopted_at = None
        self._watch.stop()
        self._node.stop(self._timing.stop_grace)
        self._phase = self._first_phase()
        self._store.start()
        if self.config.kind is Kind.WORKER:
            self._watch = self._new_watch(self.config.gcs_host, self.config.gcs_port)
            self._watch.start()

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
        _write_termination_message(reason)

    def _stop(self) -> None:
        name = signal.Signals(self._stop_signal or signal.SIGTERM).name
        self._phase = Phase.STOPPING
        self.events.add("NodeStopping", f"got {name}")
        self._publish(f"got {name}")
        self._node.stop(self._timing.stop_grace)
        self.events.add("NodeStopped", "all of its processes are gone")
        self._exit_code = 0

    # -- tell ------------------------------------------------------------------------------------------

    def _report_death(self, ended: Ended) -> None:
        tied = " (Ray ends the raylet with it)" if ended.role.tied_to_raylet else ""
        lines = "".join(f"\n    | {line}" for line in ended.death.last_lines)
        name = f"{ended.role.value} (pid {ended.pid})"
        self.events.add(
            "ProcessDied",
            f"{name} died after {ended.death.lived:.1f} s: {ended.cause}{tied}{lines}",
            role=ended.role.value, pid=ended.pid, cause=ended.cause, exit_code=ended.exit_code,
            lived=ended.death.lived, last_lines=list(ended.death.last_lines),
        )  # fmt: skip
        if ended.role is Role.GCS:
            self._gcs_down_since = self._gcs_died_at = self._node.tracked[Role.GCS].died
            self._watch.reset()

    def _note_gcs_recovery(self) -> None:
        start = self._node.ray_start
        failed = start is not None and start.exit_code not in (None, 0)
        if self._phase is Phase.STARTING and failed and start and not self._start_failure:
            self._note_failed_start(f"exit code {start.exit_code}")
        served = self._watch.served_at
        if self._gcs_down_since is None or served is None or served < self._gcs_down_since:
            return
        seconds = served - self._gcs_down_since
        self._recoveries = [*self._recoveries, {"died": self._gcs_down_since, "seconds": seconds}][-50:]
        self._gcs_down_since = None
        self.events.add(
            "GcsRecovered", f"the GCS serves again, {seconds:.2f} s after its death", seconds=seconds
        )

    def _say(self, action: Action) -> None:
        """Log a reason when it changes its kind; the numbers in it change all the time."""
        kind = "".join(letter for letter in action.reason if not letter.isdigit())
        if kind != self._said and action.step is Step.WAIT and self._phase is not Phase.STARTING:
            self.events.add("State", action.reason)
        self._said = kind

    def _publish(self, reason: str) -> None:
        self.snapshot = Snapshot(
            phase=self._phase,
            reason=reason,
            processes={
                role.value: {
                    "pid": tracked.pid,
                    "starts": tracked.starts,
                    "last_death": tracked.cause or None,
                    "tied_to_raylet": role.tied_to_raylet,
                }
                for role, tracked in self._node.tracked.items()
            },
            gcs_serving=self._gcs_serving(),
            looked_at=time.monotonic(),
            recoveries=tuple(self._recoveries),
        )

    def _gcs_serving(self) -> bool | None:
        if self.config.kind is Kind.WORKER and self._phase is Phase.RUNNING:
            return None
        gone = self.config.kind is Kind.HEAD and Role.GCS not in self._node.tracked
        return not gone and self._watch.last is not None and self._watch.last.serving is Serving.SERVING


def _write_termination_message(reason: str) -> None:
    """Leave the reason where Kubernetes reads it (terminationMessagePath), if that file is there."""
    if os.path.exists(_TERMINATION_LOG):
        with contextlib.suppress(OSError), open(_TERMINATION_LOG, "w", encoding="utf-8") as file:
            file.write(reason[:4000])


def run_until_signalled(supervisor: Supervisor) -> int:
    """Run the loop in the main thread with PID 1's duties: SIGTERM and SIGINT stop the node, SIGHUP,
    SIGUSR1 and SIGUSR2 are passed on, SIGCHLD wakes the loop."""
    node_signals = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: supervisor.request_stop(received))
    for number in node_signals:
        signal.signal(number, lambda received, _frame: supervisor.forward(received))
    signal.signal(signal.SIGCHLD, lambda _received, _frame: supervisor.wake())
    assert threading.current_thread() is threading.main_thread()
    return supervisor.run()

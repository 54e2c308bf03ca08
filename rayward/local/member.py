"""One container of a Pod over all its runs: start it, probe it, take its end in, start it again or not.

Must not know of the other containers or of the Pod's sandbox.
"""

from __future__ import annotations

import selectors
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayward.errors import RaywardError
from rayward.local import execute, images, probes, restart
from rayward.local.environment import Manifest, NotYet
from rayward.local.launch import Place, Run, build_spec, last_words
from rayward.local.pod_status import RUNNING, TERMINATED, ContainerView, terminated, waiting
from rayward.local.probing import ExecAttempt, Prober, states_of

RETRY_S = 1.0
"""How often a start is tried again that lacks a ConfigMap, a Secret, a claim or the like."""


def timestamp() -> str:
    """Now, as Kubernetes writes times."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _out_of_memory_kills() -> int:
    for line in Path("/proc/vmstat").read_text().splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return 0


class Member:
    """A container of the Pod. `step` drives it; ``final`` is True once it ended and will not start again.

    ``policy`` is its restart policy; all times are of the monotonic clock.
    """

    def __init__(
        self, manifest: Manifest, place: Place, selector: selectors.BaseSelector, policy: str
    ) -> None:
        self.manifest = manifest
        self.name = str(manifest["name"])
        self.final = False
        self.run: Run | None = None
        self.next_start: float | None = 0.0
        self._place = place
        self._selector = selector
        self._policy = policy
        self._starts = 0
        self._runs = 0
        self._exits = 0
        self._state: Mapping[str, Any] = waiting("PodInitializing")
        self._last_state: Mapping[str, Any] = {}
        self._spec: dict[str, Any] = {}
        self._prober: Prober | None = None
        self._stopping = False
        self._kill_at: float | None = None
        self._hook: tuple[ExecAttempt, float] | None = None
        self._times = ("", "")
        self._oom_kills = 0

    # --- starting ------------------------------------------------------------------------------------

    def step(self, sources: Mapping[str, Path], now: float) -> None:
        """Start if it is time to, run the probes, act on their verdict, kill what outlived its grace."""
        if self.run is None:
            if not self.final and self.next_start is not None and now >= self.next_start:
                self._start(sources, now)
            return
        if self._prober is not None and not self._stopping:
            self._prober.step(now)
            failed = probes.restart_wanted(self._prober.states)
            if failed is not None:
                self.stop(now, self.grace_s, f"its {failed} probe failed")
        self._continue_stop(now)

    @property
    def grace_s(self) -> float:
        """The Pod's terminationGracePeriodSeconds."""
        grace = self._place.pod["spec"].get("terminationGracePeriodSeconds")
        return 30.0 if grace is None else float(grace)

    def _start(self, sources: Mapping[str, Path], now: float) -> None:
        self._starts += 1
        try:
            wanted = probes.probes_of(self.manifest, self._place.facts.name)
            self._spec = build_spec(self.manifest, self._place, sources, self._starts)
            for note in images.notes_for(str(self.manifest.get("image", ""))):
                print(f"{timestamp()} container {self.name}: {note}", flush=True)
            self.run = Run(self._spec, self._place)
        except NotYet as error:
            self.hold(error.reason, str(error), now)
        except RaywardError as error:
            self._refused("CreateContainerError", str(error), now)
        except (OSError, KeyError, TypeError, ValueError) as error:
            self._refused(
                "CreateContainerError", f"Pod {self._place.facts.name}, container {self.name}: {error!r}", now
            )
        else:
            self._oom_kills = _out_of_memory_kills()
            self._prober = Prober(
                wanted, self._selector, self._place.facts.address, self._place.host.port, self._plan_exec
            )
            self._selector.register(self.run.report, selectors.EVENT_READ, self)

    def hold(self, reason: str, message: str, now: float) -> None:
        """Wait for something that is missing, and look again soon."""
        self._state = waiting(reason, message)
        self.next_start = now + RETRY_S

    def _refused(self, reason: str, message: str, now: float) -> None:
        """A start that failed: shown as waiting, tried again as seldom as a container that crashes."""
        decision = restart.after_exit("Always", 1, 0.0, self._exits)
        self._exits = decision.exits
        self._state = waiting(reason, message)
        self.next_start = now + max(decision.delay_s, restart.FIRST_DELAY_S)

    def _plan_exec(self, argv: tuple[str, ...]) -> execute.ExecPlan | None:
        if self.run is None or self.run.pid is None or not self.run.running:
            return None
        nsenter = execute.nsenter_path() if self._place.mode != "host" else ""
        return execute.plan(self._spec, self.run.pid, argv, nsenter)

    # --- what the shim reports -----------------------------------------------------------------------

    def advance(self, now: float) -> None:
        """The shim reported something."""
        run = self.run
        if run is None:
            return
        was_running = run.running
        over = run.receive()
        if run.running and not was_running:
            self._runs += 1
            self._times = (timestamp(), "")
            self._state = {RUNNING: {"startedAt": self._times[0]}}
            if self._stopping:
                self._ask_to_end(run, self._kill_at or now)
            elif self._prober is not None:
                self._prober.start(now)
        if over:
            self._over(run, now)

    def _over(self, run: Run, now: float) -> None:
        self._selector.unregister(run.report)
        run.close()
        if self._prober is not None:
            self._prober.stop()
        self._end_hook()
        self.run, self._prober, self._kill_at = None, None, None
        stopped, self._stopping = self._stopping, False
        if run.error is not None:
            reason, message = run.error
            where = f"Pod {self._place.facts.name}, container {self.name}"
            todo = "correct the container's command or its mounts, or install what it needs on this machine"
            never = self.next_start is None
            self._refused(reason, str(RaywardError(message, where=where, todo=todo)), now)
            if never:
                self.never_again()
            return
        code, number = run.ended or (255, 0)
        self._times = (self._times[0] or timestamp(), timestamp())
        starved = number == signal.SIGKILL and not stopped and _out_of_memory_kills() > self._oom_kills
        state = terminated(
            code, number, last_words(self._place, self.name, code), self._times, out_of_memory=starved
        )
        decision = restart.after_exit(self._policy, code, now - run.started, self._exits)
        self._exits = decision.exits
        if not decision.wanted or self.next_start is None:
            self._state, self.final = state, True
            return
        self._last_state, self._state = state, state
        if decision.crash_loop:
            message = f"back-off {decision.delay_s:.0f}s restarting failed container {self.name}"
            self._state = waiting("CrashLoopBackOff", message)
        self.next_start = now + decision.delay_s

    # --- stopping ------------------------------------------------------------------------------------

    def never_again(self) -> None:
        """Do not start (again); one that does not run is final now."""
        self.next_start = None
        if self.run is None and not self.final:
            self.final = True
            if TERMINATED not in self._state:
                now = timestamp()
                self._state = terminated(137, 0, "the Pod was stopped before the container ran", (now, now))

    def stop(self, now: float, grace_s: float, why: str) -> None:
        """End the run: preStop hook, SIGTERM, SIGKILL after ``grace_s`` seconds (the shortest asked for)."""
        if self.run is None:
            return
        deadline = now + max(grace_s, 0.0)
        self._kill_at = deadline if self._kill_at is None else min(self._kill_at, deadline)
        if self._stopping:
            return
        self._stopping = True
        print(f"{timestamp()} stopping container {self.name}: {why}", flush=True)
        if self._prober is not None:
            self._prober.stop()
        if self.run.running:
            self._ask_to_end(self.run, deadline)
        # Otherwise its command is just about to be executed: `advance` asks it as soon as it is.

    def _ask_to_end(self, run: Run, deadline: float) -> None:
        command = (((self.manifest.get("lifecycle") or {}).get("preStop") or {}).get("exec") or {}).get(
            "command"
        )
        plan = self._plan_exec(tuple(command)) if command else None
        if plan is None:
            run.signal(signal.SIGTERM)
            return
        try:
            self._hook = (ExecAttempt(plan, self._selector), deadline)
        except OSError as error:
            print(f"{timestamp()} preStop hook of {self.name}: {error}", flush=True)
            run.signal(signal.SIGTERM)

    def _end_hook(self) -> None:
        if self._hook is not None:
            self._hook[0].close()
            self._hook = None

    def _continue_stop(self, now: float) -> None:
        if self.run is None or self._kill_at is None:
            return
        if self._hook is not None and (self._hook[0].result is not None or now >= self._hook[1]):
            self._end_hook()
            self.run.signal(signal.SIGTERM)
        if now >= self._kill_at:
            self.run.signal(signal.SIGKILL)
            # Asked again should the first have come before the container's process existed.
            self._kill_at = now + 1.0

    # --- what others ask -----------------------------------------------------------------------------

    def next_due(self) -> float | None:
        """When `step` is wanted next, if nothing happens before."""
        times = [self._kill_at] if self._kill_at is not None else []
        if self.run is None:
            return None if self.final else self.next_start
        if self._prober is not None and not self._stopping:
            due = self._prober.next_due()
            times += [] if due is None else [due]
        return min(times) if times else None

    def view(self) -> ContainerView:
        """What is known of the container now."""
        states = states_of(self._prober)
        running = self.run is not None and self.run.running and self.run.ended is None
        return ContainerView(
            name=self.name,
            image=str(self.manifest.get("image", "")),
            state=self._state,
            last_state=self._last_state,
            ready=running and not self._stopping and probes.is_ready(states),
            started=running and probes.is_started(states),
            restart_count=max(0, self._runs - 1),
            final=self.final,
        )

    def process(self) -> dict[str, int] | None:
        """pid and start time of the container's first process while its command runs."""
        if self.run is None or not self.run.running or self.run.pid is None or self.run.start_time is None:
            return None
        return {"pid": self.run.pid, "start_time": self.run.start_time}

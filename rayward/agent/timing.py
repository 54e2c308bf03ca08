"""Every duration that the agent works with, in one place, and the relations that must hold between them.

All values are seconds on the monotonic clock. Nothing here reads a clock.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """How often the agent looks, and how long it waits before it acts.

    ``stopped_limit``: a gcs_server in state T (SIGSTOP, frozen cgroup) for this long is killed.
    ``others_stopped_limit``: the same for raylet and the rest; longer than the time after which a GCS gives a
    silent raylet up, so that nobody loses a node that could still come back.
    ``closed_limit``: one that served and whose port has been closed since for this long is killed: it is on
    its way out and stuck there (seen after SIGTERM on Ray 2.60).
    ``hung_limit``: one that served before, answers nothing and uses no processor time is killed after this.
    ``start_limit``: the same for one that has not served since it started (it may wait for its store).
    ``busy_limit``: one that answers nothing but is working (or waits for a processor) is given this long.
    ``store_patience``: how long a head waits for a store that cannot be reached before it gives up.
    ``hold_least``, ``hold_limit``: for how long after a death of the GCS the dashboard is held (stopped), at
    the least and, while no GCS serves, at the most.
    ``stop_grace``: how long Ray's processes get to end by themselves after SIGTERM.
    """

    tick: float = 0.25
    probe_interval: float = 1.0
    probe_interval_until_served: float = 0.05
    probe_timeout: float = 1.0
    stopped_limit: float = 1.0
    others_stopped_limit: float = 30.0
    others_look_interval: float = 5.0
    closed_limit: float = 0.3
    hung_limit: float = 3.0
    start_limit: float = 60.0
    busy_limit: float = 180.0
    busy_share: float = 0.2
    stable_after: float = 30.0
    restart_delays: tuple[float, ...] = (0.0, 0.1, 0.3, 1.0, 2.0, 4.0, 8.0)
    store_patience: float = 60.0
    store_retry: float = 0.5
    hold_least: float = 1.3
    hold_limit: float = 4.0
    stop_grace: float = 5.0
    loop_stall_limit: float = 10.0

    def restart_delay(self, quick_deaths: int) -> float | None:
        """Seconds to wait before the next start after ``quick_deaths`` deaths in a row, each of a process
        that lived less than ``stable_after``; None when the process has used up its tries."""
        if quick_deaths < 1:
            return 0.0
        if quick_deaths > len(self.restart_delays):
            return None
        return self.restart_delays[quick_deaths - 1]

    def problems(self) -> list[str]:
        """The relations that do not hold, as sentences; empty for a usable set of durations."""
        found = []
        if self.probe_timeout + self.probe_interval > self.hung_limit:
            found.append(
                "hung_limit must be longer than one probe and its time-out, or one lost answer kills"
            )
        if self.stopped_limit < self.tick * 2:
            found.append("stopped_limit must span two ticks, or one look decides")
        if self.busy_limit <= self.hung_limit:
            found.append("busy_limit must be longer than hung_limit")
        if any(later < earlier for earlier, later in zip(self.restart_delays, self.restart_delays[1:])):
            found.append("restart_delays must not shrink")
        return found

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
    ``serve_interval``, ``serve_timeout``: pace of the questions to Ray Serve's proxy, and how long one may
    take. ``serve_second_look``: pause after an answer that raises a doubt. ``serve_routes_interval``: how
    often its routes are asked for. ``serve_keep_interval``: how often its middleware is looked after.
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
    serve_interval: float = 1.0
    serve_timeout: float = 2.0
    serve_second_look: float = 0.1
    serve_routes_interval: float = 5.0
    serve_keep_interval: float = 60.0
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


@dataclass(frozen=True)
class LeaseTiming:
    """How long a lease holds and how the leader keeps it, in seconds.

    ``ttl``: a standby takes over a record that has not changed for this long on its own clock.
    ``kill_margin``: the fence fires this long before the lease that it guards could end elsewhere.
    ``renew_interval``: pause between renewals, and between looks of a standby.
    ``store_timeout``, ``peer_timeout``: bounds of one call to the store and of one round to the other heads.
    ``question_interval``: pause between two rounds while a head has not given its word.
    ``gone_after``: a refused connection says nothing of a holder that this head has known for less.
    ``newcomer_factor``: a head that the leader's record does not list waits this many TTLs, for the leader
    may be asking all heads but it for their word.
    ``forget_after``: a head that has not been seen in the store for this long no longer has a say.
    ``successor_grace``: how long a lease released in favour of one head is left to it.
    ``cold_delay``: a head that has nothing prepared lets a prepared one go first for this long.
    ``drift``: how far two clocks may run apart, as a share.
    """

    ttl: float = 3.0
    kill_margin: float = 0.5
    renew_interval: float = 1.0
    store_timeout: float = 0.5
    peer_timeout: float = 0.5
    question_interval: float = 0.25
    gone_after: float = 1.0
    newcomer_factor: float = 4.0
    forget_after: float = 10.0
    successor_grace: float = 3.0
    cold_delay: float = 0.5
    drift: float = 0.02

    @property
    def fence_after(self) -> float:
        """Seconds after the sending of the last successful renewal at which the GCS is killed."""
        return self.ttl - self.kill_margin

    def problems(self) -> list[str]:
        """The relations that do not hold, as sentences; empty for a usable set of durations."""
        found = []
        attempt = self.renew_interval + self.store_timeout + self.peer_timeout
        if attempt > self.fence_after:
            found.append(
                f"lease ttl {self.ttl:g} s is too short: one lost renewal and the question to the other "
                f"heads take {attempt:g} s, and the fence fires after {self.fence_after:g} s; "
                f"use at least {attempt + self.kill_margin:g} s"
            )
        if self.kill_margin < 0.2 or self.kill_margin < self.ttl * self.drift:
            found.append("kill_margin must be 0.2 s at least and cover the drift of two clocks over one ttl")
        if self.newcomer_factor < 2:
            found.append("newcomer_factor must be 2 at least")
        if self.forget_after < 2 * self.ttl:
            found.append("forget_after must be two ttl at least, or a slow head loses its say too early")
        return found


def lease_timing(ttl: float | None) -> LeaseTiming:
    """The durations for a lease of ``ttl`` seconds (None: the default); the pace follows a longer one."""
    base = LeaseTiming()
    if ttl is None or ttl == base.ttl:
        return base
    scale = max(1.0, ttl / base.ttl)
    return LeaseTiming(
        ttl=ttl,
        renew_interval=min(base.renew_interval * scale, 10.0),
        store_timeout=min(base.store_timeout * scale, 5.0),
        peer_timeout=min(base.peer_timeout * scale, 3.0),
        kill_margin=max(base.kill_margin, ttl * 0.1),
        forget_after=max(base.forget_after, 3 * ttl),
    )

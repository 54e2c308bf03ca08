"""Puts a head's elector, fence and store gateway together, for the supervisor to ask and to tell.

The supervisor's loop is the only caller, except where a method says otherwise.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any, Callable

from rayward.agent.config import (
    AgentConfig,
    HeadSettings,
    own_command,
    store_credentials,
    with_option,
    without_option,
)
from rayward.agent.decide_rank import Sight
from rayward.agent.elector import Elector
from rayward.agent.electorate import Electorate
from rayward.agent.events import EventLog
from rayward.agent.gateway_metrics import gateway_metrics
from rayward.agent.gateway_process import GatewayProcess
from rayward.agent.guards import Guards
from rayward.agent.heads_watch import HeadsWatch
from rayward.agent.memory import Memory
from rayward.agent.peer_call import join_address
from rayward.agent.processes import ProcStat, read_stat
from rayward.agent.standing import Standing
from rayward.agent.store_desk import StoreDesk
from rayward.agent.timing import lease_timing
from rayward.store.upstream import StoreSettings

# `ray start` waits for its GCS this long; a prepared one waits at the gateway until its head leads.
_FOR_EVER = "1000000000"
_STOP_LIMIT = 6.0
_GATEWAY_SILENCE = 3.0
# What user code on a head has no business with.
_NOT_FOR_RAY = (
    "REDIS_USERNAME", "REDIS_PASSWORD", "RAYWARD_REDIS_PASSWORD_FILE", "RAYWARD_AGENT_TOKEN",
    "RAYWARD_SENTINEL_USERNAME", "RAYWARD_SENTINEL_PASSWORD",
)  # fmt: skip
# A gcs_server that has started waits on two connections: to load its tables, and to write its pid.
_PARKED_CONNECTIONS = 2


class HeadLead:
    """One head's way to lead. ``start`` raises RaywardError when gateway or fence cannot run at all."""

    def __init__(
        self,
        config: AgentConfig,
        settings: HeadSettings,
        environ: Mapping[str, str],
        address: str,
        events: EventLog,
        wake: Callable[[], None],
    ) -> None:
        self._settings, self._events, self._wake = settings, events, wake
        self._environ = environ
        self.timing = lease_timing(settings.ttl)
        self.gcs_address = join_address(address, config.gcs_port)
        self._token = secrets.token_hex(16)
        # The gateway gets the same as the lease: what the command line says of the store is not lost with it.
        told = {**environ, **store_credentials(config.ray_start)}
        self._store = StoreSettings.from_environment(told)
        agent = join_address(address, config.http_port)
        command, environment = own_command(told, sys.argv[0], sys.executable)
        self.gateway = GatewayProcess(
            [*command, "gateway"], self._gateway_environment(environment), self._gateway_reported
        )
        self.guards = Guards(self.gateway, [*command, "fence"], environment, self._fence_changed)
        watch = (
            HeadsWatch(settings.heads, config.http_port, agent, None, settings.cluster)
            if settings.heads
            else None
        )
        memory = Memory(settings.state_dir, f"{settings.cluster}-{settings.member}")
        self._desk = StoreDesk(self._store, settings, self.timing)
        self.elector = Elector(
            settings,
            self.timing,
            self._desk,
            Electorate(watch, self.timing, settings.token),
            self.guards,
            memory,
            events,
            wake,
            agent,
            self.gcs_address,
        )
        self._started = time.monotonic()
        self._gateway_died = False
        self._watched: tuple[tuple[int, int], ...] = ()
        self._prepared_on = ""

    # -- life --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start gateway, fence and elector."""
        self.gateway.start()
        self.guards.start()
        self.elector.start()

    def stop(self) -> None:
        """Release the lease (the GCS must have ended) and end everything."""
        self.elector.report(gcs_running=False, prepared=False, gave_up="")
        self.elector.stop(_STOP_LIMIT)
        self.guards.stop()
        self.gateway.stop()

    @property
    def own_pids(self) -> frozenset[int]:
        """Processes below the agent that are not Ray's."""
        return frozenset(pid for pid in (self.gateway.pid, self.guards.fence_pid) if pid)

    def look_after(self) -> None:
        """Bring the gateway back if it has died or hangs; called with every turn of the loop."""
        pid, heard_at = self.gateway.pid, self.gateway.view.heard_at
        frozen = heard_at > 0 and time.monotonic() - heard_at > _GATEWAY_SILENCE
        if self.gateway.alive and not frozen:
            return
        if frozen and pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._gateway_died = True
        what = "gives no sign of life" if frozen else "died"
        self._events.add("GatewayDied", f"the store gateway {what}; it starts again, and the GCS after it")
        self.gateway.restart()

    def _fence_changed(self) -> None:
        self.elector.wake()
        self._wake()

    def _gateway_reported(self, report: Mapping[str, Any]) -> None:
        if report.get("is") == "fenced":
            self._events.add("WriteRefused", f"the store refused a write of epoch {report.get('epoch')}")
            self.elector.wake()
        # The counters come every second, and the loop turns without them.
        if report.get("is") != "counters":
            self._wake()

    # -- what Ray is started with ------------------------------------------------------------------------

    def ray_start(self, command: tuple[str, ...]) -> tuple[str, ...]:
        """The ``ray start`` line: the store's own credentials stay with the gateway."""
        return with_option(without_option(command, "redis-username"), "redis-password", self._token)

    def ray_environment(self) -> dict[str, str]:
        """The environment of Ray on this head: its store is the gateway."""
        kept = {
            name: value
            for name, value in self._environ.items()
            if not name.startswith("RAY_REDIS_") and name not in _NOT_FOR_RAY
        }
        kept["RAY_REDIS_ADDRESS"] = f"127.0.0.1:{self.gateway.port}"
        kept["RAY_gcs_server_port_wait_time_s"] = _FOR_EVER
        kept["RAY_NUM_REDIS_GET_RETRIES"] = _FOR_EVER
        return kept

    def _gateway_environment(self, environment: dict[str, str]) -> dict[str, str]:
        own = {
            "RAYWARD_GATEWAY_TOKEN": self._token,
            "RAYWARD_FENCE": "on" if self._settings.fence else "off",
            "RAYWARD_AUDIT": "1" if self._settings.audit else "",
        }
        return {**environment, **own}

    # -- what the loop tells and asks ----------------------------------------------------------------------

    def note_gcs(self, pid: int | None, prepared: bool) -> None:
        """Say which gcs_server runs here now (None: none does), and whether it is only prepared."""
        stat: ProcStat | None = read_stat(pid) if pid is not None else None
        watched = ((stat.pid, stat.start_time),) if stat is not None else ()
        if watched != self._watched:
            self._watched, self._gateway_died = watched, False  # another one connects to the gateway of now
            self.guards.watch(watched)
        self.elector.report(
            gcs_running=bool(watched) and not prepared, prepared=bool(watched) and prepared, gave_up=""
        )

    def note_start(self) -> None:
        """A node is being started or prepared: from here on its GCS has a living gateway."""
        self._gateway_died = False
        self._prepared_on = self.standing.incarnation

    def foreign_session(self, own: str) -> str:
        """The session's name in the store when it is not ``own``, else empty. ``ray start`` invents one when
        the store does not answer it within a second; a GCS prepared with that could never lead."""
        stored = self._desk.session_name()
        return stored if stored and own and stored != own else ""

    @property
    def cluster(self) -> str:
        """What people call the cluster."""
        return self._settings.cluster

    @property
    def cluster_uid(self) -> str:
        """What tells this cluster from every other."""
        return self._settings.cluster_uid

    @property
    def member(self) -> str:
        """This head's name."""
        return self._settings.member

    @property
    def token(self) -> str:
        """What a POST must carry; empty: nothing."""
        return self._settings.token

    @property
    def standing(self) -> Standing:
        """The elector's newest outcome; safe from any thread."""
        return self.elector.standing

    def sight(self) -> Sight:
        """What the rank rules need to know, as of the last ``note_gcs``."""
        view = self.gateway.view
        return Sight(
            standing=self.standing,
            gcs_alive=bool(self._watched),
            parked=int(view.counters.get("parked", 0)) >= _PARKED_CONNECTIONS,
            stale=bool(self._prepared_on) and self._prepared_on != self.standing.incarnation,
            gateway_died=self._gateway_died,
            waited=time.monotonic() - self._started,
        )

    # -- what the HTTP port shows --------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """The ``lead`` part of /status; safe from any thread."""
        seen = self.standing
        return {
            "role": seen.rank.value,
            "epoch": seen.epoch or seen.known_epoch,
            "member": self._settings.member,
            "leader": seen.leader,
            "leader_gcs": seen.leader_gcs,
            "lease_left_s": round(seen.lease_left, 3),
            "lease_ttl_s": self.timing.ttl,
            "paused": seen.paused,
            "reason": seen.reason,
            "incarnation": seen.incarnation,
            "store": {
                "state": seen.store.value,
                "fault": seen.store_fault,
                "address": self._store.address.redacted(),
                "namespace": self._store.namespace,
            },
            "word_from": list(seen.word_from),
        }

    def gateway_status(self) -> dict[str, Any]:
        """The ``gateway`` part of /status; safe from any thread."""
        view = self.gateway.view
        return {
            "pid": self.gateway.pid,
            "store": view.store,
            "fault": view.fault,
            "lost": view.lost,
            "fenced_by": view.fenced_by,
            "counters": dict(view.counters),
        }

    def gateway_metrics(self) -> list[str]:
        """The gateway's part of /metrics."""
        return gateway_metrics(self.gateway.view.counters)

    def fence_words(self) -> str:
        """Which fence is in force, in a sentence."""
        if not self._settings.fence:
            return "off: the gateway passes every write (RAYWARD_FENCE=off)"
        seen = self.standing
        timer = f"a timer ends the GCS {self.timing.fence_after:g} s after the last renewal"
        if seen.epoch:
            return f"the store refuses writes of every epoch but {seen.epoch}; {timer}"
        return f"the store refuses writes from here (this head does not lead); {timer}"

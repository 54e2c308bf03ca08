"""The faults that a drill can inject: what each does, what it stands for, what has to hold. Pure.

How a fault is injected is for ``injectors`` to know; what a run's facts mean against these expectations is
for ``record``.
"""

from __future__ import annotations

import enum
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from rayward.errors import RaywardError

COLD_START_S = 30.0
"""What a head that starts from nothing, and first has to wait for a lease that nobody gives up, may take."""


class Failover(enum.Enum):
    """Whether another head has to take over."""

    YES = "yes"
    NO = "no"
    EITHER = "either"


class Asking(enum.Enum):
    """When a drill asks for new actors, tasks and groups; all times count from the fault even so.

    A GCS that ends in its own time cancels what it has in hand, and Ray 2.60 does not ask again: an actor
    asked for in these milliseconds may stay pending for good, with or without rayward.
    """

    AT_ONCE = "at once"
    PORT_CLOSED = "when the old GCS has closed its port"
    GCS_ENDED = "when the old GCS has ended"


class Need(enum.Enum):
    """What a cluster must have for a fault to mean anything, in words for an error."""

    NETWORK = "a network of its own for each Pod (namespaces, so root)"
    REDIS = "a Redis in one of its own Pods as the store"
    STANDBY = "a second head (gcsFaultToleranceOptions.enableActivePassiveHead: true)"
    SENTINEL = "a Redis with a replica and Sentinels in its own Pods"


@dataclass(frozen=True)
class Expectation:
    """What has to hold, beyond what always has: no failed call, no restarted worker, nothing lost.

    ``failover`` is judged where there is a second head. ``gcs_restarts``: how many are allowed at the
    most, None for any. ``head_restarts``: whether a head's Pod or raylet may start anew. ``after_heal``:
    new actors, tasks and groups need only be answered once the fault is over. ``state_kept``: whether
    what the GCS knew outlives the fault; if not, workers and drivers belong to a cluster that is gone,
    and start anew. ``silent``: the other side answers nothing any more, where otherwise it refuses; a
    silent leader is only replaced when its lease has run out. ``bounded``: whether the promise for the
    median of ``new_actor_s`` applies. ``cold``: no head is left that stands by.
    """

    failover: Failover = Failover.EITHER
    gcs_restarts: int | None = None
    head_restarts: bool = False
    after_heal: bool = False
    state_kept: bool = True
    silent: bool = False
    bounded: bool = False
    cold: bool = False

    def patience_s(self, limit: float, lasts: float, standbys: int) -> float:
        """How long after the fault answers may take, in seconds: ``limit``, from the end of a fault that lets
        nothing through, and longer for a cold start."""
        alone = self.failover is Failover.YES and not standbys
        return limit + (lasts if self.after_heal else 0.0) + (COLD_START_S if self.cold or alone else 0.0)

    def bound_s(self, lease_ttl: float) -> float | None:
        """The promise for the median of new_actor_s in seconds; None where there is none."""
        if not self.bounded:
            return None
        return lease_ttl + 2.0 if self.silent else 2.0


@dataclass(frozen=True)
class Fault:
    """One way to break a cluster. ``seconds`` is how long it lasts by default, 0 for one that is over at
    once; ``weight`` how often a suite takes it beside the others, 0 for never.
    """

    name: str
    group: str
    does: str
    stands_for: str
    expects: Expectation = Expectation()
    needs: tuple[Need, ...] = ()
    seconds: float = 0.0
    weight: int = 1
    asking: Asking = Asking.AT_ONCE


GROUPS: Mapping[str, str] = {
    "gcs": "one process: the GCS",
    "processes": "other processes of the active head",
    "heads": "whole heads",
    "network": "the network: packets vanish without an answer",
    "store": "the store",
    "planned": "done on purpose",
}

SIGNALS: Mapping[str, signal.Signals] = {
    "gcs-kill": signal.SIGKILL,
    "gcs-term": signal.SIGTERM,
    "gcs-freeze": signal.SIGSTOP,
}
"""The faults that are one signal to gcs_server."""

_LOST_HEAD = Expectation(failover=Failover.YES, head_restarts=True, bounded=True)
_SILENT_HEAD = Expectation(failover=Failover.YES, head_restarts=True, silent=True, bounded=True)
_STORE_AWAY = Expectation(failover=Failover.NO, gcs_restarts=0, after_heal=True)
_ON_NETWORK = (Need.NETWORK, Need.REDIS)
_TWO_HEADS = (Need.STANDBY,)

FAULTS = (
    Fault(
        "gcs-kill",
        "gcs",
        "kills gcs_server (SIGKILL)",
        "a crash, an abort, the out-of-memory killer",
        Expectation(bounded=True),
        weight=3,
    ),
    Fault(
        "gcs-term",
        "gcs",
        "asks gcs_server to end (SIGTERM), as `pkill gcs_server` does",
        "a clean end that nobody meant",
        Expectation(bounded=True),
        asking=Asking.GCS_ENDED,
    ),
    Fault(
        "gcs-freeze",
        "gcs",
        "stops gcs_server without ending it (SIGSTOP)",
        "a hang: the process is there and answers nothing",
    ),
    Fault(
        "head-process-kill",
        "processes",
        "kills one process of the active head, the next one each run: raylet, dashboard, monitor, log "
        "monitor, client server, dashboard agent, runtime env agent (SIGKILL)",
        "a crash beside the GCS",
        Expectation(head_restarts=True),
        weight=3,
    ),
    Fault(
        "agent-kill",
        "processes",
        "kills the agent of the active head (SIGKILL)",
        "a crash of rayward itself; no writer may stay behind",
        Expectation(head_restarts=True),
        weight=2,
    ),
    Fault(
        "gateway-kill",
        "processes",
        "kills the store gateway of the active head (SIGKILL)",
        "a crash of the process between the GCS and Redis",
        needs=(Need.REDIS,),
        weight=2,
    ),
    Fault(
        "host-loss",
        "heads",
        "kills every process of the active head's Pod at once (SIGKILL); connections are reset, then refused",
        "a host that goes down, a container that is killed",
        _LOST_HEAD,
        weight=4,
    ),
    Fault(
        "host-loss-silent",
        "heads",
        "cuts the active head off, then kills every process of its Pod: nobody is told",
        "a power cut",
        _SILENT_HEAD,
        _ON_NETWORK,
        weight=2,
    ),
    Fault(
        "host-freeze",
        "heads",
        "stops every process of the active head's Pod (SIGSTOP); then thaws it, the GCS before its guards",
        "a suspended virtual machine, a long stall; a forgotten leader that comes back",
        _SILENT_HEAD,
        (Need.REDIS,),
        seconds=8.0,
        weight=3,
    ),
    Fault(
        "standby-loss",
        "heads",
        "kills every process of the standby's Pod (SIGKILL)",
        "the loss of the spare",
        Expectation(failover=Failover.NO, gcs_restarts=0, head_restarts=True),
        _TWO_HEADS,
        weight=2,
    ),
    Fault(
        "both-heads-lost",
        "heads",
        "kills every process of all heads' Pods (SIGKILL)",
        "the loss of a rack: a cold start from the store",
        Expectation(head_restarts=True, cold=True),
        _TWO_HEADS,
    ),
    Fault(
        "second-failure-during-promotion",
        "heads",
        "host-loss; at a random moment of the next 2 s the GCS, or all, of its successor is killed",
        "trouble that does not come alone",
        Expectation(head_restarts=True, cold=True),
        _TWO_HEADS,
    ),
    Fault(
        "partition-store",
        "network",
        "drops every packet between the active head and Redis",
        "a head that has lost the store, and only the store",
        Expectation(failover=Failover.EITHER, head_restarts=True, after_heal=True),
        _ON_NETWORK,
        seconds=8.0,
        weight=2,
    ),
    Fault(
        "partition-workers",
        "network",
        "drops every packet between the active head and all workers",
        "a head that the workers cannot reach",
        Expectation(head_restarts=True, after_heal=True),
        _ON_NETWORK,
        seconds=8.0,
        weight=2,
    ),
    Fault(
        "partition-standby",
        "network",
        "drops every packet between the two heads",
        "heads that cannot see each other",
        Expectation(failover=Failover.NO, gcs_restarts=0),
        (*_ON_NETWORK, Need.STANDBY),
        seconds=8.0,
        weight=2,
    ),
    Fault(
        "partition-one-way",
        "network",
        "drops what the active head sends to Redis and to other heads, not what they send to it",
        "a broken cable strand, a one-sided packet filter",
        Expectation(failover=Failover.EITHER, head_restarts=True, after_heal=True),
        _ON_NETWORK,
        seconds=8.0,
        weight=2,
    ),
    Fault(
        "partition-all",
        "network",
        "drops every packet between the active head and everything else",
        "a host that has lost its network and still runs",
        _SILENT_HEAD,
        _ON_NETWORK,
        seconds=8.0,
        weight=3,
    ),
    Fault(
        "redis-restart",
        "store",
        "kills redis-server (SIGKILL), keeps it away, starts it again with its data",
        "a restart or a move of Redis",
        _STORE_AWAY,
        (Need.REDIS,),
        seconds=3.0,
        weight=3,
    ),
    Fault(
        "redis-failover",
        "store",
        "kills the Redis that takes writes (SIGKILL); Sentinel makes its replica take over",
        "the loss of the Redis primary",
        _STORE_AWAY,
        (Need.REDIS, Need.SENTINEL),
        seconds=10.0,
        weight=2,
    ),
    Fault(
        "redis-slow",
        "store",
        "holds back each packet that Redis sends, for 2 s",
        "a Redis that answers late",
        Expectation(failover=Failover.NO, gcs_restarts=0, after_heal=True),
        _ON_NETWORK,
        seconds=8.0,
    ),
    Fault(
        "redis-reset",
        "store",
        "breaks every connection to Redis off, over and over (CLIENT KILL TYPE normal)",
        "a proxy or a load balancer that drops connections in the middle of replies",
        Expectation(failover=Failover.NO, gcs_restarts=0),
        (Need.REDIS,),
        seconds=1.0,
        weight=2,
    ),
    Fault(
        "redis-wiped",
        "store",
        "empties Redis (FLUSHALL) and restarts it; has to be refused out loud, then `rayward store adopt`",
        "a Redis that came back without its data",
        Expectation(head_restarts=True, after_heal=True, state_kept=False, cold=True),
        (Need.REDIS,),
        seconds=1.0,
        weight=0,
    ),
    Fault(
        "switchover",
        "planned",
        "asks the leader to hand over to the standby (POST /switchover)",
        "maintenance",
        Expectation(failover=Failover.YES, head_restarts=True, bounded=True),
        _TWO_HEADS,
        weight=3,
        asking=Asking.PORT_CLOSED,
    ),
    Fault(
        "back-to-back",
        "planned",
        "20 changes of leader in a row, host-loss and switchover in turn; nothing may grow",
        "a bad day",
        Expectation(failover=Failover.YES, head_restarts=True),
        _TWO_HEADS,
        weight=0,
        asking=Asking.PORT_CLOSED,
    ),
)

_BY_NAME = {fault.name: fault for fault in FAULTS}


def known_fault(name: str) -> Fault | None:
    """The fault of that name; None where the name is that of several together (a suite)."""
    return _BY_NAME.get(name)


def find_fault(name: str) -> Fault:
    """The fault of that name; raises RaywardError naming those that there are."""
    found = _BY_NAME.get(name)
    if found is None:
        raise RaywardError(
            f"there is no fault {name!r}",
            where="rayward drill run",
            todo=f"one of {', '.join(_BY_NAME)}; `rayward drill list` says what each does",
        )
    return found

"""A worker's watch over its own place in the cluster: does the GCS that serves know this raylet?

Asks from a thread of its own, rarely; what follows is for ``recycle`` to say and for the supervisor to do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Callable

from rayward.agent.gcs_nodes import ask_raylet
from rayward.agent.heads_watch import HeadsWatch, HeadView
from rayward.agent.peer_call import ask, host_and_port
from rayward.agent.processes import option
from rayward.agent.recycle import REJOIN_DEADLINE, Action, NodeState, Slot, WorkerSeen, decide_recycle

_EVERY = 5.0
_EVERY_IN_DOUBT = 2.0
_TIMEOUT = 1.0


class RejoinWatch:
    """Calls ``recycle(reason)`` when this worker's node is to be started afresh.

    ``raylet``: the running raylet's command line and how long it runs (None: it does not), from any thread.
    """

    def __init__(
        self,
        heads: HeadsWatch,
        member: str,
        raylet: Callable[[], tuple[Sequence[str], float] | None],
        recycle: Callable[[str], None],
        deadline: float = REJOIN_DEADLINE,
    ) -> None:
        self._heads, self._member, self._raylet, self._recycle = heads, member, raylet, recycle
        self._deadline = deadline
        self._ended = threading.Event()
        self._leader: tuple[str, int] | None = None
        self._leader_since = 0.0
        self._node, self._node_since = NodeState.UNKNOWN, time.monotonic()
        self._said = "not asked yet"
        self._joined_on = ""

    @property
    def said(self) -> str:
        """What the newest look came to, in a sentence."""
        return self._said

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._run, name="rejoin", daemon=True).start()

    def stop(self) -> None:
        """End the thread soon."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(_EVERY if self._node is NodeState.ALIVE else _EVERY_IN_DOUBT):
            self._look()

    def _look(self) -> None:
        raylet = self._raylet()
        leader = self._heads.leader()
        serves_for = self._serves_for(leader)
        if raylet is not None and leader is not None and serves_for is not None:
            self._ask_gcs(leader, raylet[0])
        elif serves_for is None:
            self._note(NodeState.UNKNOWN)
        if leader is not None and raylet is not None and self._starts_afresh(leader):
            return
        seen = WorkerSeen(
            raylet_up_s=raylet[1] if raylet is not None else None,
            leader_serves_s=serves_for,
            node=self._node,
            node_so_s=time.monotonic() - self._node_since,
        )
        decision = decide_recycle(seen, self._deadline)
        if decision.action is Action.ASK and leader is not None:
            decision = decide_recycle(
                WorkerSeen(
                    seen.raylet_up_s, seen.leader_serves_s, seen.node, seen.node_so_s, self._slot(leader)
                ),
                self._deadline,
            )
        self._said = decision.reason
        if decision.action is Action.RECYCLE:
            self._note(NodeState.UNKNOWN)
            self._recycle(decision.reason)

    def _starts_afresh(self, leader: HeadView) -> bool:
        """Whether the cluster has begun anew on another store (`rayward store adopt`): its raylets are
        strangers there, all of them, so that nobody waits for a slot."""
        if not leader.serving or not leader.incarnation:
            return False
        if self._joined_on and leader.incarnation != self._joined_on and self._node is not NodeState.ALIVE:
            self._joined_on = ""
            self._said = "the store was adopted: the cluster has begun afresh"
            self._recycle(self._said)
            return True
        if self._node is NodeState.ALIVE:
            self._joined_on = leader.incarnation
        return False

    def _serves_for(self, leader: HeadView | None) -> float | None:
        """For how long one and the same leader has been serving, as seen from here."""
        if leader is None or not leader.serving:
            self._leader = None
            return None
        if self._leader != (leader.member, leader.epoch):
            self._leader, self._leader_since = (leader.member, leader.epoch), time.monotonic()
        return time.monotonic() - self._leader_since

    def _ask_gcs(self, leader: HeadView, argv: Sequence[str]) -> None:
        host, port = host_and_port(leader.gcs, 6379)
        address, socket_name = option(argv, "node_ip_address"), option(argv, "raylet_socket_name")
        if address and socket_name:
            self._note(ask_raylet(host, port, address, socket_name, _TIMEOUT)[0])

    def _note(self, found: NodeState) -> None:
        if found is not self._node:
            self._node, self._node_since = found, time.monotonic()

    def _slot(self, leader: HeadView) -> Slot:
        try:
            status, answer = ask(leader.address, "/recycle", {"member": self._member}, _TIMEOUT)
        except OSError:
            return Slot.NONE
        granted = status == 200 and isinstance(answer, dict) and answer.get("granted") is True
        return Slot.GRANTED if granted else Slot.WAIT

"""When a worker's node is started afresh: pure rules for the worker that asks and the leader that grants.

A raylet that a serving GCS does not know, or calls dead, will not come back by itself: its node takes no
work. It is recycled after a deadline, a few nodes at a time, and never because the head is away.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

REJOIN_DEADLINE = 30.0
SLOT_SECONDS = 30.0
SLOT_SHARE = 0.1


class NodeState(enum.Enum):
    """What the node table of the GCS says of one raylet. ``UNKNOWN``: the GCS gave no usable answer."""

    ALIVE = "alive"
    DEAD = "dead"
    ABSENT = "absent"
    UNKNOWN = "unknown"


class Slot(enum.Enum):
    """What the leader said to the last request for a slot; ``NONE``: not asked, or asked too long ago."""

    NONE = "none"
    WAIT = "wait"
    GRANTED = "granted"


class Action(enum.Enum):
    """``ASK``: ask the leader for a slot (``POST /recycle``), and decide again with its answer."""

    WAIT = "wait"
    ASK = "ask"
    RECYCLE = "recycle"


@dataclass(frozen=True)
class WorkerSeen:
    """What a worker knows of itself; all ages are seconds on its monotonic clock, None: not now.

    ``raylet_up_s``: how long its raylet runs. ``leader_serves_s``: how long one and the same leader (one
    epoch) has been serving, as seen from here. ``node``: the newest answer of that leader's GCS, and
    ``node_so_s``: for how long the answers have been this without another one between.
    """

    raylet_up_s: float | None
    leader_serves_s: float | None
    node: NodeState = NodeState.UNKNOWN
    node_so_s: float = 0.0
    slot: Slot = Slot.NONE


@dataclass(frozen=True)
class Decision:
    """One action, and the sentence that says why."""

    action: Action
    reason: str


def decide_recycle(seen: WorkerSeen, deadline: float = REJOIN_DEADLINE) -> Decision:  # noqa: PLR0911
    """Whether this worker's node is to be started afresh."""
    if seen.raylet_up_s is None:
        return Decision(Action.WAIT, "the raylet does not run: starting it is the supervisor's work")
    if seen.leader_serves_s is None:
        return Decision(Action.WAIT, "no head serves: a worker is never recycled because the head is away")
    if seen.node is NodeState.ALIVE:
        return Decision(Action.WAIT, "the GCS counts this node as alive")
    if seen.node is NodeState.UNKNOWN:
        return Decision(Action.WAIT, "the GCS has not said what it thinks of this node")
    what = "calls this node dead" if seen.node is NodeState.DEAD else "does not know this node"
    passed = min(seen.raylet_up_s, seen.leader_serves_s, seen.node_so_s)
    if passed < deadline:
        return Decision(
            Action.WAIT, f"the GCS {what}; the raylet has {deadline - passed:.0f} s left to join it again"
        )
    if seen.slot is Slot.GRANTED:
        return Decision(Action.RECYCLE, f"the GCS {what}, {passed:.0f} s after the head began to serve")
    if seen.slot is Slot.WAIT:
        return Decision(Action.WAIT, f"the GCS {what}; other workers are being recycled first")
    return Decision(Action.ASK, f"the GCS {what} and the deadline of {deadline:.0f} s has passed")


@dataclass(frozen=True)
class Slots:
    """The leader's memory of whom it allowed to recycle, and when (monotonic seconds)."""

    granted: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Answer:
    """What the leader answers, and what it remembers from then on."""

    granted: bool
    slots: Slots
    reason: str


def answer_request(
    slots: Slots, member: str, workers: int, now: float, window: float = SLOT_SECONDS
) -> Answer:
    """Grant ``member`` a slot when fewer than a tenth of the ``workers`` known (but one at least) got one
    within ``window`` seconds. Asking again within the window is granted again: the answer may have been lost.
    """
    recent = tuple((name, at) for name, at in slots.granted if 0 <= now - at < window)
    most = max(1, int(workers * SLOT_SHARE))
    if any(name == member for name, _ in recent):
        return Answer(True, Slots(recent), f"{member} has a slot")
    if len(recent) >= most:
        names = ", ".join(name for name, _ in recent)
        return Answer(
            False,
            Slots(recent),
            f"{len(recent)} of at most {most} within {window:.0f} s are being recycled: {names}",
        )
    return Answer(True, Slots((*recent, (member, now))), f"slot {len(recent) + 1} of {most}")

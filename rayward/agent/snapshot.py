"""What the loop tells: a frozen view of the node for other threads, and the words about a death.

Replaced whole with each turn of the loop, never changed.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayward.agent.decide import Phase
from rayward.agent.events import EventLog
from rayward.agent.node import Ended, Tracked
from rayward.agent.processes import Role

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


def take(
    phase: Phase,
    reason: str,
    tracked: Mapping[Role, Tracked],
    gcs_serving: bool | None,
    recoveries: Sequence[dict[str, Any]],
) -> Snapshot:
    """The view as of now."""
    return Snapshot(
        phase=phase,
        reason=reason,
        processes={
            role.value: {
                "pid": process.pid,
                "starts": process.starts,
                "last_death": process.cause or None,
                "tied_to_raylet": role.tied_to_raylet,
            }
            for role, process in tracked.items()
        },
        gcs_serving=gcs_serving,
        looked_at=time.monotonic(),
        recoveries=tuple(recoveries),
    )


def tell_death(events: EventLog, ended: Ended) -> None:
    """One clear event for one death: what, how long it lived, why, and its last words."""
    tied = " (Ray ends the raylet with it)" if ended.role.tied_to_raylet else ""
    lines = "".join(f"\n    | {line}" for line in ended.death.last_lines)
    name = f"{ended.role.value} (pid {ended.pid})"
    events.add(
        "ProcessDied",
        f"{name} died after {ended.death.lived:.1f} s: {ended.cause}{tied}{lines}",
        role=ended.role.value, pid=ended.pid, cause=ended.cause, exit_code=ended.exit_code,
        lived=ended.death.lived, last_lines=list(ended.death.last_lines),
    )  # fmt: skip


def write_termination_message(reason: str) -> None:
    """Leave the reason where Kubernetes reads it (terminationMessagePath), if that file is there."""
    if os.path.exists(_TERMINATION_LOG):
        with contextlib.suppress(OSError), open(_TERMINATION_LOG, "w", encoding="utf-8") as file:
            file.write(reason[:4000])

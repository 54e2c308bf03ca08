"""The faults that a drill can inject: what each one does, in words and as a signal. Pure."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from rayward.errors import RaywardError


@dataclass(frozen=True)
class Fault:
    """One way to break a GCS: the signal that its process gets, and what that stands for.

    ``shuts_down``: the process ends in its own time. What it has in hand then it cancels, and Ray 2.60 does
    not ask again: an actor asked for in these milliseconds may stay pending for good. So the drill's
    questions wait until the GCS has closed its port; all times still count from the signal.
    """

    name: str
    signal: signal.Signals
    does: str
    stands_for: str
    shuts_down: bool = False


FAULTS = (
    Fault(
        "gcs-kill",
        signal.SIGKILL,
        "kills gcs_server (SIGKILL)",
        "a crash, an abort, the out-of-memory killer",
    ),
    Fault(
        "gcs-term",
        signal.SIGTERM,
        "asks gcs_server to end (SIGTERM), as `pkill gcs_server` does",
        "a clean end that nobody meant",
        shuts_down=True,
    ),
    Fault(
        "gcs-freeze",
        signal.SIGSTOP,
        "stops gcs_server without ending it (SIGSTOP)",
        "a hang: the process is there and answers nothing",
    ),
)


def find_fault(name: str) -> Fault:
    """The fault of that name; raises RaywardError naming those that there are."""
    for fault in FAULTS:
        if fault.name == name:
            return fault
    raise RaywardError(
        f"there is no fault {name!r}",
        where="rayward drill run",
        todo=f"one of {', '.join(fault.name for fault in FAULTS)}; `rayward drill list` says what each does",
    )

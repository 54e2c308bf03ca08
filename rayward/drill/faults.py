"""The faults that a drill can inject: what each one does, in words and as a signal. Pure."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from rayward.errors import RaywardError


@dataclass(frozen=True)
class Fault:
    """One way to break a GCS: the signal that its process gets, and what that stands for."""

    name: str
    signal: signal.Signals
    does: str
    stands_for: str


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

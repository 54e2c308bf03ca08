"""One injection as it is asked for. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from rayward.drill.faults import Fault


@dataclass(frozen=True)
class Order:
    """One injection: ``number`` counts all of a drill or suite, ``turn`` those of this fault, both from 1;
    ``seconds`` None is the fault's own duration, ``phase`` the random part of the ``pause`` before it."""

    fault: Fault
    number: int
    pause: float
    phase: float
    seconds: float | None = None
    turn: int = 1

    @property
    def lasts(self) -> float:
        """How long the fault shall be there, in seconds."""
        return self.fault.seconds if self.seconds is None or not self.fault.seconds else self.seconds

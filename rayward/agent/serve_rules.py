"""Whether this node's Ray Serve proxy answers, judged from one answer after the other. Pure.

One slow answer is nothing: a proxy that works hard is still the one that clients want to reach. What counts
at once is what the proxy says itself (it is being drained, it has no routes yet).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Optional

from rayward.agent.timing import Timing

# Strikes in a row after which a proxy that answered counts as silent.
LIMIT = 3


class Finding(enum.Enum):
    """What one question to the proxy found.

    ``SILENT``: no answer in time. ``REFUSED``: nothing listens, or it hangs up, or what it says is no HTTP.
    ``SAYS_NO``: an answer other than 200.
    """

    ANSWERS = "answers"
    SILENT = "silent"
    REFUSED = "refused"
    SAYS_NO = "says no"


# A refused connection is no sign of work; it still gets a second look: a proxy may have just been replaced.
_STRIKES = {Finding.ANSWERS: 0, Finding.SILENT: 1, Finding.REFUSED: 2, Finding.SAYS_NO: LIMIT}


@dataclass(frozen=True)
class Answer:
    """One finding, why in words, and how many routes the proxy has (None: not asked, or no answer)."""

    finding: Finding
    reason: str
    routes: Optional[int] = None


@dataclass(frozen=True)
class ServeState:
    """What is thought of the proxy. ``since``: when ``healthy`` last changed (monotonic seconds)."""

    healthy: bool = False
    strikes: int = 0
    routes: int = 0
    reason: str = "the Serve proxy was not asked yet"
    since: float = 0.0


def judge(before: ServeState, answer: Answer, now: float) -> ServeState:
    """The state after one more answer: one good answer makes a proxy healthy, strikes in a row unmake it."""
    good = answer.finding is Finding.ANSWERS
    strikes = 0 if good else min(LIMIT, before.strikes + _STRIKES[answer.finding])
    healthy = good or (before.healthy and strikes < LIMIT)
    routes = answer.routes if answer.routes is not None else before.routes
    return ServeState(
        healthy=healthy,
        strikes=strikes,
        routes=routes if healthy else 0,
        reason=answer.reason,
        since=before.since if healthy is before.healthy else now,
    )


def next_pause(state: ServeState, took: float, timing: Timing) -> float:
    """Seconds until the next question, after one that took ``took`` seconds: soon while there is a doubt."""
    if state.healthy and state.strikes:
        return timing.serve_second_look
    return max(timing.serve_second_look, timing.serve_interval - took)

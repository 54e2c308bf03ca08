"""Decides what follows the end of a list or watch: go on, list again, and how soon. Pure."""

from __future__ import annotations

import enum
import random
from collections.abc import Callable
from dataclasses import dataclass

from rayward.kube.api_error import ApiError

_LASTED_S = 10.0


class Next(enum.Enum):
    """RESUME: watch on from the last version seen. RELIST: that version is of no use any more."""

    RESUME = "resume"
    RELIST = "relist"


class Pace(enum.Enum):
    """AT_ONCE: after the shortest pause. BACK_OFF: longer each time. SLOWLY: somebody has to act first."""

    AT_ONCE = "at once"
    BACK_OFF = "back off"
    SLOWLY = "slowly"


@dataclass(frozen=True)
class WatchEnd:
    """How one round ended. ``error`` None: the server closed the watch as announced.

    ``events`` and ``lasted`` (seconds) are those of the watch; both 0 while listing.
    """

    listing: bool
    error: BaseException | None
    events: int = 0
    lasted: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """What to do next, and not before ``at_least`` seconds.

    ``progress``: the round brought something, so back-off starts anew. ``problem`` is what people should
    read, None when nothing is wrong.
    """

    next: Next
    pace: Pace
    progress: bool
    problem: str | None = None
    at_least: float = 0.0


def classify_watch_end(end: WatchEnd, what: str) -> Verdict:
    """The verdict on ``end``; ``what`` names what is watched: `pods at the cluster scope`."""
    progress = not end.listing and (end.events > 0 or end.lasted >= _LASTED_S)
    error = end.error
    again = Next.RELIST if end.listing else Next.RESUME
    if error is None:
        # A server or proxy that closes every watch at once must not be asked in a tight loop.
        return Verdict(again, Pace.AT_ONCE if progress else Pace.BACK_OFF, progress)
    if isinstance(error, ApiError):
        return _refused(error, again, progress, what)
    if isinstance(error, TimeoutError):
        # Silence on an open watch is how a dead path shows, and is also normal where nothing happens.
        quiet = progress and not end.listing
        problem = None if quiet else f"no answer to list or watch {what}: {error}"
        return Verdict(again, Pace.AT_ONCE if quiet else Pace.BACK_OFF, progress, problem)
    if isinstance(error, OSError):
        return Verdict(again, Pace.BACK_OFF, progress, f"cannot list or watch {what}: {error}")
    return Verdict(
        Next.RELIST, Pace.BACK_OFF, False, f"defect while watching {what}: {type(error).__name__}: {error}"
    )


def _refused(error: ApiError, again: Next, progress: bool, what: str) -> Verdict:
    wait = error.retry_after or 0.0
    if error.status == 410:
        return Verdict(Next.RELIST, Pace.BACK_OFF, progress)
    if error.status == 403:
        problem = f"no permission to list or watch {what}: {error.message}"
        return Verdict(Next.RELIST, Pace.SLOWLY, False, problem, wait)
    if error.status == 401:
        problem = f"the API server does not accept our credentials for {what}: {error.message}"
        return Verdict(Next.RELIST, Pace.SLOWLY, False, problem, wait)
    if error.status == 404:
        problem = f"the API server does not know {what}: is the CustomResourceDefinition installed?"
        return Verdict(Next.RELIST, Pace.SLOWLY, False, problem, wait)
    problem = f"cannot list or watch {what}: {error}"
    # 400, 422: our version or selector is not understood; listing anew is all that can help.
    again = Next.RELIST if 400 <= error.status < 500 and error.status != 429 else again
    return Verdict(again, Pace.BACK_OFF, progress, problem, wait)


@dataclass(frozen=True)
class Pacing:
    """Pauses in seconds: the shortest, the longest, and both ends of the slow ones."""

    shortest: float = 0.2
    longest: float = 30.0
    slow: tuple[float, float] = (3.0, 10.0)


class BackOff:
    """Counts failures in a row and says how long to wait. ``chance`` is uniform in [0, 1)."""

    def __init__(self, pacing: Pacing, chance: Callable[[], float] = random.random) -> None:
        self._pacing = pacing
        self._chance = chance
        self.failures = 0

    def wait(self, verdict: Verdict) -> float:
        """Seconds until the next round."""
        pacing = self._pacing
        if verdict.progress:
            self.failures = 0
        if verdict.pace is Pace.AT_ONCE:
            return max(pacing.shortest, verdict.at_least)
        if verdict.pace is Pace.SLOWLY:
            low, high = pacing.slow
            return max(low + self._chance() * (high - low), verdict.at_least)
        ceiling = min(pacing.longest, pacing.shortest * 2.0 ** min(self.failures, 32))
        self.failures += 1
        return max(pacing.shortest, self._chance() * ceiling, verdict.at_least)

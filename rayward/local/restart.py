"""Whether and when a container that ended starts again: kubelet's restart policy and back-off. Pure."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_DELAY_S = 10.0
LONGEST_DELAY_S = 300.0
RESET_AFTER_S = 600.0
"""A container that ran this long starts its back-off anew."""


@dataclass(frozen=True)
class Restart:
    """``wanted``: whether it starts again. ``delay_s``: how long after its end. ``exits``: ends in a row."""

    wanted: bool
    delay_s: float
    exits: int

    @property
    def crash_loop(self) -> bool:
        """Whether the wait is one that Kubernetes calls CrashLoopBackOff."""
        return self.wanted and self.delay_s > 0


def after_exit(policy: str, exit_code: int, ran_s: float, exits_before: int) -> Restart:
    """Decide on a container that ended with ``exit_code`` after ``ran_s`` seconds.

    The first end in a row is answered at once, then after 10 s, doubling up to 300 s; ten minutes of running
    reset it.
    A restartPolicy other than Always, OnFailure or Never is treated as Always, Kubernetes' default.
    """
    exits = 1 if ran_s >= RESET_AFTER_S else exits_before + 1
    wanted = policy not in ("Never", "OnFailure") or (policy == "OnFailure" and exit_code != 0)
    delay = 0.0 if exits == 1 else min(FIRST_DELAY_S * 2.0 ** min(exits - 2, 16), LONGEST_DELAY_S)
    return Restart(wanted=wanted, delay_s=delay if wanted else 0.0, exits=exits)

"""The elector's hands: what arms and disarms the fence, and opens and closes the gateway.

Called from the elector's thread, but for ``start``, ``stop`` and ``watch``, which the supervisor calls.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Callable

from rayward.agent.elector import Guard
from rayward.agent.fence_handle import FenceTimer
from rayward.agent.gateway_process import GatewayProcess

# A fence that does not confirm within this is stopped itself; one that died is there again well within it.
_FENCE_PATIENCE = 1.0
_RESTART_PAUSE = 2.0


class Guards(Guard):
    """Fence and gateway of one head."""

    def __init__(
        self,
        gateway: GatewayProcess,
        fence_command: Sequence[str],
        environment: Mapping[str, str],
        wake: Callable[[], None],
    ) -> None:
        self._gateway = gateway
        self._command, self._environment = list(fence_command), dict(environment)
        self._fence = FenceTimer(wake)
        self._wake = wake
        self._deadline: float | None = None
        self._watched: tuple[tuple[int, int], ...] = ()
        self._started_at = 0.0
        self.epoch = 0

    def start(self) -> None:
        """Start the fence; the gateway runs already and lets nothing pass."""
        self._start_fence()
        self.close()

    def stop(self) -> None:
        """Disarm and end the fence."""
        self._fence.close()

    @property
    def fence_pid(self) -> int | None:
        """The fence's process."""
        return self._fence.pid

    def watch(self, processes: tuple[tuple[int, int], ...]) -> None:
        """The fence kills these (pid, start time) from now on."""
        self._watched = processes
        self._fence.watch(processes)

    def arm(self, deadline: float) -> None:
        self._deadline = deadline
        self._fence.arm(deadline)

    def disarm(self) -> None:
        self._deadline = None
        self._fence.disarm()

    def open(self, epoch: int, writer: str) -> None:
        self.epoch = epoch
        self._gateway.lead(epoch, writer)

    def close(self) -> None:
        self.epoch = 0
        self._gateway.hold()

    def ready(self) -> bool:
        """A fence that died or hangs is replaced at once, armed as the one before; until the new one is
        there, the moment of its start counts as ready, for the old deadline has not come yet."""
        now = time.monotonic()
        if self._fence.alive and self._fence.silent_for() < _FENCE_PATIENCE:
            return True
        if now - self._started_at < _FENCE_PATIENCE:
            return self._deadline is not None
        if now - self._started_at >= _RESTART_PAUSE:
            if self._fence.pid is not None and self._fence.alive:
                # It is stopped; waiting for it to end by itself would cost the next renewal.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._fence.pid, signal.SIGKILL)
            self._fence.close()
            self._start_fence()
            return self._deadline is not None
        return False

    def fired(self) -> str:
        return self._fence.fired

    def _start_fence(self) -> None:
        self._started_at = time.monotonic()
        self._fence = FenceTimer(self._wake)
        try:
            self._fence.start(self._command, self._environment)
        except OSError:
            return
        if self._watched:
            self._fence.watch(self._watched)
        if self._deadline is not None:
            self._fence.arm(self._deadline)

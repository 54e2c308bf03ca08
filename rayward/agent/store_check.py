"""Asks the head's store, before Ray starts, whether a GCS could use it.

A GCS that cannot reach its store dies with a core dump and no sentence; this says first what is wrong.
The check runs in a child process, so that redis-py's memory is never the agent's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from typing import Callable

from rayward.agent import deaths
from rayward.agent.config import AgentConfig, own_command
from rayward.agent.decide import Kind, StoreView
from rayward.agent.timing import Timing

CHECK_TIMEOUT = 10.0


class StoreCheck:
    """Repeats the check until the store answers or refuses for good; ``view`` is what is known now."""

    def __init__(self, config: AgentConfig, timing: Timing, on_change: Callable[[], None]) -> None:
        self._config = config
        self._timing = timing
        self._on_change = on_change
        self._started = time.monotonic()
        self._view: StoreView | None = None

    def start(self) -> None:
        """Begin, in a thread; a node without a store of its own has nothing to check."""
        self._started, self._view = time.monotonic(), None
        if self._config.kind is Kind.WORKER or self._config.store == "memory":
            self._view = StoreView(checked=True)
            return
        threading.Thread(target=self._run, name="store-check", daemon=True).start()

    def view(self) -> StoreView:
        """The newest finding; ``waited`` counts from the start."""
        seen = self._view
        if seen is None:
            return StoreView(checked=False)
        return StoreView(seen.checked, seen.fault, seen.transient, time.monotonic() - self._started)

    def _run(self) -> None:
        while True:
            self._view = self._ask()
            self._on_change()
            waited = time.monotonic() - self._started
            if not (self._view.fault and self._view.transient) or waited > self._timing.store_patience:
                return
            time.sleep(self._timing.store_retry)

    def _ask(self) -> StoreView:
        command, environment = own_command(os.environ, sys.argv[0], sys.executable)
        try:
            done = subprocess.run(
                [*command, "store-probe"],
                env=environment,
                capture_output=True,
                timeout=CHECK_TIMEOUT,
                check=False,
            )
            if done.returncode != 0:
                last = deaths.without_secrets((done.stderr.decode(errors="replace").splitlines() or [""])[-1])
                return StoreView(True, f"the store check ended with code {done.returncode}: {last}", False)
            answer = json.loads(done.stdout)
            return StoreView(True, str(answer["fault"]), bool(answer["transient"]))
        except subprocess.TimeoutExpired:
            return StoreView(True, f"the store check got no answer within {CHECK_TIMEOUT:g} s", True)
        except (ValueError, KeyError, OSError) as error:
            return StoreView(True, f"the store check could not run: {error}", False)

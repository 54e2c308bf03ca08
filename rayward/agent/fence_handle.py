"""The agent's end of the fence timer: starts the process, says until when the GCS may live, hears it fire.

Sending never blocks. A fence that is gone, or does not answer, shows here at once; nobody may lead then.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple

STOP_BOUND_S = 2.0


class FenceTimer:
    """One fence process. Methods may be called from any thread; ``on_change`` runs in the reader's thread.

    ``on_change`` is called when the fence is ready, has fired, or is gone; it should only wake somebody.
    """

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        self._on_change = on_change
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._lock = threading.Lock()
        self._reader: Optional[threading.Thread] = None
        self._ready = False
        self._ended = False
        self._fired = ""
        self._killed: Tuple[int, ...] = ()
        self._unanswered: List[float] = []

    def start(self, command: Sequence[str], environment: Optional[Dict[str, str]] = None) -> None:
        """Start the process (``python -m rayward.agent fence``). Raises ``OSError`` when it cannot be run.

        It gets a session of its own: a terminal's Ctrl-C, or a signal to the agent's group, passes it by.
        """
        with self._lock:
            self._ready = self._ended = False
            self._fired, self._killed = "", ()
            self._unanswered = []
            process = self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
            assert process.stdin is not None
            os.set_blocking(process.stdin.fileno(), False)
        self._reader = threading.Thread(target=self._listen, args=(process,), name="fence", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> Optional[int]:
        """The fence's process, or None before ``start``."""
        return None if self._process is None else self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs and has said that it is ready."""
        return self._ready and not self._ended

    @property
    def fired(self) -> str:
        """Why it killed ("deadline" or "agent gone"), or empty; stays until the next ``arm``."""
        return self._fired

    @property
    def killed(self) -> Tuple[int, ...]:
        """The processes that it killed when it fired last."""
        return self._killed

    def silent_for(self) -> float:
        """Seconds since the oldest ``arm`` that has not been confirmed; 0 when all have.

        More than a moment means that the fence itself is stopped, so that it guards nothing.
        """
        with self._lock:
            return time.monotonic() - self._unanswered[0] if self._unanswered else 0.0

    def arm(self, deadline: float) -> bool:
        """Kill when CLOCK_BOOTTIME reaches ``deadline`` (seconds), unless armed anew before.

        False when the fence could not be told: the caller must not lead.
        """
        with self._lock:
            self._fired = ""
            self._unanswered.append(time.monotonic())
            return self._send(f"arm {deadline:.6f}\n")

    def watch(self, processes: Iterable[Tuple[int, int]]) -> bool:
        """The processes to kill, as (pid, start time); replaces the earlier ones. False as in ``arm``.

        Each one's process group goes with it where it leads one.
        """
        with self._lock:
            return self._send(" ".join(["watch", *(f"{pid}:{start}" for pid, start in processes)]) + "\n")

    def disarm(self) -> bool:
        """A clean stop: nothing is to be killed any more. False when the fence could not be told."""
        with self._lock:
            return self._send("disarm\n")

    def close(self) -> None:
        """Disarm and end the process; it is killed when it does not end by itself."""
        process = self._process
        if process is None:
            return
        told = self.disarm()
        with self._lock:
            if not told:
                process.kill()  # the end of its stdin would make it fire
            with contextlib.suppress(OSError):
                assert process.stdin is not None
                process.stdin.close()
        try:
            process.wait(STOP_BOUND_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self._reader is not None and self._reader is not threading.current_thread():
            self._reader.join(STOP_BOUND_S)

    def _send(self, line: str) -> bool:
        """Called with the lock held. A pipe that is full belongs to a fence that is stopped."""
        process = self._process
        if process is None or self._ended or process.stdin is None or process.stdin.closed:
            return False
        try:
            return os.write(process.stdin.fileno(), line.encode("ascii")) == len(line)
        except OSError:
            return False

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as reports:
            for line in reports:
                with contextlib.suppress(ValueError):
                    report = json.loads(line)
                    if isinstance(report, dict) and self._take(report):
                        self._on_change()
        with self._lock:
            self._ended = True
        # Reaping is not left to chance: an unreaped fence looks alive to whoever reads /proc.
        process.wait()
        self._on_change()

    def _take(self, report: Dict[str, Any]) -> bool:
        """Note what the fence said; whether somebody should know at once."""
        said = report.get("is")
        with self._lock:
            if said == "armed":
                del self._unanswered[:1]
            elif said == "fired":
                self._killed = tuple(int(pid) for pid in report.get("killed", ()))
                self._fired = str(report.get("why", "deadline"))
            elif said == "ready":
                self._ready = True
        return said in ("fired", "ready")

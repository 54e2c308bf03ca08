"""Holds the probe that runs inside a worker Pod: starts it, sends it commands, collects what it finds.

Every wait has a bound, and a probe that ended is an error that says with which words.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import tempfile
import threading
import time
from importlib import resources
from types import TracebackType
from typing import Any

from rayward.errors import RaywardError
from rayward.local.cluster import LocalCluster

Finding = dict[str, Any]
_END_LIMIT = 12.0


class ProbeEndedError(RaywardError):
    """The probe's process ended, or did not answer in time."""


class ProbeSilentError(ProbeEndedError):
    """The probe lives, and did not say in time what was waited for."""


class ProbeProcess:
    """A context manager; leaving it removes what the probe made in the cluster and ends its process."""

    def __init__(self, cluster: LocalCluster, pod: str) -> None:
        source = resources.files("rayward.drill").joinpath("probe.py").read_text(encoding="utf-8")
        plan = cluster.exec_plan(pod, None, ["python3", "-u", "-c", source])
        self._pod = pod
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        self._child = subprocess.Popen(
            plan.argv,
            env=plan.env,
            cwd=plan.cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            # Ctrl-C is for the drill; the probe cleans up when its stdin ends.
            start_new_session=True,
        )
        self._found: queue.Queue[Finding] = queue.Queue()
        self._reader = threading.Thread(target=self._read, name="probe-reader", daemon=True)
        self._reader.start()

    def __enter__(self) -> ProbeProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> None:
        assert self._child.stdout is not None
        for text in self._child.stdout:
            with contextlib.suppress(ValueError):
                self._found.put(json.loads(text))
        self._found.put({"is": "gone"})

    def send(self, do: str, **values: Any) -> None:
        """Send one command; raises ProbeEndedError when the probe is gone."""
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps({"do": do, **values}) + "\n")
            self._child.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise self._ended() from None

    def receive(self, kind: str, limit: float, run: int | None = None) -> Finding:
        """The next finding of this kind (and run); others that come first are dropped.

        Raises ProbeEndedError when the probe fails or says nothing of the kind within ``limit`` seconds.
        """
        deadline = time.monotonic() + limit
        while True:
            try:
                found = self._found.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise ProbeSilentError(
                    f"the probe did not answer within {limit:.0f} s (waited for {kind!r})",
                    where=f"Pod {self._pod}",
                    todo=f"`rayward logs {self._pod}` and `rayward status` show the node's state",
                ) from None
            if found["is"] == "gone":
                self._found.put(found)
                raise self._ended()
            if found["is"] == "failed":
                raise ProbeEndedError(f"the probe failed: {found['error']}", where=f"Pod {self._pod}")
            if found["is"] == kind and run in (None, found.get("run")):
                return found

    def _ended(self) -> ProbeEndedError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(5)
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip().splitlines()
        told = next((line for line in reversed(words) if line.strip()), "no message")[:300]
        return ProbeEndedError(
            f"the probe's driver ended (exit code {self._child.returncode}): {told}", where=f"Pod {self._pod}"
        )

    def close(self) -> None:
        """End the probe; it removes its actors, its placement group and its entries first."""
        if self._child.stdin is not None:
            with contextlib.suppress(BrokenPipeError, ValueError):
                self._child.stdin.close()
        try:
            self._child.wait(_END_LIMIT)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._reader.join(2)
        self._errors.close()

"""One Ray head for a while, and a driver on it, whose program comes on standard input.

``python -m benchmarks.gateway_cost_head FOLDER PORTS... ROUNDS ACTORS``; a part of ``gateway_cost``. It is a
subreaper, so that nothing of the head outlives it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    """Start the head, run the driver, pass its output on, end everything."""
    folder, port, client_port, agent_port, rounds, actors = sys.argv[1:]
    Path(folder).mkdir()
    program = sys.stdin.read()
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    # Ray's socket paths must be short.
    with tempfile.TemporaryDirectory(prefix="rwb", dir="/tmp", ignore_cleanup_errors=True) as temporary:
        try:
            command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--port", port]
            command += ["--temp-dir", temporary, "--num-cpus", "2", "--include-dashboard", "false"]
            command += ["--ray-client-server-port", client_port, "--dashboard-agent-listen-port", agent_port]
            command += ["--redis-password", os.environ["RAYWARD_BENCH_TOKEN"], "--disable-usage-stats"]
            command += ["--object-store-memory", "80000000", "--min-worker-port=0", "--max-worker-port=0"]
            with (Path(folder) / "start.log").open("wb") as log:
                subprocess.run(command, check=True, stdout=log, stderr=log, timeout=90)
            driver = [sys.executable, "-c", program, f"127.0.0.1:{port}", rounds, actors]
            subprocess.run(driver, check=True, timeout=300)
        finally:
            _end_descendants()


def _end_descendants() -> None:
    # Twice: a process may start another one while the first list is read.
    for _ in range(2):
        for pid in _descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)


def _descendants(pid: int) -> list[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1])
    found: list[int] = []
    queue = [pid]
    while queue:
        above = queue.pop()
        children = [child for child, parent in parents.items() if parent == above]
        found += children
        queue += children
    return found


if __name__ == "__main__":
    main()

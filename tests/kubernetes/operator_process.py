"""Runs the real operator as a process against an API server, and reads its log."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rayward

ROOT = Path(rayward.__file__).resolve().parent.parent
READY_S = 30.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@dataclass
class OperatorProcess:
    """One replica."""

    process: subprocess.Popen[bytes]
    log: Path
    health_port: int
    metrics_port: int

    def entries(self) -> list[dict[str, Any]]:
        """Its log so far, one entry a line."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def said(self, words: str) -> bool:
        """Whether a line of its log holds these words."""
        return any(words in entry["message"] for entry in self.entries())

    def get(self, path: str, port: int | None = None) -> tuple[int, str]:
        """An answer of its health port, or another."""
        url = f"http://127.0.0.1:{port or self.health_port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refusal:
            return refusal.code, refusal.read().decode()
        except OSError as problem:
            return 0, str(problem)

    def metrics(self) -> str:
        """What Prometheus would read."""
        return self.get("/metrics", self.metrics_port)[1]

    def wait_leading(self) -> None:
        """Until it works; fails with its log."""
        end = time.monotonic() + READY_S
        while not (self.said("leading;") and self.get("/readyz")[0] == 200):
            assert self.process.poll() is None, self.log.read_text()[-4000:]
            assert time.monotonic() < end, f"{self.get('/readyz')}\n{self.log.read_text()[-4000:]}"
            time.sleep(0.05)

    def kill(self) -> None:
        """As if its machine was lost."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """End it as Kubernetes does; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)


@contextmanager
def operator_process(
    kubeconfig: Path,
    log: Path,
    *options: str,
    environment: dict[str, str] | None = None,
    wait: bool = True,
) -> Iterator[OperatorProcess]:
    """The operator with the rights of ``kubeconfig``; ended on the way out, and its log has no traceback."""
    health, metrics = free_port(), free_port()
    command = [
        sys.executable, "-m", "rayward", "operator", "--kubeconfig", str(kubeconfig),
        "--health-probe-bind-address", f"127.0.0.1:{health}", "--metrics-addr", f"127.0.0.1:{metrics}",
        "--leader-election-namespace", "default", "--log-encoder", "json", "--log-level", "debug", *options,
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=env, stdout=stream, stderr=stream)
    found = OperatorProcess(process, log, health, metrics)
    try:
        if wait:
            found.wait_leading()
        yield found
    finally:
        if process.poll() is None:
            found.stop()
    assert "Traceback" not in log.read_text(), log.read_text()[-6000:]

"""Two stand-ins for agents of heads: real HTTP servers that answer what a test lets them, and keep requests.

They stand in for agents only where a command's own words and exit codes are the subject.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
Answer = tuple[int, dict[str, Any]]


class StandIn:
    """One head's agent. ``posts`` holds the requests that it got, as path, body and token."""

    def __init__(self, cluster: StandInCluster, member: str) -> None:
        self.member = member
        self.posts: list[tuple[str, dict[str, Any], str]] = []
        self.answers: dict[str, Answer | Callable[[dict[str, Any]], Answer]] = {}
        self.cluster = cluster
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.server.server_port}"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._send(*stand_in.get(self.path))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                stand_in.posts.append((self.path, body, self.headers.get("Authorization", "")))
                answer = stand_in.answers.get(self.path, (404, {"error": "unknown path"}))
                found = answer(body) if callable(answer) else answer
                if found[0]:
                    self._send(*found)

            def _send(self, code: int, body: dict[str, Any]) -> None:
                raw = json.dumps(body).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler

    def get(self, path: str) -> Answer:
        if path in self.answers:
            found = self.answers[path]
            return found({}) if callable(found) else found
        state = self.cluster
        if path == "/members":
            return 200, {"cluster": "prod", "paused": state.paused, "members": state.members(), **state.more}
        if path == "/status":
            return 200, {"ready": True}
        if path == "/leader":
            leads = state.leader == self.member and state.serving
            body = {"leader": leads, "serving": leads, "member": self.member, "epoch": state.epoch}
            return (200 if leads else 503), body
        return 404, {"error": "unknown path"}


class StandInCluster:
    """Two heads; ``leader`` and ``epoch`` are what both of them say."""

    def __init__(self) -> None:
        self.leader, self.epoch, self.paused, self.serving = "head-1", 4, False, True
        self.more: dict[str, Any] = {}
        self.heads = [StandIn(self, "head-1"), StandIn(self, "head-2")]

    def members(self) -> list[dict[str, Any]]:
        return [
            {
                "member": head.member,
                "role": "leader" if head.member == self.leader else "standby",
                "state": "running" if head.member == self.leader else "prepared",
                "epoch": self.epoch if head.member == self.leader else None,
                "lease_left_s": 2.44 if head.member == self.leader else None,
                "seen_ago_s": 0.31,
                "gcs": "10.0.0.1:6379" if head.member == self.leader else "",
                "address": head.place,
            }
            for head in self.heads
        ]

    def lead(self, member: str) -> None:
        self.leader, self.epoch = member, self.epoch + 1

    def switch(self, body: dict[str, Any]) -> Answer:
        """What a leader does when it is asked to hand over: another leads, then it answers."""
        self.lead(body["to"] or "head-2")
        return 200, {"ok": True, "message": f"hands over to {self.leader}"}

    def pause(self, paused: bool, message: str) -> Callable[[dict[str, Any]], Answer]:
        """What a head does when it is asked to pause or to resume."""

        def set_it(_body: dict[str, Any]) -> Answer:
            self.paused = paused
            return 200, {"ok": True, "message": message}

        return set_it

    def take_over(self, body: dict[str, Any]) -> Answer:
        """What a head does when it is asked to take the lease."""
        self.lead(body["to"])
        return 200, {"ok": True, "message": "takes the lease"}

    def config(self, folder: Path, extra: str = "") -> Path:
        """A file that names these heads."""
        path = folder / "rayward.yaml"
        heads = ", ".join(f"'{head.place}'" for head in self.heads)
        path.write_text(f"role: worker\ncluster: prod\nheads: [{heads}]\n{extra}")
        path.chmod(0o600)
        return path


@pytest.fixture
def heads() -> Iterator[StandInCluster]:
    cluster = StandInCluster()
    yield cluster
    for head in cluster.heads:
        head.stop()


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(tmp_path: Path) -> Run:
    """The real command line, on a machine without clusters of its own."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY", "REDIS"))}
        return subprocess.run(
            [sys.executable, "-m", "rayward", *arguments],
            env={**kept, "PYTHONPATH": str(ROOT), "RAYWARD_HOME": str(tmp_path / "home"), **variables},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    return run

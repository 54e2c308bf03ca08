"""The agent's HTTP port: /livez /readyz /servez /leader /status /metrics; a head: /members, /history, POSTs.

Read-only views of the loop's last snapshot, served from threads of their own. ``/leader`` answers 200 on the
node whose GCS serves and 503 elsewhere, so that HAProxy or a Kubernetes Service can route by it, as with
Patroni. ``/leader?watch=1`` stays open and says one line on every change, and twice a second without one.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable

from rayward import __version__
from rayward.agent import processes
from rayward.agent.decide import Kind, Phase
from rayward.agent.metrics import metrics_text
from rayward.agent.processes import Role
from rayward.agent.serve_views import serve_metrics, serve_status, servez
from rayward.agent.serve_watch import ServeWatch
from rayward.agent.server_head import HeadViews
from rayward.agent.standing import Rank, Standing
from rayward.agent.supervisor import Supervisor
from rayward.agent.timing import Timing
from rayward.errors import RaywardError

Answer = tuple[int, str, str]
_JSON, _TEXT = "application/json", "text/plain; version=0.0.4"
_WATCH_BEAT = 0.4
_LONGEST_BODY = 64 * 1024


class Views:
    """What each path answers, from the supervisor's snapshot."""

    def __init__(self, supervisor: Supervisor, timing: Timing) -> None:
        self._supervisor = supervisor
        self._timing = timing
        # Kept: a head that stops goes on to say that it does not lead.
        self._lead = supervisor.lead
        self._head = HeadViews(self._lead) if self._lead is not None else None
        self._paths: dict[str, Callable[[], Answer]] = {
            "/livez": self.livez,
            "/readyz": self.readyz,
            "/leader": self.leader,
            "/status": self.status,
            "/metrics": self.metrics,
        }
        serve = self._supervisor.serve
        if serve is not None:
            self._paths["/servez"] = lambda: self._servez(serve)
        head = self._head
        if head is not None:
            self._paths["/members"] = lambda: _as_json(*head.members())
            self._paths["/history"] = lambda: _as_json(*head.history())

    def post(self, path: str, raw: bytes, authorization: str) -> Answer:
        """The answer to a POST."""
        if self._head is None:
            return _as_json(404, {"error": "nothing can be posted here: this node takes part in no election"})
        return _as_json(*self._head.post(path, raw, authorization))

    def wait_for_news(self, known: int) -> int:
        """Wait for a reason to say a line of ``/leader?watch=1`` again; see ``News.wait``."""
        return self._supervisor.news.wait(known, _WATCH_BEAT)

    def leader_line(self) -> bytes:
        """One line of the stream."""
        return (json.dumps(self._leader_body()) + "\n").encode()

    def answer(self, path: str) -> Answer:
        """The answer to a GET of ``path``."""
        view = self._paths.get(path.split("?", 1)[0])
        if view is None:
            return 404, _JSON, json.dumps({"error": "unknown path", "paths": sorted(self._paths)}) + "\n"
        return view()

    def livez(self) -> Answer:
        """200 while the agent's loop turns; says nothing of Ray, so no outage of a head restarts a Pod."""
        age = time.monotonic() - self._supervisor.snapshot.looked_at
        stopping = self._supervisor.snapshot.phase in (Phase.STOPPING, Phase.FAILED)
        alive = stopping or age < self._timing.loop_stall_limit + self._timing.stop_grace
        return (
            (200 if alive else 503),
            _JSON,
            json.dumps({"alive": alive, "loop_age_s": round(age, 3)}) + "\n",
        )

    def _ready(self) -> bool:
        serving = bool(self._supervisor.snapshot.gcs_serving)
        return self._raylet_runs() and (serving or self._supervisor.config.kind is Kind.WORKER)

    def _raylet_runs(self) -> bool:
        seen = self._supervisor.snapshot
        raylet = seen.processes.get(Role.RAYLET.value, {}).get("pid")
        return seen.phase is Phase.RUNNING and raylet is not None

    def readyz(self) -> Answer:
        """200 when the node takes work: its raylet runs and, on a head, its GCS serves."""
        ready = self._ready()
        seen = self._supervisor.snapshot
        body = {"ready": ready, "phase": seen.phase.value, "reason": seen.reason}
        return (200 if ready else 503), _JSON, json.dumps(body) + "\n"

    def _servez(self, serve: ServeWatch) -> Answer:
        return _as_json(*servez(self._supervisor.snapshot, self._raylet_runs(), serve))

    def leader(self) -> Answer:
        """200 on the head whose GCS serves, with its address; 503 on every other node."""
        body = self._leader_body()
        return _as_json(200 if body["leader"] and body["serving"] else 503, body)

    def _leader_body(self) -> dict[str, Any]:
        config, lead = self._supervisor.config, self._lead
        serving = bool(self._supervisor.snapshot.gcs_serving)
        body: dict[str, Any] = {"role": config.kind.value, "gcs_port": config.gcs_port, "pod": config.pod}
        if lead is None:
            leads = config.kind is Kind.HEAD and serving
            return {
                "leader": leads,
                "serving": serving,
                "member": config.pod,
                "cluster": config.cluster,
                **body,
            }
        seen = lead.standing
        return {
            "leader": seen.leads,
            "epoch": seen.epoch,
            "serving": seen.leads and serving,
            "gcs": lead.gcs_address,
            "member": lead.member,
            "cluster": lead.cluster,
            "incarnation": seen.incarnation,
            **body,
        }

    def status(self) -> Answer:
        """Everything that the agent knows of its node."""
        config, seen = self._supervisor.config, self._supervisor.snapshot
        body: dict[str, Any] = {
            "version": __version__,
            "role": config.kind.value,
            "cluster": config.cluster,
            "pod": config.pod,
            "phase": seen.phase.value,
            "reason": seen.reason,
            "ready": self._ready(),
            "gcs": {"host": config.gcs_host, "port": config.gcs_port, "serving": seen.gcs_serving},
            "store": config.store,
            "fence": self._fence_words(),
            "processes": seen.processes,
            "recoveries": list(seen.recoveries),
            "agent": {"pid": os.getpid(), "resident_bytes": processes.resident_bytes(os.getpid())},
            "events": self._supervisor.events.recent(),
        }
        lead, forwarder = self._lead, self._supervisor.forwarder
        if lead is not None:
            body["lead"] = {**lead.status(), "state": self._state(lead.standing)}
            body["gateway"] = lead.gateway_status()
        if forwarder is not None:
            body["forwarder"] = asdict(forwarder.status())
        if self._supervisor.serve is not None:
            body["serve"] = serve_status(self._supervisor.serve)
        return 200, _JSON, json.dumps(body, default=str) + "\n"

    def _state(self, standing: Standing) -> str:
        """One word for how far this head is in its role."""
        seen = self._supervisor.snapshot
        if standing.rank is Rank.HANDING_OVER:
            return "handing over"
        if standing.leads:
            return "leading" if seen.gcs_serving else "promoting"
        if seen.phase is Phase.PREPARED:
            return "warm"
        return "preparing" if seen.phase is Phase.PREPARING else "following"

    def _fence_words(self) -> str:
        lead = self._lead
        if lead is not None:
            return lead.fence_words()
        if self._supervisor.config.kind is Kind.WORKER:
            return "none: a worker writes nothing"
        return "none: this store takes one head only"

    def metrics(self) -> Answer:
        """Prometheus text format 0.0.4."""
        text = metrics_text(self._supervisor, self._ready())
        if self._supervisor.serve is not None:
            text += serve_metrics(self._supervisor.serve)
        return 200, _TEXT, text


def _as_json(code: int, body: dict[str, Any]) -> Answer:
    return code, _JSON, json.dumps(body) + "\n"


def serve(views: Views, host: str, port: int) -> ThreadingHTTPServer:
    """Listen and serve in daemon threads; raises RaywardError when the port is taken."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10

        def do_GET(self) -> None:
            if self.path == "/leader?watch=1" and self.command == "GET":
                self._watch()
            else:
                self._send(*views.answer(self.path))

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "0")
            if not length.isdecimal() or int(length) > _LONGEST_BODY:
                self.close_connection = True
                self._send(*_as_json(413, {"error": "the body is too long"}))
                return
            raw = self.rfile.read(int(length))
            self._send(*views.post(self.path, raw, self.headers.get("Authorization", "")))

        def _watch(self) -> None:
            self.close_connection = True
            self.send_response(200)
            self.send_header("Content-Type", "application/x-ndjson")
            self.send_header("Connection", "close")
            self.end_headers()
            known = 0
            while True:
                self.wfile.write(views.leader_line())
                known = views.wait_for_news(known)

        def _send(self, code: int, kind: str, body: str) -> None:
            raw = body.encode()
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(raw)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            """Probes come every second: they are not logged."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        def handle_error(self, request: Any, client_address: Any) -> None:
            if not isinstance(sys.exc_info()[1], ConnectionError):  # a prober may hang up early
                super().handle_error(request, client_address)

        def server_bind(self) -> None:
            # HTTPServer's own looks up the host's full name, which can take seconds without DNS.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind(self.server_address)
            self.server_name, self.server_port = str(host), self.socket.getsockname()[1]

    try:
        server = Server((host, port), Handler)
    except OSError as error:
        raise RaywardError(
            f"cannot listen: {(error.strerror or str(error)).lower()}",
            where=f"agent port {host}:{port}",
            todo="set RAYWARD_AGENT_PORT to a free port",
        ) from error
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return server

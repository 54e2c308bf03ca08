"""The agent's HTTP port: /livez /readyz /leader /status /metrics.

Read-only views of the loop's last snapshot, served from threads of their own. ``/leader`` answers 200 on the
node whose GCS serves and 503 elsewhere, so that HAProxy or a Kubernetes Service can route by it, as with
Patroni.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable

from rayward import __version__
from rayward.agent import processes
from rayward.agent.decide import Kind, Phase
from rayward.agent.processes import Role
from rayward.agent.supervisor import Supervisor
from rayward.agent.timing import Timing
from rayward.errors import RaywardError

Answer = tuple[int, str, str]
_JSON, _TEXT = "application/json", "text/plain; version=0.0.4"


class Views:
    """What each path answers, from the supervisor's snapshot."""

    def __init__(self, supervisor: Supervisor, timing: Timing) -> None:
        self._supervisor = supervisor
        self._timing = timing
        self._paths: dict[str, Callable[[], Answer]] = {
            "/livez": self.livez,
            "/readyz": self.readyz,
            "/leader": self.leader,
            "/status": self.status,
            "/metrics": self.metrics,
        }

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
        seen = self._supervisor.snapshot
        raylet = seen.processes.get(Role.RAYLET.value, {}).get("pid")
        ready = seen.phase is Phase.RUNNING and raylet is not None
        return ready and (bool(seen.gcs_serving) or self._supervisor.config.kind is Kind.WORKER)

    def readyz(self) -> Answer:
        """200 when the node takes work: its raylet runs and, on a head, its GCS serves."""
        ready = self._ready()
        seen = self._supervisor.snapshot
        body = {"ready": ready, "phase": seen.phase.value, "reason": seen.reason}
        return (200 if ready else 503), _JSON, json.dumps(body) + "\n"

    def leader(self) -> Answer:
        """200 on the head whose GCS serves, with its address; 503 on every other node."""
        config = self._supervisor.config
        leads = config.kind is Kind.HEAD and bool(self._supervisor.snapshot.gcs_serving)
        body = {"leader": leads, "role": config.kind.value, "gcs_port": config.gcs_port, "pod": config.pod}
        return (200 if leads else 503), _JSON, json.dumps(body) + "\n"

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
            "fence": "none: one head, no election",
            "processes": seen.processes,
            "recoveries": list(seen.recoveries),
            "agent": {"pid": os.getpid(), "resident_bytes": processes.resident_bytes(os.getpid())},
            "events": self._supervisor.events.recent(),
        }
        return 200, _JSON, json.dumps(body) + "\n"

    def metrics(self) -> Answer:
        """Prometheus text format 0.0.4."""
        seen = self._supervisor.snapshot
        lines = [
            "# HELP rayward_ready Whether this node takes work.",
            "# TYPE rayward_ready gauge",
            f"rayward_ready {int(self._ready())}",
        ]
        if seen.gcs_serving is not None:
            lines += [
                "# HELP rayward_gcs_serving Whether the GCS serves, as far as this node can see.",
                "# TYPE rayward_gcs_serving gauge",
                f"rayward_gcs_serving {int(seen.gcs_serving)}",
            ]
        lines += [
            "# HELP rayward_process_starts_total Starts of each of Ray's processes, the first one included.",
            "# TYPE rayward_process_starts_total counter",
        ]
        for name, process in sorted(seen.processes.items()):
            lines.append(f'rayward_process_starts_total{{process="{name}"}} {process["starts"]}')
        lines += [
            "# HELP rayward_process_up Whether each of Ray's processes runs.",
            "# TYPE rayward_process_up gauge",
        ]
        for name, process in sorted(seen.processes.items()):
            lines.append(f'rayward_process_up{{process="{name}"}} {int(process["pid"] is not None)}')
        lines += [
            "# HELP rayward_events_total Events by reason.",
            "# TYPE rayward_events_total counter",
        ]
        for reason, count in sorted(self._supervisor.events.counts().items()):
            lines.append(f'rayward_events_total{{reason="{reason}"}} {count}')
        lines += [
            "# HELP rayward_gcs_recovery_seconds_last Seconds from the GCS's last death until it served.",
            "# TYPE rayward_gcs_recovery_seconds_last gauge",
        ]
        if seen.recoveries:
            lines.append(f"rayward_gcs_recovery_seconds_last {seen.recoveries[-1]['seconds']:.6f}")
        return 200, _TEXT, "\n".join(lines) + "\n"


def serve(views: Views, host: str, port: int) -> ThreadingHTTPServer:
    """Listen and serve in daemon threads; raises RaywardError when the port is taken."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10

        def do_GET(self) -> None:
            code, kind, body = views.answer(self.path)
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

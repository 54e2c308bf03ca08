"""What the agent's HTTP port answers, over a real socket, for a supervisor in any state."""

from __future__ import annotations

import dataclasses
import http.client
import io
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from typing import Any

import pytest

from rayward.agent.config import AgentConfig
from rayward.agent.decide import Kind, Phase
from rayward.agent.events import EventLog
from rayward.agent.news import News
from rayward.agent.serve_rules import ServeState
from rayward.agent.serve_watch import ServeWatch
from rayward.agent.server import Views, serve
from rayward.agent.snapshot import Snapshot
from rayward.agent.timing import Timing
from rayward.errors import RaywardError


@dataclass
class Seen:
    """The part of a supervisor that the views read."""

    config: AgentConfig
    snapshot: Snapshot
    events: EventLog
    news: News = dataclasses.field(default_factory=News)
    lead: None = None
    forwarder: None = None
    serve: Any = None


CONFIG = AgentConfig(Kind.HEAD, ("ray", "start"), "10.0.0.1", 6379, "redis", cluster="c", pod="head-1")
RUNS = {"pid": 7, "starts": 2, "last_death": "killed by SIGKILL", "tied_to_raylet": False}


def snapshot(**changes: Any) -> Snapshot:
    base = Snapshot(
        Phase.RUNNING, "gcs_server serves", {"raylet": RUNS, "gcs_server": RUNS}, True, time.monotonic()
    )
    return dataclasses.replace(base, **changes)


@pytest.fixture(scope="module")
def shared() -> Seen:
    return Seen(CONFIG, snapshot(), EventLog("t", io.StringIO()))


@pytest.fixture
def seen(shared: Seen) -> Seen:
    shared.config, shared.snapshot, shared.events = CONFIG, snapshot(), EventLog("t", io.StringIO())
    return shared


@pytest.fixture(scope="module")
def server(shared: Seen) -> Iterator[ThreadingHTTPServer]:
    running = serve(Views(shared, Timing()), "127.0.0.1", 0)  # type: ignore[arg-type]
    yield running
    running.shutdown()
    running.server_close()


def get(server: ThreadingHTTPServer, path: str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = json.loads(answer.read())
    connection.close()
    return answer.status, body


LOST_RAYLET = {"raylet": {**RUNS, "pid": None}}


@pytest.mark.parametrize(
    ("kind", "changes", "ready", "leader"),
    [
        (Kind.HEAD, {}, 200, 200),
        (Kind.HEAD, {"gcs_serving": False}, 503, 503),
        (Kind.HEAD, {"processes": LOST_RAYLET}, 503, 200),
        (Kind.HEAD, {"processes": {}}, 503, 200),
        (Kind.HEAD, {"phase": Phase.STARTING}, 503, 200),
        (Kind.WORKER, {}, 200, 503),
        (Kind.WORKER, {"gcs_serving": None}, 200, 503),
        (Kind.WORKER, {"processes": LOST_RAYLET}, 503, 503),
        (Kind.WORKER, {"phase": Phase.WAITING_FOR_GCS, "processes": {}}, 503, 503),
    ],
)
def test_ready_and_leader(
    server: ThreadingHTTPServer, seen: Seen, kind: Kind, changes: dict[str, Any], *, ready: int, leader: int
) -> None:
    seen.config = dataclasses.replace(CONFIG, kind=kind)
    seen.snapshot = snapshot(**changes)
    assert (get(server, "/readyz")[0], get(server, "/leader")[0]) == (ready, leader)


@pytest.mark.parametrize(
    ("age", "phase", "code"),
    [(0, Phase.RUNNING, 200), (14, Phase.RUNNING, 200), (16, Phase.RUNNING, 503), (16, Phase.STOPPING, 200),
     (16, Phase.FAILED, 200), (16, Phase.WAITING_FOR_GCS, 503)],
)  # fmt: skip
def test_alive_while_the_loop_turns(
    server: ThreadingHTTPServer, seen: Seen, age: float, phase: Phase, code: int
) -> None:
    seen.snapshot = snapshot(looked_at=time.monotonic() - age, phase=phase)
    assert get(server, "/livez")[0] == code


def test_status(server: ThreadingHTTPServer, seen: Seen) -> None:
    seen.events.add("NodeStarted", "runs")
    code, body = get(server, "/status?pretty")
    assert code == 200
    assert (body["role"], body["cluster"], body["pod"], body["phase"], body["ready"]) == (
        "head", "c", "head-1", "running", True,
    )  # fmt: skip
    assert body["gcs"] == {"host": "10.0.0.1", "port": 6379, "serving": True}
    assert body["processes"]["raylet"] == RUNS
    assert [event["reason"] for event in body["events"]] == ["NodeStarted"]
    assert body["agent"]["resident_bytes"] > 0


def test_metrics(server: ThreadingHTTPServer, seen: Seen) -> None:
    seen.events.add("ProcessDied", "x")
    seen.snapshot = snapshot(recoveries=({"died": 1.0, "seconds": 0.25},), processes=LOST_RAYLET)
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5)
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4"
    values = dict(
        line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if not line.startswith("#")
    )
    connection.close()
    assert values == {
        "rayward_ready": "0",
        "rayward_gcs_serving": "1",
        'rayward_process_starts_total{process="raylet"}': "2",
        'rayward_process_up{process="raylet"}': "0",
        'rayward_events_total{reason="ProcessDied"}': "1",
        "rayward_gcs_recovery_seconds_last": "0.25",
    }


def test_a_worker_has_no_gcs_to_report(server: ThreadingHTTPServer, seen: Seen) -> None:
    seen.config = dataclasses.replace(CONFIG, kind=Kind.WORKER)
    seen.snapshot = snapshot(gcs_serving=None)
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5)
    connection.request("GET", "/metrics")
    assert b"rayward_gcs_serving" not in connection.getresponse().read()
    connection.close()


def test_requests_are_answered_without_a_gcs(seen: Seen) -> None:
    """/servez asks for a raylet and a healthy proxy, not for a GCS or the lead."""
    watch = ServeWatch(8000, Timing(), seen.events.add)
    seen.serve = watch
    views = Views(seen, Timing())  # type: ignore[arg-type]
    seen.serve = None
    well = ServeState(healthy=True, routes=2, reason="the Serve proxy answers", since=time.monotonic())
    for state, changes, code, reason in (
        (well, {}, 200, "the Serve proxy answers"),
        (well, {"gcs_serving": False}, 200, "the Serve proxy answers"),
        (well, {"processes": LOST_RAYLET}, 503, "the raylet of this node does not run: gcs_server serves"),
        (well, {"phase": Phase.STOPPING}, 503, "the raylet of this node does not run: gcs_server serves"),
        (ServeState(reason="being drained"), {}, 503, "being drained"),
    ):
        watch.state, seen.snapshot = state, snapshot(**changes)
        found = views.answer("/servez")
        body = {"answers": code == 200, "routes": state.routes, "reason": reason}
        assert (found[0], json.loads(found[2])) == (code, body)


def test_what_is_known_of_serve_is_in_status_and_metrics(seen: Seen, shared: Seen) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        port = proxy.getsockname()[1]
        shared.serve = ServeWatch(port, Timing(), seen.events.add)
        shared.serve.state = ServeState(True, 0, 2, "the Serve proxy answers", time.monotonic() - 5)
        views = Views(seen, Timing())  # type: ignore[arg-type]
        found, text = json.loads(views.status()[2])["serve"], views.metrics()[2]
        shared.serve = None
    assert 5 <= found.pop("since_s") < 15
    assert found == {
        "port": port, "healthy": True, "routes": 2, "reason": "the Serve proxy answers", "connections": 0,
        "leaving": False,
    }  # fmt: skip
    lines = [line for line in text.splitlines() if line.startswith("rayward_serve")]
    assert lines == ["rayward_serve_healthy 1", "rayward_serve_routes 2", "rayward_serve_connections 0"]


def test_a_node_that_serves_nothing_says_nothing_of_it(server: ThreadingHTTPServer, seen: Seen) -> None:
    assert get(server, "/servez")[0] == 404
    assert "serve" not in get(server, "/status")[1]


def test_unknown_path(server: ThreadingHTTPServer) -> None:
    code, body = get(server, "/x")
    assert code == 404
    assert body["paths"] == ["/leader", "/livez", "/metrics", "/readyz", "/status"]


def test_head_request_has_no_body(server: ThreadingHTTPServer) -> None:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=5) as connection:
        connection.sendall(b"HEAD /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\n")


def test_port_in_use_is_said(server: ThreadingHTTPServer, seen: Seen) -> None:
    with pytest.raises(RaywardError) as caught:
        serve(Views(seen, Timing()), "127.0.0.1", server.server_port)  # type: ignore[arg-type]
    assert str(caught.value) == (
        f"agent port 127.0.0.1:{server.server_port}: cannot listen: address already in use\n"
        "  try: set RAYWARD_AGENT_PORT to a free port"
    )

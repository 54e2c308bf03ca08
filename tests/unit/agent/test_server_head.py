"""What a head's HTTP port answers when its store is away: the requests that go wrong, and the streams.

What they do when all is well is seen in ``test_elector``, where real heads are asked.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from agent_node import until
from elector_rig import PlayedNode
from redis_server import free_port

from rayward.agent.config import build
from rayward.agent.decide import Kind, Phase
from rayward.agent.head_lead import HeadLead
from rayward.agent.lead import StoreStanding
from rayward.agent.server import Views, serve
from rayward.agent.snapshot import Snapshot
from rayward.agent.standing import Rank, Standing
from rayward.agent.timing import Timing

MEMBERS = (
    {"member": "a", "state": "prepared", "gcs": "10.0.0.1:6379", "address": "10.0.0.1:8008",
     "seen_ago_s": 0.5},
    {"member": "b", "state": "leader", "gcs": "10.0.0.2:6379", "address": "10.0.0.2:8008",
     "seen_ago_s": 0.1},
    {"member": "c"},
    {"member": "d", "state": "leader", "seen_ago_s": 6.2},
)  # fmt: skip
LEADS = Standing(
    rank=Rank.LEADING, epoch=7, known_epoch=7, reason="leads with epoch 7", leader="b",
    store=StoreStanding.GOOD, incarnation="i", lease_left=1.26, members=MEMBERS,
)  # fmt: skip
FOLLOWS = replace(LEADS, rank=Rank.STANDBY, epoch=0, leader="b", reason="follows b, epoch 7", lease_left=0.0)


class Port:
    """A head's port; ``node.lead.elector.standing`` is what it tells."""

    def __init__(self, folder: Path, **environ: str) -> None:
        settings = {
            "RAY_REDIS_ADDRESS": f"127.0.0.1:{free_port()}", "RAYWARD_CLUSTER": "blue", "RAYWARD_POD": "b",
            "RAYWARD_CLUSTER_UID": "uid-blue", **environ,
        }  # fmt: skip
        config = build(Kind.HEAD, ["ray", "start", "--head"], settings)
        assert config.head is not None
        self.node = PlayedNode(config, folder / "journal")
        self.lead = HeadLead(config, config.head, settings, "10.0.0.2", self.node.events, self.node.wake)
        self.node.lead = self.lead
        self.server: ThreadingHTTPServer = serve(Views(self.node, Timing()), "127.0.0.1", 0)  # type: ignore[arg-type]
        self.show(LEADS, serving=True)

    def show(self, standing: Standing, serving: bool) -> None:
        self.lead.elector.standing = standing
        self.node.snapshot = Snapshot(Phase.RUNNING, "", {}, serving, time.monotonic())
        self.node.news.tell()

    def call(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=10)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        return self.call("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode())

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    found = Port(tmp_path_factory.mktemp("port"))
    yield found
    found.close()


@pytest.fixture
def port(shared: Port) -> Port:
    """A leader that serves, whatever the test before has made of it."""
    shared.node.lead = shared.lead
    shared.show(LEADS, serving=True)
    return shared


def test_leader_is_200_only_where_the_gcs_serves(port: Port) -> None:
    expected = {
        "leader": True, "epoch": 7, "serving": True, "gcs": "10.0.0.2:6379", "member": "b", "cluster": "blue",
        "incarnation": "i", "role": "head", "gcs_port": 6379, "pod": "b",
    }  # fmt: skip
    assert port.call("GET", "/leader") == (200, expected)
    port.show(LEADS, serving=False)
    assert port.call("GET", "/leader") == (503, {**expected, "serving": False})
    # A GCS that serves for a moment longer than this head leads is not the cluster's.
    port.show(FOLLOWS, serving=True)
    assert port.call("GET", "/leader") == (503, {**expected, "leader": False, "epoch": 0, "serving": False})
    port.show(replace(LEADS, rank=Rank.HANDING_OVER), serving=True)
    assert port.call("GET", "/leader")[0] == 503


def test_a_head_that_stops_does_not_claim_the_lead_meanwhile(port: Port) -> None:
    port.show(replace(FOLLOWS, leader=""), serving=True)
    port.node.lead = None  # as the supervisor does while Ray's processes still end
    code, body = port.call("GET", "/leader")
    assert (code, body["leader"], body["serving"]) == (503, False, False)


def test_the_stream_tells_each_change_at_once_and_goes_on_without_one(port: Port) -> None:
    with socket.create_connection(("127.0.0.1", port.server.server_port), timeout=10) as stream:
        stream.sendall(b"GET /leader?watch=1 HTTP/1.0\r\n\r\n")
        lines = stream.makefile("rb")
        assert lines.readline() == b"HTTP/1.1 200 OK\r\n"
        while lines.readline() != b"\r\n":
            pass
        first = json.loads(lines.readline())
        assert (first["leader"], first["epoch"]) == (True, 7)
        assert json.loads(lines.readline()) == first, "said again without a change"
        port.show(FOLLOWS, serving=False)
        for _ in range(3):  # a line said before the change may be on its way
            said = json.loads(lines.readline())
            if not said["leader"]:
                break
        assert (said["leader"], said["epoch"]) == (False, 0)


def test_a_change_is_told_without_waiting_for_the_beat(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayward.agent.server._WATCH_BEAT", 60.0)
    with socket.create_connection(("127.0.0.1", port.server.server_port), timeout=10) as stream:
        stream.sendall(b"GET /leader?watch=1 HTTP/1.0\r\n\r\n")
        lines = stream.makefile("rb")
        told: list[dict[str, Any]] = []
        while not told or told[-1]["leader"]:
            line = lines.readline()
            if line.startswith(b"{"):
                told.append(json.loads(line))
                port.show(FOLLOWS, serving=False)
        assert told[0]["epoch"] == 7


def test_streams_that_nobody_reads_any_more_end(port: Port) -> None:
    def streams() -> int:
        return sum("process_request_thread" in thread.name for thread in threading.enumerate())

    before = streams()
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", port.server.server_port), timeout=10) as stream:
            stream.sendall(b"GET /leader?watch=1 HTTP/1.0\r\n\r\n")
            assert stream.recv(16)
    until(lambda: streams() <= before, 30, "the streams have ended")


def test_members_begin_with_the_leader(port: Port) -> None:
    code, body = port.call("GET", "/members")
    assert (code, body["cluster"], body["paused"], body["leader"], body["epoch"]) == (
        200,
        "blue",
        False,
        "b",
        7,
    )
    assert body["members"] == [
        {"member": "b", "role": "leader", "state": "leading", "epoch": 7, "lease_left_s": 1.3,
         "seen_ago_s": 0.1, "gcs": "10.0.0.2:6379", "address": "10.0.0.2:8008"},
        {"member": "a", "role": "standby", "state": "prepared", "epoch": None, "lease_left_s": None,
         "seen_ago_s": 0.5, "gcs": "10.0.0.1:6379", "address": "10.0.0.1:8008"},
        {"member": "c", "role": "standby", "state": "unknown", "epoch": None, "lease_left_s": None,
         "seen_ago_s": None, "gcs": "", "address": ""},
        # A head that was lost: what it last wrote of itself is history.
        {"member": "d", "role": "unknown", "state": "silent", "epoch": None, "lease_left_s": None,
         "seen_ago_s": 6.2, "gcs": "", "address": ""},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("standing", "phase", "state"),
    [
        (LEADS, Phase.RUNNING, "leading"),
        (replace(LEADS, rank=Rank.HANDING_OVER), Phase.RUNNING, "handing over"),
        (FOLLOWS, Phase.WAITING_FOR_STORE, "following"),
        (FOLLOWS, Phase.PREPARING, "preparing"),
        (FOLLOWS, Phase.PREPARED, "warm"),
    ],
)
def test_status_says_how_far_the_head_is(port: Port, standing: Standing, phase: Phase, state: str) -> None:
    port.show(standing, serving=True)
    port.node.snapshot = replace(port.node.snapshot, phase=phase)
    body = port.call("GET", "/status")[1]
    assert (body["lead"]["state"], body["lead"]["role"]) == (state, standing.rank.value)
    assert body["lead"]["epoch"] == 7
    assert body["gateway"]["pid"] is None
    port.show(LEADS, serving=False)
    assert port.call("GET", "/status")[1]["lead"]["state"] == "promoting"


def test_status_says_which_fence_is_in_force(port: Port, tmp_path: Path) -> None:
    timer = "a timer ends the GCS 2.5 s after the last renewal"
    assert (
        port.call("GET", "/status")[1]["fence"] == f"the store refuses writes of every epoch but 7; {timer}"
    )
    port.show(FOLLOWS, serving=False)
    assert port.call("GET", "/status")[1]["fence"] == (
        f"the store refuses writes from here (this head does not lead); {timer}"
    )
    off = Port(tmp_path, RAYWARD_FENCE="off")
    assert off.call("GET", "/status")[1]["fence"] == "off: the gateway passes every write (RAYWARD_FENCE=off)"
    off.close()


@pytest.mark.parametrize(
    ("path", "body", "code", "words"),
    [
        ("/x", {}, 404, "nothing can be posted to /x"),
        ("/switchover", b"no JSON", 400, "the body is not a JSON object"),
        ("/switchover", b"[]", 400, "the body is not a JSON object"),
        ("/switchover", b"\xff", 400, "the body is not a JSON object"),
        ("/switchover", b"[" * 60_000, 400, "the body is not a JSON object"),
        ("/failover", {"to": "a"}, 412, "this is b"),
        ("/failover", {"to": 5}, 409, "this head leads already"),
        ("/failover", b"", 409, "this head leads already"),
        ("/pause", {}, 503, "the connection was refused"),
        ("/resume", {}, 503, "the connection was refused"),
        ("/store/adopt", {}, 409, "there is nothing to adopt: the store is good"),
    ],
)
def test_what_cannot_be_done_is_said(port: Port, path: str, body: Any, code: int, words: str) -> None:
    found, answer = port.post(path, body)
    assert found == code, answer
    assert words in answer["error"]


def test_a_history_that_cannot_be_read_is_said(port: Port) -> None:
    code, body = port.call("GET", "/history")
    assert (code, body["todo"]) == (503, "ask again when the store is back")


WORD: dict[str, Any] = {"epoch": 1, "trouble_for": 1.0, "member": "a", "cluster": "uid-blue"}


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": None}, {"epoch": "1"}, {"epoch": True}, {"epoch": 1.0}, {"trouble_for": None},
        {"trouble_for": "1"}, {"trouble_for": -1}, {"trouble_for": float("nan")},
        {"trouble_for": float("inf")}, {"cluster": "uid-green"}, {"cluster": None},
    ],
)  # fmt: skip
def test_no_word_is_given_on_a_question_that_makes_no_sense(port: Port, change: dict[str, Any]) -> None:
    port.show(FOLLOWS, serving=False)
    code, body = port.post("/failsafe", {**WORD, **change})
    assert code == 400
    assert "given" not in body


def test_a_word_that_was_given_is_kept_for_a_ttl(port: Port) -> None:
    port.show(replace(FOLLOWS, known_epoch=0), serving=False)
    code, body = port.post("/failsafe", WORD)
    assert (code, body["given"]) == (200, True)
    assert body["reason"] == "the store is away from here as well, or was not asked since"
    port.show(FOLLOWS, serving=False)
    assert port.post("/failsafe", WORD)[1] == {"given": False, "reason": "epoch 1 is over, 7 is known here"}


def test_slots_are_the_leaders_to_give(port: Port) -> None:
    assert port.post("/recycle", {"member": "w1", "workers": 5})[1]["granted"] is True
    assert port.post("/recycle", {"member": "w2", "workers": 5})[1]["granted"] is False
    assert port.post("/recycle", {"member": "w2", "workers": "many"})[1]["granted"] is False
    port.show(FOLLOWS, serving=False)
    assert port.post("/recycle", {"member": "w1", "workers": 5}) == (
        409,
        {"error": "this head does not lead"},
    )


def test_a_token_guards_every_post_and_no_get(tmp_path: Path) -> None:
    port = Port(tmp_path, RAYWARD_AGENT_TOKEN="secret")
    try:
        code, body = port.post("/pause", {})
        assert (code, body["error"]) == (401, "this agent wants a token")
        for wrong in ("Bearer", "Bearer wrong", "secret", "Basic secret"):
            assert port.call("POST", "/failover", b"{}", {"Authorization": wrong})[0] == 401
        assert port.call("POST", "/failover", b"{}", {"Authorization": "Bearer secret"})[0] == 409
        assert port.call("GET", "/members")[0] == 200
        assert "secret" not in json.dumps(port.call("GET", "/status"))
    finally:
        port.close()


@pytest.mark.parametrize("length", ["65537", "-1", "many", "1e3"])
def test_a_body_that_is_too_long_is_not_read(port: Port, length: str) -> None:
    with socket.create_connection(("127.0.0.1", port.server.server_port), timeout=10) as connection:
        connection.sendall(f"POST /pause HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_node_that_takes_part_in_no_election_takes_no_post(port: Port) -> None:
    port.node.lead = None
    plain = serve(Views(port.node, Timing()), "127.0.0.1", 0)  # type: ignore[arg-type]
    port.server, theirs = plain, port.server
    try:
        assert port.post("/pause", {})[0] == 404
        assert port.call("GET", "/members")[0] == 404
    finally:
        port.close()
        port.server = theirs

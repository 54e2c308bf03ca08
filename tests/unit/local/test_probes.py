"""Thresholds, delays and the order of probes."""

from __future__ import annotations

from typing import Any

import pytest

from rayward.errors import RaywardError
from rayward.local import probes, probing
from rayward.local.probes import Check, Probe, ProbeState
from rayward.local.probing import http_request

TCP = Check("tcp", port=1)


def run(probe: Probe, results: str) -> list[bool | None]:
    """Verdicts after each result ("+" or "-")."""
    state, verdicts = probes.first_state(probe, 0.0), []
    for at, result in enumerate(results):
        state = probes.after_result(probe, state, result == "+", float(at))
        verdicts.append(state.passed)
    return verdicts


def test_the_verdict_changes_at_thresholds_only() -> None:
    probe = Probe("readiness", TCP, success_threshold=2, failure_threshold=3)
    assert run(probe, "++---+-++") == [None, True, True, True, False, False, False, False, True]


def test_a_failure_in_between_starts_the_count_anew() -> None:
    assert run(Probe("liveness", TCP, failure_threshold=2), "-+-+--") == [None, True, True, True, True, False]


def test_delay_and_period() -> None:
    probe = Probe("liveness", TCP, initial_delay_s=30, period_s=5)
    state = probes.first_state(probe, 100.0)
    assert state.due == 130.0
    assert probes.after_result(probe, state, True, 131.0).due == 136.0


@pytest.mark.parametrize(
    ("states", "started", "ready", "restart"),
    [
        ({}, True, True, None),
        ({"readiness": None}, True, False, None),
        ({"readiness": True}, True, True, None),
        ({"readiness": False}, True, False, None),
        ({"liveness": None}, True, True, None),
        ({"liveness": False}, True, True, "liveness"),
        ({"startup": None, "readiness": True}, False, False, None),
        ({"startup": True, "readiness": True}, True, True, None),
        ({"startup": False}, False, False, "startup"),
    ],
)
def test_what_follows(
    states: dict[str, bool | None], started: bool, ready: bool, restart: str | None
) -> None:
    known = {kind: ProbeState(0.0, passed) for kind, passed in states.items()}
    assert probes.is_started(known) is started
    assert probes.is_ready(known) is ready
    assert probes.restart_wanted(known) == restart


def test_the_others_wait_for_startup_and_it_stops_then() -> None:
    before, after = {"startup": ProbeState(0.0)}, {"startup": ProbeState(0.0, True)}
    assert [probes.may_run(kind, before) for kind in probes.KINDS] == [True, False, False]
    assert [probes.may_run(kind, after) for kind in probes.KINDS] == [False, True, True]


def test_defaults_are_those_of_kubernetes() -> None:
    container = {"name": "c", "livenessProbe": {"tcpSocket": {"port": 80}}}
    assert probes.probes_of(container, "web") == [Probe("liveness", Check("tcp", port=80), 0, 10, 1, 1, 3)]


@pytest.mark.parametrize(
    ("definition", "check"),
    [
        ({"exec": {"command": ["a", "b"]}}, Check("exec", command=("a", "b"))),
        ({"httpGet": {"port": "web", "path": "/x"}}, Check("http", port=8080, path="/x")),
        (
            {"httpGet": {"port": 1, "host": "h", "httpHeaders": [{"name": "N", "value": "V"}]}},
            Check("http", host="h", port=1, headers=(("N", "V"),)),
        ),
        ({"httpGet": {"port": 443, "scheme": "HTTPS"}}, Check("tcp", port=443)),
        ({"tcpSocket": {"port": "8081"}}, Check("tcp", port=8081)),
    ],
)
def test_checks(definition: dict[str, Any], check: Check) -> None:
    container = {"name": "c", "ports": [{"name": "web", "containerPort": 8080}], "readinessProbe": definition}
    assert probes.probes_of(container, "web")[0].check == check


@pytest.mark.parametrize(
    ("definition", "said"),
    [
        ({"httpGet": {"port": "none"}}, "no container port is named 'none'"),
        ({"grpc": {"port": 1}}, "does nothing"),
    ],
)
def test_what_cannot_be_checked_is_refused(definition: dict[str, Any], said: str) -> None:
    with pytest.raises(RaywardError, match=said) as caught:
        probes.probes_of({"name": "c", "livenessProbe": definition}, "web")
    assert "Pod web, container c, livenessProbe" in str(caught.value)


def test_the_request_of_an_http_check() -> None:
    request = http_request(Check("http", path="healthz", headers=(("Host", "other"),)), "10.0.0.1", 80)
    assert request.startswith(b"GET /healthz HTTP/1.1\r\nHost: other\r\n")
    assert request.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("answer", "complete"),
    [
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", True),
    ],
)
def test_an_answer_is_read_to_its_end(answer: bytes, complete: bool) -> None:
    assert probing._complete(answer) is complete

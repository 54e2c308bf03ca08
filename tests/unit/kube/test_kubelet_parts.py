"""What the tests' own kubelet decides without anybody's help: statuses, names, the end of a log, requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kubelet.log_stream import tail_offset
from kubelet.node_server import Refused, parse_request
from kubelet.pod_names import hosts_text, service_lines
from kubelet.pod_report import difference, wanted_status
from kubelet.registration import NodeFacts, is_ready, node_status
from kubelet.streaming import exit_status

NOW = "2026-01-01T00:00:09Z"
THEN = "2026-01-01T00:00:01Z"


def condition(kind: str, status: str, since: str = THEN) -> dict[str, str]:
    return {"type": kind, "status": status, "lastTransitionTime": since}


def said(**more: Any) -> dict[str, Any]:
    return {
        "phase": "Running",
        "startTime": THEN,
        "podIP": "10.0.0.2",
        "conditions": [condition("PodScheduled", "True", NOW), condition("Ready", "True")],
        "containerStatuses": [
            {"name": "main", "ready": True, "started": True, "state": {"running": {"startedAt": THEN}}}
        ],
        "rayward": {"pid": 7},
        **more,
    }


def test_what_others_say_of_a_pod_stays() -> None:
    gate = condition("example.com/gate", "True")
    pod = {"status": {"phase": "Pending", "conditions": [condition("PodScheduled", "True"), gate]}}
    wanted = wanted_status(pod, said(), died=False, now=NOW)
    assert wanted["conditions"] == [condition("PodScheduled", "True"), gate, condition("Ready", "True")]
    assert "rayward" not in wanted


def test_nothing_is_written_twice_and_only_what_changed() -> None:
    pod: dict[str, Any] = {"status": {"phase": "Pending", "qosClass": "BestEffort", "reason": "Waiting"}}
    wanted = wanted_status(pod, said(), died=False, now=NOW)
    patch = difference(pod, wanted)
    assert patch == {**wanted, "reason": None}
    pod["status"] = {"qosClass": "BestEffort", **wanted}
    assert difference(pod, wanted) == {}
    unready = wanted_status(pod, said(conditions=[condition("Ready", "False", NOW)]), died=False, now=NOW)
    assert list(difference(pod, unready)) == ["conditions"]


def test_a_pod_that_is_over_stays_over() -> None:
    pod = {"status": {"phase": "Failed"}}
    assert difference(pod, wanted_status(pod, said(), died=False, now=NOW)) == {}


def test_a_pod_whose_process_died_has_failed_with_its_containers() -> None:
    wanted = wanted_status({}, said(), died=True, now=NOW)
    (entry,) = wanted["containerStatuses"]
    assert (wanted["phase"], wanted["reason"], entry["ready"]) == ("Failed", "PodProcessDied", False)
    assert entry["state"]["terminated"]["exitCode"] == 137
    assert condition("Ready", "False", NOW).items() <= wanted["conditions"][-1].items()
    assert wanted_status({}, {}, died=True, now=NOW)["phase"] == "Failed"
    assert wanted_status({}, {}, died=False, now=NOW) == {}
    assert wanted_status({}, said(phase="Succeeded"), died=True, now=NOW)["phase"] == "Succeeded"


def test_a_node_keeps_the_time_of_a_condition_that_stays() -> None:
    facts = NodeFacts("one", "10.0.0.1", 10250, {"cpu": "4"})
    first = node_status(
        facts, {"conditions": [condition("Ready", "Unknown"), condition("Custom", "True")]}, THEN
    )
    again = node_status(facts, first, NOW)
    assert is_ready({"status": again})
    by_type = {entry["type"]: entry for entry in again["conditions"]}
    assert (by_type["Ready"]["lastTransitionTime"], by_type["Ready"]["lastHeartbeatTime"]) == (THEN, NOW)
    assert by_type["Custom"] == condition("Custom", "True")


def service(cluster_ip: str) -> dict[str, Any]:
    return {"spec": {"clusterIP": cluster_ip}}


def endpoints(*addresses: str, **hostnames: str) -> dict[str, Any]:
    entries = [{"ip": address} for address in addresses]
    entries += [{"ip": address, "hostname": name} for name, address in hostnames.items()]
    return {"subsets": [{"addresses": entries, "notReadyAddresses": [{"ip": "10.0.0.99"}]}]}


def test_names_lead_to_ready_endpoints_and_stay_in_their_namespace() -> None:
    services = {
        ("a", "all"): service("None"),
        ("a", "any"): service("10.96.0.7"),
        ("b", "any"): service("None"),
    }
    found = {
        ("a", "all"): endpoints("10.0.0.3", zero="10.0.0.2"),
        ("a", "any"): endpoints("10.0.0.3", "10.0.0.2"),
        ("b", "any"): endpoints("10.0.0.4"),
    }
    lines = hosts_text("me", "a", "10.0.0.9", service_lines(services, found)).splitlines()[2:]
    everyone = "all all.a all.a.svc all.a.svc.cluster.local"
    assert [line.replace("\t", " ") for line in lines] == [
        "10.0.0.9 me",
        f"10.0.0.2 {everyone} zero.all zero.all.a zero.all.a.svc zero.all.a.svc.cluster.local",
        f"10.0.0.3 {everyone}",
        "10.0.0.2 any any.a any.a.svc any.a.svc.cluster.local",
        "10.0.0.4 any.b any.b.svc any.b.svc.cluster.local",
    ]


@pytest.mark.parametrize("size", [3, 200_000])
@pytest.mark.parametrize("end", ["", "\n"])
def test_the_last_lines_of_a_log(tmp_path: Path, size: int, end: str) -> None:
    lines = [str(number) * size for number in range(5)]
    log = tmp_path / "log"
    log.write_text("\n".join(lines) + end)
    for count in range(7):
        rest = log.read_text()[tail_offset(log, count) :]
        assert rest.splitlines() == (lines[-count:] if count else [])


def test_a_request_is_taken_apart() -> None:
    request = parse_request(
        b"POST /exec/ns/pod/main?command=sh&command=a%20b&input=1&tty=false HTTP/1.1\r\n"
        b"Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io, v3.channel.k8s.io\r\n"
        b"X-Stream-Protocol-Version: v2.channel.k8s.io"
    )
    assert request.path == ("exec", "ns", "pod", "main")
    assert request.query["command"] == ["sh", "a b"]
    assert (request.flag("input"), request.flag("tty"), request.flag("output")) == (True, False, False)
    assert request.headers["x-stream-protocol-version"] == [f"v{n}.channel.k8s.io" for n in (4, 3, 2)]
    with pytest.raises(Refused):
        parse_request(b"nonsense")


def test_an_exit_code_is_told_as_kubectl_reads_it() -> None:
    assert exit_status(0) == b'{"metadata": {}, "status": "Success"}'
    assert b'"causes": [{"reason": "ExitCode", "message": "7"}]' in exit_status(7)

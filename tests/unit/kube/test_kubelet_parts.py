"""What the tests' own kubelet decides without anybody's help: statuses, names, the end of a log, requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kubelet.log_stream import tail_offset
from kubelet.node_server import Refused, parse_request
from kubelet.pod_names import hosts_text, service_lines
from kubelet.pod_report import difference, wanted_status
from kubelet.pod_services import table_of
from kubelet.registration import NodeFacts, is_ready, node_status
from kubelet.streaming import exit_status

from rayward.local.service_rules import Endpoint, Table

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


def test_a_name_leads_to_the_address_that_its_connections_are_spread_from() -> None:
    services = {("a", "serve"): service("10.96.0.7"), ("a", "none"): service("10.96.0.8")}
    lines = service_lines(services, {("a", "serve"): endpoints("10.0.0.2")}, {("a", "serve"): "10.0.0.254"})
    assert [(where, address, names[0]) for where, address, names in lines] == [("a", "10.0.0.254", "serve")]


def test_connections_go_where_the_api_server_says_and_may_end_where_their_pod_still_is() -> None:
    def entry(address: str, uid: str) -> dict[str, Any]:
        return {"ip": address, "targetRef": {"kind": "Pod", "uid": uid}}

    ports = [{"name": "serve", "port": 80, "targetPort": "x"}, {"name": "late", "port": 81}]
    ports.append({"name": "udp", "port": 82, "protocol": "UDP"})
    services = {("a", "s"): {"spec": {"clusterIP": "10.96.0.7", "ports": ports}}}
    subsets = [
        {
            "addresses": [entry("10.0.0.3", "u3"), {"ip": "10.0.0.9"}],
            "notReadyAddresses": [entry("10.0.0.2", "u2")],
            "ports": [{"name": "serve", "port": 8000}, {"name": "udp", "port": 82, "protocol": "UDP"}],
        },
        {"addresses": [entry("10.0.0.1", "u1")], "ports": [{"name": "serve", "port": 9000}]},
    ]
    table = table_of({("a", "s"): "10.0.0.254"}, services, {("a", "s"): {"subsets": subsets}}, {"u7"})
    assert table == Table(
        {
            ("10.0.0.254", 80): (
                Endpoint("10.0.0.1", 9000, "u1"),
                Endpoint("10.0.0.3", 8000, "u3"),
                Endpoint("10.0.0.9", 8000, "10.0.0.9"),
            ),
            ("10.0.0.254", 81): (),
        },
        frozenset({"u1", "u2", "u3", "u7", "10.0.0.9"}),
    )


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

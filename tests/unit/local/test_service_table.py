"""Which Services get an address of their own, and where it leads."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from rayward.local import names
from rayward.local.addresses import pick_service_address
from rayward.local.hosts import AddressBook
from rayward.local.service_rules import Endpoint, Table
from rayward.local.service_table import addressed, has_own_address, own_address, table_of, target_port
from rayward.local.state import ClusterFolder

SUBNET = "10.90.3.0/24"
POD = {
    "metadata": {"name": "w", "uid": "uid-w", "labels": {"ray.io/cluster": "c", "ray.io/serve": "true"}},
    "spec": {"containers": [{"name": "ray", "ports": [{"name": "serve", "containerPort": 9000}]}]},
    "status": {
        "phase": "Running",
        "podIP": "10.90.3.5",
        "conditions": [{"type": "Ready", "status": "True"}],
    },
}


def service(name: str = "s", label: bool = True, **spec: Any) -> dict[str, Any]:
    labels = {"ray.io/serve": f"{name}-serve"} if label else {}
    ports = [{"name": "serve", "port": 8000, "targetPort": 8000}]
    selector = {"ray.io/cluster": "c", "ray.io/serve": "true"}
    body = {"selector": selector, "ports": ports, **spec}
    return {"kind": "Service", "metadata": {"name": name, "labels": labels}, "spec": body}


def pod(uid: str, address: str, **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = copy.deepcopy(POD)
    made["metadata"].update(name=uid, uid=uid)
    made["status"]["podIP"] = address
    for key, value in changes.items():
        made["status" if key in ("phase", "conditions") else "metadata"][key] = value
    return made


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (service(), True),
        (service(type="NodePort"), True),
        (service(label=False), False),
        (service(clusterIP="None"), False),
        (service(type="ExternalName"), False),
        ({"metadata": {"name": "s"}, "spec": {}}, False),
    ],
    ids=["serve", "node port", "no label", "headless", "external", "nothing said"],
)
def test_only_services_for_serve_have_an_address(found: dict[str, Any], expected: bool) -> None:
    assert has_own_address(found) is expected


def test_no_address_is_told_of_a_service_that_has_none_yet() -> None:
    assert own_address(service(clusterIP="10.90.3.254")) == "10.90.3.254"
    assert own_address(service()) is own_address(service(clusterIP="")) is None
    assert own_address(service(label=False, clusterIP="10.96.0.7")) is None


def test_addresses_come_from_the_top_and_are_not_given_twice() -> None:
    assert pick_service_address(SUBNET, ()) == "10.90.3.254"
    changed = addressed([service("a"), service("b"), service("c", label=False)], SUBNET, ["10.90.3.254"])
    assert [(found["metadata"]["name"], found["spec"]["clusterIP"]) for found in changed] == [
        ("a", "10.90.3.253"),
        ("b", "10.90.3.252"),
    ]
    assert addressed(changed, SUBNET, ["10.90.3.254"]) == []


def test_a_service_keeps_its_address_whatever_comes_before_it() -> None:
    old = service("z", clusterIP="10.90.3.254")
    (changed,) = addressed([service("a"), old], SUBNET, ())
    assert changed["spec"]["clusterIP"] == "10.90.3.253"


@pytest.mark.parametrize("address", ["", "10.96.0.7", "10.90.3.9"])
def test_an_address_that_cannot_be_is_replaced(address: str) -> None:
    (changed,) = addressed([service(clusterIP=address)], SUBNET, ["10.90.3.9"])
    assert changed["spec"]["clusterIP"] == "10.90.3.254"


def test_two_services_with_one_address_get_two() -> None:
    both = [service(name, clusterIP="10.90.3.254") for name in ("a", "b")]
    (changed,) = addressed(both, SUBNET, ())
    assert (changed["metadata"]["name"], changed["spec"]["clusterIP"]) == ("b", "10.90.3.253")


def test_a_full_subnet_is_an_error() -> None:
    with pytest.raises(ValueError, match="no free address"):
        addressed([service()], SUBNET, [f"10.90.3.{n}" for n in range(256)])


def test_a_pod_never_gets_the_address_of_a_service(tmp_path: Path) -> None:
    folder = ClusterFolder(tmp_path / "c")
    folder.create()
    folder.set(subnet="10.90.3.0/29")
    folder.put(service(clusterIP="10.90.3.3"))
    book = AddressBook(folder)
    given = []
    for name in ("a", "b"):
        folder.put({"kind": "Pod", "metadata": {"name": name}})
        given.append(book.address({"metadata": {"name": name}}))
    assert given == ["10.90.3.2", "10.90.3.4"]


def test_the_table_tells_ready_from_running_and_running_from_gone() -> None:
    unready = [{"type": "Ready", "status": "False"}]
    pods = [
        pod("b", "10.90.3.3"),
        pod("a", "10.90.3.2"),
        pod("waiting", "10.90.3.4", conditions=unready),
        pod("leaving", "10.90.3.5", deletionTimestamp="2026-01-01T00:00:00Z"),
        pod("withdrawn", "10.90.3.6", labels={"ray.io/cluster": "c", "ray.io/serve": "false"}),
        pod("former", "10.90.3.7", labels={"ray.io/cluster": "before", "ray.io/serve": "true"}),
        pod("over", "10.90.3.8", phase="Failed"),
    ]
    table = table_of([service(clusterIP="10.90.3.254"), service("new")], pods)
    assert table == Table(
        {("10.90.3.254", 8000): (Endpoint("10.90.3.2", 8000, "a"), Endpoint("10.90.3.3", 8000, "b"))},
        frozenset({"a", "b", "waiting", "leaving", "withdrawn", "former"}),
    )


def test_a_service_without_endpoints_still_listens() -> None:
    assert table_of([service(clusterIP="10.90.3.254")], []) == Table({("10.90.3.254", 8000): ()})


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        ({"port": 80}, 80),
        ({"port": 80, "targetPort": 9}, 9),
        ({"port": 80, "targetPort": "9"}, 9),
        ({"port": 80, "targetPort": "serve"}, 9000),
        ({"port": 80, "targetPort": "beside"}, 9100),
        ({"port": 80, "targetPort": "setup"}, None),
        ({"port": 80, "targetPort": "datagrams"}, None),
        ({"port": 80, "targetPort": "nowhere"}, None),
    ],
)
def test_a_target_port_is_a_number_or_the_name_of_a_containers(
    port: dict[str, Any], expected: int | None
) -> None:
    found: dict[str, Any] = copy.deepcopy(POD)
    found["spec"]["containers"][0]["ports"].append(
        {"name": "datagrams", "containerPort": 7, "protocol": "UDP"}
    )
    found["spec"]["initContainers"] = [
        {"name": "setup", "ports": [{"name": "setup", "containerPort": 5}]},
        {"name": "beside", "restartPolicy": "Always", "ports": [{"name": "beside", "containerPort": 9100}]},
    ]
    assert target_port(port, found) == expected


def test_a_pod_without_the_named_port_is_no_endpoint_and_udp_has_no_proxy() -> None:
    plain = pod("plain", "10.90.3.3")
    plain["spec"]["containers"][0]["ports"] = []
    ports = [{"port": 80, "targetPort": "serve"}, {"port": 53, "protocol": "UDP"}]
    table = table_of([service(clusterIP="10.90.3.254", ports=ports)], [pod("w", "10.90.3.2"), plain])
    assert table.ready == {("10.90.3.254", 80): (Endpoint("10.90.3.2", 9000, "w"),)}


def test_a_hosts_file_leads_to_the_services_own_address_with_and_without_endpoints() -> None:
    given = service("web", clusterIP="10.90.3.254")
    for endpoints in ((), ("10.90.3.2", "10.90.3.3")):
        lines = names.hosts_file("p", "10.90.3.9", [(given, endpoints)], "default").splitlines()
        assert lines[3:] == ["10.90.3.254\tweb web.default web.default.svc web.default.svc.cluster.local"]


def test_any_other_service_with_an_address_still_leads_to_its_first_endpoint() -> None:
    given = service("redis", label=False, clusterIP="10.96.0.7")
    text = names.hosts_file("p", "10.90.3.9", [(given, ("10.90.3.2",))], "default")
    assert "10.90.3.2\tredis " in text
    assert "10.96.0.7" not in text

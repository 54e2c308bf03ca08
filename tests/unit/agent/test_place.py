"""The address that a node gives itself, and the ``ray start`` that follows from it."""

from __future__ import annotations

import dataclasses
import ipaddress
import socket

import pytest

from rayward.agent.config import AgentConfig, build
from rayward.agent.decide import Kind
from rayward.agent.place import address_toward, placed
from rayward.errors import RaywardError

REDIS = {"RAY_REDIS_ADDRESS": "10.0.0.9:6379"}


def head(*extra: str, **environ: str) -> AgentConfig:
    environment = {**REDIS, **environ}
    return placed(build(Kind.HEAD, ["ray", "start", "--head", *extra], environment), environment)


def worker(*extra: str, **environ: str) -> AgentConfig:
    environment = {"RAYWARD_HEADS": "10.0.0.1,10.0.0.2", **environ}
    command = ["ray", "start", "--address=head.svc:6380", *extra]
    return placed(build(Kind.WORKER, command, environment), environment)


def test_a_head_without_election_and_a_worker_without_forwarder_stay_as_they_are() -> None:
    alone = build(Kind.HEAD, ["ray", "start", "--head"], {})
    assert placed(alone, {"POD_IP": "10.0.0.5"}) is alone
    direct = build(
        Kind.WORKER, ["ray", "start", "--address=h:1"], {"RAYWARD_HEADS": "h", "RAYWARD_FORWARD": "off"}
    )
    assert placed(direct, {"POD_IP": "10.0.0.5"}) is direct


@pytest.mark.parametrize(
    ("extra", "environ", "address"),
    [
        (["--node-ip-address=10.0.0.3"], {"RAYWARD_ADDRESS": "10.0.0.4", "POD_IP": "10.0.0.5"}, "10.0.0.3"),
        (["--node-ip-address", "10.0.0.3"], {}, "10.0.0.3"),
        ([], {"RAYWARD_ADDRESS": "10.0.0.4", "POD_IP": "10.0.0.5"}, "10.0.0.4"),
        ([], {"POD_IP": "10.0.0.5"}, "10.0.0.5"),
        (["--node-ip-address=fd00::3"], {}, "fd00::3"),
    ],
)
def test_a_head_is_where_it_was_told_to_be(extra: list[str], environ: dict[str, str], address: str) -> None:
    config = head(*extra, **environ)
    assert config.gcs_host == address
    assert config.ray_start == ("ray", "start", "--head", f"--node-ip-address={address}")


def test_a_name_becomes_the_address_that_others_see() -> None:
    assert head("--node-ip-address=localhost").gcs_host in ("127.0.0.1", "::1")


def test_a_name_that_nobody_knows_is_refused() -> None:
    with pytest.raises(RaywardError) as caught:
        head("--node-ip-address=no-such-host.invalid")
    assert str(caught.value).startswith(
        "ray start --node-ip-address: 'no-such-host.invalid' cannot be resolved"
    )
    assert str(caught.value).endswith("\n  try: give an IP address of this node")


def test_a_head_that_is_told_nothing_finds_an_address_of_its_own() -> None:
    found = head()
    assert ipaddress.ip_address(found.gcs_host)
    with socket.socket(socket.AF_INET6 if ":" in found.gcs_host else socket.AF_INET) as sock:
        sock.bind((found.gcs_host, 0))  # only an address of this machine can be bound
    assert found.ray_start[-1] == f"--node-ip-address={found.gcs_host}"


def test_a_worker_sends_its_ray_to_itself() -> None:
    config = worker("--num-cpus=2", POD_IP="10.0.0.5")
    assert (config.gcs_host, config.gcs_port) == ("10.0.0.5", 6380)
    assert config.ray_start == (
        "ray", "start", "--num-cpus=2", "--address=10.0.0.5:6380", "--node-ip-address=10.0.0.5",
    )  # fmt: skip
    assert worker(POD_IP="fd00::5").ray_start[2] == "--address=[fd00::5]:6380"


def test_the_way_to_a_loopback_address_is_no_address_of_a_node() -> None:
    assert address_toward(["127.0.0.1:6379", "localhost", "[::1]:6379"]) == ""


@pytest.mark.parametrize(
    "target", ["", ":", "no-such-host.invalid", "h:port", "a" * 300, "[::1", "host:99999"]
)
def test_targets_that_lead_nowhere_are_passed_over(target: str) -> None:
    assert address_toward([target]) == ""


def test_a_worker_without_any_address_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    config = build(Kind.WORKER, ["ray", "start", "--address=127.0.0.1:1"], {"RAYWARD_HEADS": "127.0.0.1"})
    monkeypatch.setattr("rayward.agent.place._FAR_AWAY", ())  # a machine without a default route
    with pytest.raises(RaywardError) as caught:
        placed(config, {})
    assert str(caught.value) == (
        "ray start --node-ip-address: this node has no address that leads to its heads\n"
        "  try: give it: --node-ip-address=ADDRESS"
    )
    alone = build(Kind.HEAD, ["ray", "start", "--head"], {"RAY_REDIS_ADDRESS": "127.0.0.1:6379"})
    assert (
        dataclasses.asdict(placed(alone, {"RAY_REDIS_ADDRESS": "127.0.0.1:6379"}))["gcs_host"] == "127.0.0.1"
    )

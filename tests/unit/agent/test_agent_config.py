"""The agent's command line and environment: what is taken, what is refused, and in which words."""

from __future__ import annotations

import sys

import pytest

from rayward.agent.config import (
    AgentConfig,
    HeadSettings,
    build,
    own_command,
    split_address,
    store_credentials,
    store_kind,
)
from rayward.agent.decide import Kind
from rayward.errors import RaywardError

HEAD = ["ray", "start", "--head"]
WORKER = ["ray", "start", "--address=head.svc:6379"]


def test_head() -> None:
    config = build(Kind.HEAD, [*HEAD, "--port=7000", "--node-ip-address", "10.0.0.2", "--block"], {})
    assert config.ray_start == ("ray", "start", "--head", "--port=7000", "--node-ip-address", "10.0.0.2")
    assert (config.gcs_host, config.gcs_port, config.store, config.durable) == (
        "10.0.0.2",
        7000,
        "memory",
        False,
    )
    assert (config.http_host, config.http_port, config.name) == ("0.0.0.0", 8008, "head")


def test_head_defaults_to_its_own_loopback_and_rays_port() -> None:
    config = build(Kind.HEAD, HEAD, {})
    assert (config.gcs_host, config.gcs_port) == ("127.0.0.1", 6379)


def test_worker() -> None:
    environ = {
        "RAYWARD_POD": "w-1",
        "RAYWARD_CLUSTER": "c",
        "RAYWARD_AGENT_PORT": "9",
        "RAYWARD_AGENT_HOST": "::1",
    }
    config = build(Kind.WORKER, [*WORKER, "--block=true"], environ)
    assert (config.gcs_host, config.gcs_port, config.store) == ("head.svc", 6379, "")
    assert (config.http_host, config.http_port, config.name, config.cluster) == ("::1", 9, "w-1", "c")
    assert config.ray_start == tuple(WORKER)


def test_worker_takes_the_address_from_the_environment() -> None:
    assert build(Kind.WORKER, ["ray", "start"], {"RAY_ADDRESS": "h:1"}).gcs_host == "h"


@pytest.mark.parametrize(("kind", "command"), [(Kind.HEAD, HEAD), (Kind.WORKER, WORKER)])
def test_where_serve_listens(kind: Kind, command: list[str]) -> None:
    assert build(kind, command, {"RAYWARD_SERVE_PORT": "8000"}).serve_port == 8000
    assert build(kind, command, {"RAYWARD_SERVE_PORT": ""}).serve_port is None
    assert build(kind, command, {}).serve_port is None


def test_extra_arguments_win_and_cannot_bring_block_back() -> None:
    environ = {"RAYWARD_RAY_START_ARGS": '["--port=2", "--block"]'}
    config = build(Kind.HEAD, [*HEAD, "--port=1"], environ)
    assert config.gcs_port == 2
    assert config.ray_start == (*HEAD, "--port=1", "--port=2")


@pytest.mark.parametrize(
    ("kind", "command", "environ", "message"),
    [
        (Kind.HEAD, [], {}, "rayward agent: expected the ray start command after --\n"
         "  try: rayward agent head -- ray start --head"),
        (Kind.WORKER, ["ray", "stop"], {}, "rayward agent: expected the ray start command after --\n"
         "  try: rayward agent worker -- ray start --address=HEAD:6379"),
        (Kind.HEAD, ["ray", "start"], {},
         "rayward agent head: `ray start without --head` does not belong to a head"),
        (Kind.WORKER, HEAD, {}, "rayward agent worker: `ray start --head` does not belong to a worker"),
        (Kind.WORKER, ["ray", "start"], {}, "ray start --address: '' is not HOST:PORT\n"
         "  try: give the head's GCS address"),
        (Kind.WORKER, ["ray", "start", "--address=auto"], {}, "ray start --address: 'auto' is not HOST:PORT\n"
         "  try: give the head's GCS address"),
        (Kind.HEAD, [*HEAD, "--port=abc"], {}, "ray start --port: must be a port from 1 to 65535, got 'abc'"),
        (Kind.HEAD, [*HEAD, "--port=70000"], {},
         "ray start --port: must be a port from 1 to 65535, got '70000'"),
        (Kind.HEAD, HEAD, {"RAYWARD_AGENT_PORT": "x"},
         "RAYWARD_AGENT_PORT: must be a port from 1 to 65535, got 'x'"),
        (Kind.HEAD, HEAD, {"RAYWARD_AGENT_PORT": "65536"},
         "RAYWARD_AGENT_PORT: must be a port from 1 to 65535, got '65536'"),
        (Kind.HEAD, HEAD, {"RAYWARD_AGENT_PORT": "\u00b2"},
         "RAYWARD_AGENT_PORT: must be a port from 1 to 65535, got '\u00b2'"),
        (Kind.HEAD, HEAD, {"RAYWARD_SERVE_PORT": "0"},
         "RAYWARD_SERVE_PORT: must be a port from 1 to 65535, got '0'"),
        (Kind.HEAD, HEAD, {"RAYWARD_RAY_START_ARGS": "--port"},
         "RAYWARD_RAY_START_ARGS: must be a JSON list of strings"),
        (Kind.HEAD, HEAD, {"RAYWARD_RAY_START_ARGS": '{"a": 1}'},
         "RAYWARD_RAY_START_ARGS: must be a JSON list of strings"),
        (Kind.HEAD, HEAD, {"RAYWARD_RAY_START_ARGS": "[1]"},
         "RAYWARD_RAY_START_ARGS: must be a JSON list of strings"),
    ],
)  # fmt: skip
def test_refused(kind: Kind, command: list[str], environ: dict[str, str], message: str) -> None:
    with pytest.raises(RaywardError) as caught:
        build(kind, command, environ)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("address", "split"),
    [("h:1", ("h", 1)), ("[fd00::1]:6379", ("fd00::1", 6379)), ("10.0.0.1:65535", ("10.0.0.1", 65535))],
)  # fmt: skip
def test_addresses(address: str, split: tuple[str, int]) -> None:
    assert split_address(address) == split


@pytest.mark.parametrize("address", ["", "h", ":1", "h:", "h:0", "h:65536", "h:x", "h:-1"])
def test_bad_addresses(address: str) -> None:
    with pytest.raises(RaywardError, match="is not HOST:PORT"):
        split_address(address)


@pytest.mark.parametrize(
    ("environ", "store"),
    [
        ({}, "memory"),
        ({"RAY_REDIS_ADDRESS": ""}, "memory"),
        ({"RAY_REDIS_ADDRESS": "r:6379"}, "redis"),
        ({"RAY_gcs_storage": "rocksdb"}, "rocksdb"),
        ({"RAY_gcs_storage": "RocksDB", "RAY_REDIS_ADDRESS": "r:6379"}, "rocksdb"),
        ({"RAY_gcs_storage": "memory"}, "memory"),
    ],
)
def test_store_is_the_one_that_ray_would_use(environ: dict[str, str], store: str) -> None:
    assert store_kind(environ) == store
    assert build(Kind.HEAD, HEAD, environ).durable is (store != "memory")


def test_own_command_follows_how_the_agent_was_started() -> None:
    assert own_command({"A": "1"}, "/x/agent.zip", sys.executable) == (
        [sys.executable, "/x/agent.zip"],
        {"A": "1"},
    )
    assert own_command({}, "/bin/rayward", sys.executable)[0] == [sys.executable, "-m", "rayward.agent"]


def head_with(**environ: str) -> AgentConfig:
    return build(Kind.HEAD, HEAD, {"RAY_REDIS_ADDRESS": "r:6379", **environ})


def test_a_head_on_redis_takes_part_in_an_election() -> None:
    environ = {
        "RAYWARD_CLUSTER": "blue", "RAYWARD_CLUSTER_UID": "uid", "RAYWARD_POD": "a",
        "RAYWARD_HEADS": "a, b:9,,", "RAYWARD_FENCE": "off", "RAYWARD_AUDIT": "1", "RAYWARD_LEASE_TTL": "6",
        "RAYWARD_STATE_DIR": "/s", "RAYWARD_AGENT_TOKEN": "t",
    }  # fmt: skip
    assert head_with(**environ).head == HeadSettings(
        "a", "blue", "uid", ("a", "b:9"), fence=False, audit=True, ttl=6.0, state_dir="/s", token="t"
    )
    plain = head_with(RAY_external_storage_namespace="ns").head
    assert plain is not None
    assert (plain.cluster, plain.cluster_uid, plain.heads, plain.fence, plain.audit) == (
        "ns",
        "ns",
        (),
        True,
        False,
    )
    assert plain.member, "this machine's name"


@pytest.mark.parametrize(
    "environ", [{}, {"RAY_gcs_storage": "rocksdb", "RAY_REDIS_ADDRESS": "r:6379"}, {"RAYWARD_HEADS": "a,b"}]
)
def test_a_head_on_another_store_takes_part_in_none(environ: dict[str, str]) -> None:
    assert build(Kind.HEAD, HEAD, environ).head is None


@pytest.mark.parametrize(
    ("name", "word", "sentence"),
    [
        ("RAYWARD_LEASE_TTL", "1",
         "RAYWARD_LEASE_TTL: lease ttl 1 s is too short: one lost renewal and the question to the other "
         "heads take 2 s, and the fence fires after 0.5 s; use at least 2.5 s\n"
         "  try: give a longer lease, or leave the default of 3 s"),
        ("RAYWARD_LEASE_TTL", "soon",
         "RAYWARD_LEASE_TTL: must be seconds, more than 0 and less than 3600, got 'soon'"),
        ("RAYWARD_LEASE_TTL", "nan",
         "RAYWARD_LEASE_TTL: must be seconds, more than 0 and less than 3600, got 'nan'"),
        ("RAYWARD_LEASE_TTL", "-3",
         "RAYWARD_LEASE_TTL: must be seconds, more than 0 and less than 3600, got '-3'"),
        ("RAYWARD_FENCE", "maybe", "RAYWARD_FENCE: must be on or off, got 'maybe'"),
        ("RAYWARD_AUDIT", "2", "RAYWARD_AUDIT: must be on or off, got '2'"),
    ],
)  # fmt: skip
def test_a_head_refuses_what_it_cannot_work_with(name: str, word: str, sentence: str) -> None:
    with pytest.raises(RaywardError) as caught:
        head_with(**{name: word})
    assert str(caught.value) == sentence


def test_the_shortest_lease_that_is_named_is_taken() -> None:
    config = head_with(RAYWARD_LEASE_TTL="2.5").head
    assert config is not None
    assert config.ttl == 2.5


def test_the_stores_credentials_on_the_command_line() -> None:
    told = store_credentials([*HEAD, "--redis-password=p", "--redis-username", "u"])
    assert told == {"REDIS_PASSWORD": "p", "REDIS_USERNAME": "u"}
    assert store_credentials(HEAD) == {}

"""The agent's command line and environment: what is taken, what is refused, and in which words."""

from __future__ import annotations

import sys

import pytest

from rayward.agent.config import build, own_command, split_address, store_kind
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

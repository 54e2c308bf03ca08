"""Words replaced and arguments added for containers on the host's network."""

from __future__ import annotations

import pytest

from rayward.local.hostmode import (
    HostFacts,
    adapt_argv,
    ray_environment,
    redis_arguments,
    substitute,
    substitute_environment,
)

WORDS = {"redis:6379": "127.0.4.4:43211", "redis": "127.0.4.4", "/data": "/p/v/data", "/data/gcs": "/p/v/gcs"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis:6379", "127.0.4.4:43211"),
        ("rediss://redis:6379/0", "rediss://127.0.4.4:43211/0"),
        ("redis:63790", "127.0.4.4:63790"),
        ("redis-server redis_x xredis", "redis-server redis_x xredis"),
        ("redis.default.svc", "redis.default.svc"),
        ("ask redis.", "ask 127.0.4.4."),
        ("/data", "/p/v/data"),
        ("--dir=/data/x", "--dir=/p/v/data/x"),
        ("/data/gcs/y", "/p/v/gcs/y"),
        ("/database /var/data /data.old", "/database /var/data /data.old"),
        ("cp '/data' \"/data/\"", "cp '/p/v/data' \"/p/v/data/\""),
    ],
)
def test_whole_tokens_the_longest_first(text: str, expected: str) -> None:
    assert substitute(text, WORDS) == expected


def test_a_replacement_is_not_replaced_again() -> None:
    assert substitute("a b", {"a": "b", "b": "a"}) == "b a"


def test_path_keeps_the_machines_folders() -> None:
    found = substitute_environment({"PATH": "/data/bin", "OTHER": "/data/bin"}, WORDS)
    assert found == {"PATH": "/data/bin", "OTHER": "/p/v/data/bin"}


FACTS = HostFacts(
    address="127.0.4.3", ports={"redis": 43211, "agent": 7700, "8265": 9000}, ray_start_args=("--x",)
)
EXTRA = "--port 43211 --bind 127.0.4.3 --dir /d"


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (("redis-server", "/c"), ("redis-server", "/c", *EXTRA.split())),
        (("/usr/bin/redis-server",), ("/usr/bin/redis-server", *EXTRA.split())),
        (("sh", "-c", "redis-server /c"), ("sh", "-c", f"redis-server /c {EXTRA}")),
        (("sh", "-c", "x; exec redis-server /c && y"), ("sh", "-c", f"x; exec redis-server /c {EXTRA} && y")),
        (("bash", "-lc", "--", "redis-server"), ("bash", "-lc", "--", f"redis-server {EXTRA}")),
        (("sh", "-c", "echo redis-server"), ("sh", "-c", "echo redis-server")),
        (("ray", "start"), ("ray", "start")),
    ],
)
def test_redis_is_told_where_to_live(argv: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert adapt_argv(argv, FACTS, "/d") == expected


def test_the_redis_port_may_be_named_by_its_number() -> None:
    assert redis_arguments(HostFacts(ports={"6379": 5}), "/d")[1] == "5"


def test_ports_of_the_manifest_are_mapped() -> None:
    assert [FACTS.port(8265), FACTS.port(8000)] == [9000, 8000]


def test_the_agent_is_told() -> None:
    assert ray_environment(FACTS) == {
        "RAYWARD_AGENT_HOST": "127.0.4.3",
        "RAYWARD_AGENT_PORT": "7700",
        "RAYWARD_RAY_START_ARGS": '["--x"]',
    }


def test_facts_are_read_from_json() -> None:
    assert HostFacts.from_json({}) == HostFacts()
    assert HostFacts.from_json(
        {"address": "a", "ports": {"redis": "7"}, "ray_start_args": ["b"]}
    ) == HostFacts("a", ("b",), {"redis": 7})

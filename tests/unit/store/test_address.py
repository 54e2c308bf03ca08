from __future__ import annotations

import pytest

from rayward.errors import RaywardError
from rayward.store.address import RedisAddress, parse_redis_address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis:6379", RedisAddress("redis", 6379)),
        ("redis", RedisAddress("redis", 6379)),
        (" 10.0.0.7:7000 ", RedisAddress("10.0.0.7", 7000)),
        ("redis://redis:6380", RedisAddress("redis", 6380)),
        ("REDISS://redis", RedisAddress("redis", 6379, tls=True)),
        ("redis://redis:6379/", RedisAddress("redis", 6379)),
        ("rediss://redis:6379/3", RedisAddress("redis", 6379, tls=True, db=3)),
        ("[::1]:7000", RedisAddress("::1", 7000)),
        ("redis://[fd00::2]", RedisAddress("fd00::2", 6379)),
        ("redis://:s3cret@redis:1", RedisAddress("redis", 1, password="s3cret")),
        ("redis://ray:p%40ss@redis:1", RedisAddress("redis", 1, username="ray", password="p@ss")),
        ("redis://ray:p@ss@redis:1", RedisAddress("redis", 1, username="ray", password="p@ss")),
    ],
)
def test_reads(text: str, expected: RedisAddress) -> None:
    assert parse_redis_address(text) == expected


def test_a_list_keeps_every_entry_and_the_first_one_leads() -> None:
    found = parse_redis_address("rediss://u:pw@a:1,b:2, redis://c:3")
    assert (found.host, found.port) == ("a", 1)
    assert found.alternates == (
        RedisAddress("b", 2, tls=True, username="u", password="pw"),
        RedisAddress("c", 3),
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        " , ",
        "a:1,",
        "http://redis:6379",
        "redis:0",
        "redis:65536",
        "redis:port",
        "redis:\u0661",
        "redis:",
        ":6379",
        "::1:6379",
        "[::1:6379",
        "[::1]6379",
        "my redis:6379",
        "redis://redis:6379/one",
        "unix:///tmp/redis.sock",
    ],
)
def test_refuses_and_names_the_text(text: str) -> None:
    with pytest.raises(RaywardError) as error:
        parse_redis_address(text)
    assert text.strip(" ,") in str(error.value)
    assert "HOST:PORT" in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "redis://ray:hunter2@redis:notaport",
        "redis://:hunter2@:6379",
        "redis://:hun,hunter2@redis",
        "redis://:hunter2@redis/x",
        "ftp://ray:hunter2@redis:1",
        "ray:hunter2@redis:6379",
        "redis://:hunter2@a:x,redis://:hunter2@b:1",
        "redis://hunter2://x@redis:x",
        "redis://:hunter2@a:x,redis://b:1",
    ],
)
def test_an_error_never_holds_the_password(text: str) -> None:
    with pytest.raises(RaywardError) as error:
        parse_redis_address(text)
    assert "hunter2" not in str(error.value)
    assert "hunter2" not in repr(error.value)


def test_a_value_never_shows_its_password() -> None:
    address = parse_redis_address("rediss://ray:hunter2@[::1]:7000/2,b:1")
    assert str(address) == address.redacted() == "rediss://***@[::1]:7000/2"
    assert "hunter2" not in repr(address)


def test_plain_addresses_print_as_users_write_them() -> None:
    assert str(parse_redis_address("redis://redis:6379")) == "redis:6379"
    assert str(parse_redis_address("rediss://redis")) == "rediss://redis:6379"

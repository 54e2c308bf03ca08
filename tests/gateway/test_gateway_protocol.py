"""What clients see: a plain Redis with a password, whose answers come whole and in order."""

from __future__ import annotations

import os
import random
import socket

import pytest
import redis
from gateway_rig import TOKEN, Client, Rig, gateway, is_error, until
from redis_server import Server, free_port

from rayward.errors import RaywardError
from rayward.store.resp import ReplyError, encode

KV = "RAYdefault@KV"


def test_nobody_without_the_token(rig: Rig, store: redis.Redis) -> None:
    rig.lead(1, store)
    stranger = rig.client(token=None)
    assert is_error(stranger.ask("HGET", KV, "a"), "NOAUTH")
    assert is_error(stranger.ask("PING"), "NOAUTH")
    assert is_error(stranger.ask("AUTH", "guess"), "WRONGPASS")
    assert is_error(stranger.ask("AUTH", "default", "guess"), "WRONGPASS")
    assert is_error(stranger.ask("AUTH"), "ERR")
    assert stranger.ask("AUTH", "anybody", TOKEN) == b"OK"
    assert stranger.ask("HGET", KV, "a") is None


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"*1\r\n$-5\r\n",
        b"*2\r\n$3\r\nGET\r\n:5\r\n",
        b"*99999999999\r\n",
        b"*1\r\n$999999999999\r\n",
        b"*1\r\n$3\r\nGETxx",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"*1\r\n*1\r\n$4\r\nPING\r\n",
    ],
)
@pytest.mark.parametrize("token", [TOKEN, None])
def test_garbage_ends_its_own_connection_only(
    rig: Rig, store: redis.Redis, garbage: bytes, token: str | None
) -> None:
    rig.lead(1, store)
    good, bad = rig.client(), rig.client(token=token)
    bad.socket.sendall(garbage)
    assert is_error(bad.answer(), "ERR")
    assert bad.is_closed()
    assert good.ask("HSET", KV, "a", "1") == 1


def test_random_bytes_do_not_end_the_gateway(rig: Rig, store: redis.Redis) -> None:
    rig.lead(1, store)
    dice = random.Random(5)
    pieces = (b"*", b"$", b"\r\n", b"2", b"-1", b"HSET", b"\x00", b":", b"+", b"999")
    for _ in range(300):
        bad = Client(rig.port)
        bad.socket.sendall(b"".join(dice.choice(pieces) for _ in range(dice.randrange(1, 30))))
        bad.close()
    assert rig.client().ask("HSET", KV, "a", "1") == 1
    assert store.hlen(KV) == 1
    until(lambda: rig.process.counters.get("clients") == 1, 30, "the closed clients are forgotten")


def test_commands_in_pieces(rig: Rig, store: redis.Redis) -> None:
    rig.lead(1, store)
    gcs = rig.client()
    gcs.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    value = bytes(range(256)) * 20
    stream = encode("HSET", KV, "a\r\n$5\r\n", value) + encode("HGET", KV, "a\r\n$5\r\n") + encode("PING")
    for place in range(0, len(stream), 37):
        gcs.socket.sendall(stream[place : place + 37])
    assert [gcs.answer() for _ in range(3)] == [1, value, b"PONG"]


def test_large_answers_are_intact(rig: Rig, store: redis.Redis) -> None:
    rig.lead(1, store)
    values = {f"field-{number}": os.urandom(100) for number in range(10_000)}
    store.hset(KV, mapping=values)  # type: ignore[arg-type]
    gcs, found, cursor = rig.client(), {}, b"0"
    while True:
        cursor, flat = gcs.ask("HSCAN", KV, cursor, "COUNT", "1000")
        found.update(zip((name.decode() for name in flat[::2]), flat[1::2], strict=True))
        if cursor == b"0":
            break
    assert found == values
    assert len(gcs.ask("HGETALL", KV)) == 20_000
    blob = os.urandom(50_000_000)
    assert gcs.ask("HSET", KV, "package", blob) == 1
    assert gcs.ask("HGET", KV, "package") == blob
    assert gcs.ask("HMGET", KV, "field-1", "none") == [values["field-1"], None]


def test_clients_that_take_turns_keep_their_order(rig: Rig, store: redis.Redis) -> None:
    rig.lead(1, store)
    clients = [rig.client() for _ in range(3)]
    for round_number in range(100):
        for number, client in enumerate(clients):
            mark = f"{number}-{round_number}"
            client.socket.sendall(
                encode("HSET", KV, f"k{number}", mark)
                + encode("PING", mark)
                + encode("HGET", KV, f"k{number}")
                + encode("NONSENSE")
                + encode("HDEL", KV, f"k{number}")
            )
    for round_number in range(100):
        for number, client in enumerate(clients):
            mark = f"{number}-{round_number}".encode()
            answers = [client.answer() for _ in range(5)]
            assert answers[:3] == [1, mark, mark]
            assert is_error(answers[3], "ERR")
            assert answers[4] == 1


def test_errors_of_commands_are_passed_on(rig: Rig, store: redis.Redis) -> None:
    rig.lead(1, store)
    gcs = rig.client()
    assert gcs.ask("INCRBY", "RAYdefault@JobCounter", "1") == 1
    assert is_error(gcs.ask("HSET", "RAYdefault@JobCounter", "a", "1"), "WRONGTYPE")
    assert is_error(gcs.ask("HGET", "RAYdefault@JobCounter", "a"), "WRONGTYPE")
    assert isinstance(gcs.ask("HSET", KV, "a"), ReplyError)
    assert gcs.ask("HSET", KV, "a", "1") == 1


def test_a_client_that_does_not_read_holds_up_nobody(rig: Rig, store: redis.Redis) -> None:
    rig.lead(1, store)
    store.hset(KV, "blob", "x" * 1_000_000)
    lazy, quick = rig.client(), rig.client()
    lazy.socket.sendall(b"".join(encode("HGET", KV, "blob") for _ in range(100)))
    for number in range(50):
        assert quick.ask("HSET", KV, f"f{number}", "1") == 1
    assert all(len(lazy.answer()) == 1_000_000 for _ in range(100))


def test_quit_and_closed_clients_are_forgotten(rig: Rig, store: redis.Redis) -> None:
    rig.lead(1, store)
    leaver = rig.client()
    assert leaver.ask("HSET", KV, "a", "1") == 1
    assert leaver.ask("QUIT") == b"OK"
    assert leaver.is_closed()
    until(lambda: rig.process.counters.get("clients") == 0, 30, "no clients")
    until(lambda: len(store.client_list()) == 1, 30, "no connection to the store is left")


@pytest.mark.parametrize(
    ("name", "value"),
    [("RAYWARD_GATEWAY_PORT", "70000"), ("RAYWARD_STORE_PATIENCE", "soon"), ("RAYWARD_FENCE", "maybe")],
)
def test_settings_that_cannot_be_used(
    server: Server, name: str, value: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RaywardError, match="ended with code 2"), gateway(server.port, **{name: value}):
        pass
    assert name in capfd.readouterr().err


def test_a_port_that_is_taken(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(RaywardError, match="ended with code 2"),
        gateway(server.port, RAYWARD_GATEWAY_PORT=str(port)),
    ):
        pass
    assert "Address already in use" in capfd.readouterr().err

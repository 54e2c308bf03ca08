"""Every way in which a Redis refuses, provoked on a real server, and what the user reads about it."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
import redis
from redis_server import Server, free_port, running, trickling
from tls_front import certificate, tls_front

from rayward.store.address import RedisAddress
from rayward.store.connection import (
    RIGHTS,
    FaultKind,
    StoreFault,
    TlsFiles,
    classify_redis_error,
    connect,
    probe,
    probe_from_environment,
)

SECRET = "hunter2-hunter2"
BOUND_S = 10.0


def fault_of(found: StoreFault | None, address: RedisAddress) -> StoreFault:
    assert found is not None
    assert address.hostport in found.sentence
    assert found.todo
    assert SECRET not in found.sentence + found.todo
    return found


def test_a_server_that_serves_has_no_fault(server: Server) -> None:
    assert probe(server.address) is None
    assert probe_from_environment({"RAY_REDIS_ADDRESS": server.address.hostport}) is None


def test_the_probe_leaves_no_trace(server: Server, client: redis.Redis) -> None:
    client.set("kept", "1")
    assert probe(server.address) is None
    assert client.keys() == [b"kept"]


def test_nothing_listens() -> None:
    address = RedisAddress("127.0.0.1", free_port())
    found = fault_of(probe(address), address)
    assert (found.kind, found.transient) == (FaultKind.REFUSED, True)


def test_the_name_does_not_resolve() -> None:
    address = RedisAddress("redis.invalid", 6379)
    found = fault_of(probe(address, timeout=BOUND_S), address)
    assert found.transient
    # A resolver that answers nothing at all is a time-out instead.
    assert found.kind in {FaultKind.UNRESOLVED, FaultKind.TIMEOUT}


def test_a_server_that_accepts_and_says_nothing_is_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = RedisAddress("127.0.0.1", silent.getsockname()[1])
        started = time.monotonic()
        found = fault_of(probe(address, timeout=0.3), address)
    assert (found.kind, found.transient) == (FaultKind.TIMEOUT, True)
    assert time.monotonic() - started < BOUND_S


def test_a_server_that_trickles_cannot_stretch_the_timeout() -> None:
    with trickling() as port:
        address = RedisAddress("127.0.0.1", port)
        # Each byte comes well within the time-out of a single read, which alone would wait for ever.
        found = fault_of(probe(address, timeout=0.4), address)
    assert found.kind is FaultKind.TIMEOUT


def test_passwords(tmp_path: Path) -> None:
    with running(tmp_path, "--requirepass", SECRET) as server:
        address = server.address
        missing = fault_of(probe(address), address)
        assert (missing.kind, missing.transient) == (FaultKind.NO_PASSWORD, False)
        wrong = fault_of(probe(address, password=SECRET + "x"), address)
        assert (wrong.kind, wrong.transient) == (FaultKind.WRONG_PASSWORD, False)
        assert fault_of(probe(address, "nobody", SECRET), address).kind is FaultKind.WRONG_PASSWORD
        assert probe(address, password=SECRET) is None
        environment = {"RAY_REDIS_ADDRESS": f"redis://{address.hostport}", "REDIS_PASSWORD": SECRET}
        assert probe_from_environment(environment) is None
        inside = {"RAY_REDIS_ADDRESS": f"redis://:{SECRET}@{address.hostport}"}
        assert probe_from_environment(inside) is None
        both = {**inside, "REDIS_PASSWORD": "wrong"}
        found = fault_of(probe_from_environment(both), address)
        assert found.kind is FaultKind.WRONG_PASSWORD


def test_a_password_for_a_server_without_one_is_said_so(server: Server) -> None:
    found = fault_of(probe(server.address, password=SECRET), server.address)
    assert found.kind is FaultKind.WRONG_PASSWORD
    assert "has none" in found.sentence


def test_a_user_without_rights(server: Server, client: redis.Redis) -> None:
    client.execute_command("ACL", "SETUSER", "reader", "on", f">{SECRET}", "~*", "+@read", "+@connection")
    try:
        found = fault_of(probe(server.address, "reader", SECRET), server.address)
    finally:
        client.execute_command("ACL", "DELUSER", "reader")
    assert (found.kind, found.transient) == (FaultKind.NO_PERMISSION, False)


def test_the_rights_that_the_fault_advises_are_enough(server: Server, client: redis.Redis) -> None:
    client.execute_command("ACL", "SETUSER", "reader", "on", f">{SECRET}", "+@connection")
    try:
        advice = fault_of(probe(server.address, "reader", SECRET), server.address).todo
        assert " ".join(RIGHTS) in advice
        client.execute_command("ACL", "SETUSER", "reader", *RIGHTS)
        assert probe(server.address, "reader", SECRET) is None
    finally:
        client.execute_command("ACL", "DELUSER", "reader")


def test_a_replica_cannot_carry_a_gcs(server: Server, tmp_path: Path) -> None:
    with running(tmp_path, "--replicaof", "127.0.0.1", str(server.port)) as replica:
        found = fault_of(probe(replica.address), replica.address)
    assert (found.kind, found.transient) == (FaultKind.READONLY, True)


def test_a_server_that_loads_its_data(tmp_path: Path) -> None:
    # Redis looks at its clients once per 2 MiB while it loads, so the file must hold several of them.
    with running(tmp_path, "--rdbcompression", "no") as first:
        client = first.client()
        client.execute_command("DEBUG", "POPULATE", 20_000, "key", 1000)
        client.save()
        client.close()
    # Redis's own test switch: microseconds to wait after each key.
    with running(tmp_path, "--key-load-delay", "200") as busy:
        found = fault_of(probe(busy.address, timeout=BOUND_S), busy.address)
    assert (found.kind, found.transient) == (FaultKind.LOADING, True)


def test_a_full_server(tmp_path: Path) -> None:
    with running(tmp_path, "--maxmemory", "100kb", "--maxmemory-policy", "noeviction") as full:
        client = connect(full.address)
        with pytest.raises(redis.exceptions.ResponseError) as caught:
            client.hset("RAYa@KV", "key", b"x" * 10_000)
        client.close()
        found = fault_of(classify_redis_error(caught.value, full.address), full.address)
    assert (found.kind, found.transient) == (FaultKind.OOM, False)


def test_an_address_that_cannot_be_read_is_a_fault_without_its_password() -> None:
    found = probe_from_environment({"RAY_REDIS_ADDRESS": f"redis://:{SECRET}@redis:port"})
    assert found is not None
    assert not found.transient
    assert "port" in found.sentence
    assert SECRET not in found.sentence


def test_no_address_means_no_redis() -> None:
    assert probe_from_environment({}) is None


def test_a_password_that_the_server_repeats_is_hidden(server: Server) -> None:
    client = connect(server.address)
    with pytest.raises(redis.exceptions.ResponseError) as caught:
        client.execute_command(f"NOSUCH{SECRET}")
    client.close()
    assert SECRET in str(caught.value)
    found = fault_of(classify_redis_error(caught.value, server.address, (SECRET,)), server.address)
    assert "***" in found.sentence


# --- TLS: redis-server of PyPI is built without it, so a TLS end stands in front of the real server.


def test_tls(server: Server, tmp_path: Path) -> None:
    cert = certificate(tmp_path, "cert")
    with tls_front(cert, server.port) as port:
        address = RedisAddress("127.0.0.1", port, tls=True)
        unknown_ca = fault_of(probe(address), address)
        assert (unknown_ca.kind, unknown_ca.transient) == (FaultKind.TLS, False)
        assert probe(address, tls=TlsFiles(ca=str(cert))) is None
        environment = {
            "RAY_REDIS_ADDRESS": f"rediss://127.0.0.1:{port}",
            "RAY_REDIS_CA_CERT": str(cert),
        }
        assert probe_from_environment(environment) is None
        plain = RedisAddress("127.0.0.1", port)
        assert fault_of(probe(plain), plain).kind in {FaultKind.OTHER, FaultKind.TLS}


def test_tls_to_a_plain_port(server: Server) -> None:
    address = RedisAddress("127.0.0.1", server.port, tls=True)
    # A plain Redis reads the handshake as a command and may also just wait for its end.
    found = fault_of(probe(address, timeout=2), address)
    assert found.kind in {FaultKind.TLS, FaultKind.TIMEOUT, FaultKind.OTHER}
    assert "rediss://" in found.sentence

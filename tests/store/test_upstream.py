"""The right Redis is found, and every way in which it is not is said, on real servers."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import redis
from redis_kinds import ask, cluster_of, replica_of, sentinel_for, wait_until
from redis_server import Server, free_port, running, trickling
from tls_front import certificate, tls_front

from rayward.errors import RaywardError
from rayward.store import channel
from rayward.store.cleanup import main_from_environment
from rayward.store.connection import RIGHTS, FaultKind, StoreFault
from rayward.store.resp import ReplyError
from rayward.store.upstream import StoreAwayError, StoreSettings, open_connection, primary_address

SECRET = "hunter2-hunter2"


def settings(address: object, **environ: str) -> StoreSettings:
    return StoreSettings.from_environment({"RAY_REDIS_ADDRESS": str(address), **environ})


def port_of(where: StoreSettings, timeout: float = 5.0) -> int:
    return primary_address(where, timeout).port


def fault_of(where: StoreSettings, timeout: float = 5.0) -> StoreFault:
    with pytest.raises(StoreAwayError) as caught:
        open_connection(where, timeout).close()
    fault = caught.value.fault
    assert fault.todo
    assert SECRET not in str(caught.value) + repr(fault)
    return fault


def test_a_plain_server(server: Server) -> None:
    connection = open_connection(settings(f"127.0.0.1:{server.port}"), 5)

    assert connection.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    assert connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert connection.call("SET", "a", "1", timeout=5) == b"OK"
    with pytest.raises(ReplyError, match="WRONGTYPE"):
        connection.call("HGET", "a", "f", timeout=5)
    assert connection.call("GET", "a", timeout=5) == b"1"
    connection.close()


def test_the_database_of_the_address_is_selected(server: Server) -> None:
    connection = open_connection(settings(f"redis://127.0.0.1:{server.port}/3"), 5)

    connection.call("SET", "a", "1", timeout=5)

    assert server.client().get("a") is None
    connection.close()


def test_an_answer_that_comes_too_late_closes_the_connection(server: Server) -> None:
    connection = open_connection(settings(f"127.0.0.1:{server.port}"), 5)

    with pytest.raises(TimeoutError):
        connection.call("BLPOP", "nothing", "1", timeout=0.05)
    with pytest.raises(OSError, match="Bad file"):
        connection.call("PING", timeout=1)


def test_user_name_and_password(tmp_path: Path) -> None:
    with running(tmp_path, "--requirepass", SECRET) as server:
        address = f"127.0.0.1:{server.port}"
        server.client(password=SECRET).execute_command(
            "ACL", "SETUSER", "ray", "on", f">{SECRET}-ray", "~*", "+@all"
        )

        assert port_of(settings(address, REDIS_PASSWORD=SECRET)) == server.port
        assert port_of(settings(f"redis://ray:{SECRET}-ray@{address}")) == server.port
        named = settings(address, REDIS_USERNAME="ray", REDIS_PASSWORD=f"{SECRET}-ray")
        connection = open_connection(named, 5)
        assert connection.call("ACL", "WHOAMI", timeout=5) == b"ray"
        connection.close()
        assert fault_of(settings(address)).kind is FaultKind.NO_PASSWORD
        assert fault_of(settings(address, REDIS_PASSWORD="wrong")).kind is FaultKind.WRONG_PASSWORD


def test_a_password_file_is_read_at_every_connect(tmp_path: Path) -> None:
    file = tmp_path / "password"
    with running(tmp_path / "redis", "--requirepass", "first") as server:
        where = settings(
            f"127.0.0.1:{server.port}", REDIS_PASSWORD="stale", RAYWARD_REDIS_PASSWORD_FILE=str(file)
        )
        missing = fault_of(where)
        assert (missing.kind, missing.transient) == (FaultKind.NO_PASSWORD, True)
        assert str(file) in missing.sentence
        assert "RAYWARD_REDIS_PASSWORD_FILE" in missing.todo
        file.write_text("")
        assert "is empty" in fault_of(where).sentence
        file.write_text("first\n")
        assert port_of(where) == server.port
        server.client(password="first").config_set("requirepass", SECRET)
        assert fault_of(where).kind is FaultKind.WRONG_PASSWORD
        file.write_text(SECRET)
        assert port_of(where) == server.port


def test_questions_that_are_forbidden_are_not_needed(server: Server, client: redis.Redis) -> None:
    client.execute_command("ACL", "SETUSER", "few", "reset", "on", ">x", "~rayward:*", "+exists", "+auth")

    assert port_of(settings(f"redis://few:x@127.0.0.1:{server.port}")) == server.port


def test_a_replica_is_refused_and_its_primary_taken_from_a_list(server: Server, tmp_path: Path) -> None:
    with replica_of(server, tmp_path) as replica:
        fault = fault_of(settings(f"127.0.0.1:{replica.port}"))
        assert (fault.kind, fault.transient) == (FaultKind.READONLY, True)
        listed = settings(f"127.0.0.1:{replica.port},127.0.0.1:{server.port}")
        assert port_of(listed) == server.port


def test_a_server_without_the_right_to_say_its_role_may_say_it_by_info(
    server: Server, tmp_path: Path
) -> None:
    with replica_of(server, tmp_path) as replica:
        replica.client().execute_command("ACL", "SETUSER", "few", "on", ">x", "~*", "+exists", "+info")
        assert fault_of(settings(f"redis://few:x@127.0.0.1:{replica.port}")).kind is FaultKind.READONLY


def test_a_server_that_loads_is_not_ready(tmp_path: Path) -> None:
    # Redis looks at its clients once per 2 MiB while it loads, so the file must hold several of them.
    with running(tmp_path, "--rdbcompression", "no") as first:
        ask(first.port, "DEBUG", "POPULATE", 20_000, "key", 1000)
        ask(first.port, "SAVE")
    with running(tmp_path, "--key-load-delay", "200") as busy:
        fault = fault_of(settings(f"127.0.0.1:{busy.port}"))
    assert (fault.kind, fault.transient) == (FaultKind.LOADING, True)


def test_tls_with_a_ca_and_a_client_certificate(server: Server, tmp_path: Path) -> None:
    cert, ours = certificate(tmp_path, "server"), certificate(tmp_path, "client")
    with tls_front(cert, server.port, client_ca=ours) as port:
        address = f"rediss://127.0.0.1:{port}"
        files = {
            "RAY_REDIS_CA_CERT": str(cert),
            "RAY_REDIS_CLIENT_CERT": str(ours),
            "RAY_REDIS_CLIENT_KEY": str(ours.with_suffix(".key")),
        }
        connection = open_connection(settings(address, **files), 5)
        assert connection.call("PING", timeout=5) == b"PONG"
        connection.close()
        wrong = fault_of(settings(address, **{**files, "RAY_REDIS_CA_CERT": str(ours)}))
        assert (wrong.kind, wrong.transient) == (FaultKind.TLS, False)
        fault_of(settings(address, RAY_REDIS_CA_CERT=str(cert)))  # no certificate of our own


def test_a_tls_file_that_is_missing_or_no_certificate_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"rediss://127.0.0.1:{listener.getsockname()[1]}"
        missing = fault_of(settings(address, RAY_REDIS_CA_CERT=str(tmp_path / "no.pem")))
        (tmp_path / "bad.pem").write_text("not a certificate")
        bad = fault_of(settings(address, RAY_REDIS_CA_CERT=str(tmp_path / "bad.pem")))
    for fault, name in ((missing, "no.pem"), (bad, "bad.pem")):
        assert fault.kind is FaultKind.TLS
        assert name in fault.sentence
        assert "RAY_REDIS_CA_CERT" in fault.sentence


def test_a_certificate_for_another_name_needs_that_name_said(server: Server, tmp_path: Path) -> None:
    cert = certificate(tmp_path, "redis", "DNS:redis.example")
    with tls_front(cert, server.port) as port:
        address, files = f"rediss://127.0.0.1:{port}", {"RAY_REDIS_CA_CERT": str(cert)}
        assert fault_of(settings(address, **files)).kind is FaultKind.TLS
        said = settings(address, **files, RAY_REDIS_SERVER_NAME="redis.example")
        open_connection(said, 5).close()


def test_sentinel_names_the_primary_before_and_after_a_failover(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(running(tmp_path / "a"))
        replica = stack.enter_context(replica_of(primary, tmp_path / "b"))
        sentinel = stack.enter_context(sentinel_for(primary, tmp_path / "s", "main", SECRET))
        # The first Sentinel of the list is gone; the second one is asked.
        address = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{sentinel}/main"
        where = settings(address, RAYWARD_SENTINEL_PASSWORD=SECRET)
        assert port_of(where) == primary.port
        wait_until(
            lambda: len(ask(sentinel, "SENTINEL", "replicas", "main", password=SECRET)) == 1,
            "no replica known",
        )

        primary.stop()

        wait_until(lambda: _port_or_none(where) == replica.port, "the new primary was not found")


def _port_or_none(where: StoreSettings) -> int | None:
    with contextlib.suppress(StoreAwayError):
        return port_of(where, 1.0)
    return None


def test_what_a_sentinel_may_answer_instead(server: Server, tmp_path: Path) -> None:
    with sentinel_for(server, tmp_path / "s", "main", SECRET) as port:
        here = f"redis+sentinel://127.0.0.1:{port}"
        locked = fault_of(settings(f"{here}/main"))
        assert locked.kind is FaultKind.NO_PASSWORD
        assert "RAYWARD_SENTINEL_PASSWORD" in locked.todo
        unknown = fault_of(settings(f"{here}/other", RAYWARD_SENTINEL_PASSWORD=SECRET))
        assert "knows no primary named 'other'" in unknown.sentence
        assert not unknown.transient
        plain = fault_of(settings(f"redis://:{SECRET}@127.0.0.1:{port}"))
        assert "redis+sentinel://" in plain.todo
    no_sentinel = fault_of(settings(f"redis+sentinel://127.0.0.1:{server.port}/main"))
    assert "is no Sentinel" in no_sentinel.sentence
    away = fault_of(settings(f"redis+sentinel://127.0.0.1:{free_port()}/main"))
    assert (away.kind, away.transient) == (FaultKind.REFUSED, True)
    assert away.sentence.startswith("the Sentinel at 127.0.0.1:")


def test_a_sentinel_that_names_a_replica_is_not_believed(server: Server, tmp_path: Path) -> None:
    with replica_of(server, tmp_path / "r") as replica, sentinel_for(server, tmp_path / "s", "main") as port:
        ask(port, "SENTINEL", "MONITOR", "stale", "127.0.0.1", replica.port, 1)
        assert fault_of(settings(f"redis+sentinel://127.0.0.1:{port}/stale")).kind is FaultKind.READONLY


def test_any_node_of_a_cluster_of_one_shard_leads_to_its_owner(tmp_path: Path) -> None:
    with cluster_of(tmp_path, nodes=2) as (owner, other):
        assert port_of(settings(f"127.0.0.1:{owner.port}")) == owner.port
        assert port_of(settings(f"127.0.0.1:{other.port}")) == owner.port


def test_a_cluster_of_two_shards_is_refused(tmp_path: Path) -> None:
    with cluster_of(tmp_path, nodes=2, shards=2) as (first, _):
        fault = fault_of(settings(f"127.0.0.1:{first.port}"))
    assert "a Redis Cluster of 2 shards" in fault.sentence
    assert not fault.transient


@pytest.mark.parametrize("address", ["", "redis:port", "redis+sentinel://h1"])
def test_an_address_that_cannot_be_read_names_the_setting(address: str) -> None:
    with pytest.raises(RaywardError) as caught:
        settings(address)
    assert caught.value.where == "RAY_REDIS_ADDRESS"


def test_nothing_listens_and_names_that_do_not_resolve() -> None:
    assert fault_of(settings(f"127.0.0.1:{free_port()}")).kind is FaultKind.REFUSED
    unknown = fault_of(settings("no-such-host.invalid:6379"))
    assert (unknown.kind, unknown.transient) == (FaultKind.UNRESOLVED, True)
    assert fault_of(settings(f"{'x' * 70}.invalid:6379")).kind is FaultKind.UNRESOLVED


def test_a_server_that_says_nothing_or_trickles_cannot_stretch_the_bound() -> None:
    with trickling() as port:
        fault = fault_of(settings(f"127.0.0.1:{port}"), timeout=0.5)
    assert fault.kind is FaultKind.TIMEOUT


def test_a_server_that_is_no_redis_is_said_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(1000)
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        worker = threading.Thread(target=answer)
        worker.start()
        fault = fault_of(settings(f"127.0.0.1:{listener.getsockname()[1]}"))
        worker.join(10)
    assert "does not speak Redis' protocol" in fault.sentence


def test_a_resolver_that_hangs_is_bounded_and_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, release = [], threading.Event()

    def hang(*words: object, **_: object) -> list[object]:
        asked.append(words)
        release.wait(30)
        return []

    monkeypatch.setattr(channel.socket, "getaddrinfo", hang)
    for _ in range(3):
        assert fault_of(settings("slow.example:6379"), timeout=0.05).kind is FaultKind.UNRESOLVED
    release.set()
    assert len(asked) == 1


def test_redis_py_stays_out_of_the_process() -> None:
    code = "import sys, rayward.store.upstream, rayward.store.lease; print('redis' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "False"


def test_time_is_shared_among_servers_that_do_not_answer(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mute = f"127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        assert port_of(settings(f"{mute},127.0.0.1:{server.port}"), timeout=2) == server.port
        assert time.monotonic() - started < 2


def test_the_cleanup_job_needs_no_more_rights_than_advised(server: Server, client: redis.Redis) -> None:
    client.execute_command("ACL", "SETUSER", "ray", "reset", "on", ">x", *RIGHTS)
    client.hset("RAYdefault@KV", "k", "v")
    environ = {
        "RAY_REDIS_ADDRESS": f"redis://ray:x@127.0.0.1:{server.port}",
        "RAY_external_storage_namespace": "default",
    }
    assert main_from_environment(environ, []) == 0
    assert client.dbsize() == 0


def test_the_cleanup_job_finds_the_primary_and_reads_the_password_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{SECRET}\n")
    with (
        running(tmp_path / "a", "--requirepass", SECRET) as server,
        sentinel_for(server, tmp_path / "s", "main") as port,
    ):
        ask(server.port, "HSET", "RAYdefault@KV", "k", "v", password=SECRET)
        environ = {
            "RAY_REDIS_ADDRESS": f"redis+sentinel://127.0.0.1:{port}/main",
            "RAY_external_storage_namespace": "default",
            "RAYWARD_REDIS_PASSWORD_FILE": str(tmp_path / "password"),
        }
        assert main_from_environment(environ, []) == 0
        assert ask(server.port, "DBSIZE", password=SECRET) == 0

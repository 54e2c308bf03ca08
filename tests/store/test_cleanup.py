"""Clean-up against a real Redis: everything of one namespace goes, and nothing else."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import redis
from redis_server import Server, free_port, running

from rayward.errors import RaywardError
from rayward.store import schema
from rayward.store.cleanup import KeysReturned, cleanup, main_from_environment
from rayward.store.connection import connect

SECRET = "hunter2-hunter2"
BOUND_S = 20.0


def fill(client: redis.Redis, namespace: str) -> set[str]:
    keys = {schema.table_key(namespace, table) for table in schema.TABLES}
    for key in keys:
        client.hset(key, mapping={"a": "1", "b": "2"})
    client.incrby(schema.table_key(namespace, schema.JOB_COUNTER))
    client.set(schema.own_key(namespace, "lease"), "{}")
    return keys | {schema.table_key(namespace, schema.JOB_COUNTER), schema.own_key(namespace, "lease")}


def names(client: redis.Redis) -> set[str]:
    return {key.decode() for key in client.scan_iter()}


@pytest.mark.parametrize("namespace", ["a", "a*", "[a]", "a?", "a\\", "a:b", "a-z", "ä"])
def test_removes_its_namespace_and_only_it(client: redis.Redis, namespace: str) -> None:
    neighbours = {"a", "ab", "a*", "[a]", "a?", "a\\", "a:b", "a-z", "ä", "aX"} - {namespace}
    kept = set().union(*(fill(client, name) for name in neighbours))
    mine = fill(client, namespace)
    client.set("user:1", "x")
    report = cleanup(client, namespace)
    assert set(report.keys) == mine
    assert report.deleted == len(mine)
    assert names(client) == kept | {"user:1"}


def test_is_idempotent(client: redis.Redis) -> None:
    fill(client, "a")
    cleanup(client, "a")
    again = cleanup(client, "a")
    assert (again.keys, again.deleted) == ((), 0)


def test_a_dry_run_only_looks(client: redis.Redis) -> None:
    mine = fill(client, "a")
    report = cleanup(client, "a", dry_run=True)
    assert (set(report.keys), report.deleted, report.dry_run) == (mine, 0, True)
    assert names(client) == mine


def test_goes_in_batches_and_tells_progress(client: redis.Redis) -> None:
    for number in range(250):
        client.hset(schema.table_key("a", f"T{number}"), "f", "v")
    seen: list[tuple[int, int]] = []
    assert cleanup(client, "a", batch=100, on_progress=lambda *step: seen.append(step)).deleted == 250
    assert seen == [(100, 250), (200, 250), (250, 250)]
    assert not names(client)


def test_the_hash_of_old_ray_goes(client: redis.Redis) -> None:
    client.hset("a", mapping={schema.legacy_field("a", "KV", "k"): "v", "a@:JobCounter": "3"})
    assert cleanup(client, "a").keys == ("a",)
    assert not names(client)


def test_a_key_that_only_shares_the_name_stays(client: redis.Redis) -> None:
    client.hset("a", "colour", "red")
    client.set("b", "text")
    assert cleanup(client, "a").keys == ()
    assert cleanup(client, "b").keys == ()
    assert names(client) == {"a", "b"}


def test_never_asks_for_all_keys_and_unlinks(client: redis.Redis) -> None:
    fill(client, "a")
    client.config_resetstat()
    cleanup(client, "a")
    used = set(client.info("commandstats"))
    assert {"cmdstat_scan", "cmdstat_unlink"} <= used
    assert not {"cmdstat_keys", "cmdstat_del", "cmdstat_flushdb"} & used


def test_falls_back_to_del(client: redis.Redis, server: Server) -> None:
    mine = fill(client, "a")
    client.execute_command(
        "ACL", "SETUSER", "old", "on", f">{SECRET}", "~*", "+@all", "-unlink", "-@dangerous"
    )
    try:
        limited = connect(server.address, "old", SECRET)
        assert cleanup(limited, "a").deleted == len(mine)
        limited.close()
    finally:
        client.execute_command("ACL", "DELUSER", "old")
    assert not names(client)


def test_a_refused_removal_is_an_error(client: redis.Redis, server: Server) -> None:
    mine = fill(client, "a")
    client.execute_command("ACL", "SETUSER", "eye", "on", f">{SECRET}", "~*", "+@read", "+scan")
    try:
        environment = job_environment(server, "a") | {"REDIS_USERNAME": "eye", "REDIS_PASSWORD": SECRET}
        assert main_from_environment(environment, []) == 1
    finally:
        client.execute_command("ACL", "DELUSER", "eye")
    assert names(client) == mine


@pytest.mark.parametrize("namespace", ["", "a@b"])
def test_an_impossible_namespace_is_refused(client: redis.Redis, namespace: str) -> None:
    with pytest.raises(RaywardError, match="namespace"):
        cleanup(client, namespace)


def test_keys_that_come_back_are_reported(client: redis.Redis, server: Server) -> None:
    """A function of the test's own, called after each batch, plays the GCS that still runs."""
    fill(client, "a")
    writer = server.client()
    with pytest.raises(KeysReturned, match="there again") as error:
        cleanup(client, "a", on_progress=lambda *_: writer.hset("RAYa@NODE", "f", "v"))
    writer.close()
    assert "RAYa@NODE" in str(error.value)
    assert "stop the cluster" in str(error.value)


def test_a_late_write_is_swept_too(client: redis.Redis, server: Server) -> None:
    fill(client, "a")
    writer = server.client()
    writes = iter([True])
    cleanup(client, "a", on_progress=lambda *_: next(writes, False) and writer.hset("RAYa@LATE", "f", "v"))
    writer.close()
    assert not names(client)


# --- what the Job runs


def job_environment(server: Server, namespace: str) -> dict[str, str]:
    return {
        "RAY_REDIS_ADDRESS": server.address.hostport,
        "RAY_external_storage_namespace": namespace,
        "RAYWARD_CLEANUP_TIMEOUT_S": "0",
    }


def test_the_job(client: redis.Redis, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    mine = fill(client, "uid")
    assert main_from_environment(job_environment(server, "uid"), []) == 0
    printed = capsys.readouterr().out
    assert server.address.hostport in printed
    assert all(f"removed {key}\n" in printed for key in mine)
    assert f"{len(mine)} keys found, {len(mine)} removed" in printed
    assert not names(client)


def test_the_job_can_be_asked_what_it_would_do(
    client: redis.Redis, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = fill(client, "other")
    assert main_from_environment(job_environment(server, "uid"), ["--namespace", "other", "--dry-run"]) == 0
    assert "found RAYother@KV" in capsys.readouterr().out
    assert names(client) == mine


def test_the_job_waits_for_a_redis_that_is_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    environment = {
        "RAY_REDIS_ADDRESS": f"127.0.0.1:{port}",
        "RAY_external_storage_namespace": "uid",
        "RAYWARD_CLEANUP_TIMEOUT_S": str(BOUND_S),
    }
    answer: list[int] = []
    job = threading.Thread(target=lambda: answer.append(main_from_environment(environment, [])))
    job.start()
    give_up = time.monotonic() + BOUND_S
    printed = ""
    while "refused" not in printed and time.monotonic() < give_up:
        time.sleep(0.02)
        printed += capsys.readouterr().out
    assert "trying again" in printed
    with running(tmp_path, port=port):
        job.join(BOUND_S)
    assert answer == [0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"RAY_REDIS_ADDRESS": ""}, "address is empty"),
        ({"RAY_external_storage_namespace": ""}, "namespace is empty"),
        ({"RAY_external_storage_namespace": "a@b"}, "'@'"),
        ({"RAYWARD_CLEANUP_TIMEOUT_S": "soon"}, "RAYWARD_CLEANUP_TIMEOUT_S"),
        ({"RAYWARD_CLEANUP_TIMEOUT_S": "nan"}, "RAYWARD_CLEANUP_TIMEOUT_S"),
        ({"RAYWARD_CLEANUP_TIMEOUT_S": "inf"}, "RAYWARD_CLEANUP_TIMEOUT_S"),
        ({"REDIS_PASSWORD": SECRET}, "has none"),
        ({"RAY_REDIS_ADDRESS": f"redis://:{SECRET}@127.0.0.1:1"}, "refused"),
    ],
)
def test_the_job_fails_with_one_clear_line(
    server: Server, capsys: pytest.CaptureFixture[str], change: dict[str, str], words: str
) -> None:
    assert main_from_environment(job_environment(server, "uid") | change, []) == 1
    printed = capsys.readouterr()
    assert words in printed.err
    assert SECRET not in printed.err + printed.out

"""What a real GCS of the installed Ray leaves in Redis and in RocksDB, read and decoded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis_server import Server, free_port, running

from rayward.errors import RaywardError
from rayward.store.cleanup import cleanup
from rayward.store.connection import RIGHTS
from rayward.store.decode import show_table, to_json_lines
from rayward.store.redis_source import RedisSource
from rayward.store.rocksdb import inspect_directory
from rayward.store.rocksdb_source import RocksDbSource
from rayward.store.schema import namespaces_of
from rayward.store.source import StateSource, list_keys

pytestmark = pytest.mark.ray

NAMESPACE = "864b004c-6305-42e3-ac46-adfa8eb6f752"
SECRET = "hunter2-hunter2"
# All that GCS may say to Redis; the gateway has to know how to carry each of them.
SPOKEN = {"auth", "info", "del", "ping", "incrby"} | {
    "hget", "hset", "hsetnx", "hdel", "hexists", "hmget", "hscan",
}  # fmt: skip
LONG_S = 60.0


@dataclass
class Gcs:
    """A running head: the ids of what was made in it, and where its state rests."""

    ids: dict[str, str]
    helper: subprocess.Popen[str]
    directory: Path

    def put(self, key: str) -> None:
        assert self.helper.stdin is not None
        assert self.helper.stdout is not None
        self.helper.stdin.write(f"{key}\n")
        self.helper.stdin.flush()
        assert self.helper.stdout.readline() == "ok\n"


def head(environment: dict[str, str], directory: Path) -> Iterator[Gcs]:
    script = Path(__file__).with_name("gcs_with_data.py")
    ports = [str(free_port()) for _ in range(3)]
    errors = (directory / "helper.log").open("wb")
    helper = subprocess.Popen(
        [sys.executable, str(script), str(directory), *ports],
        env={**os.environ, **environment, "RAY_USAGE_STATS_ENABLED": "0"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )
    assert helper.stdin is not None
    assert helper.stdout is not None
    try:
        line = helper.stdout.readline()
        logs = [log.read_text(errors="replace") for log in directory.glob("*.log")]
        assert line, "\n".join(logs)
        yield Gcs(json.loads(line), helper, directory)
    finally:
        # The end of its input tells the helper to end everything it started.
        helper.stdin.close()
        helper.wait(LONG_S)
        helper.stdout.close()
        errors.close()


@pytest.fixture(scope="module")
def short_directory() -> Iterator[Path]:
    # Ray's sockets live below it, and a socket's path has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="rw", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def rocksdb_gcs(short_directory: Path) -> Iterator[Gcs]:
    directory = short_directory / "k"
    directory.mkdir()
    environment = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(directory / "gcs")}
    yield from head(environment, directory)


@pytest.fixture(scope="module")
def password_server(short_directory: Path) -> Iterator[Server]:
    with running(short_directory / "redis", "--requirepass", SECRET) as server:
        admin = server.client(password=SECRET)
        # The user that GCS logs in with has no more than the rights that rayward's error advises.
        admin.execute_command("ACL", "SETUSER", "ray", "on", f">{SECRET}", *RIGHTS)
        admin.config_resetstat()
        admin.close()
        yield server


@pytest.fixture(scope="module")
def redis_gcs(short_directory: Path, password_server: Server) -> Iterator[Gcs]:
    directory = short_directory / "r"
    directory.mkdir()
    environment = {
        "RAY_REDIS_ADDRESS": password_server.address.hostport,
        "RAY_external_storage_namespace": NAMESPACE,
        "REDIS_USERNAME": "ray",
        "REDIS_PASSWORD": SECRET,
    }
    yield from head(environment, directory)


def table(source: StateSource, namespace: str, name: str) -> dict[str, Any]:
    return {str(entry["key"]): entry["value"] for entry in show_table(source, namespace, name)}


def check_state(source: StateSource, namespace: str, ids: dict[str, str]) -> None:
    """Every table that GCS persists, with the names and ids that the helper made."""
    rows = {row.table: row for row in list_keys(source) if row.namespace == namespace}
    for name in ("ACTOR", "ACTOR_TASK_SPEC", "JOB", "JobCounter", "KV", "NODE", "PLACEMENT_GROUP", "WORKERS"):
        assert rows[name].entries >= 1
        shown = list(show_table(source, namespace, name))
        assert shown
        assert all("undecoded" not in entry for entry in shown)
        assert [json.loads(line) for line in to_json_lines(shown)] == shown

    actor = table(source, namespace, "ACTOR")[ids["actor"]]
    assert (actor["name"], actor["state"]) == ("counter_actor", "ALIVE")
    assert actor["class_name"].endswith("Counter")
    assert (actor["actor_id"], actor["job_id"]) == (ids["actor"], ids["job"])
    assert actor["address"]["node_id"] == ids["node"]
    task = table(source, namespace, "ACTOR_TASK_SPEC")[ids["actor"]]
    assert task["actor_creation_task_spec"]["name"] == "counter_actor"
    group = table(source, namespace, "PLACEMENT_GROUP")[ids["group"]]
    assert (group["name"], group["state"]) == ("trainers", "CREATED")
    assert group["bundles"][0]["unit_resources"] == {"CPU": 1.0}
    node = table(source, namespace, "NODE")[ids["node"]]
    assert (node["state"], node["is_head_node"]) == ("ALIVE", True)
    job = table(source, namespace, "JOB")[ids["job"]]
    assert job["config"]["ray_namespace"] == "default_namespace"
    workers = table(source, namespace, "WORKERS").values()
    driver = next(worker for worker in workers if worker["worker_type"] == "DRIVER")
    assert driver["worker_info"]["driver_id"].startswith(ids["job"])
    assert table(source, namespace, "JobCounter") == {"JobCounter": 1}
    entries = show_table(source, namespace, "KV")
    kv = {(entry["namespace"], str(entry["key"])): entry["value"] for entry in entries}
    assert kv["rayward-test", "greeting"] == "hello"
    assert kv["rayward-test", "blob"] == {"base64": "/wD+", "bytes": 3}
    assert kv["cluster", "ray_cluster_id"]["bytes"] == 28


def test_rocksdb_of_a_running_gcs(rocksdb_gcs: Gcs) -> None:
    store = rocksdb_gcs.directory / "gcs"
    facts = inspect_directory(store)
    assert (facts.databases, facts.in_use, facts.is_gcs_directory) == (("tables", "kv"), True, True)
    assert facts.size_bytes > 0
    check_state(RocksDbSource(store), "", rocksdb_gcs.ids)

    # The GCS was not disturbed: it goes on writing, and the next look sees it.
    rocksdb_gcs.put("after-the-first-look")
    keys = [entry["key"] for entry in show_table(RocksDbSource(store), "", "KV")]
    assert "after-the-first-look" in keys
    assert not list(store.rglob("rocksdict*"))


def test_rocksdb_is_not_written_to(rocksdb_gcs: Gcs, tmp_path: Path) -> None:
    copy = tmp_path / "gcs"
    shutil.copytree(rocksdb_gcs.directory / "gcs", copy)
    assert not inspect_directory(copy).in_use

    def state() -> dict[Path, tuple[int, int]]:
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in [copy, *copy.rglob("*")]}

    before = state()
    source = RocksDbSource(copy)
    check_state(source, "", rocksdb_gcs.ids)
    for row in list_keys(source):
        assert len(list(show_table(source, "", row.table))) == row.entries
    assert state() == before


def test_a_table_that_is_not_there_is_empty(rocksdb_gcs: Gcs) -> None:
    assert list(show_table(RocksDbSource(rocksdb_gcs.directory / "gcs"), "", "NO_SUCH")) == []


def test_a_damaged_database_is_a_clear_error(rocksdb_gcs: Gcs, tmp_path: Path) -> None:
    copy = tmp_path / "gcs"
    shutil.copytree(rocksdb_gcs.directory / "gcs", copy)
    (copy / "tables" / "CURRENT").write_text("MANIFEST-999999\n")
    with pytest.raises(RaywardError, match="RocksDB cannot open") as error:
        list_keys(RocksDbSource(copy))
    assert str(copy / "tables") in str(error.value)


def test_redis_of_a_running_gcs(redis_gcs: Gcs, password_server: Server) -> None:
    client = password_server.client(password=SECRET)
    spoken = {name.removeprefix("cmdstat_") for name in client.info("commandstats")}
    assert spoken - SPOKEN <= {"config", "client", "hello", "acl"}
    assert {"hset", "hscan", "ping", "del", "incrby"} <= spoken

    source = RedisSource(client)
    check_state(source, NAMESPACE, redis_gcs.ids)
    assert all(row.size_bytes for row in list_keys(source))
    found = namespaces_of(row.key for row in list_keys(source))
    assert list(found) == [NAMESPACE]

    # A user of careful ACLs cannot ask for sizes, and still sees the rest.
    rights = ("~*", "+@read", "+@connection", "-memory")
    client.execute_command("ACL", "SETUSER", "eye", "on", f">{SECRET}", *rights)
    eye = password_server.client("eye", SECRET)
    assert {row.size_bytes for row in list_keys(RedisSource(eye))} == {None}
    eye.close()
    client.close()


def test_after_a_clean_up_redis_is_empty(redis_gcs: Gcs, password_server: Server) -> None:
    """Last in this file: it takes the state from under the GCS, which is then ended."""
    assert redis_gcs.helper.stdin is not None
    redis_gcs.helper.stdin.close()
    redis_gcs.helper.wait(LONG_S)
    client = password_server.client(password=SECRET)
    assert cleanup(client, NAMESPACE).deleted > 0
    assert client.keys() == []
    client.close()

"""Which namespaces count as forgotten, on a real Redis with real leases, and what the command does then."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result
from redis_server import Server, free_port

from rayward.cli.store import store
from rayward.errors import RaywardError
from rayward.local import state
from rayward.store import schema
from rayward.store.connection import connect
from rayward.store.lease import LeaseStore
from rayward.store.lease_record import Acquired
from rayward.store.orphans import (
    QUIET_FOR_S,
    NamespaceFacts,
    Owners,
    Verdict,
    judge,
    look,
    spoken,
)
from rayward.store.upstream import StoreSettings

UID = "864b004c-6305-42e3-ac46-adfa8eb6f752"
TTL_S = 0.5
LONG_AGO_S = 86_400
BOUND_S = 20.0


def lease_store(server: Server, namespace: str) -> LeaseStore:
    return LeaseStore(StoreSettings(server.address, namespace))


def lead(
    server: Server, namespace: str, age: float = 0.0, ttl: float = TTL_S, cluster: str = UID
) -> LeaseStore:
    """A head that takes the lease of ``namespace``; its last word is ``age`` seconds old."""
    lease = lease_store(server, namespace)
    incarnation = lease.claim_incarnation(cluster, "trainer")
    lease.observe(cluster, "head-1", {"time": time.time() - age})
    taken = lease.acquire("head-1", "i1", None, {"ttl": ttl}, incarnation=incarnation.id)
    assert isinstance(taken, Acquired)
    return lease


def fill(client: redis.Redis, namespace: str, idle: int = LONG_AGO_S) -> None:
    """Tables as a GCS leaves them, not used since ``idle`` seconds by Redis' own count."""
    for table in ("KV", "NODE", "JOB"):
        key = schema.table_key(namespace, table)
        client.hset(key, mapping={f"field-{number}": "x" * 100 for number in range(20)})
        dump = client.dump(key)
        client.execute_command("RESTORE", key, 0, dump, "REPLACE", "IDLETIME", idle)


@contextlib.contextmanager
def renewing(lease: LeaseStore, write: Any, pause: float = TTL_S / 5) -> Iterator[None]:
    """Somebody who writes again and again, as a living head does."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(pause):
            write(lease)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(BOUND_S)
        lease.close()


def one(client: redis.Redis, namespace: str) -> NamespaceFacts:
    (found,) = look(client, (namespace,))
    return found


# --- what a look finds


def test_a_renewed_lease_is_a_living_head(client: redis.Redis, server: Server) -> None:
    fill(client, "a")
    with renewing(lead(server, "a"), lambda lease: lease.renew("head-1", "i1", 1, {"ttl": TTL_S})):
        found = one(client, "a")
    assert (found.changed, found.held, found.holder, found.epoch) == (True, True, "head-1", 1)
    assert found.cluster == "trainer"
    judged = judge(found, Owners())
    assert judged.verdict is Verdict.LIVE
    assert "head-1 leads with epoch 1" in judged.reason


def test_a_slow_head_gets_its_whole_lease(client: redis.Redis, server: Server) -> None:
    """How long a lease holds is in its record; before that nobody may be called silent."""
    lease = lead(server, "a", ttl=2.0)
    with renewing(lease, lambda held: held.renew("head-1", "i1", 1, {"ttl": 2.0}), pause=1.8):
        assert one(client, "a").changed


def test_heads_that_only_stand_by_live_as_well(client: redis.Redis, server: Server) -> None:
    """Failover is paused, or nobody may lead: the lease stands still, and the namespace is in use."""
    lease = lead(server, "a", age=LONG_AGO_S)
    assert lease.release("head-1", "i1", 1)
    with renewing(lease, lambda held: held.observe(UID, "head-2", {"time": time.time()})):
        found = one(client, "a")
    assert (found.changed, found.held) == (True, False)
    assert judge(found, Owners()).verdict is Verdict.LIVE


@pytest.mark.parametrize("released", [True, False])
def test_a_lease_that_nobody_renews(client: redis.Redis, server: Server, released: bool) -> None:
    lease = lead(server, "a", age=LONG_AGO_S)
    fill(client, "a")
    if released:
        assert lease.release("head-1", "i1", 1)
    lease.close()
    found = one(client, "a")
    assert (found.changed, found.held, found.holder) == (False, not released, "head-1")
    assert found.silent_for is not None
    assert LONG_AGO_S <= found.silent_for < LONG_AGO_S + BOUND_S
    judged = judge(found, Owners())
    assert judged.verdict is Verdict.ORPHAN
    assert judged.reason == "not used for 24 h, and no cluster that is known owns it"


def test_a_cluster_of_plain_machines_may_be_switched_off(client: redis.Redis, server: Server) -> None:
    """No manifest anywhere says that it wants its data back."""
    lead(server, "a", age=LONG_AGO_S, cluster="trainer").close()
    fill(client, "a")
    judged = judge(one(client, "a"), Owners())
    assert judged.verdict is Verdict.UNCLEAR
    assert "trainer's, a cluster of plain machines" in judged.reason


def test_a_head_that_has_just_died_is_not_an_orphan_yet(client: redis.Redis, server: Server) -> None:
    lead(server, "a").close()
    fill(client, "a")
    judged = judge(one(client, "a"), Owners())
    assert judged.verdict is Verdict.RECENT
    assert not judged.verdict.removable


def test_a_gcs_without_rayward_shows_by_its_use_of_redis(client: redis.Redis) -> None:
    fill(client, "used")
    fill(client, "forgotten")
    client.hset("RAYused@KV", "field-1", "y")
    verdicts = {found.namespace: judge(found, Owners()).verdict for found in look(client)}
    assert verdicts == {"forgotten": Verdict.ORPHAN, "used": Verdict.RECENT}


def test_a_look_is_no_sign_of_life(client: redis.Redis, server: Server) -> None:
    lead(server, "a", age=LONG_AGO_S).close()
    fill(client, "a")
    first = one(client, "a")
    second = one(client, "a")
    assert second.silent_for is not None
    assert second.silent_for >= LONG_AGO_S
    assert (first.keys, first.size_bytes) == (second.keys, second.size_bytes)


def test_counts_keys_and_bytes_and_leaves_strangers_out(client: redis.Redis, server: Server) -> None:
    fill(client, "a")
    client.set("user:1", "x")
    client.hset(str(UID), "colour", "red")
    client.set("rayward:b:lease", "not a lease")
    found = {facts.namespace: facts for facts in look(client)}
    assert found.keys() == {"a", "b"}
    assert found["a"].keys == 3
    size = found["a"].size_bytes
    assert size is not None
    assert 3 * 20 * 100 < size < 100_000
    assert found["b"].silent_for is None


@pytest.mark.parametrize("namespace", [UID, "chosen"])
def test_the_hash_of_old_ray(client: redis.Redis, namespace: str) -> None:
    """Its name tells only for a uid; looking into it is a use, so its age cannot be told."""
    client.hset(namespace, mapping={schema.legacy_field(namespace, "KV", "k"): "v"})
    only = () if namespace == UID else (namespace,)
    (found,) = look(client, only)
    assert (found.namespace, found.keys, found.silent_for) == (namespace, 1, None)
    judged = judge(found, Owners())
    assert (judged.verdict, judged.verdict.removable) == (Verdict.UNCLEAR, True)
    assert namespace == UID or not look(client)


def test_a_redis_that_counts_uses_does_not_tell_when(client: redis.Redis) -> None:
    fill(client, "a")
    client.config_set("maxmemory-policy", "allkeys-lfu")
    try:
        found = one(client, "a")
    finally:
        client.config_set("maxmemory-policy", "noeviction")
    assert judge(found, Owners()).verdict is Verdict.UNCLEAR


def test_a_user_with_few_rights(client: redis.Redis, server: Server) -> None:
    """Without sizes the rest is told; who may not read leases may not judge."""
    fill(client, "a")
    create = ("ACL", "SETUSER", "eye", "reset", "on", ">hunter2-hunter2")
    try:
        client.execute_command(*create, "~*", "+@read", "+@connection", "-memory", "-object")
        eye = connect(server.address, "eye", "hunter2-hunter2")
        found = one(eye, "a")
        assert (found.size_bytes, found.silent_for) == (None, None)
        client.execute_command(*create, "~RAY*", "+@read", "+@connection")
        with pytest.raises(redis.exceptions.NoPermissionError):
            one(eye, "a")
        eye.close()
    finally:
        client.execute_command("ACL", "DELUSER", "eye")


# --- the verdict, where two reasons meet


QUIET = NamespaceFacts("a", keys=3, size_bytes=1, silent_for=2 * QUIET_FOR_S)


@pytest.mark.parametrize(
    ("facts", "owners", "verdict", "words"),
    [
        (QUIET, Owners(), Verdict.ORPHAN, "20 min"),
        (QUIET, Owners({"a": "RayCluster x"}), Verdict.LIVE, "belongs to RayCluster x"),
        (QUIET, Owners({"b": "RayCluster x"}), Verdict.ORPHAN, "no cluster"),
        (QUIET, Owners({}, ("K could not be asked",)), Verdict.UNCLEAR, "K could not be asked"),
        (replace(QUIET, changed=True), Owners({}, ("K",)), Verdict.LIVE, "written to now"),
        (replace(QUIET, silent_for=5.0), Owners({}, ("K",)), Verdict.RECENT, "5 s ago"),
        (replace(QUIET, silent_for=None), Owners(), Verdict.UNCLEAR, "nothing tells"),
    ],
)
def test_the_verdict(facts: NamespaceFacts, owners: Owners, verdict: Verdict, words: str) -> None:
    judged = judge(facts, owners)
    assert judged.verdict is verdict
    assert words in judged.reason


def test_lengths_of_time() -> None:
    assert [spoken(seconds) for seconds in (0, 119, 120, 7199, 7200, 200_000)] == [
        "0 s", "119 s", "2 min", "120 min", "2 h", "2 d",
    ]  # fmt: skip


# --- the command


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYWARD_HOME", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-such-file"))
    return tmp_path


def orphans(server: Server, *words: str) -> Result:
    return CliRunner().invoke(store, ["orphans", "--redis", server.address.hostport, *words])


def listed(server: Server, *words: str) -> dict[str, dict[str, Any]]:
    result = orphans(server, "--json", *words)
    assert result.exit_code == 0, result.output
    return {item["namespace"]: item for item in json.loads(result.stdout)["namespaces"]}


def refused(server: Server, *words: str) -> str:
    result = orphans(server, *words)
    assert isinstance(result.exception, RaywardError), result.output
    return str(result.exception)


def local_cluster(namespace: str) -> None:
    folder = state.ClusterFolder(state.home() / "clusters" / "mine")
    folder.create()
    template = {"spec": {"containers": [{"name": "ray", "image": "rayproject/ray:2.60.0"}]}}
    options = {"redisAddress": "redis:6379", "externalStorageNamespace": namespace}
    manifest = {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": "mine", "namespace": "default", "uid": UID},
        "spec": {"gcsFaultToleranceOptions": options, "headGroupSpec": {"template": template}},
    }
    with folder.locked():
        folder.put(manifest)


@pytest.mark.usefixtures("home")
def test_lists_and_removes_all_orphans(client: redis.Redis, server: Server) -> None:
    for namespace in ("a", "b", "mine"):
        fill(client, namespace)
    fill(client, "busy", idle=1)
    local_cluster("mine")
    found = listed(server, "--no-kubernetes")
    assert {name: item["verdict"] for name, item in found.items()} == {
        "a": "orphan",
        "b": "orphan",
        "busy": "recent",
        "mine": "live",
    }
    assert "RayCluster default/mine" in found["mine"]["reason"]
    assert orphans(server, "--no-kubernetes", "--clean-all").exit_code != 0, "nobody was there to be asked"
    assert client.exists("RAYa@KV")
    done = orphans(server, "--no-kubernetes", "--clean-all", "--yes")
    assert done.exit_code == 0, done.output
    assert sorted(listed(server, "--no-kubernetes")) == ["busy", "mine"]
    assert "none of them is an orphan" in orphans(server, "--no-kubernetes", "--clean-all", "--yes").stderr


@pytest.mark.usefixtures("home")
def test_without_kubernetes_nothing_is_certain(client: redis.Redis, server: Server) -> None:
    """A cluster that is suspended there looks like an orphan here, so only a person may decide."""
    fill(client, "a")
    item = listed(server)["a"]
    assert item["verdict"] == "unclear"
    assert "Kubernetes could not be asked" in item["reason"]
    assert orphans(server, "--clean-all", "--yes").exit_code == 0
    assert client.exists("RAYa@KV")
    assert orphans(server, "--clean", "a", "--yes").exit_code == 0
    assert not client.exists("RAYa@KV")


@pytest.mark.usefixtures("home")
def test_an_api_server_that_is_away_is_named(client: redis.Redis, server: Server, home: Path) -> None:
    fill(client, "a")
    kubeconfig = home / "kubeconfig"
    where = f"https://127.0.0.1:{free_port()}"
    config = {
        "clusters": [{"name": "c", "cluster": {"server": where, "insecure-skip-tls-verify": True}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "far", "context": {"cluster": "c", "user": "u"}}],
    }
    kubeconfig.write_text(json.dumps(config))
    item = listed(server, "--kubeconfig", str(kubeconfig), "--context", "far")["a"]
    assert item["verdict"] == "unclear"
    assert "context far could not be asked" in item["reason"]


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("words", [("--clean", "a"), ("--clean", "b", "--clean", "a")])
def test_a_living_namespace_is_refused_and_nothing_goes(
    client: redis.Redis, server: Server, words: tuple[str, ...]
) -> None:
    fill(client, "a")
    fill(client, "b")
    with renewing(lead(server, "a"), lambda lease: lease.renew("head-1", "i1", 1, {"ttl": TTL_S})):
        text = refused(server, "--no-kubernetes", "--yes", *words)
    assert "namespace a is live" in text
    assert "head-1 leads with epoch 1" in text
    assert client.exists("RAYa@KV", "RAYb@KV") == 2


@pytest.mark.usefixtures("home")
def test_one_that_comes_to_life_while_a_person_thinks(client: redis.Redis, server: Server) -> None:
    """On a real terminal; the answer to the question comes after a GCS has started there."""
    fill(client, "a")
    words = ["orphans", "--redis", server.address.hostport, "--no-kubernetes", "--clean", "a"]
    terminal, theirs = os.openpty()
    command = [sys.executable, "-m", "rayward", "store", *words]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        read_until(terminal, "[y/N]")
        client.hset("RAYa@NODE", "node", "alive")
        os.write(terminal, b"y\n")
        said = read_until(terminal, "is recent")
        assert process.wait(BOUND_S) == 1
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    assert "namespace a is recent" in said
    assert client.exists("RAYa@KV")


def read_until(terminal: int, words: str) -> str:
    said, give_up = "", time.monotonic() + BOUND_S
    while words not in said:
        assert time.monotonic() < give_up, said
        if select.select([terminal], [], [], 0.5)[0]:
            said += os.read(terminal, 4096).decode()
    return said


@pytest.mark.usefixtures("home", "client")
def test_an_unknown_namespace_and_an_empty_redis(server: Server) -> None:
    assert "no namespace of Ray" in orphans(server, "--no-kubernetes").stdout
    assert "there is no namespace zzz" in refused(server, "--no-kubernetes", "--clean", "zzz", "--yes")


@pytest.mark.usefixtures("home")
def test_a_person_reads_a_table(client: redis.Redis, server: Server) -> None:
    lead(server, "a", age=LONG_AGO_S).close()
    fill(client, "a")
    head, row = orphans(server, "--no-kubernetes").stdout.splitlines()
    assert head.split() == [
        "NAMESPACE",
        "VERDICT",
        "KEYS",
        "BYTES",
        "LED",
        "LAST",
        "BY",
        "SILENT",
        "FOR",
        "WHY",
    ]
    assert row.startswith("a")
    assert "orphan" in row
    assert "head-1" in row
    assert "24 h" in row

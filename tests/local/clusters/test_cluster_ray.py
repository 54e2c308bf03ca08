"""The guide's cluster on this machine, with real Ray and real Redis."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import EXAMPLES, CommandLine, eventually

pytestmark = [pytest.mark.ray, pytest.mark.namespaces]
NAME = "tguide"
MANIFEST = EXAMPLES / "ray-cluster.external-redis.yaml"
SAMPLES = "/home/ray/samples"
REDIS = ("env", "REDISCLI_AUTH=5241590000000000", "redis-cli")


@pytest.fixture(scope="module")
def guide(shared: CommandLine) -> Iterator[CommandLine]:
    """The guide's cluster, up, with its detached actor created and incremented once."""
    shared("up", "-f", str(MANIFEST), "--name", NAME, "--timeout", "150", timeout=180)
    shared("exec", shared.head(), "--", "python3", f"{SAMPLES}/detached_actor.py")
    assert increment(shared) == 1
    yield shared
    shared("down", NAME)


def worker(cli: CommandLine) -> str:
    """The worker Pod's name."""
    return cli.pods("ray.io/node-type=worker")[0]


def redis_pod(cli: CommandLine) -> str:
    """The Redis Pod's name."""
    return cli.pods("app=redis")[0]


def environment(cli: CommandLine, pod: str) -> dict[str, Any]:
    """The environment in a Pod's manifest, by name."""
    return {entry["name"]: entry for entry in cli.get("pod", pod)["spec"]["containers"][0]["env"]}


def increment(cli: CommandLine) -> int:
    """What the guide's increment script prints."""
    return int(cli.out("exec", cli.head(), "--", "python3", f"{SAMPLES}/increment_counter.py"))


def restarts(cli: CommandLine) -> dict[str, int]:
    """Restarts of every container, by Pod."""
    items = json.loads(cli.out("get", "pods", "-o", "json"))["items"]
    return {
        item["metadata"]["name"]: item["status"]["containerStatuses"][0]["restartCount"] for item in items
    }


def test_the_environment_is_the_guides(guide: CommandLine) -> None:
    uid = guide.get("raycluster", NAME)["metadata"]["uid"]
    on_head, on_worker = environment(guide, guide.head()), environment(guide, worker(guide))
    assert on_head["RAY_external_storage_namespace"]["value"] == uid
    assert on_head["RAY_REDIS_ADDRESS"]["value"] == "redis:6379"
    assert on_head["REDIS_PASSWORD"]["valueFrom"]["secretKeyRef"]["name"] == "redis-password-secret"
    assert "RAY_gcs_rpc_server_reconnect_timeout_s" not in on_head
    assert on_worker["RAY_gcs_rpc_server_reconnect_timeout_s"]["value"] == "600"
    assert "REDIS_PASSWORD" not in on_worker


def test_redis_holds_the_guides_keys_and_store_reads_them(guide: CommandLine) -> None:
    uid = guide.get("raycluster", NAME)["metadata"]["uid"]
    keys = guide.out("exec", redis_pod(guide), "--", *REDIS, "KEYS", "*").split()
    tables = {"ACTOR", "JOB", "ACTOR_TASK_SPEC", "WORKERS", "JobCounter", "KV", "NODE"}
    assert {f"RAY{uid}@{table}" for table in tables} <= set(keys)
    listed = json.loads(guide.out("store", "keys", "--json"))
    assert {row["key"] for row in listed} == set(keys)
    actors = [json.loads(line) for line in guide.out("store", "show", "actor").splitlines()]
    assert [entry["value"]["name"] for entry in actors] == ["counter_actor"]
    refused = guide("store", "cleanup", uid, "--yes", code=1)
    assert NAME in refused.stderr
    assert len(json.loads(guide.out("store", "keys", "--json"))) == len(listed)


def test_a_killed_gcs_is_back_in_place(guide: CommandLine) -> None:
    before, value = restarts(guide), increment(guide)
    old = guide.pid_of(guide.head(), "gcs_server")
    os.kill(old, signal.SIGKILL)
    assert increment(guide) == value + 1
    assert restarts(guide) == before
    assert guide.pid_of(guide.head(), "gcs_server") != old
    status = json.loads(guide.out("status", "--json"))[0]
    assert {node["phase"] for node in status["nodes"]} == {"running"}
    described = guide.out("describe", "pod", guide.head())
    assert "gcs_server (pid" in described
    assert "killed by SIGKILL" in described
    assert "GcsRecovered" in described


def test_a_deleted_head_pod_is_replaced_while_it_ends_and_the_worker_stays(guide: CommandLine) -> None:
    old, value = guide.head(), increment(guide)
    kept = worker(guide)
    guide("delete", "pod", old)
    eventually(lambda: (heads := guide.pods("ray.io/node-type=head")) and heads[0] != old, timeout=30)
    eventually(lambda: json.loads(guide.out("status", "--json"))[0]["state"] == "ready", timeout=60)
    assert increment(guide) == value + 1
    assert worker(guide) == kept
    assert restarts(guide)[kept] == 0


def test_a_killed_worker_raylet_restarts_the_node_and_not_the_pod(guide: CommandLine) -> None:
    pod = worker(guide)
    os.kill(guide.pid_of(pod, "raylet"), signal.SIGKILL)
    eventually(lambda: "raylet is gone (killed by SIGKILL)" in guide.out("describe", "pod", pod), timeout=20)

    def two_alive() -> bool:
        nodes = [json.loads(line)["value"] for line in guide.out("store", "show", "NODE").splitlines()]
        return sum(node.get("state") == "ALIVE" for node in nodes) == 2

    eventually(two_alive, timeout=40)
    assert restarts(guide)[pod] == 0


def test_deleting_the_cluster_empties_redis(guide: CommandLine) -> None:
    guide("delete", "raycluster", NAME)
    assert guide.pods() == [redis_pod(guide)]
    assert guide.out("exec", redis_pod(guide), "--", *REDIS, "DBSIZE") == "0"
    assert guide("get", "rayclusters").stderr.strip() == "No resources found."


def _edited(cli: CommandLine, old: str, new: str) -> str:
    text = MANIFEST.read_text()
    assert text.count(old) >= 1
    path = cli.home / "edited.yaml"
    head_part, mark, tail = text.rpartition(old)
    path.write_text(head_part + new + tail if mark else text)
    return str(path)


def test_a_wrong_redis_password_is_said_without_the_password(rayward: CommandLine) -> None:
    manifest = _edited(rayward, '"5241590000000000"', '"wrong-password-here"')
    failed = rayward("up", "-f", manifest, "--name", "tpw", "--timeout", "60", code=1)
    assert "Redis at redis:6379: it refused the user name or password" in failed.stderr
    logs = "".join(path.read_text() for path in Path(rayward.home).glob("clusters/tpw/pods/*head*/logs/*"))
    assert "wrong-password-here" not in failed.stderr + failed.stdout
    assert "it refused the user name or password" in logs
    assert "wrong-password-here" not in logs
    rayward("down", "tpw")


def test_an_unreachable_redis_is_named_while_up_waits(rayward: CommandLine) -> None:
    text = MANIFEST.read_text().replace("redisAddress: redis:6379", "redisAddress: 127.0.0.1:1")
    text = text.replace('redisAddress: "redis:6379"', 'redisAddress: "127.0.0.1:1"')
    path = rayward.home / "unreachable.yaml"
    path.write_text(text)
    failed = rayward("up", "-f", str(path), "--name", "tnored", "--timeout", "6", code=1)
    assert "not ready within 6 s" in failed.stderr
    assert "Redis at 127.0.0.1:1" in failed.stderr
    assert "refused" in failed.stderr
    rayward("down", "tnored", "--force")

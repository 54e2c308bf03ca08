"""Which clusters keep their keys in the same place, however they write it down."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from rayward.plan.store_key import is_inside_the_pod, sharers, store_key

Raw = dict[str, Any]


def cluster(
    raw: Raw, name: str, address: str | None = "redis:6379", namespace: str = "default", **spec: Any
) -> Raw:
    made = copy.deepcopy(raw)
    made["metadata"].update(name=name, uid=f"uid-{name}", namespace=namespace)
    options: Raw = {"externalStorageNamespace": "shared"}
    if address is not None:
        options["redisAddress"] = address
    made["spec"].update(gcsFaultToleranceOptions=options, **spec)
    return made


def env(raw: Raw, **variables: Any) -> Raw:
    container = raw["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    container["env"] = [
        {"name": name, **({"value": value} if isinstance(value, str) else value)}
        for name, value in variables.items()
    ]
    return raw


def legacy(raw: Raw, name: str, address: Any = "redis:6379") -> Raw:
    made = cluster(raw, name)
    del made["spec"]["gcsFaultToleranceOptions"]
    made["metadata"]["annotations"] = {
        "ray.io/ft-enabled": "True",
        "ray.io/external-storage-namespace": "shared",
    }
    return env(made, RAY_REDIS_ADDRESS=address)


def test_the_key_is_the_namespace_that_ray_uses(raw: Raw) -> None:
    assert store_key(raw) == "66a4e2af"
    assert store_key(cluster(raw, "a")) == "shared"
    assert store_key(legacy(raw, "a")) == "shared"
    assert store_key(env(cluster(raw, "a"), RAY_external_storage_namespace="mine")) == "mine"
    raw["spec"]["gcsFaultToleranceOptions"] = {"backend": "rocksdb"}
    assert store_key(raw) is None
    del raw["spec"]["gcsFaultToleranceOptions"]
    assert store_key(raw) is None


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"metadata": None, "spec": None},
        {"metadata": [], "spec": "x"},
        {"metadata": {"annotations": 1}, "spec": {"gcsFaultToleranceOptions": 5, "headGroupSpec": []}},
        {
            "spec": {
                "gcsFaultToleranceOptions": {},
                "headGroupSpec": {"template": {"spec": {"containers": [1]}}},
            }
        },
        {"spec": {"gcsFaultToleranceOptions": {"redisAddress": 6379}}},
    ],
)
def test_no_object_is_too_broken_to_be_asked(raw: Raw, broken: Raw) -> None:
    assert store_key(broken) is None
    assert sharers(broken, [raw]) == ()
    assert sharers(raw, [broken]) == ()


SAME = [
    ("redis:6379", "redis"),
    ("redis:6379", "redis://redis:6379"),
    ("redis:6379", "REDISS://user:secret@Redis:6379/0"),
    ("redis:6379", "redis.default"),
    ("redis:6379", "redis.default.svc:6379"),
    ("redis:6379", "redis.default.svc.cluster.local"),
    ("redis:6379", "redis.default.svc.example.org."),
    ("redis:6379", "redis:6379,redis-2:6379"),
    ("redis:6379", "10.0.0.1:6379"),
    ("redis:6379", "[fd00::1]:6379"),
    ("redis:6379", "$REDIS"),
    ("redis:6379", ""),
    ("redis:6379", None),
    ("10.0.0.1:6379", "10.0.0.1"),
]
DIFFERENT = [
    ("redis:6379", "redis:6380"),
    ("redis:6379", "redis-2:6379"),
    ("redis:6379", "redis.other"),
    ("10.0.0.1:6379", "10.0.0.2:6379"),
    ("127.0.0.1:6379", "127.0.0.1:6379"),
    ("localhost:6379", "redis:6379"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_place(raw: Raw, one: str, other: str | None) -> None:
    a, b = cluster(raw, "a", one), cluster(raw, "b", other)
    assert sharers(a, [a, b]) == ("default/b",)
    assert sharers(b, [a, b]) == ("default/a",)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_another_place(raw: Raw, one: str, other: str) -> None:
    assert sharers(cluster(raw, "a", one), [cluster(raw, "b", other)]) == ()


def test_a_short_name_means_the_redis_of_ones_own_namespace(raw: Raw) -> None:
    a, b = cluster(raw, "a"), cluster(raw, "b", namespace="other")
    assert sharers(a, [b]) == ()
    assert sharers(a, [cluster(raw, "b", "redis.default", namespace="other")]) == ("other/b",)


def test_the_old_way_to_ask_shares_with_the_new_one(raw: Raw) -> None:
    assert sharers(cluster(raw, "a"), [legacy(raw, "b")]) == ("default/b",)
    assert sharers(cluster(raw, "a"), [legacy(raw, "b", "redis-2:6379")]) == ()
    assert sharers(cluster(raw, "a"), [legacy(raw, "b", {"valueFrom": {}})]) == ("default/b",)


def test_one_on_its_way_out_is_no_living_owner(raw: Raw) -> None:
    a, b, c = (cluster(raw, name) for name in "abc")
    b["metadata"]["deletionTimestamp"] = "2023-11-14T22:00:00Z"
    assert sharers(a, [a, b, c]) == ("default/c",)


def test_a_suspended_or_broken_one_is(raw: Raw) -> None:
    suspended, broken = cluster(raw, "b", suspend=True), cluster(raw, "c", workerGroupSpecs="none")
    assert sharers(cluster(raw, "a"), [suspended, broken]) == ("default/b", "default/c")


def test_a_redis_beside_the_head() -> None:
    assert is_inside_the_pod("127.0.0.1:6380")
    assert is_inside_the_pod("redis://localhost")
    assert is_inside_the_pod("[::1]:6379")
    assert not is_inside_the_pod("redis:6379")
    assert not is_inside_the_pod("")

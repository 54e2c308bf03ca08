"""The packed cache: what comes out is what went in, indices follow, and readers cannot spoil it."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from rayward.kube.cache import Cache, Change

Raw = dict[str, Any]


def pod(name: str, version: int, *, uid: str = "", cluster: str = "c", **more: Any) -> Raw:
    metadata = {
        "name": name,
        "namespace": "n",
        "uid": uid or f"uid-{name}",
        "resourceVersion": str(version),
        "labels": {"cluster": cluster},
    }
    return {"metadata": {**metadata, **more}, "spec": {"managed": "elsewhere"}, "packed": b"\x00\xff"}


def without_version(raw: Raw) -> Raw:
    metadata = {key: value for key, value in raw["metadata"].items() if key != "resourceVersion"}
    return {"metadata": metadata, "packed": raw["packed"]}


@pytest.fixture
def cache() -> Cache:
    return Cache(without_version, {"cluster": lambda view: [view["metadata"]["labels"]["cluster"]]})


def test_it_keeps_what_the_view_leaves_and_hands_out_copies(cache: Cache) -> None:
    cache.put(pod("a", 1))
    found = cache.get("n", "a")
    assert found == without_version(pod("a", 1))
    assert found is not None
    found["metadata"].clear()
    assert cache.get("n", "a") == without_version(pod("a", 1))
    assert cache.get("m", "a") is None
    assert len(cache) == 1
    assert ("n", "a") in cache


def test_a_change_is_told_with_before_and_after(cache: Cache) -> None:
    first, second = pod("a", 1), pod("a", 2, cluster="d")
    assert cache.put(first) == [Change(None, without_version(first))]
    assert cache.put(second) == [Change(without_version(first), without_version(second))]
    assert cache.remove(("n", "a")) == [Change(without_version(second), None)]
    assert cache.remove(("n", "a")) == []


def test_what_was_known_or_is_not_kept_is_no_change(cache: Cache) -> None:
    cache.put(pod("a", 1))
    assert cache.put(pod("a", 1)) == []
    assert cache.put({**pod("a", 2), "spec": {"managed": "anew"}}) == []


def test_another_object_by_the_same_name_is_a_deletion_and_a_creation(cache: Cache) -> None:
    cache.put(pod("a", 1, uid="one"))
    gone, new = cache.put(pod("a", 5, uid="two"))
    assert (gone.new, new.old) == (None, None)
    assert gone.old is not None
    assert gone.old["metadata"]["uid"] == "one"
    assert not cache.stays("one")
    assert cache.stays("two")


def test_the_last_words_of_a_deletion_are_told(cache: Cache) -> None:
    cache.put(pod("a", 1))
    last = pod("a", 9, deletionTimestamp="2026-01-01T00:00:00Z")
    assert cache.remove(("n", "a"), last) == [Change(without_version(last), None)]


def test_indices_follow_changes_and_leave_nothing_behind(cache: Cache) -> None:
    for name in "ab":
        cache.put(pod(name, 1))
    cache.put(pod("b", 2, cluster="d"))
    assert [found["metadata"]["name"] for found in cache.select("cluster", "c")] == ["a"]
    assert [found["metadata"]["name"] for found in cache.select("cluster", "d")] == ["b"]
    assert cache.select("cluster", "x") == []
    with pytest.raises(KeyError):
        cache.select("colour", "red")
    cache.remove(("n", "a"))
    cache.remove(("n", "b"))
    assert cache._buckets == {"cluster": {}}
    assert cache._uids == {}


def test_marked_for_deletion_is_not_staying(cache: Cache) -> None:
    cache.put(pod("a", 1))
    assert cache.stays("uid-a")
    cache.put(pod("a", 2, deletionTimestamp="2026-01-01T00:00:00Z"))
    assert not cache.stays("uid-a")
    assert not cache.stays("unknown")


def test_an_object_that_the_view_cannot_read_changes_nothing(cache: Cache) -> None:
    cache.put(pod("a", 1))
    broken = {"metadata": {"name": "a", "namespace": "n", "uid": "uid-a", "resourceVersion": "2"}}
    with pytest.raises(KeyError):
        cache.put(broken)
    assert cache.get("n", "a") == without_version(pod("a", 1))
    assert [found["metadata"]["name"] for found in cache.select("cluster", "c")] == ["a"]


def test_a_pod_of_a_kilobyte_takes_less_than_three() -> None:
    def sample(number: int) -> Raw:
        conditions = [{"type": f"T{item}", "status": "True", "reason": "x" * 20} for item in range(4)]
        containers = [{"name": "ray", "ready": True, "state": {"running": {"startedAt": "2026-01-01"}}}]
        status = {"phase": "Running", "conditions": conditions, "containerStatuses": containers}
        return {**pod(f"pod-{number}", number + 1, cluster=f"c{number // 4}"), "status": status}

    cache = Cache(None, {"cluster": lambda view: [view["metadata"]["labels"]["cluster"]]})
    cache.put(sample(0))
    tracemalloc.start()
    for number in range(1, 2001):
        cache.put(sample(number))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken / 2000 < 3000

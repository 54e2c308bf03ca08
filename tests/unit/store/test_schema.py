from __future__ import annotations

import fnmatch
import itertools

import pytest

from rayward.errors import RaywardError
from rayward.store import schema
from rayward.store.cleanup import plan_cleanup

UID = "864b004c-6305-42e3-ac46-adfa8eb6f752"


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("2.60.0", schema.Schema.HASH_PER_TABLE),
        ("2.38.0", schema.Schema.HASH_PER_TABLE),
        ("3.0.0.dev0", schema.Schema.HASH_PER_TABLE),
        ("nightly", schema.Schema.HASH_PER_TABLE),
        ("", schema.Schema.HASH_PER_TABLE),
        ("2.37.0", schema.Schema.ONE_HASH),
        ("2.9.3", schema.Schema.ONE_HASH),
        ("v1.13", schema.Schema.ONE_HASH),
    ],
)
def test_schema_by_version(version: str, expected: schema.Schema) -> None:
    assert schema.schema_for(version) is expected


def test_keys_are_those_of_the_kuberay_guide() -> None:
    assert schema.table_key(UID, "NODE") == f"RAY{UID}@NODE"
    assert schema.table_key(UID, schema.JOB_COUNTER) == f"RAY{UID}@JobCounter"
    assert schema.own_key(UID, "lease") == f"rayward:{UID}:lease"


@pytest.mark.parametrize(
    "key", ["RAY@KV", "RAYx@", "RAYx", "RAYa@b@KV", "ray-x@KV", "xRAYa@KV", "", "rayward:a:lease"]
)
def test_other_keys_are_not_ray_tables(key: str) -> None:
    assert schema.parse_key(key) is None


@pytest.mark.parametrize("key", ["rayward:", "rayward::lease", "rayward:a:", "rayward:a", "other:a:lease"])
def test_other_keys_are_not_own_keys(key: str) -> None:
    assert schema.parse_own_key(key) is None


def test_namespaces_of_groups_tables() -> None:
    keys = ["RAYb@KV", "RAYa@NODE", "RAYa@KV", "RAYa:x@JobCounter", "noise", "rayward:c:lease"]
    assert schema.namespaces_of(keys) == {"a": ("KV", "NODE"), "a:x": ("JobCounter",), "b": ("KV",)}


@pytest.mark.parametrize("namespace", ["", "a@b"])
def test_a_namespace_that_ray_refuses_is_refused(namespace: str) -> None:
    with pytest.raises(RaywardError, match="namespace"):
        schema.table_key(namespace, "KV")


def test_an_own_key_is_one_word() -> None:
    with pytest.raises(ValueError, match="without"):
        schema.own_key("a", "lease:old")


def test_old_fields_split_back() -> None:
    field = schema.legacy_field("ns", "KV", "@namespace_a:b")
    assert schema.split_legacy_field(field, "ns") == ("KV", "@namespace_a:b")
    assert schema.split_legacy_field("ns@:JobCounter", "ns") == ("", "JobCounter")
    assert schema.split_legacy_field("nsx@KV:a", "ns") is None
    assert schema.split_legacy_field("ns@KV", "ns") is None


@pytest.mark.parametrize("namespace", ["a*b", "a?b", "[ab]", "a\\b", "a-b", "a^b"])
def test_patterns_match_glob_characters_only_as_themselves(namespace: str) -> None:
    tables, own = schema.match_patterns(namespace)
    unescaped = tables.replace("\\\\", "\0").replace("\\", "").replace("\0", "\\")
    assert unescaped == f"RAY{namespace}@*"
    for character in "*?[]":
        assert tables[:-1].count(character) == tables[:-1].count("\\" + character)
    assert own.endswith(":*")


# Names chosen to be prefixes, patterns and look-alikes of one another.
_NAMESPACES = ["a", "aa", "a:b", "a*", "[a]", "?", "RAYa", "rayward", "a b", "ä", "a\\"]


@pytest.mark.parametrize("namespace", _NAMESPACES)
def test_plan_takes_exactly_one_namespace(namespace: str) -> None:
    keys = {
        name: {f"RAY{name}@{table}" for table in (*schema.TABLES, "NEW_TABLE", "JobCounter")}
        | {f"rayward:{name}:lease", f"rayward:{name}:incarnation"}
        for name in _NAMESPACES
    }
    noise = ["RAY", "rayward", "RAYa", "user:1", "RAYa@b@KV", "rayward:a", f"RAY{namespace}", "*"]
    everything = [*itertools.chain.from_iterable(keys.values()), *(set(noise) - {namespace})]
    assert set(plan_cleanup(everything, namespace)) == keys[namespace]


def test_plan_is_sorted_and_free_of_doubles() -> None:
    assert plan_cleanup(["RAYa@NODE", "RAYa@KV", "RAYa@NODE"], "a") == ("RAYa@KV", "RAYa@NODE")


def test_plan_takes_the_old_hash() -> None:
    assert plan_cleanup(["a", "b", "ab"], "a") == ("a",)


def test_plan_is_no_glob() -> None:
    assert fnmatch.fnmatchcase("RAYab@KV", "RAYa*@KV")
    assert plan_cleanup(["RAYab@KV"], "a*") == ()

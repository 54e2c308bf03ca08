"""Reading what rests in Redis, in both layouts, beside foreign keys."""

from __future__ import annotations

import redis

from rayward.store import schema
from rayward.store.decode import show_table
from rayward.store.redis_source import RedisSource
from rayward.store.source import list_keys


def test_lists_tables_and_own_keys_and_nothing_else(client: redis.Redis) -> None:
    client.hset("RAYa@KV", mapping={"k1": "v", "k2": "v"})
    client.incrby("RAYa@JobCounter", 7)
    client.hset("RAYb@KV", "k", "v")
    client.set("rayward:a:lease", '{"epoch": 3}')
    client.set("user:1", "x")
    client.hset("RAYa@b@KV", "k", "v")
    rows = list_keys(RedisSource(client))
    assert [(row.key, row.namespace, row.table, row.entries) for row in rows] == [
        ("RAYa@JobCounter", "a", "JobCounter", 1),
        ("RAYa@KV", "a", "KV", 2),
        ("rayward:a:lease", "a", "rayward:lease", 1),
        ("RAYb@KV", "b", "KV", 1),
    ]
    assert all(row.size_bytes for row in rows)


def test_shows_own_keys_and_the_counter(client: redis.Redis) -> None:
    client.incrby("RAYa@JobCounter", 7)
    client.set("rayward:a:lease", '{"epoch": 3}')
    source = RedisSource(client)
    assert list(show_table(source, "a", "JobCounter")) == [{"key": "JobCounter", "value": 7}]
    assert [entry["value"] for entry in show_table(source, "a", "rayward:lease")] == ['{"epoch": 3}']
    assert list(show_table(source, "a", "NODE")) == []


def test_shows_each_entry_of_a_large_table_once(client: redis.Redis) -> None:
    client.hset("RAYa@KV", mapping={f"@namespace_n:{number}": "v" for number in range(3000)})
    keys = [entry["key"] for entry in show_table(RedisSource(client), "a", "KV")]
    assert sorted(keys, key=int) == [str(number) for number in range(3000)]


def test_shows_each_entry_once_while_the_table_shrinks(client: redis.Redis) -> None:
    """Redis resizes the hash under the scan and then returns some fields a second time."""
    client.hset("RAYa@KV", mapping={str(number): "v" for number in range(20_000)})
    order = [field for field, _ in client.hscan_iter("RAYa@KV", count=500)]
    shown = show_table(RedisSource(client), "a", "KV")
    keys = [next(shown)["key"] for _ in range(9_000)]
    # What is left lies round the place that the scan has reached: there a smaller table repeats itself.
    client.hdel("RAYa@KV", *order[:8_000], *order[9_600:])
    keys += [entry["key"] for entry in shown]
    assert len(keys) == len(set(keys))


def test_reads_the_layout_before_2_38(client: redis.Redis) -> None:
    fields = {
        schema.legacy_field("old", "KV", "@namespace_n:k"): b"v",
        schema.legacy_field("old", "NODE", "\udcff"): b"",
        "old@:JobCounter": b"4",
    }
    client.hset(
        "old", mapping={key.encode("utf-8", "surrogateescape"): value for key, value in fields.items()}
    )
    source = RedisSource(client, legacy_namespaces=("old", "absent"))
    assert [(row.key, row.table, row.entries) for row in list_keys(source)] == [
        ("old", "JobCounter", 1),
        ("old", "KV", 1),
        ("old", "NODE", 1),
    ]
    assert list(show_table(source, "old", "KV")) == [{"namespace": "n", "key": "k", "value": "v"}]
    assert list(show_table(source, "old", "JobCounter")) == [{"key": "JobCounter", "value": 4}]
    assert [key for key, _ in source.entries("old", "NODE")] == [b"\xff"]
    assert list_keys(RedisSource(client)) == ()

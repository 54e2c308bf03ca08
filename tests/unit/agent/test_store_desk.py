"""The desk between elector and store, on a real Redis: each answer is a look, a fault is one as well."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from agent_node import until
from redis_server import Server, running

from rayward.agent.config import HeadSettings
from rayward.agent.lead import StoreStanding
from rayward.agent.store_desk import Look, StoreDesk
from rayward.agent.timing import LeaseTiming
from rayward.store import schema
from rayward.store.ownership import Remembered
from rayward.store.upstream import StoreAwayError, StoreSettings

TIMING = LeaseTiming(ttl=1.0, forget_after=0.4, newcomer_factor=2.0)
BLUE = HeadSettings(member="a", cluster="blue", cluster_uid="uid-blue")
LEASE = schema.own_key("ns", "lease")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(shared: Server) -> Server:
    with contextlib.closing(shared.client()) as client:
        client.flushall()
    return shared


class Desk:
    """One head's desk with what its elector would keep: the last look and the memory."""

    def __init__(self, server: Server, settings: HeadSettings = BLUE, instance: str = "") -> None:
        self.desk = StoreDesk(StoreSettings(server.address, "ns"), settings, TIMING)
        self.instance = instance or f"instance-{settings.member}"
        self.settings, self.seen, self.memory, self.turn = settings, Look(), Remembered(), 0

    def entry(self) -> dict[str, Any]:
        self.turn += 1
        return {
            "address": f"{self.settings.member}:8008", "gcs": f"{self.settings.member}:6379",
            "instance": self.instance, "role": "standby", "state": "standing by", "time": self.turn,
        }  # fmt: skip

    def look(self) -> Look:
        self.seen = self.desk.look(self.entry(), self.seen, self.memory)
        if self.seen.standing is StoreStanding.GOOD:
            epoch = self.seen.record.epoch if self.seen.record else 0
            self.memory = Remembered(self.seen.incarnation, max(epoch, self.memory.epoch))
        return self.seen

    def take(self, heads: tuple[str, ...] = (), heed_pause: bool = False) -> Any:
        took = self.desk.acquire(self.entry(), self.seen, heads, self.memory.epoch, "a test", heed_pause)
        if took.epoch:
            self.memory = Remembered(took.incarnation, took.epoch)
        return took

    def renew(self, epoch: int, heads: tuple[str, ...] = ()) -> tuple[Look, str, bool]:
        found = self.desk.renew(self.entry(), epoch, heads, self.seen)
        self.seen = found[0]
        return found


@pytest.fixture
def a(server: Server) -> Desk:
    return Desk(server)


@pytest.fixture
def b(server: Server) -> Desk:
    return Desk(server, replace(BLUE, member="b"))


@pytest.fixture
def client(server: Server) -> Iterator[redis.Redis]:
    found = server.client()
    yield found
    found.close()


def test_a_new_namespace_is_marked_with_the_first_acquisition(a: Desk, b: Desk, client: redis.Redis) -> None:
    first = a.look()
    assert (first.standing, first.fault, first.record, first.incarnation) == (
        StoreStanding.GOOD,
        "",
        None,
        "",
    )
    assert not client.exists(schema.own_key("ns", "incarnation")), "looking marks nothing"
    took = a.take(("b",))
    assert (took.epoch, took.why, took.unknown) == (1, "", False)
    assert took.incarnation == client.hget(schema.own_key("ns", "incarnation"), "id").decode()
    record = b.look().record
    assert record is not None
    assert (record.holder, record.epoch, record.released, record.heads) == ("a", 1, False, ("b",))
    assert (record.address, record.gcs, record.instance) == ("a:8008", "a:6379", "instance-a")
    assert b.seen.incarnation == took.incarnation


def test_of_two_that_saw_the_same_one_takes_it(a: Desk, b: Desk) -> None:
    a.look()
    b.look()
    assert a.take().epoch == 1
    refused = b.take()
    assert (refused.epoch, refused.unknown) == (0, False)
    assert refused.why == "the lease has changed: epoch 1 is held by a, renewal 1"


def test_a_renewal_says_who_there_is_and_what_was_lost(a: Desk, b: Desk, client: redis.Redis) -> None:
    a.look()
    a.take()
    b.look()
    look, lost_to, reset = a.renew(1, ("b",))
    assert (look.standing, look.fault, lost_to, reset) == (StoreStanding.GOOD, "", "", False)
    assert [(row["member"], row["seen_ago_s"]) for row in look.members] == [("a", 0.0), ("b", 0.0)]
    assert look.record is not None
    assert look.record.heads == ("b",)
    client.hset(LEASE, "seq", 1)  # as after a failover to a replica that was behind
    a.renew(1)
    assert "forgot its newest writes (1 renewals" in a.seen.fault
    assert a.renew(1)[0].fault == ""
    b.look()
    b.take()
    assert a.renew(1)[1:] == ("b holds epoch 2", False)
    client.flushall()
    look, lost_to, reset = b.renew(2)
    assert (look.standing, lost_to, reset) == (StoreStanding.EMPTY, "", True)
    assert look.fault == "the store of namespace 'ns' came back without the lease: it lost its data"


def test_release_says_whether_it_was_ours(a: Desk, b: Desk) -> None:
    a.look()
    a.take()
    assert a.desk.release("b", "instance-b", 1, "") == (False, "it was not this head's any more")
    assert a.desk.release("a", "instance-a", 1, "b") == (True, "")
    record = b.look().record
    assert record is not None
    assert (record.released, record.successor) == (True, "b")
    assert a.desk.release("a", "instance-a", 1, "") == (False, "it was not this head's any more")


def test_a_pause_since_the_look_stops_an_acquisition(a: Desk, b: Desk) -> None:
    a.look()
    a.take()
    b.look()
    a.desk.set_paused(True, "a")
    refused = b.take(heed_pause=True)
    assert refused.epoch == 0
    assert "paused" in refused.why
    assert b.look().paused
    a.desk.set_paused(False, "a")
    assert not b.look().paused
    assert b.take(heed_pause=True).epoch == 2


def test_an_emptied_and_an_older_store_are_known_by_what_is_remembered(a: Desk, client: redis.Redis) -> None:
    a.look()
    a.take()
    saved = client.dump(LEASE)
    a.renew(1)
    a.look()
    assert a.memory.epoch == 1
    client.hset(LEASE, "epoch", 5)
    a.look()
    client.restore(LEASE, 0, saved, replace=True)
    assert a.look().standing is StoreStanding.OLDER
    assert (
        a.seen.fault == "the store of namespace 'ns' went back in time: its epoch is 1, and 5 has been seen"
    )
    client.flushall()
    assert a.look().standing is StoreStanding.EMPTY
    assert a.seen.todo.endswith("rayward store adopt")
    marker, epoch = a.desk.adopt(a.memory.epoch)
    a.memory = Remembered(marker, epoch)
    assert epoch > 5
    assert a.look().standing is StoreStanding.GOOD
    assert a.take().epoch > epoch


def test_data_of_a_cluster_that_ran_without_rayward_is_taken_over(a: Desk, client: redis.Redis) -> None:
    client.hset(schema.table_key("ns", "KV"), "k", "v")
    look = a.look()
    assert (look.standing, look.has_data) == (StoreStanding.GOOD, True)
    assert a.take().epoch == 1
    assert a.look().standing is StoreStanding.GOOD


GREEN = HeadSettings(member="g", cluster="green", cluster_uid="uid-green")


def test_another_clusters_namespace_is_watched_before_it_is_judged(a: Desk, server: Server) -> None:
    green = Desk(server, GREEN)
    green.look()
    green.take()
    first = a.look()
    assert first.standing is StoreStanding.UNASKED
    assert first.fault.endswith("its head g leads; watching whether it does")
    green.renew(1)
    assert a.look().standing is StoreStanding.FOREIGN
    assert a.seen.fault == (
        "namespace 'ns' belongs to cluster 'green' (uid uid-green), which runs: its head g leads"
    )
    assert "namespace of its own" in a.seen.todo
    assert "a" not in {row["member"] for row in green.renew(1)[0].members}, "nothing is written there"


def test_a_namespace_that_was_left_behind_is_taken_over_once_it_is_quiet(a: Desk, server: Server) -> None:
    green = Desk(server, GREEN)
    green.look()
    green.take()
    until(lambda: a.look().standing is StoreStanding.GOOD, 30, "green is quiet")
    assert a.take().why == "the store was another cluster's and has just been taken over"
    assert a.look().standing is StoreStanding.GOOD, "not an older store: it is ours now"
    assert a.take().epoch == 2
    assert green.renew(1)[1] == "a holds epoch 2"


def test_of_two_clusters_that_start_at_once_one_gets_the_namespace(a: Desk, server: Server) -> None:
    green = Desk(server, GREEN)
    a.look()
    green.look()
    assert green.take().epoch == 1
    refused = a.take()
    assert (refused.epoch, refused.why) == (0, "the store has just become cluster 'green''s")


def test_another_agent_with_this_name_shows_once_both_write(a: Desk, server: Server) -> None:
    earlier = Desk(server, instance="earlier")
    earlier.look()
    assert a.look().namesake == "", "most likely its own earlier life"
    assert a.look().namesake == ""
    earlier.look()
    assert a.look().namesake == "a:8008"
    until(lambda: a.look().namesake == "", 30, "it has gone")


def test_members_that_are_gone_for_long_are_no_longer_told(a: Desk, b: Desk) -> None:
    b.look()
    b.desk.forget_member("nobody")
    assert [row["member"] for row in a.look().members] == ["a", "b"]
    until(lambda: [row["member"] for row in a.look().members] == ["a"], 30, "b is forgotten")
    b.look()
    assert [row["member"] for row in a.look().members] == ["a", "b"]
    b.desk.forget_member("b")
    assert [row["member"] for row in a.look().members] == ["a"]


def test_a_store_that_goes_away_keeps_what_was_seen(tmp_path: Path) -> None:
    with running(tmp_path / "redis") as server:
        a, b = Desk(server), Desk(server, replace(BLUE, member="b"))
        a.look()
        a.take()
        before = b.look()
        server.stop()
        after = b.look()
        assert after == replace(
            before, standing=StoreStanding.AWAY, fault=after.fault, todo=after.todo, transient=True
        )
        assert f"127.0.0.1:{server.port}" in after.fault
        took = b.take()
        assert (took.epoch, took.unknown) == (0, True)
        look, lost_to, reset = a.renew(1)
        assert (look.standing, lost_to, reset) == (StoreStanding.AWAY, "", False)
        released, why = a.desk.release("a", "instance-a", 1, "")
        assert not released
        assert why
        b.desk.forget_member("b")
        with pytest.raises(StoreAwayError):
            a.desk.history()
        with pytest.raises(StoreAwayError):
            a.desk.set_paused(True, "a")


def test_a_store_that_refuses_is_told_from_one_that_is_away(tmp_path: Path) -> None:
    with running(tmp_path / "redis", "--requirepass", "right") as server:
        look = Desk(server).look()
        assert (look.standing, look.transient) == (StoreStanding.REFUSED, False)
        assert "password" in look.fault.lower()
        assert look.todo


def test_many_people_may_ask_at_once(a: Desk) -> None:
    """Each HTTP request has a thread of its own; replies must not get mixed."""
    a.look()
    a.take()
    deadline = time.monotonic() + 20

    def ask(number: int) -> bool:
        assert time.monotonic() < deadline
        if number % 3 == 0:
            a.desk.set_paused(number % 2 == 0, "a")
            return True
        return [entry["epoch"] for entry in a.desk.history()] == [1]

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(ask, range(600)))

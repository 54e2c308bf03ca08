"""The pure rules of the lease do what the scripts do on a real Redis: random steps, each one compared."""

from __future__ import annotations

import random

import pytest
import redis
from redis_server import Server

from rayward.store import lease_rules as rules
from rayward.store.lease import LeaseStore
from rayward.store.lease_record import Acquired, LeaseRecord
from rayward.store.lease_rules import Lease, LeaseToken
from rayward.store.lease_scripts import guarded_write
from rayward.store.resp import ReplyError
from rayward.store.upstream import StoreSettings

STEPS = 3000
KEY = "rayward:default:lease"


def as_lease(record: LeaseRecord | None) -> Lease | None:
    if record is None:
        return None
    return Lease(
        record.epoch,
        record.writer,
        record.holder,
        record.instance,
        record.seq,
        record.state,
        record.successor,
    )


class Both:
    """One lease kept twice. Each method does a step on both sides and compares what they answered."""

    def __init__(self, server: Server, seed: int) -> None:
        self.chance = random.Random(seed)
        self.store = LeaseStore(
            StoreSettings.from_environment({"RAY_REDIS_ADDRESS": f"127.0.0.1:{server.port}"})
        )
        self.client: redis.Redis = server.client()
        self.pure: Lease | None = None
        self.tokens: list[LeaseToken | None] = [None]
        self.counts: dict[str, int] = {}

    def who(self) -> tuple[str, str]:
        member = self.chance.choice(["a", "b", "c"])
        return member, f"{member}{self.chance.choice('12')}"

    def epoch(self) -> int:
        now = self.pure.epoch if self.pure is not None else 0
        return max(0, now + self.chance.choice([0, 0, 0, 0, -1, 1]))

    def holder(self) -> tuple[str, str]:
        """Mostly who holds it, or nothing would ever be renewed."""
        if self.pure is not None and self.pure.instance and self.chance.random() < 0.8:
            return self.pure.holder, self.pure.instance
        return self.who()

    def count(self, what: str, answer: object) -> None:
        self.counts[f"{what}:{answer}"] = self.counts.get(f"{what}:{answer}", 0) + 1

    def acquire(self) -> None:
        member, instance = self.who()
        fresh = self.pure.token if self.pure is not None else None
        token = fresh if self.chance.random() < 0.6 else self.chance.choice(self.tokens)
        floor = self.chance.choice([0, 0, self.epoch() + 3])
        self.pure, expected = rules.acquire(self.pure, member, instance, token, floor)
        answer = self.store.acquire(member, instance, token, {"x": 1}, floor=floor)
        assert isinstance(answer, Acquired) is expected
        self.count("acquire", expected)

    def renew(self) -> None:
        member, instance = self.holder()
        epoch, seq = self.epoch(), self.chance.randrange(20)
        self.pure, expected = rules.renew(self.pure, member, instance, epoch, seq)
        assert self.store.renew(member, instance, epoch, {"x": 2}, seq=seq).outcome is expected
        self.count("renew", expected.value)

    def release(self) -> None:
        member, instance = self.holder()
        epoch, successor = self.epoch(), self.chance.choice(["", "b"])
        self.pure, expected = rules.release(self.pure, member, instance, epoch, successor)
        assert self.store.release(member, instance, epoch, successor) is expected
        self.count("release", expected)

    def write(self) -> None:
        epoch = self.epoch()
        # Now and then another head's name with the very same epoch.
        writer = rules.writer_name(epoch, self.chance.choice([self.holder()[1], "somebody"]))
        words = ("EVAL", guarded_write(False, True), 1, "RAYdefault@KV", KEY, writer, "HSET", "k", epoch)
        answer = self.store.connection().pipeline([words], timeout=5)[0]
        passed = not isinstance(answer, ReplyError)
        assert passed or str(answer).startswith("FENCED ")
        assert passed is rules.may_write(self.pure, writer)
        self.count("write", passed)

    def adopt(self) -> None:
        floor = self.epoch()
        self.pure = rules.adopt(self.pure, "op", floor)
        assert self.store.adopt("uid", "name", floor, "op")[1] == self.pure.epoch

    def wipe(self) -> None:
        self.pure = None
        self.client.flushall()

    def compare(self) -> None:
        found = as_lease(self.store.observe("uid").lease)
        assert found == self.pure
        self.tokens = [*self.tokens[-5:], found.token if found is not None else None]


@pytest.mark.parametrize("seed", [1, 2])
def test_rules_and_scripts_agree(server: Server, seed: int) -> None:
    both = Both(server, seed)
    steps = [both.acquire, both.renew, both.release, both.write, both.adopt, both.wipe]
    for number in range(STEPS // 2):
        step = both.chance.choices(steps, weights=[25, 30, 10, 30, 2, 1])[0]
        step()
        try:
            both.compare()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, step {number} ({step.__name__}): {error}") from error
    both.store.close()
    # Every outcome was met, or the comparison would prove little.
    met = {what for what, times in both.counts.items() if times >= 3}
    assert met >= {
        *("acquire:True", "acquire:False", "renew:renewed", "renew:preempted", "renew:lost-store"),
        *("release:True", "release:False", "write:True", "write:False"),
    }


def test_an_epoch_never_writes_again_once_another_was_acquired() -> None:
    lease, _ = rules.acquire(None, "a", "a1", None, 0)
    assert lease is not None
    newer, taken = rules.acquire(lease, "b", "b1", lease.token, 0)

    assert taken
    assert rules.may_write(newer, "2:b1")
    assert not rules.may_write(newer, "1:a1")
    assert not rules.may_write(newer, "2:a1")

"""A reconcile's own writes: what counts as seen."""

from __future__ import annotations

from rayward.kube.expect import ESCAPE_S, SETTLED_S, Expectations
from rayward.kube.kinds import EVENTS, PODS, SERVICES, Kind


class Cache:
    """A cache as new as ``version`` with objects by name and uid."""

    def __init__(self) -> None:
        self.version, self.names, self.uids, self.live = 0, {("n", "old")}, {"u1"}, 0.0

    def has_seen(self, namespace: str, resource_version: str) -> bool:
        return self.version >= int(resource_version)

    def stays(self, uid: str) -> bool:
        return uid in self.uids

    def live_for(self, namespace: str, now: float | None = None) -> float:
        return self.live

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key in self.names


class Desk:
    def __init__(self) -> None:
        self.now = 0.0
        self.cache = Cache()
        self.informers: dict[Kind, Cache] = {PODS: self.cache, SERVICES: Cache()}
        self.mine = Expectations(clock=lambda: self.now)

    def unseen(self, owner: str = "n/c") -> str | None:
        return self.mine.unseen(owner, self.informers)


def test_a_write_is_seen_when_the_cache_is_that_new() -> None:
    desk = Desk()
    desk.mine.wrote("n/c", PODS, "n", "p", "10")
    desk.cache.version = 9
    assert desk.unseen() == "the write of Pod n/p"
    assert desk.unseen("n/other") is None
    desk.cache.version = 12
    assert desk.unseen() is None
    desk.cache.version = 0  # once seen, it is not asked for again
    assert desk.unseen() is None


def test_versions_count_as_numbers_and_the_last_write_of_an_object_counts() -> None:
    desk = Desk()
    desk.cache.version = 99
    desk.mine.created("n/c", PODS, "n", "p", "99")
    desk.mine.wrote("n/c", PODS, "n", "p", "100")
    assert desk.unseen() is not None
    desk.cache.version = 100
    assert desk.unseen() is None


def test_kinds_are_compared_each_with_its_own_cache() -> None:
    desk = Desk()
    desk.cache.version = 100
    desk.mine.wrote("n/c", SERVICES, "n", "s", "50")
    assert desk.unseen() == "the write of Service n/s"
    desk.mine.wrote("n/x", EVENTS, "n", "e", "50")
    assert desk.unseen("n/x") is None


def test_a_deletion_is_seen_when_the_object_is_gone_or_going() -> None:
    desk = Desk()
    desk.mine.deleted("n/c", PODS, "u1")
    assert desk.unseen() == "the deletion of Pod u1"
    desk.cache.uids.clear()
    assert desk.unseen() is None


def test_a_write_whose_answer_was_lost_is_seen_when_it_is_there_or_will_not_come() -> None:
    desk = Desk()
    desk.mine.created("n/c", PODS, "n", "p", "")
    desk.now = 20.0
    assert desk.unseen() is not None, "the watch is down: nobody knows"
    desk.cache.live = SETTLED_S - 0.1
    assert desk.unseen() is not None
    desk.cache.live = SETTLED_S
    assert desk.unseen() is None
    desk.mine.created("n/c", PODS, "n", "p", "")
    desk.cache.live = 1000.0
    assert desk.unseen() is not None, "it was sent only now"
    desk.cache.names.add(("n", "p"))
    assert desk.unseen() is None


def test_what_is_never_seen_is_given_up_and_counted() -> None:
    desk = Desk()
    desk.mine.wrote("n/c", PODS, "n", "p", "10")
    desk.mine.deleted("n/c", PODS, "u1")
    desk.now = ESCAPE_S - 0.1
    assert desk.unseen() is not None
    desk.now = ESCAPE_S
    assert desk.unseen() is None
    assert desk.mine.escapes == 2


def test_of_an_owner_that_is_gone_nothing_is_kept() -> None:
    desk = Desk()
    desk.mine.wrote("n/c", PODS, "n", "p", "10")
    desk.mine.forget("n/c")
    assert desk.unseen() is None
    assert desk.mine.escapes == 0

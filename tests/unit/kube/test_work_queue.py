"""The work queue's promises, on a clock of the test's own, and its waiting, on a real event loop."""

from __future__ import annotations

import asyncio
import random

import pytest

from rayward.kube.work_queue import QueueShutDown, WorkQueue


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> WorkQueue[str]:
    return WorkQueue(clock=clock, chance=lambda: 1.0)


def test_a_key_added_often_is_taken_once(queue: WorkQueue[str]) -> None:
    for _ in range(3):
        queue.add("a")
    assert len(queue) == 1
    assert queue.take() == "a"
    assert queue.take() is None


def test_no_key_runs_twice_at_a_time_and_what_came_meanwhile_runs_after(queue: WorkQueue[str]) -> None:
    queue.add("a")
    assert queue.take() == "a"
    queue.add("a")
    queue.add("a")
    assert queue.take() is None
    queue.done("a")
    assert queue.take() == "a"
    queue.done("a")
    assert queue.take() is None
    assert queue.running == 0


def test_high_priority_first_else_in_order(queue: WorkQueue[str]) -> None:
    queue.add("slow", -10)
    for key in "ab":
        queue.add(key)
    queue.add("urgent", 10)
    assert [queue.take() for _ in range(4)] == ["urgent", "a", "b", "slow"]


def test_a_key_that_becomes_urgent_moves_up_and_none_moves_down(queue: WorkQueue[str]) -> None:
    queue.add("a", -10)
    queue.add("b")
    queue.add("a", 10)
    queue.add("a", -10)
    assert [queue.take() for _ in range(3)] == ["a", "b", None]


def test_an_urgency_of_before_does_not_count_again(queue: WorkQueue[str]) -> None:
    queue.add("a")
    queue.add("a", 10)
    queue.take()
    queue.done("a")
    queue.add("a", -10)
    queue.add("b", -5)
    assert [queue.take(), queue.take()] == ["b", "a"]


def test_who_takes_only_the_urgent_leaves_the_rest(queue: WorkQueue[str]) -> None:
    queue.add("a")
    assert queue.take(at_least=10) is None
    queue.add("head", 10)
    assert queue.take(at_least=10) == "head"
    assert queue.priority("head") == 10
    assert queue.take(at_least=10) is None
    assert queue.take() == "a"
    assert (queue.priority("a"), queue.priority("nowhere")) == (0, 0)


def test_what_failed_stays_as_urgent_as_it_was(queue: WorkQueue[str], clock: Clock) -> None:
    queue.add("head", 10)
    assert queue.take() == "head"
    pause = queue.retry("head")
    queue.done("head")
    clock.now += pause
    assert queue.take(at_least=10) == "head"


def test_the_urgency_of_what_came_while_it_ran_is_kept(queue: WorkQueue[str]) -> None:
    queue.add("a")
    queue.take()
    queue.add("a", 10)
    queue.add("a", 0)
    queue.add("b", 5)
    queue.done("a")
    assert queue.take() == "a"


def test_a_timed_key_comes_when_its_time_has_come_and_the_earliest_wish_holds(
    queue: WorkQueue[str], clock: Clock
) -> None:
    queue.add_after("a", 10)
    queue.add_after("a", 5)
    queue.add_after("a", 20)
    assert (len(queue), queue.next_due()) == (0, 1005.0)
    clock.now += 4.9
    assert queue.take() is None
    clock.now += 0.1
    assert queue.take() == "a"
    queue.done("a")
    clock.now += 100
    assert queue.take() is None


def test_an_add_makes_a_timed_wish_needless(queue: WorkQueue[str], clock: Clock) -> None:
    queue.add_after("a", 5)
    queue.add("a")
    assert queue.take() == "a"
    queue.done("a")
    clock.now += 6
    assert queue.take() is None


def test_wishes_that_became_needless_take_no_room(queue: WorkQueue[str], clock: Clock) -> None:
    queue.add_after("soon", 100)  # those behind the next one due are not looked at before it
    for number in range(5000):
        key = str(number % 10)
        queue.add(key)
        assert queue.take() == key
        queue.done(key)
        queue.add_after(key, 300)
        clock.now += 0.001
    assert len(queue._due_heap) < 100
    clock.now += 300
    assert sorted(iter(queue.take, None)) == [*(str(number) for number in range(10)), "soon"]


def test_a_time_that_comes_while_the_key_runs_waits_for_its_end(queue: WorkQueue[str], clock: Clock) -> None:
    queue.add("a")
    queue.take()
    queue.add_after("a", 1)
    clock.now += 2
    assert queue.take() is None
    queue.done("a")
    assert queue.take() == "a"


def test_retries_double_up_to_the_cap_until_it_goes_well(queue: WorkQueue[str]) -> None:
    pauses = [queue.retry("a", cap=30) for _ in range(12)]
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30, 30]
    assert queue.failures("a") == 12
    queue.forget("a")
    assert queue.retry("a") == 0.1
    assert queue.retry("b") == 0.1
    assert queue.retries == 14


def test_retries_of_many_keys_spread_over_half_their_time() -> None:
    queue: WorkQueue[int] = WorkQueue(chance=random.Random(1).random)
    pauses = [[queue.retry(key) for _ in range(9)][-1] for key in range(200)]
    assert min(pauses) >= 12.8
    assert max(pauses) <= 25.6
    assert 50 < sum(pause < 19.2 for pause in pauses) < 150


def test_waited_is_told_from_the_first_add(queue: WorkQueue[str], clock: Clock) -> None:
    heard: list[float] = []
    queue.waited = heard.append
    queue.add("a", -10)
    clock.now += 2
    queue.add("a", 10)
    clock.now += 1
    queue.take()
    assert heard == [3.0]


def test_after_shutdown_nothing_is_given_and_nothing_taken(queue: WorkQueue[str]) -> None:
    queue.add("a")
    queue.add("b")
    queue.take()
    queue.shutdown()
    queue.add("c")
    queue.add_after("d", 1)
    queue.done("a")
    assert queue.take() is None
    with pytest.raises(QueueShutDown):
        asyncio.run(queue.get())


def test_random_use_never_loses_a_key_nor_runs_one_twice() -> None:
    """Whatever happens in whatever order: a key added is taken after that, and by one worker at a time."""
    for seed in range(300):
        chance, clock = random.Random(seed), Clock()
        queue: WorkQueue[int] = WorkQueue(clock=clock, chance=chance.random)
        wanted: set[int] = set()
        running: set[int] = set()
        for _ in range(200):
            key, action = chance.randrange(5), chance.randrange(6)
            if action == 0:
                queue.add(key, chance.randrange(3))
                wanted.add(key)
            elif action == 1:
                queue.add_after(key, chance.random() * 5)
                wanted.add(key)
            elif action == 2:
                queue.retry(key)
                wanted.add(key)
            elif action == 3:
                clock.now += chance.random() * 4
            elif action == 4 and running:
                done = chance.choice(sorted(running))
                running.discard(done)
                queue.done(done)
            else:
                taken = queue.take()
                if taken is not None:
                    assert taken not in running
                    running.add(taken)
                    wanted.discard(taken)
        for key in running:
            queue.done(key)
        clock.now += 100
        left = set()
        while (taken := queue.take()) is not None:
            left.add(taken)
            queue.done(taken)
        assert wanted <= left, f"seed {seed}: lost {wanted - left}"


def test_workers_that_wait_are_woken_by_adds_and_by_time() -> None:
    async def run() -> None:
        queue: WorkQueue[str] = WorkQueue()
        got = [asyncio.create_task(queue.get()) for _ in range(3)]
        await asyncio.sleep(0)
        queue.add_after("late", 0.05)
        queue.add_after("later", 0.1)
        queue.add("now")
        done = await asyncio.wait_for(asyncio.gather(*got), 10)
        assert done == ["now", "late", "later"]

    asyncio.run(run())


def test_the_right_worker_is_woken() -> None:
    async def test() -> None:
        queue: WorkQueue[str] = WorkQueue()
        urgent = asyncio.create_task(queue.get(at_least=10))
        plain = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        queue.add("a")
        assert await plain == "a"
        assert not urgent.done()
        plain = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        queue.add("head", 10)
        assert await urgent == "head"
        assert not plain.done()
        plain.cancel()

    asyncio.run(asyncio.wait_for(test(), 20))


def test_a_worker_that_is_cancelled_while_waiting_takes_no_key_with_it() -> None:
    async def run() -> None:
        queue: WorkQueue[str] = WorkQueue()
        first, second = (asyncio.create_task(queue.get()) for _ in range(2))
        await asyncio.sleep(0)
        queue.add("a")  # wakes the first, which is cancelled before it can look
        first.cancel()
        assert await asyncio.wait_for(second, 10) == "a"
        assert first.cancelled() or (await asyncio.gather(first, return_exceptions=True))

    asyncio.run(run())


def test_shutdown_ends_every_wait() -> None:
    async def run() -> None:
        queue: WorkQueue[str] = WorkQueue()
        waiting = [asyncio.create_task(queue.get()) for _ in range(3)]
        await asyncio.sleep(0)
        queue.add_after("a", 0.01)
        queue.shutdown()
        ended = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10)
        assert all(isinstance(end, QueueShutDown) for end in ended)

    asyncio.run(run())

"""Who may ask the API server next: tokens, places, urgency."""

from __future__ import annotations

import asyncio

import pytest

from rayward.kube.rate import HEAD_FIRST, ORDINARY, WHENEVER, Pace, TokenBucket, urgency


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_is_free_and_then_the_rate_holds() -> None:
    clock = Clock()
    bucket = TokenBucket(rate=10.0, burst=3, clock=clock)
    assert [bucket.take() for _ in range(3)] == [0.0, 0.0, 0.0]
    wait = bucket.take()
    assert wait == pytest.approx(0.1)
    assert bucket.take() == wait, "who is told to wait has taken nothing"
    clock.now += wait
    assert bucket.take() == 0.0
    clock.now += 1000
    assert [bucket.take() for _ in range(3)] == [0.0, 0.0, 0.0]
    assert bucket.take() > 0, "no more than a burst is saved up"


def test_a_rate_of_zero_is_no_bound() -> None:
    bucket = TokenBucket(rate=0.0, burst=1, clock=Clock())
    assert {bucket.take() for _ in range(1000)} == {0.0}


async def _ask(pace: Pace, name: str, urgent: int, served: list[str], leave: asyncio.Event) -> None:
    urgency.set(urgent)
    async with pace.turn():
        served.append(name)
        await leave.wait()


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_the_most_urgent_goes_first_then_in_order() -> None:
    async def play() -> None:
        pace, leave, served = Pace(qps=0.0, burst=1, at_once=1), asyncio.Event(), []
        order = [
            ("first", ORDINARY),
            ("event", WHENEVER),
            ("a", ORDINARY),
            ("b", ORDINARY),
            ("head", HEAD_FIRST),
        ]
        tasks = [asyncio.create_task(_ask(pace, name, urgent, served, leave)) for name, urgent in order]
        await _settle()
        assert served == ["first"]
        leave.set()
        await asyncio.gather(*tasks)
        assert served == ["first", "head", "a", "b", "event"]

    asyncio.run(play())


def test_a_head_waits_for_the_next_token_not_for_the_queue() -> None:
    async def play() -> list[str]:
        pace, leave, served = Pace(qps=50.0, burst=1, at_once=64), asyncio.Event(), []
        leave.set()
        tasks = [asyncio.create_task(_ask(pace, str(number), ORDINARY, served, leave)) for number in range(5)]
        await _settle()
        assert served == ["0"]
        tasks.append(asyncio.create_task(_ask(pace, "head", HEAD_FIRST, served, leave)))
        await asyncio.gather(*tasks)
        return served

    assert asyncio.run(play()) == ["0", "head", "1", "2", "3", "4"]


def test_the_least_urgent_has_its_turn_too() -> None:
    async def play() -> list[str]:
        pace, leave, served = Pace(qps=0.0, burst=1, at_once=1), asyncio.Event(), []
        first = asyncio.create_task(_ask(pace, "first", ORDINARY, served, leave))
        await _settle()
        tasks = [
            asyncio.create_task(_ask(pace, f"event {number}", WHENEVER, served, leave)) for number in (1, 2)
        ]
        tasks += [
            asyncio.create_task(_ask(pace, str(number), ORDINARY, served, leave)) for number in range(25)
        ]
        await _settle()
        leave.set()
        await asyncio.gather(first, *tasks)
        return served

    served = asyncio.run(play())
    assert (served.index("event 1"), served.index("event 2")) == (9, 19)


def test_who_gives_up_takes_no_place_with_it() -> None:
    async def play() -> None:
        pace, leave, served = Pace(qps=0.0, burst=1, at_once=1), asyncio.Event(), []
        holds = asyncio.create_task(_ask(pace, "holds", ORDINARY, served, leave))
        await _settle()
        gives_up = asyncio.create_task(_ask(pace, "gives up", ORDINARY, served, leave))
        follows = asyncio.create_task(_ask(pace, "follows", ORDINARY, served, leave))
        await _settle()
        gives_up.cancel()
        await _settle()
        # One that is cancelled in the moment in which it is let in gives its place back.
        last = asyncio.create_task(_ask(pace, "last", ORDINARY, served, leave))
        await _settle()
        leave.set()
        await holds
        follows.cancel()
        await asyncio.gather(last, follows, gives_up, return_exceptions=True)
        assert "last" in served
        assert "gives up" not in served

    asyncio.run(asyncio.wait_for(play(), 20))

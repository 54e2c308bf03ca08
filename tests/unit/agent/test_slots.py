"""The leader's slots for workers that are recycled, asked by many at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from rayward.agent.slots import SlotKeeper


def test_one_worker_at_a_time_in_a_small_cluster() -> None:
    slots = SlotKeeper()
    assert slots.ask("w1", 3)[0]
    granted, why = slots.ask("w2", 3)
    assert not granted
    assert "w1" in why
    assert slots.ask("w1", 3)[0], "its answer may have been lost"


def test_a_tenth_in_a_large_one() -> None:
    slots = SlotKeeper()
    assert [slots.ask(f"w{number}", 30)[0] for number in range(5)] == [True, True, True, False, False]


def test_whoever_asks_is_counted_even_if_the_number_of_workers_is_wrong() -> None:
    slots = SlotKeeper()
    answers = [slots.ask(f"w{number}", 0)[0] for number in range(20)]
    assert answers.count(True) == 2
    assert answers[0]


def test_many_threads_get_no_more_than_the_share() -> None:
    slots = SlotKeeper()
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda number: slots.ask(f"w{number}", 40)[0], range(40)))
    assert answers.count(True) == 4

"""Workers over a queue: what happens to a key that goes well, fails, hangs, or runs when the end comes."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable

import pytest

from rayward.kube import controller as module
from rayward.kube.api_error import ApiError
from rayward.kube.controller import Controller, run_id
from rayward.kube.rate import HEAD_FIRST, urgency
from rayward.kube.work_queue import WorkQueue

Key = tuple[str, str]


async def eventually(condition: Callable[[], object]) -> None:
    bound = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < bound, "not within 20 s"
        await asyncio.sleep(0.005)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


def test_many_keys_at_a_time_each_once_and_results_are_counted() -> None:
    async def test() -> None:
        queue: WorkQueue[Key] = WorkQueue()
        at_once: set[Key] = set()
        most, heard, ids = 0, [], set()

        async def reconcile(key: Key) -> float | None:
            nonlocal most
            assert key not in at_once
            at_once.add(key)
            most = max(most, len(at_once))
            ids.add(run_id.get())
            await asyncio.sleep(0.01)
            ids.add(run_id.get())
            at_once.discard(key)
            return 1000.0 if key[1] == "c0" else None

        controller = Controller("clusters", queue, reconcile, 4)
        controller.observe = lambda seconds, result: heard.append((seconds > 0, result))
        for _ in range(3):
            for number in range(10):
                queue.add(("n", f"c{number}"))
        controller.start()
        await eventually(lambda: controller.runs == 10)
        assert most == 4
        assert sorted(heard) == [(True, "requeue_after")] + [(True, "success")] * 9
        assert len(ids) == 10
        assert all(found.startswith("clusters-") for found in ids)
        assert (controller.errors, controller.running, run_id.get()) == (0, {}, "")
        assert queue.next_due() is not None
        assert await controller.stop()

    run(test)


def test_a_lost_head_waits_for_no_other_cluster_and_its_requests_say_so() -> None:
    async def test() -> None:
        queue: WorkQueue[Key] = WorkQueue()
        leave, ran = asyncio.Event(), []

        async def reconcile(key: Key) -> float | None:
            ran.append((key[1], urgency.get()))
            await leave.wait()
            return None

        controller = Controller("clusters", queue, reconcile, 2, urgent_workers=1)
        for number in range(4):
            queue.add(("n", f"c{number}"))
        controller.start()
        await eventually(lambda: len(ran) == 2)
        queue.add(("n", "headless"), HEAD_FIRST)
        await eventually(lambda: len(ran) == 3)
        assert ran == [("c0", 0), ("c1", 0), ("headless", HEAD_FIRST)]
        leave.set()
        await eventually(lambda: controller.runs == 5)
        assert ran[3:] == [("c2", 0), ("c3", 0)]
        assert await controller.stop()

    run(test)


@pytest.mark.parametrize("error", [OSError("away"), ApiError(500, "InternalError", "etcd"), KeyError("spec")])
def test_a_run_that_fails_comes_again_and_only_defects_get_a_traceback(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        queue: WorkQueue[Key] = WorkQueue(chance=lambda: 0.0)
        tries = 0

        async def reconcile(key: Key) -> float | None:
            nonlocal tries
            tries += 1
            if tries < 3:
                raise error
            return None

        controller = Controller("clusters", queue, reconcile, 2)
        queue.add(("n", "c"))
        controller.start()
        await eventually(lambda: controller.runs == 3)
        assert (controller.errors, queue.failures(("n", "c")), queue.retries) == (2, 0, 2)
        await controller.stop()

    with caplog.at_level(logging.WARNING, "rayward"):
        run(test)
    first, second = caplog.records
    assert first.message.startswith("clusters: reconcile of n/c failed, again in 0.1 s: ")
    assert second.message.startswith("clusters: reconcile of n/c failed, again in 0.1 s: ")
    assert bool(first.exc_info) == isinstance(error, KeyError)


def test_a_run_that_hangs_is_ended_and_does_not_hold_up_the_others(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        queue: WorkQueue[Key] = WorkQueue()
        tried: list[str] = []

        async def reconcile(key: Key) -> float | None:
            tried.append(key[1])
            if key[1] == "hangs":
                await asyncio.Event().wait()
            return None

        controller = Controller("clusters", queue, reconcile, 1, deadline_s=0.1)
        queue.add(("n", "hangs"), 10)
        queue.add(("n", "c"))
        controller.start()
        await eventually(lambda: tried.count("hangs") == 2)
        assert tried[:2] == ["hangs", "c"]
        await controller.stop(grace_s=1)

    run(test)
    assert "failed, again in" in caplog.text
    assert "not done within 0.1 s" in caplog.text


def test_a_time_out_of_the_reconcile_itself_is_told_as_what_it_is(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        queue: WorkQueue[Key] = WorkQueue()

        async def reconcile(key: Key) -> float | None:
            raise TimeoutError("http://10.0.0.1: ReadTimeout")

        controller = Controller("clusters", queue, reconcile, 1)
        queue.add(("n", "c"))
        controller.start()
        await eventually(lambda: controller.errors == 1)
        await controller.stop()

    run(test)
    assert "10.0.0.1: ReadTimeout" in caplog.text


def test_stop_lets_running_reconciles_end_and_starts_no_more() -> None:
    async def test() -> None:
        queue: WorkQueue[Key] = WorkQueue()
        go, done = asyncio.Event(), []

        async def reconcile(key: Key) -> float | None:
            await go.wait()
            done.append(key[1])
            return 0.01

        controller = Controller("clusters", queue, reconcile, 2)
        for name in "abc":
            queue.add(("n", name))
        controller.start()
        await eventually(lambda: len(controller.running) == 2)
        stopping = asyncio.create_task(controller.stop())
        await asyncio.sleep(0.05)
        assert not stopping.done()
        queue.add(("n", "late"))
        go.set()
        assert await stopping
        assert sorted(done) == ["a", "b"]

    run(test)


def test_what_does_not_end_in_time_is_cancelled() -> None:
    async def test() -> None:
        queue: WorkQueue[Key] = WorkQueue()
        ended = []

        async def reconcile(key: Key) -> float | None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(key)
            return None

        controller = Controller("clusters", queue, reconcile, 2)
        queue.add(("n", "c"))
        controller.start()
        await eventually(lambda: controller.running)
        assert not await controller.stop(grace_s=0.05)
        assert ended == [("n", "c")]
        assert all(task.done() for task in controller._tasks)

    run(test)


def test_a_pause_between_retries_never_exceeds_thirty_seconds() -> None:
    queue: WorkQueue[str] = WorkQueue(chance=lambda: 1.0)
    assert max(queue.retry("c", module.RETRY_CAP_S) for _ in range(100)) == 30.0


@pytest.mark.skipif(sys.version_info < (3, 11), reason="a task cannot tell who cancelled it")
def test_a_cancelled_future_inside_a_reconcile_costs_a_run_and_no_worker() -> None:
    async def test() -> None:
        queue: WorkQueue[Key] = WorkQueue()
        tries = 0

        async def reconcile(key: Key) -> float | None:
            nonlocal tries
            tries += 1
            if tries == 1:
                shared = asyncio.get_running_loop().create_future()
                shared.cancel()
                await shared
            return None

        controller = Controller("clusters", queue, reconcile, 1)
        queue.add(("n", "c"))
        controller.start()
        await eventually(lambda: controller.runs == 2)
        assert controller.errors == 1
        assert await controller.stop()

    run(test)

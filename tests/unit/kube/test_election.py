"""Electors against one API server over real sockets, with clocks that the tests move."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from fake_api_server import FakeApiServer, Fault, serving
from lightkube.config.kubeconfig import KubeConfig

from rayward.kube.client import KubeClient
from rayward.kube.election import Election
from rayward.kube.lead_record import Timing

TIMING = Timing(duration=15, renew_deadline=10, retry=0.05)


async def eventually(condition: Callable[[], object], what: str = "") -> None:
    bound = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < bound, f"not within 20 s: {what}"
        await asyncio.sleep(0.005)


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Member:
    """One candidate that runs, and what it was told."""

    def __init__(self, server: FakeApiServer, name: str, timing: Timing = TIMING, **options: Any) -> None:
        config = KubeConfig.from_server(server.url).get()
        assert config is not None
        self.client = KubeClient(config)
        self.clock: Any = options.pop("clock", None) or Clock()
        self.election = Election(
            self.client, "ns", "lease", name, timing, clock=self.clock, wall=options.pop("wall", time.time)
        )
        self.told: list[str] = []
        self.work: Callable[[], Awaitable[None] | None] = lambda: None
        self.task = asyncio.create_task(self.election.hold(self._lead, lambda: self.told.append("lost")))

    def _lead(self) -> Awaitable[None] | None:
        self.told.append("leads")
        return self.work()

    @property
    def leads(self) -> bool:
        return self.told == ["leads"]

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def end(self) -> None:
        await self.stop()
        await self.client.close()


@contextlib.asynccontextmanager
async def member(server: FakeApiServer, name: str, **options: Any) -> AsyncIterator[Member]:
    found = Member(server, name, **options)
    try:
        yield found
    finally:
        await found.end()


def with_server(test: Callable[[FakeApiServer], Awaitable[None]]) -> None:
    async def run() -> None:
        async with serving() as server:
            await asyncio.wait_for(test(server), 60)

    asyncio.run(run())


def lease_of(server: FakeApiServer) -> dict[str, Any]:
    found: dict[str, Any] = server._objects["leases"][("ns", "lease")]["spec"]
    return found


def ghost(server: FakeApiServer, renewed: str = "2026-01-01T00:00:00.000000Z", duration: int = 15) -> None:
    """A holder that only the server knows."""
    spec = {"holderIdentity": "ghost", "leaseDurationSeconds": duration, "renewTime": renewed}
    server.put("leases", "lease", "ns", spec={**spec, "leaseTransitions": 3})


def test_of_two_one_leads_and_the_other_knows_who() -> None:
    async def run(server: FakeApiServer) -> None:
        async with member(server, "a") as a:
            await eventually(lambda: a.leads)
            async with member(server, "b") as b:
                await eventually(lambda: b.election.holder == "a")
                first = lease_of(server)["renewTime"]
                await eventually(lambda: lease_of(server)["renewTime"] != first, "a renews")
                assert (a.election.leads, b.election.leads, b.told) == (True, False, [])
                assert lease_of(server)["leaseTransitions"] == 0

    with_server(run)


def test_a_lease_let_go_is_taken_at_once_by_one_that_watches() -> None:
    async def run(server: FakeApiServer) -> None:
        # It would look again after 1,000 s and its clock stands still: only the watch can tell it.
        patient = Timing(duration=3000, renew_deadline=2000, retry=1000)
        async with member(server, "a") as a:
            await eventually(lambda: a.leads)
            async with member(server, "b", timing=patient) as b:
                await eventually(lambda: server.watching == 1)
                await a.stop()
                assert lease_of(server)["holderIdentity"] in ("", "b")
                await eventually(lambda: b.leads)
                assert lease_of(server)["holderIdentity"] == "b"
                assert lease_of(server)["leaseTransitions"] == 1

    with_server(run)


@pytest.mark.parametrize("date", ["1970-01-01T00:00:00.000000Z", "2199-01-01T00:00:00.000000Z"])
def test_a_silent_holder_is_followed_after_a_full_duration_whatever_the_date_says(date: str) -> None:
    async def run(server: FakeApiServer) -> None:
        ghost(server, date)
        async with member(server, "b", wall=lambda: 0.0) as b:
            await eventually(lambda: b.election.holder == "ghost")
            for _ in range(3):  # it renews: the time starts anew each time, and its dates may go backwards
                b.clock.now += 14.9
                ghost(server, f"{date[:-2]}{b.clock.now % 10:.0f}Z")
                version = server.version
                await eventually(lambda v=version: int(b.election._seen.record.version) == v)
            b.clock.now += 14.9
            looks = server.count("get")
            await eventually(lambda: server.watching == 1)
            await asyncio.sleep(0.2)
            assert (b.told, lease_of(server)["holderIdentity"]) == ([], "ghost")
            assert server.count("patch") == 0
            b.clock.now += 0.2
            await eventually(lambda: b.leads)
            assert server.count("get") > looks, "it looks once more before it takes"
            assert lease_of(server)["leaseTransitions"] == 4

    with_server(run)


def test_a_holder_with_a_longer_duration_gets_its_time() -> None:
    async def run(server: FakeApiServer) -> None:
        ghost(server, duration=60)
        async with member(server, "b") as b:
            await eventually(lambda: b.election.holder == "ghost")
            b.clock.now += 59
            await asyncio.sleep(0.2)
            assert b.told == []
            b.clock.now += 1.1
            await eventually(lambda: b.leads)

    with_server(run)


def test_who_cannot_renew_stops_before_another_may_start() -> None:
    async def run(server: FakeApiServer) -> None:
        async with member(server, "a") as a:
            await eventually(lambda: a.leads)
            await server.stop()
            await eventually(lambda: a.election.problem is not None)
            a.clock.now += 9.0
            await asyncio.sleep(0.2)
            assert a.election.leads
            a.clock.now += 1.0
            assert not a.election.leads, "known at once, before any task runs"
            await asyncio.wait_for(a.task, 20)
            assert a.told == ["leads", "lost"]
            assert "not renewed for 10 s" in str(a.election.problem)

    with_server(run)


def test_a_process_that_stood_still_leads_no_more() -> None:
    async def run(server: FakeApiServer) -> None:
        async with member(server, "a") as a:
            await eventually(lambda: a.leads)
            a.clock.now += 30.0  # frozen, and thawed
            assert not a.election.leads
            await asyncio.wait_for(a.task, 20)
            assert a.told == ["leads", "lost"]

    with_server(run)


def test_who_finds_another_in_its_place_stops() -> None:
    async def run(server: FakeApiServer) -> None:
        async with member(server, "a") as a:
            await eventually(lambda: a.leads)
            ghost(server)
            await asyncio.wait_for(a.task, 20)
            assert a.told == ["leads", "lost"]
            assert "ghost holds it now" in str(a.election.problem)
        assert lease_of(server)["holderIdentity"] == "ghost", "what is not its own is not released"

    with_server(run)


@pytest.mark.parametrize("what", ["lost", "reset", "status", "hang"])
def test_one_renewal_that_fails_costs_nothing(what: str) -> None:
    async def run(server: FakeApiServer) -> None:
        timing = Timing(duration=15, renew_deadline=1.0, retry=0.05)
        async with member(server, "a", timing=timing) as a:
            await eventually(lambda: a.leads)
            for _ in range(2):
                patches = server.count("patch")
                server.faults.append(Fault("patch", what, 500))
                await eventually(lambda n=patches: server.count("patch") >= n + 3)
            assert a.election.leads
            assert a.election.problem is None

    with_server(run)


def test_a_lease_that_somebody_deletes_stays_with_its_holder() -> None:
    async def run(server: FakeApiServer) -> None:
        async with member(server, "a") as a, member(server, "b") as b:
            await eventually(lambda: a.leads or b.leads)
            holder, other = (a, b) if a.leads else (b, a)
            for _ in range(5):
                await eventually(lambda: other.election.holder == holder.election.identity)
                server.remove("leases", "lease", "ns")
                await eventually(lambda: ("ns", "lease") in server._objects["leases"])
                assert lease_of(server)["holderIdentity"] == holder.election.identity
            assert (holder.told, other.told) == (["leads"], [])

    with_server(run)


def test_a_lease_that_is_missing_is_not_free_while_its_holder_may_still_believe_in_it() -> None:
    async def run(server: FakeApiServer) -> None:
        ghost(server)
        async with member(server, "b") as b:
            await eventually(lambda: b.election.holder == "ghost")
            server.remove("leases", "lease", "ns")
            await server.stop()
            await server.start()
            looks = server.count("get")
            await eventually(lambda: server.count("get") > looks, "it finds that there is none")
            b.clock.now += 14.9
            await asyncio.sleep(0.2)
            assert (b.told, server.count("create")) == ([], 0)
            b.clock.now += 0.2
            await eventually(lambda: b.leads)

    with_server(run)


def test_without_permission_it_says_so_and_goes_on_trying() -> None:
    async def run(server: FakeApiServer) -> None:
        denied = Fault("*", "status", 403, times=10**6, message="User x cannot get leases")
        server.faults.append(denied)
        async with member(server, "a") as a:
            await eventually(lambda: a.election.problem is not None)
            assert str(a.election.problem) == "lease ns/lease: 403 Forbidden: User x cannot get leases"
            server.faults.clear()
            await eventually(lambda: a.leads)
            assert a.election.problem is None

    with_server(run)


def test_who_may_not_watch_looks_from_time_to_time(caplog: pytest.LogCaptureFixture) -> None:
    async def run(server: FakeApiServer) -> None:
        server.faults.append(Fault("watch", "status", 403, times=10**6, message="cannot watch leases"))
        async with member(server, "a") as a:
            await eventually(lambda: a.leads)
            async with member(server, "b") as b:
                await eventually(lambda: server.count("watch") >= 5)
                assert b.election.holder == "a"
                await a.stop()
                await eventually(lambda: b.leads)

    with_server(run)
    said = [record.message for record in caplog.records if "cannot watch" in record.message]
    assert 1 <= len(said) <= 2, "each member says it once"


def test_the_work_runs_beside_the_renewals_and_its_failure_lets_the_lease_go() -> None:
    async def run(server: FakeApiServer) -> None:
        fail = asyncio.Event()

        async def work() -> None:
            await fail.wait()
            raise ValueError("broke")

        async with member(server, "a") as a:
            a.work = work
            await eventually(lambda: a.leads)
            patches = server.count("patch")
            await eventually(lambda: server.count("patch") > patches + 2)
            fail.set()
            with pytest.raises(ValueError, match="broke"):
                await asyncio.wait_for(a.task, 20)
            assert lease_of(server)["holderIdentity"] == ""

    with_server(run)


def test_an_end_in_the_middle_of_a_renewal_lets_the_lease_go() -> None:
    async def run(server: FakeApiServer) -> None:
        for _ in range(10):
            async with member(server, "a") as a:
                await eventually(lambda: a.leads)
                patches = server.count("patch")
                server.faults.append(Fault("patch", "lost"))
                await eventually(lambda n=patches: server.count("patch") > n)
                await a.stop()
                assert lease_of(server)["holderIdentity"] == ""
            server.faults.clear()

    with_server(run)


@pytest.mark.parametrize("ticks", range(5))
def test_a_candidate_that_is_cancelled_just_when_something_moves_ends(ticks: int) -> None:
    async def run(server: FakeApiServer) -> None:
        ghost(server)
        patient = Timing(duration=3000, renew_deadline=2000, retry=1000)
        async with member(server, "b", timing=patient) as b:
            await eventually(lambda: b.election.holder == "ghost")
            await asyncio.sleep(0.05)
            b.election._moved.set()
            for _ in range(ticks):
                await asyncio.sleep(0)
            b.task.cancel()
            _, left = await asyncio.wait([b.task], timeout=10)
            assert not left

    with_server(run)


@pytest.mark.parametrize("seed", range(4))
def test_never_do_two_lead_whatever_goes_wrong(seed: int) -> None:
    chance = random.Random(seed)
    timing = Timing(duration=1.0, renew_deadline=0.6, retry=0.05)

    async def run(server: FakeApiServer) -> None:
        walls = [lambda: 0.0, time.time, lambda: time.time() + 1e8]
        members: list[Member] = []
        for index in range(3):
            members.append(Member(server, f"m{index}", timing, clock=time.monotonic, wall=walls[index]))
        ended = False

        async def watch() -> None:
            while not ended:
                leading = [found.election.identity for found in members if found.election.leads]
                assert len(leading) <= 1, leading
                await asyncio.sleep(0.001)

        watching = asyncio.create_task(watch())
        for step in range(40):
            action = chance.randrange(5)
            if action < 2:
                what = chance.choice(("lost", "reset", "hang", "status"))
                server.faults.append(Fault(chance.choice(("patch", "get", "create", "watch")), what, 500))
            elif action == 2 and ("ns", "lease") in server._objects.get("leases", {}):
                record = lease_of(server)
                server.put("leases", "lease", "ns", spec=record, metadata={"labels": {"step": str(step)}})
            elif action == 3 and step % 4 == 0:
                await server.stop()
                await asyncio.sleep(chance.random())
                await server.start()
            index = chance.randrange(3)
            if members[index].task.done() or chance.random() < 0.1:
                await members[index].end()
                members[index] = Member(
                    server, f"m{index}-{step}", timing, clock=time.monotonic, wall=walls[index]
                )
            await asyncio.sleep(chance.random() * 0.1)
        server.faults.clear()
        for index, found in enumerate(members):
            if found.task.done():
                await found.end()
                members[index] = Member(server, f"last-{index}", timing, clock=time.monotonic)
        await eventually(lambda: any(found.election.leads for found in members), "one leads in the end")
        ended = True
        await watching
        for found in members:
            await found.end()

    with_server(run)

"""The informer against a server that does everything wrong: the copy is right, and every change was told."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import pytest
from fake_api_server import FakeApiServer, Fault
from informer_rig import eventually, following, with_server

from rayward.kube import client as client_module
from rayward.kube import informer as informer_module
from rayward.kube.client import KubeClient
from rayward.kube.kinds import RAYCLUSTERS
from rayward.kube.watch_end import Pacing

Raw = dict[str, Any]


def test_it_lists_in_pages_then_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(informer_module, "PAGE", 3)

    async def run(server: FakeApiServer, client: KubeClient) -> None:
        for number in range(7):
            server.put("pods", f"p{number}")
        async with following(client, labels="a=b", indices={"one": lambda found: ["x"]}) as follower:
            await asyncio.wait_for(follower.informer.synced.wait(), 20)
            assert follower.told == [("new", f"p{number}", True) for number in range(7)]
            assert server.count("list") == 3
            server.put("pods", "p0", status={"phase": "Running"})
            server.put("pods", "p7")
            server.remove("pods", "p1")
            await eventually(lambda: len(follower.told) == 10)
            assert follower.told[7:] == [
                ("changed", "p0", False),
                ("new", "p7", False),
                ("gone", "p1", False),
            ]
            assert len(follower.informer.select("one", "x")) == len(follower.informer) == 7
            assert follower.informer.get("default", "p0")["status"] == {"phase": "Running"}
            assert follower.informer.get("default", "p2")["kind"] == "Pod"
            assert {call.params["labelSelector"] for call in server.calls} == {"a=b"}

    with_server(run)


@pytest.mark.parametrize("what", ["eof", "reset", "cut"])
def test_a_watch_that_breaks_goes_on_where_it_was(what: str) -> None:
    async def run(server: FakeApiServer, client: KubeClient) -> None:
        server.put("pods", "a")
        server.faults.append(Fault("watch", what, after=1, times=5))
        async with following(client) as follower:
            for number in range(12):
                server.put("pods", f"p{number}")
                await asyncio.sleep(0.002)
            await eventually(lambda: follower.shows("a", *(f"p{number}" for number in range(12))))
            await eventually(lambda: server.count("watch") >= 6)
        assert server.count("list") == 1
        assert len(follower.told) == 13, "nothing was told twice"

    with_server(run)


@pytest.mark.parametrize("fault", [Fault("watch", "gone", after=1), Fault("watch", "status", 410, times=2)])
def test_after_410_it_lists_again_and_tells_what_went_meanwhile(fault: Fault) -> None:
    async def run(server: FakeApiServer, client: KubeClient) -> None:
        for name in "abc":
            server.put("pods", name)
        server.faults.append(Fault(fault.verb, "hang", after=2))
        async with following(client, pacing=Pacing(0.01, 0.1)) as follower:
            await eventually(lambda: server.watching == 1)
            server.remove("pods", "a")
            server.put("pods", "b", status={"phase": "Failed"})
            await eventually(lambda: follower.shows("b", "c"))
            # The watch hangs now: these two are seen by a list only.
            server.remove("pods", "c")
            server.put("pods", "d")
            server.forget_history()
            server.faults.append(fault)
            await server.stop()
            await server.start()
            await eventually(lambda: follower.shows("b", "d"))
        assert ("gone", "c", False) in follower.told
        assert [told for told in follower.told if told[1] == "b"] == [
            ("new", "b", True),
            ("changed", "b", False),
        ]
        assert server.count("list") >= 2

    with_server(run)


def test_a_recreated_object_is_told_as_gone_and_new() -> None:
    async def run(server: FakeApiServer, client: KubeClient) -> None:
        server.put("pods", "a")
        async with following(client) as follower:
            await eventually(lambda: server.watching == 1)
            await server.stop()
            server.remove("pods", "a")
            server.put("pods", "a")
            server.forget_history()
            await server.start()
            await eventually(lambda: len(follower.told) == 3)
        assert follower.told == [("new", "a", True), ("gone", "a", False), ("new", "a", False)]

    with_server(run)


def test_a_server_that_is_away_and_comes_back_is_followed_on() -> None:
    async def run(server: FakeApiServer, client: KubeClient) -> None:
        server.put("pods", "a")
        async with following(client) as follower:
            await eventually(lambda: server.watching == 1)
            await server.stop()
            await eventually(lambda: follower.informer.problem is not None)
            assert follower.informer.problem.startswith(
                "cannot list or watch pods at the cluster scope: http"
            )
            assert follower.informer.live_for("default") == 0.0
            assert follower.shows("a"), "what was known stays"
            server.put("pods", "b")
            server.remove("pods", "a")
            await server.start()
            await eventually(lambda: follower.shows("b"))
            assert follower.informer.problem is None
            assert follower.informer.live_for("default") > 0.0
        assert server.count("list") == 1

    with_server(run)


def test_silence_on_an_open_watch_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "SILENCE_S", 0.3)

    async def run(server: FakeApiServer, client: KubeClient) -> None:
        server.put("pods", "a")
        server.faults.append(Fault("watch", "hang"))
        async with following(client) as follower:
            await eventually(lambda: server.count("watch") == 1)
            server.put("pods", "b")
            await eventually(lambda: follower.shows("a", "b"))
        assert server.count("list") == 1

    with_server(run)


def test_no_permission_is_said_and_tried_on_and_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    async def run(server: FakeApiServer, client: KubeClient) -> None:
        server.put("pods", "a")
        server.put("services", "s")
        denied = Fault("list", "status", 403, times=10**6, message="User x cannot list rayclusters")
        server.faults.append(denied)
        async with following(client, kind=RAYCLUSTERS) as refused:
            await eventually(lambda: server.count("list") >= 3)
            expected = (
                "no permission to list or watch rayclusters.ray.io at the cluster scope: " + denied.message
            )
            assert refused.informer.problem == expected
            assert not refused.informer.synced.is_set()
            assert [record.message for record in caplog.records].count(expected) == 1, (
                "said once, not each time"
            )
            server.faults.remove(denied)
            async with following(client) as allowed:
                await eventually(lambda: allowed.shows("a"))
            await asyncio.wait_for(refused.informer.synced.wait(), 20)
            assert refused.informer.problem is None

    with_server(run)


def test_a_missing_definition_is_waited_for() -> None:
    async def run(server: FakeApiServer, client: KubeClient) -> None:
        server.faults.append(Fault("list", "status", 404, times=3))
        async with following(client, kind=RAYCLUSTERS) as follower:
            await eventually(lambda: follower.informer.problem is not None)
            assert "CustomResourceDefinition" in follower.informer.problem
            server.put("rayclusters", "c")
            await eventually(lambda: follower.shows("c"))
            assert follower.informer.problem is None

    with_server(run)


def test_a_page_that_fails_makes_nothing_disappear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(informer_module, "PAGE", 2)

    async def run(server: FakeApiServer, client: KubeClient) -> None:
        for name in "abcd":
            server.put("pods", name)
        async with following(client) as follower:
            await eventually(lambda: server.watching == 1)
            await server.stop()
            server.put("pods", "e")
            server.forget_history()
            server.faults.append(Fault("list", "status", 410, message="continue expired", skip=1))
            await server.start()
            await eventually(lambda: follower.shows(*"abcde"))
        lists = [call.params.get("continue", "") for call in server.calls if call.verb == "list"]
        assert lists[2:] == ["", "2", "", "2", "4"]
        assert not [told for told in follower.told if told[0] == "gone"]

    with_server(run)


def test_a_server_that_ends_every_watch_at_once_is_not_asked_in_a_hot_loop() -> None:
    async def run(server: FakeApiServer, client: KubeClient) -> None:
        server.put("pods", "a")
        server.faults.append(Fault("watch", "eof", times=10**6))
        started = time.monotonic()
        async with following(client, pacing=Pacing()):
            await eventually(lambda: server.count("watch") == 4)
        assert time.monotonic() - started >= 3 * 0.2

    with_server(run)


def test_a_list_that_is_always_too_old_is_not_asked_for_in_a_hot_loop() -> None:
    async def run(server: FakeApiServer, client: KubeClient) -> None:
        server.put("pods", "a")
        server.faults.append(Fault("watch", "gone", times=10**6))
        started = time.monotonic()
        async with following(client, pacing=Pacing()):
            await eventually(lambda: server.count("list") == 4)
        assert time.monotonic() - started >= 3 * 0.2

    with_server(run)


def test_bookmarks_say_how_far_the_cache_is() -> None:
    async def run(server: FakeApiServer, client: KubeClient) -> None:
        server.version = 98  # what follows is 99 and 100: numbers, not words
        server.put("pods", "a")
        async with following(client) as follower:
            informer = follower.informer
            await eventually(lambda: server.watching == 1)
            listed = str(server.version)
            assert informer.has_seen("default", listed)
            server.put("services", "s")
            assert not informer.has_seen("default", str(server.version))
            server.bookmark("pods")
            await eventually(lambda: informer.has_seen("default", str(server.version)))
            assert informer.resource_version == str(server.version)
            assert len(follower.told) == 1

    with_server(run)


def test_each_namespace_is_followed_for_itself() -> None:
    async def run(server: FakeApiServer, client: KubeClient) -> None:
        for namespace in "abc":
            server.put("pods", f"in-{namespace}", namespace)
        server.faults.append(Fault("list", "status", 403, times=10**6, message="no", path="/b/"))
        async with following(client, namespaces=("a", "b")) as follower:
            await eventually(lambda: follower.informer.problem is not None)
            assert " in the namespace b: no" in follower.informer.problem
            await eventually(lambda: follower.shows("in-a"))
            await eventually(lambda: server.watching == 1)
            assert not follower.informer.synced.is_set()
            server.faults.clear()
            await asyncio.wait_for(follower.informer.synced.wait(), 20)
            assert follower.shows("in-a", "in-b")
            assert all(initial for _, _, initial in follower.told)
            server.put("pods", "late", "b")
            await eventually(lambda: follower.shows("in-a", "in-b", "late"))
            assert follower.informer.has_seen("b", str(server.version))
            assert not follower.informer.has_seen("a", str(server.version))
            assert follower.informer.has_seen("c", str(server.version)), "nobody watches it"

    with_server(run)


def test_one_object_that_cannot_be_read_and_one_listener_that_fails_hide_nothing() -> None:
    def view(raw: Raw) -> Raw:
        if raw["metadata"]["name"] == "odd":
            raise KeyError("spec")
        return raw

    async def run(server: FakeApiServer, client: KubeClient) -> None:
        for name in ("a", "odd", "z"):
            server.put("pods", name)

        def fails(old: Raw | None, new: Raw | None, initial: bool) -> None:
            raise ValueError

        async with following(client, view=view) as follower:
            follower.informer._callbacks.insert(0, fails)
            await eventually(lambda: follower.shows("a", "z"))
            server.put("pods", "odd", status={})
            server.put("pods", "b")
            await eventually(lambda: follower.shows("a", "b", "z"))
        assert server.count("list") == 1

    with_server(run)


def test_cancelled_it_closes_its_watches() -> None:
    async def run(server: FakeApiServer, client: KubeClient) -> None:
        before = asyncio.all_tasks()
        async with following(client, namespaces=("a", "b")):
            await eventually(lambda: server.watching == 2)
        await eventually(lambda: not server.watching, "the server sees both watches closed")
        await client.close()
        await eventually(lambda: asyncio.all_tasks() == before, "no task is left")

    with_server(run)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_goes_wrong_the_copy_is_right_in_the_end(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(informer_module, "PAGE", 4)
    monkeypatch.setattr(client_module, "SILENCE_S", 0.15)
    chance = random.Random(seed)
    ends = ("eof", "reset", "cut", "hang", "gone")

    async def run(server: FakeApiServer, client: KubeClient) -> None:
        there: set[str] = set()
        async with following(client) as follower:
            for _ in range(150):
                name, action = f"p{chance.randrange(12)}", chance.randrange(12)
                if action < 6:
                    server.put("pods", name, status={"seq": chance.random()})
                    there.add(name)
                elif action < 9 and there:
                    name = chance.choice(sorted(there))
                    there.discard(name)
                    server.remove("pods", name)
                elif action == 9:
                    server.faults.append(Fault("watch", chance.choice(ends), after=chance.randrange(3)))
                elif action == 10:
                    server.faults.append(Fault("list", "status", chance.choice((410, 429, 500, 503))))
                elif chance.random() < 0.3:
                    server.forget_history()
                    await server.stop()
                    await asyncio.sleep(0.02)
                    await server.start()
                await asyncio.sleep(chance.random() * 0.01)
            server.faults.clear()
            await eventually(lambda: follower.shows(*there))
            wanted = {key[1]: found["status"] for key, found in server._objects["pods"].items()}
            await eventually(lambda: {n: found["status"] for n, found in follower.copy.items()} == wanted)

    with_server(run)

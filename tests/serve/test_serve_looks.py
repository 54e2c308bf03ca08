"""Asking dashboards and proxies over real sockets. The servers stand where Ray's would, so that they can be
slow, refuse and forget on demand; Ray's own answers are in the tests of the two shells."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from rayward.plan.service_outcome import ServeSeen, Submission
from rayward.serve.looks import Dashboard, Proxy, ServeLooks

BOUND_S = 20.0
REFUSAL = "1 validation error(s) for ServeDeploySchema: import_path is missing"
AWAY = "Traceback (most recent call last):\nray.serve._private.storage.kv_store.KVStoreError: 4"
RUNNING = {"fruit": {"status": "RUNNING", "message": "", "deployments": {}}}


@dataclass
class Node:
    """A dashboard and a proxy on one port."""

    port: int = 0
    applications: dict[str, Any] = field(default_factory=dict)
    sent: list[bytes] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    refuses: str = ""
    delay_s: float = 0.0
    health: int = 200
    routes: dict[str, str] = field(default_factory=lambda: {"/fruit": "fruit"})
    asked: int = 0
    connections: Callable[[], int] = lambda: 0

    async def show(self, request: web.Request) -> web.Response:
        self.asked += 1
        self.tokens.append(request.headers.get("x-ray-authorization", ""))
        await asyncio.sleep(self.delay_s)
        return web.json_response({"applications": self.applications, "proxies": {}})

    async def take(self, request: web.Request) -> web.Response:
        self.sent.append(await request.read())
        if self.refuses:
            return web.Response(status=400, text=self.refuses)
        self.applications = dict(RUNNING)
        return web.Response()

    async def healthz(self, _: web.Request) -> web.Response:
        self.asked += 1
        await asyncio.sleep(self.delay_s)
        return web.Response(status=self.health, text="success")

    async def show_routes(self, _: web.Request) -> web.Response:
        return web.json_response(self.routes)


@asynccontextmanager
async def serving(node: Node, host: str = "127.0.0.1") -> AsyncIterator[Node]:
    app = web.Application()
    app.router.add_get("/api/serve/applications/", node.show)
    app.router.add_put("/api/serve/applications/", node.take)
    app.router.add_get("/-/healthz", node.healthz)
    app.router.add_get("/-/routes", node.show_routes)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, host, node.port)
    await site.start()
    node.port = runner.addresses[0][1]
    server = runner.server
    assert server is not None
    node.connections = lambda: len(server.connections)
    try:
        yield node
    finally:
        await runner.cleanup()


@asynccontextmanager
async def looking() -> AsyncIterator[tuple[ServeLooks[str], list[str]]]:
    news: list[str] = []
    looks: ServeLooks[str] = ServeLooks(news.append)
    task = asyncio.create_task(looks.run())
    try:
        yield looks, news
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)


def dashboard(node: Node, body: bytes | None = None, address: str = "127.0.0.1", **more: Any) -> Dashboard:
    submission = Submission("one", node.port, body, body.decode() if body else "", **more)
    return Dashboard(address, submission)


def seen(looks: ServeLooks[str], key: str = "a") -> ServeSeen:
    return looks.seen(key).get("one", ServeSeen())


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 60))


def test_a_configuration_is_sent_once_and_again_when_it_is_lost() -> None:
    async def story() -> None:
        async with serving(Node()) as node, looking() as (looks, news):
            looks.wish("a", [dashboard(node, b"one")], [])
            await until(lambda: seen(looks).view.serves(["fruit"]), "the answer")
            assert (seen(looks).taken, seen(looks).view_after) == ("one", True)
            assert "a" in news
            asked = node.asked
            await until(lambda: node.asked > asked + 1, "two more questions")
            assert node.sent == [b"one"]
            node.applications = {}
            await until(lambda: len(node.sent) == 2, "sent again")
            looks.wish("a", [dashboard(node, b"two")], [])
            await until(lambda: node.sent[-1] == b"two", "the other one")

    run(story)


def test_what_is_refused_is_told_and_not_sent_again_and_again() -> None:
    async def story() -> None:
        async with serving(Node(refuses=REFUSAL)) as node, looking() as (looks, _):
            looks.wish("a", [dashboard(node, b"bad")], [])
            await until(lambda: "import_path" in seen(looks).refused, "the refusal")
            asked = node.asked
            await until(lambda: node.asked > asked + 1, "two more questions")
            assert node.sent == [b"bad"]
            node.refuses = ""
            looks.wish("a", [dashboard(node, b"good")], [])
            await until(lambda: seen(looks).taken == "good", "the better one")
            assert seen(looks).refused == ""

    run(story)


def test_a_refusal_for_want_of_a_gcs_is_tried_again() -> None:
    async def story() -> None:
        async with serving(Node(refuses=AWAY)) as node, looking() as (looks, _):
            looks.wish("a", [dashboard(node, b"one")], [])
            await until(lambda: len(node.sent) > 1, "sent again")
            assert seen(looks).refused == ""
            assert "KVStoreError" in seen(looks).problem
            node.refuses = ""
            await until(lambda: seen(looks).taken == "one", "taken")

    run(story)


def test_one_that_does_not_answer_delays_no_other() -> None:
    async def story() -> None:
        async with serving(Node(delay_s=30)) as slow, serving(Node()) as quick, looking() as (looks, _):
            for number in range(20):
                looks.wish(f"slow{number}", [dashboard(slow)], [Proxy(f"{number}", "127.0.0.1", slow.port)])
            looks.wish("a", [dashboard(quick, b"one")], [Proxy("x", "127.0.0.1", quick.port)])
            await until(lambda: slow.asked >= 20, "all the slow ones are asked")
            await until(lambda: seen(looks).view.serves(["fruit"]), "the quick one's answer")
            await until(lambda: looks.proxies("a") == {"x": True}, "the quick one's proxy")

    run(story)


def test_another_head_counts_once_it_has_answered() -> None:
    async def story() -> None:
        async with serving(Node(applications=dict(RUNNING))) as node, looking() as (looks, _):
            looks.wish("a", [dashboard(node)], [])
            await until(lambda: seen(looks).view_after, "the first head's answer")
            node.delay_s = 1.0
            looks.wish("a", [dashboard(node, address="localhost")], [])
            assert not seen(looks).view_after
            assert seen(looks).view.serves(["fruit"]), "what was said is remembered"
            await until(lambda: seen(looks).view_after, "the other head's answer")

    run(story)


def test_a_proxy_serves_while_it_answers_and_has_routes() -> None:
    async def story() -> None:
        async with looking() as (looks, _):
            node = Node(routes={})
            async with serving(node):
                proxy = Proxy("x", "127.0.0.1", node.port)
                looks.wish("a", [], [proxy])
                await until(lambda: looks.proxies("a") == {"x": False}, "no routes")
                node.routes = {"/": "app"}
                await until(lambda: looks.proxies("a") == {"x": True}, "routes")
                node.health = 503
                await until(lambda: looks.proxies("a") == {"x": False}, "draining")
                node.health = 200
                await until(lambda: looks.proxies("a") == {"x": True}, "healthy again")
            await until(lambda: looks.proxies("a") == {"x": False}, "gone")
            looks.wish("a", [], [])
            assert looks.proxies("a") == {}

    run(story)


def test_a_proxy_keeps_no_connection_of_ours() -> None:
    """A head that is to go waits until nobody is connected any more, and is not asked again."""

    async def story() -> None:
        async with serving(Node()) as node, looking() as (looks, _):
            looks.wish("a", [], [Proxy("x", "127.0.0.1", node.port)])
            await until(lambda: looks.proxies("a") == {"x": True}, "it serves")
            looks.wish("a", [], [])
            await until(lambda: not node.connections(), "the connection is closed")

    run(story)


def test_one_slow_answer_withdraws_no_proxy_and_two_do() -> None:
    async def story() -> None:
        async with serving(Node()) as node, looking() as (looks, news):
            looks.wish("a", [], [Proxy("x", "127.0.0.1", node.port)])
            await until(lambda: looks.proxies("a") == {"x": True}, "it serves")
            asked, node.delay_s = node.asked, 1.5
            await until(lambda: node.asked == asked + 1, "a question that is not answered in time")
            node.delay_s = 0.0
            await until(lambda: node.asked >= asked + 3, "the next ones are")
            assert news == ["a"], "nothing new was told"
            node.delay_s = 5.0
            await until(lambda: looks.proxies("a") == {"x": False}, "it is silent")

    run(story)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_addresses_of_both_kinds_and_rays_token(address: str) -> None:
    async def story() -> None:
        async with serving(Node(applications=dict(RUNNING)), address) as node, looking() as (looks, _):
            wish = Dashboard(address, Submission("one", node.port), token="secret")
            looks.wish("a", [wish], [Proxy("x", address, node.port)])
            await until(lambda: seen(looks).view_after, "the answer")
            await until(lambda: looks.proxies("a") == {"x": True}, "the proxy's answer")
            assert node.tokens[0] == "Bearer secret"
            looks.forget("a")
            assert looks.seen("a") == {}

    run(story)

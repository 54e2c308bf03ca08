"""An informer that runs against the fake API server, and what it tells, folded into a copy."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

from fake_api_server import FakeApiServer, serving
from lightkube.config.kubeconfig import KubeConfig

from rayward.kube.client import KubeClient
from rayward.kube.informer import Informer
from rayward.kube.kinds import PODS
from rayward.kube.watch_end import Pacing

Raw = dict[str, Any]
QUICK = Pacing(shortest=0.01, longest=0.1, slow=(0.02, 0.05))


async def eventually(condition: Callable[[], object], what: str = "") -> None:
    bound = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < bound, f"not within 20 s: {what}"
        await asyncio.sleep(0.005)


class Follower:
    """An informer that runs, and what it told, folded into a copy of its own."""

    def __init__(self, client: KubeClient, **options: Any) -> None:
        self.informer = Informer(
            client, options.pop("kind", PODS), pacing=options.pop("pacing", QUICK), **options
        )
        self.told: list[tuple[str, str, bool]] = []
        self.copy: dict[str, Raw] = {}
        self.informer.on_change(self._heard)

    def _heard(self, old: Raw | None, new: Raw | None, initial: bool) -> None:
        name = (new or old or {})["metadata"]["name"]
        if new is None:
            assert name in self.copy
            del self.copy[name]
        else:
            assert (old is None) == (name not in self.copy)
            assert old is None or old == self.copy[name]
            self.copy[name] = new
        self.told.append(("gone" if new is None else "new" if old is None else "changed", name, initial))

    def shows(self, *names: str) -> bool:
        kept = {found["metadata"]["name"]: found for found in self.informer.all()}
        assert kept == self.copy
        return sorted(self.copy) == sorted(names)


@contextlib.asynccontextmanager
async def following(client: KubeClient, **options: Any) -> Any:
    follower = Follower(client, **options)
    task = asyncio.create_task(follower.informer.run())
    try:
        yield follower
        assert not task.done(), "it ended by itself"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def with_server(test: Callable[[FakeApiServer, KubeClient], Awaitable[None]]) -> None:
    async def run() -> None:
        async with serving() as server:
            config = KubeConfig.from_server(server.url).get()
            assert config is not None
            client = KubeClient(config, qps=0)
            try:
                await asyncio.wait_for(test(server, client), 60)
            finally:
                await client.close()

    asyncio.run(run())

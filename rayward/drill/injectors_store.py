"""The faults of Redis: away and back, broken connections, another primary, empty."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Mapping
from typing import Any

from redis.exceptions import RedisError

from rayward.drill import census, heads
from rayward.drill.census import Identity
from rayward.drill.injectors import Injector, Scene, parent_of, send, strike
from rayward.drill.injectors_network import REDIS, stores
from rayward.errors import RaywardError
from rayward.local.state import Manifest

_BACK_LIMIT = 60.0
_RESET_PAUSE = 0.02


def is_sentinel(pod: Manifest) -> bool:
    """Whether a Pod's redis-server is a Sentinel."""
    return any("sentinel" in word for argv in census.processes_of(pod).values() for word in argv[-2:])


def data_pods(scene: Scene) -> list[Manifest]:
    """The Pods whose Redis holds data."""
    return [pod for pod in stores(scene.cluster) if not is_sentinel(pod)]


class RedisAway(Injector):
    """Kills a redis-server and holds whoever would start it again, until ``heal``."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._held: Identity | None = None
        self._keys = 0

    def pod(self) -> Manifest:
        """The Pod to hit."""
        return data_pods(self.scene)[0]

    def inject(self) -> float:
        pod = self.pod()
        server = census.find_process(pod, REDIS)
        keeper = parent_of(server) if server else None
        if server is None or keeper is None:
            raise RaywardError("no redis-server runs", where=f"Pod {pod['metadata']['name']}")
        self.target = f"redis-server pid {server[0]} of {pod['metadata']['name']}"
        self._keys = self._count()
        self._held = keeper
        send(keeper, signal.SIGSTOP)
        return strike(server, signal.SIGKILL, REDIS)

    def heal(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            send(held, signal.SIGCONT)
            self.await_back()
            if self._keys and not self._count():
                raise RaywardError(
                    "Redis came back without its data",
                    where=self.target,
                    todo="give its container a volume for its data, and appendonly yes",
                )

    def _count(self) -> int:
        with heads.redis_of(self.scene.cluster) as (client, _):
            found: Any = client.dbsize()
            return int(found)

    def await_back(self) -> None:
        """Wait until Redis answers again; raises RaywardError when it does not come."""
        deadline = time.monotonic() + _BACK_LIMIT
        while time.monotonic() < deadline:
            with (
                contextlib.suppress(RedisError, RaywardError, OSError),
                heads.redis_of(self.scene.cluster) as (client, _),
            ):
                client.ping()
                return
            time.sleep(0.05)
        raise RaywardError(
            f"Redis is not back {_BACK_LIMIT:g} s after it was let go",
            where=self.target,
            todo="`rayward get pods`: a container that ends often waits longer before each start",
        )


class RedisFailover(RedisAway):
    """Kills the primary and keeps it away, so that Sentinel promotes the replica.

    Before and after, the primary has to have a replica in step: a Redis that fails without one has nobody to
    go on from, and that is another fault.
    """

    def pod(self) -> Manifest:
        self._await_replica()
        with heads.redis_of(self.scene.cluster) as (client, _):
            host = client.connection_pool.connection_kwargs.get("host")
        for pod in data_pods(self.scene):
            if host == pod["status"].get("podIP"):
                return pod
        raise RaywardError(f"no Pod has the primary's address {host}", where="redis-failover")

    def _await_replica(self) -> None:
        deadline = time.monotonic() + _BACK_LIMIT
        while time.monotonic() < deadline:
            with (
                contextlib.suppress(RedisError, RaywardError, OSError),
                heads.redis_of(self.scene.cluster) as (client, _),
            ):
                found: Any = client.info("replication")
                if found["role"] == "master" and (found.get("slave0") or {}).get("state") == "online":
                    return
            time.sleep(0.1)
        raise RaywardError(
            f"the primary has had no replica in step for {_BACK_LIMIT:g} s",
            where=f"cluster {self.scene.cluster.name}",
            todo="redis-cli INFO replication; SENTINEL REPLICAS",
        )

    def aftermath(self) -> list[str]:
        """The old primary has to be back as the new one's replica."""
        self._await_replica()
        return []


class RedisReset(Injector):
    """Breaks every connection to Redis off, over and over, until ``heal``.

    ``CLIENT KILL TYPE normal`` closes a connection at once, also one whose reply is half sent.
    """

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._killed = 0

    def inject(self) -> float:
        begun = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(begun,), name="drill-reset", daemon=True)
        moment = self.now()
        self._thread.start()
        if not begun.wait(10):
            raise RaywardError("Redis takes no CLIENT KILL", where=f"cluster {self.scene.cluster.name}")
        return moment

    def _run(self, begun: threading.Event) -> None:
        with (
            contextlib.suppress(RedisError, RaywardError, OSError),
            heads.redis_of(self.scene.cluster) as (client, _),
        ):
            while not self._over.is_set():
                found: Any = client.client_kill_filter(_type="normal", skipme=True)
                self._killed += int(found)
                begun.set()
                self._over.wait(_RESET_PAUSE)

    def heal(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(10)
        self.target = f"{self._killed} connections"

    def aftermath(self) -> list[str]:
        """A drill that broke nothing off has shown nothing."""
        return [] if self._killed else ["no connection was broken off"]


STORE_INJECTORS: Mapping[str, type[Injector]] = {
    "redis-restart": RedisAway,
    "redis-failover": RedisFailover,
    "redis-reset": RedisReset,
}

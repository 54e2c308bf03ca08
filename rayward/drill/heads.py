"""Which head leads, in which epoch, and which stand by: as their agents say it and as the store has it.

Asks from outside and believes nobody more than the store's own record of the lease.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from rayward.agent.decide import Phase
from rayward.drill import census
from rayward.drill.census import Identity
from rayward.errors import RaywardError
from rayward.local import store_access
from rayward.local.cluster import LocalCluster
from rayward.local.lead import lead_of
from rayward.local.state import Manifest, read_json
from rayward.store import schema
from rayward.store.address import RedisAddress, parse_redis_address
from rayward.store.connection import connect
from rayward.store.lease_record import heads_of, parse_json
from rayward.store.redis_source import RedisSource

_ASK_LIMIT = 0.7


@dataclass(frozen=True)
class HeadView:
    """One head now. ``role`` is "leader", "standby" or "unknown" (no agent, or one that does not answer);
    ``epoch`` that of the lease it holds, None where there is no lease; ``gcs`` its gcs_server."""

    pod: Manifest
    role: str
    epoch: int | None
    gcs: Identity | None
    serving: bool
    status: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The Pod's name, which is the member's name too."""
        return str(self.pod["metadata"]["name"])

    @property
    def warm(self) -> bool:
        """Whether it stands by with a GCS that waits, and could take over now."""
        lead = lead_of(self.status)
        return lead is not None and lead.stands_by

    @property
    def started(self) -> bool:
        """Whether its `ray start` is done; True where no agent says."""
        return str(self.status.get("phase", Phase.RUNNING.value)) == Phase.RUNNING.value

    @property
    def address(self) -> str:
        """The Pod's address; empty as long as it has none."""
        return str(self.pod["status"].get("podIP") or "")


@dataclass(frozen=True)
class Lease:
    """The store's record of who leads. ``epochs`` are all that the store's history knows, oldest first;
    ``heads`` are the others that have a say when the store is away, lost ones for 10 s among them."""

    epoch: int
    holder: str
    epochs: tuple[int, ...] = ()
    heads: tuple[str, ...] = ()


def view_of(pod: Manifest, status: Mapping[str, Any] | None, gcs: Identity | None) -> HeadView:
    """What a head's agent says (None: nothing) and what /proc shows, as one. Pure."""
    found = status or {}
    lead = found.get("lead") or {}
    role = str(lead.get("role") or ("leader" if gcs is not None else "unknown"))
    epoch = lead.get("epoch")
    serving = bool((found.get("gcs") or {}).get("serving")) if status is not None else gcs is not None
    return HeadView(pod, role, int(epoch) if epoch is not None else None, gcs, serving, found)


def look(cluster: LocalCluster) -> list[HeadView]:
    """All heads now; raises RaywardError when there is none."""
    return [
        view_of(pod, cluster.agent_status(pod, timeout=_ASK_LIMIT), census.find_process(pod, census.GCS))
        for pod in census.head_pods(cluster)
    ]


def choose_leader(views: Sequence[HeadView]) -> HeadView | None:
    """The head that leads: of those that say so and run a GCS the one with the newest epoch. Pure."""
    leading = [view for view in views if view.role == "leader" and view.gcs is not None]
    return max(leading, key=lambda view: view.epoch or 0) if leading else None


def leader(cluster: LocalCluster) -> HeadView:
    """The head that leads; raises RaywardError when none does."""
    views = look(cluster)
    found = choose_leader(views)
    if found is None:
        seen = ", ".join(f"{view.name} is {view.role}" for view in views)
        raise RaywardError(
            f"no head leads and runs a GCS: {seen}",
            where=f"cluster {cluster.name}",
            todo="wait until `rayward list` shows a leader; `rayward status` says what each waits for",
        )
    return found


def standbys(views: Sequence[HeadView], lead: HeadView) -> list[HeadView]:
    """The heads that stand by for ``lead``. Pure."""
    return [view for view in views if view.name != lead.name and view.role == "standby"]


def settled(views: Sequence[HeadView], wanted: int) -> bool:
    """Whether exactly one head leads and serves, all of it, and all others of ``wanted`` could take over now.
    Pure.

    A head that has just taken over serves seconds before the rest of its `ray start` is done. One that has
    just stepped down says that it stands by, its Pod is still called ready, and it starts anew.
    """
    leading = [
        view
        for view in views
        if view.role == "leader" and view.gcs is not None and view.serving and view.started
    ]
    waiting = [view for view in views if view.warm]
    return len(leading) == 1 and len(views) == wanted and len(leading) + len(waiting) == wanted


@contextlib.contextmanager
def redis_of(cluster: LocalCluster) -> Iterator[tuple[Redis, str]]:
    """A client of the Redis that takes the cluster's writes now, and the namespace there; raises RaywardError
    where there is none."""
    with store_access.open_source(cluster) as (source, namespace):
        if not isinstance(source, RedisSource):
            raise RaywardError("the cluster's store is no Redis", where=f"cluster {cluster.name}")
        primary = _primary_by_sentinel(cluster)
        if primary is None:
            yield source.client, namespace
            return
        password = source.client.connection_pool.connection_kwargs.get("password")
        client = connect(primary, password=password)
        try:
            yield client, namespace
        finally:
            client.close()


def _primary_by_sentinel(cluster: LocalCluster) -> RedisAddress | None:
    """Where the primary is, by the first Sentinel that answers; None where the address names no Sentinels.
    Raises RaywardError when none answers."""
    pod = census.head_pods(cluster)[0]
    folder, container = cluster.pod_folder(pod["metadata"]["name"]), pod["spec"]["containers"][0]["name"]
    spec = read_json(folder / "containers" / f"{container}.json") or {}
    address = parse_redis_address((spec.get("env") or {}).get("RAY_REDIS_ADDRESS") or "127.0.0.1")
    if not address.primary:
        return None
    hosts = folder / "hosts"
    known = (
        [line.split() for line in hosts.read_text(encoding="utf-8").splitlines()] if hosts.exists() else []
    )
    for server in (address, *address.alternates):
        places = [words[0] for words in known if server.host in words[1:]] or [server.host]
        for place in places:
            with contextlib.suppress(RedisError, OSError):
                client: Any = connect(RedisAddress(place, server.port), timeout=1.0)
                found = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.primary)
                client.close()
                if found:
                    return RedisAddress(str(_text(found[0])), int(found[1]))
    raise RaywardError("no Sentinel names a primary", where=address.redacted())


def read_lease(cluster: LocalCluster) -> Lease | None:
    """The lease as the store has it; None where there is none or the store cannot be asked now."""
    try:
        with redis_of(cluster) as (client, namespace):
            record: dict[Any, Any] = client.hgetall(schema.own_key(namespace, "lease"))  # type: ignore[assignment]
            listed: Any = client.lrange(schema.own_key(namespace, "history"), 0, -1)
    except (RaywardError, RedisError, OSError, KeyError):
        return None
    return parse_lease(record, listed)


def parse_lease(record: Mapping[Any, Any], listed: Sequence[Any]) -> Lease | None:
    """The lease from its hash and the history's JSON lines, bytes or text; None when there is none. Pure."""
    fields = {_text(key): _text(value) for key, value in record.items()}
    if not fields.get("epoch"):
        return None
    epochs = set()
    for line in listed:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            epochs.add(int(json.loads(_text(line))["epoch"]))
    epochs.add(int(fields["epoch"]))
    heads = heads_of(parse_json(fields.get("record", "")))
    return Lease(int(fields["epoch"]), fields.get("holder", ""), tuple(sorted(epochs)), heads)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

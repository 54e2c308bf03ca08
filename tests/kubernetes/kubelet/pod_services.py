"""kube-proxy's part: Services for Ray Serve have an address in the Pods' network, behind which connections
are spread over the endpoints that the API server names.

The ClusterIP that the API server gave such a Service is not routed here: nothing on the way to a Pod asks for
it, for Pods find the Service by its name, and the hosts files give the address of this network.
"""

from __future__ import annotations

import traceback
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from kubelet.pod_ground import Ground
from kubelet.pod_report import OVER
from rayward.local.addresses import pick_service_address
from rayward.local.service_keeper import ProxyKeeper
from rayward.local.service_rules import Endpoint, Place, Table
from rayward.local.service_table import has_own_address

Object = Mapping[str, Any]
Key = tuple[str, str]
_MARK = "service:"


class Spread:
    """The addresses of Services, and the proxy that listens there; both outlive this process."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._keeper = ProxyKeeper(ground.folder, ground.fabric)
        self._table = Table({})
        self.addresses: dict[Key, str] = {}

    def take(
        self, services: Mapping[Key, Object], endpoints: Mapping[Key, Object], pods: Iterable[Object]
    ) -> None:
        """What the API server says now: its Services, their Endpoints, and the Pods of these nodes."""
        self.addresses = self._addresses(
            {key for key, found in services.items() if has_own_address(dict(found))}
        )
        living = {
            pod["metadata"]["uid"] for pod in pods if (pod.get("status") or {}).get("phase") not in OVER
        }
        self._table = table_of(self.addresses, services, endpoints, living)
        self.keep()

    def keep(self) -> None:
        """See that the proxy is there and knows it all. What fails is said, and done at the next call."""
        try:
            self._keeper.keep(self._table)
        except Exception:  # the next call tries again; Pods must not wait for it
            traceback.print_exc()

    def _addresses(self, wanted: Collection[Key]) -> dict[Key, str]:
        """The address of each; noted beside those of the Pods, so that none is given twice."""
        given: dict[str, str] = self._ground.folder.setting("addresses") or {}
        names = {_MARK + "/".join(key): key for key in sorted(wanted)}
        kept = {
            name: address for name, address in given.items() if name in names or not name.startswith(_MARK)
        }
        for name in names:
            if name not in kept:
                kept[name] = pick_service_address(str(self._ground.subnet), kept.values())
        if kept != given:
            self._ground.folder.set(addresses=kept)
        return {key: kept[name] for name, key in names.items()}


def table_of(
    addresses: Mapping[Key, str],
    services: Mapping[Key, Object],
    endpoints: Mapping[Key, Object],
    living: Collection[str],
) -> Table:
    """Where each port of each Service with an address leads. A Pod that is among ``living`` or that any
    Endpoints still names may finish what it was asked, also when no Service selects it any more."""
    ready: dict[Place, tuple[Endpoint, ...]] = {}
    pods = set(living)
    for key, address in addresses.items():
        subsets = (endpoints.get(key) or {}).get("subsets") or ()
        for subset in subsets:
            for entry in (*(subset.get("addresses") or ()), *(subset.get("notReadyAddresses") or ())):
                pods.add(_pod(entry))
        for port in services[key]["spec"].get("ports") or ():
            if port.get("protocol", "TCP") == "TCP":
                ready[(address, int(port["port"]))] = tuple(sorted(_behind(port.get("name") or "", subsets)))
    return Table(ready, frozenset(pods))


def _behind(name: str, subsets: Iterable[Object]) -> Iterable[Endpoint]:
    """The ready endpoints of the port of that name, whose numbers the API server has found out already."""
    for subset in subsets:
        for port in subset.get("ports") or ():
            if (port.get("name") or "") == name and port.get("protocol", "TCP") == "TCP":
                for entry in subset.get("addresses") or ():
                    yield Endpoint(str(entry["ip"]), int(port["port"]), _pod(entry))


def _pod(entry: Object) -> str:
    """Who is behind an address: a Pod's uid, or the address itself where a user wrote it by hand."""
    return str((entry.get("targetRef") or {}).get("uid") or entry["ip"])

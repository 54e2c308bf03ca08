"""Makes packets between Pods vanish without an answer, as a dead switch does.

A filter in the bridge that joins a cluster's Pods (nf_tables, family bridge) drops IPv4 frames by address.
Nothing in a Pod sees it: no error, no reset, no unreachable host, and ARP goes on, which would turn silence
into errors. A blackhole route would answer with an error and so is no partition. Needs root and pyroute2.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rayward.errors import RaywardError
from rayward.local.network import in_network_at

_FAMILY_BRIDGE = 7
_TABLE, _CHAIN = "rayward_drill", "cut"
_ACCEPT, _DROP = 1, 0
# Where nf_tables finds the EtherType, and the two addresses of an IPv4 packet.
_LINK, _NETWORK = 0, 1
_ETHER_TYPE = (_LINK, 12, b"\x08\x00")
_SOURCE, _DESTINATION = 12, 16

Result = TypeVar("Result")


@dataclass(frozen=True)
class Rule:
    """Packets from ``source`` to ``destination`` (IPv4 addresses; empty: any) vanish, or pass for sure."""

    source: str = ""
    destination: str = ""
    passes: bool = False


def between(ones: Iterable[str], others: Iterable[str]) -> tuple[Rule, ...]:
    """Rules that cut all of ``ones`` off from all of ``others``, both ways. Pure."""
    many = tuple(others)
    pairs = [(one, other) for one in ones for other in many if one != other]
    return tuple(rule for one, other in pairs for rule in (Rule(one, other), Rule(other, one)))


def one_way(sources: Iterable[str], destinations: Iterable[str]) -> tuple[Rule, ...]:
    """Rules that lose what ``sources`` send to ``destinations``; what comes back passes. Pure."""
    many = tuple(destinations)
    return tuple(Rule(one, other) for one in sources for other in many if one != other)


def alone(address: str, spared: Sequence[str] = ()) -> tuple[Rule, ...]:
    """Rules that cut one address off from everything but the ``spared`` ones. Pure."""
    kept = [rule for other in spared for rule in (Rule(address, other, True), Rule(other, address, True))]
    return (*kept, Rule(source=address), Rule(destination=address))


class Cut:
    """The filter of one cluster's bridge, by the path of the network namespace that holds the bridge."""

    def __init__(self, namespace: Path) -> None:
        self._namespace = namespace

    def apply(self, rules: Sequence[Rule]) -> None:
        """Put these rules into force, in place of earlier ones; RaywardError where the kernel cannot."""
        in_network_at(self._namespace, lambda: self._apply(rules))

    def heal(self) -> bool:
        """Let everything pass again; whether there was anything to take away. May be called at any time."""
        return in_network_at(self._namespace, self._remove)

    def in_force(self) -> bool:
        """Whether packets are dropped now."""
        return in_network_at(self._namespace, _listed)

    def _apply(self, rules: Sequence[Rule]) -> None:
        with _filters() as filters:
            _drop_table(filters)
            try:
                filters.table("add", name=_TABLE)
                filters.chain("add", table=_TABLE, name=_CHAIN, hook="forward", type="filter", policy=_ACCEPT)
                for rule in rules:
                    filters.rule("add", table=_TABLE, chain=_CHAIN, expressions=_expressions(rule))
            except Exception as problem:
                _drop_table(filters)
                if type(problem).__name__ != "NetlinkError":
                    raise
                raise RaywardError(
                    f"the kernel takes no packet filter for bridges: {problem}",
                    where="partition drills",
                    todo="they need nf_tables with the bridge family (CONFIG_NF_TABLES_BRIDGE)",
                ) from problem

    def _remove(self) -> bool:
        with _filters() as filters:
            return _drop_table(filters)


@contextlib.contextmanager
def _filters() -> Iterator[Any]:
    # Slow to import, and only these drills need it.
    from pyroute2.nftables.main import NFTables  # type: ignore[import-untyped]  # noqa: PLC0415

    filters = NFTables(nfgen_family=_FAMILY_BRIDGE)
    try:
        yield filters
    finally:
        filters.close()


def _listed() -> bool:
    with _filters() as filters:
        return _has_table(filters)


def _has_table(filters: Any) -> bool:
    return _TABLE in [table.get_attr("NFTA_TABLE_NAME") for table in filters.get_tables()]


def _drop_table(filters: Any) -> bool:
    if not _has_table(filters):
        return False
    filters.table("del", name=_TABLE)
    return True


def _expressions(rule: Rule) -> tuple[Any, ...]:
    from pyroute2.nftables.expressions import verdict  # type: ignore[import-untyped]  # noqa: PLC0415

    found = [_equals(*_ETHER_TYPE)]
    if rule.source:
        found.append(_equals(_NETWORK, _SOURCE, socket.inet_aton(rule.source)))
    if rule.destination:
        found.append(_equals(_NETWORK, _DESTINATION, socket.inet_aton(rule.destination)))
    return (*found, verdict(_ACCEPT if rule.passes else _DROP))


def _equals(base: int, offset: int, value: bytes) -> list[Any]:
    from pyroute2.nftables.expressions import genex  # noqa: PLC0415

    load = {"dreg": 1, "base": base, "offset": offset, "len": len(value)}
    return [
        genex("payload", load),
        genex("cmp", {"sreg": 1, "op": 0, "data": {"attrs": [("NFTA_DATA_VALUE", value)]}}),
    ]

"""The members of a cluster as its heads' agents tell them (``GET /members``), as values.

Only the shape of answers is known here; who should lead is the agents' to say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rayward.errors import RaywardError
from rayward.plain.ask import Answer, Heads, Unreachable, ask
from rayward.plain.places import Place, join_place, split_place

# A member's words for: a GCS of it stands by and needs only to go on.
_AT_HAND = ("prepared", "warm")
_LEADER_TIMEOUT_S = 0.7


@dataclass(frozen=True)
class Member:
    """One member. ``lease_left`` and ``seen_ago`` are seconds; None where they do not apply."""

    name: str
    role: str
    state: str = ""
    epoch: int | None = None
    lease_left: float | None = None
    seen_ago: float | None = None
    gcs: str = ""
    address: str = ""

    @property
    def leads(self) -> bool:
        """Whether it holds the lease."""
        return self.role == "leader"

    @property
    def place(self) -> Place | None:
        """Where its agent listens; None when that is not known."""
        try:
            return split_place(self.address)
        except RaywardError:
            return None


@dataclass(frozen=True)
class Members:
    """All members that the answering agent knows of. ``store`` says what is wrong with the store (empty: it
    is good, or nobody said). ``raw`` is the answer as it came."""

    cluster: str
    paused: bool
    members: tuple[Member, ...]
    store: str = ""
    raw: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def leader(self) -> Member | None:
        """Who holds the lease with the newest epoch, if anybody does."""
        leading = [member for member in self.members if member.leads]
        return max(leading, key=lambda member: member.epoch or 0, default=None)

    @property
    def epoch(self) -> int:
        """The newest epoch that anybody reports."""
        return max((member.epoch or 0 for member in self.members), default=0)

    @property
    def candidates(self) -> tuple[Member, ...]:
        """Who could take the lease over: those with a GCS at hand first, then those heard of last."""
        others = [member for member in self.members if not member.leads]
        return tuple(
            sorted(others, key=lambda one: (one.state not in _AT_HAND, one.seen_ago or 0.0, one.name))
        )

    def named(self, name: str) -> Member | None:
        """The member of that name."""
        return next((member for member in self.members if member.name == name), None)


def _number(value: object) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if usable else None  # type: ignore[arg-type]


def read_members(answer: Answer) -> Members:
    """An agent's answer as values; raises RaywardError when it is not one of ``/members``."""
    rows = answer.body.get("members")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RaywardError("its answer holds no members", where=f"agent {join_place(answer.place)}")
    found = []
    for row in rows:
        epoch = _number(row.get("epoch"))
        found.append(
            Member(
                name=str(row.get("member") or "?"),
                role=str(row.get("role") or "unknown"),
                state=str(row.get("state") or ""),
                epoch=int(epoch) if epoch is not None else None,
                lease_left=_number(row.get("lease_left_s")),
                seen_ago=_number(row.get("seen_ago_s")),
                gcs=str(row.get("gcs") or ""),
                address=str(row.get("address") or ""),
            )
        )
    return Members(
        cluster=str(answer.body.get("cluster") or ""),
        paused=bool(answer.body.get("paused")),
        members=tuple(found),
        store=_store_words(answer.body.get("store")),
        raw=answer.body,
    )


def _store_words(store: object) -> str:
    if not isinstance(store, dict) or store.get("state") in (None, "good", "ok"):
        return ""
    return str(store.get("fault") or store["state"])


def look(heads: Heads, timeout: float = 2.0) -> Members:
    """The members as the first head tells them that answers, or better, the leader that it names: only that
    one knows how long its lease holds. Raises what ``Heads.get`` raises."""
    answer = heads.get("/members", timeout)
    seen = read_members(answer)
    place = seen.leader.place if seen.leader is not None else None
    if place is None or place == answer.place:
        return seen
    try:
        own = read_members(ask(place, "/members", timeout=min(timeout, _LEADER_TIMEOUT_S)))
    except (Unreachable, RaywardError):
        return seen
    better = own.leader is not None and own.leader.place == place and own.epoch >= seen.epoch
    return own if better else seen

"""A change of leader asked for by hand: asks for it, watches until another head serves, says how it ended.

``judge`` is pure: what the heads say now, compared with what they said before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rayward.errors import RaywardError
from rayward.plain import members
from rayward.plain.ask import Heads, Unreachable, ask, status_of
from rayward.plain.members import Member, Members
from rayward.plain.places import Place

_LOOK_TIMEOUT_S = 0.5
_POLL_S = 0.05


@dataclass(frozen=True)
class Before:
    """Who led, with which epoch, when it was asked for. ``leader`` is empty when nobody did."""

    leader: str
    epoch: int


@dataclass(frozen=True)
class Serving:
    """A head that says that it leads and that its GCS serves."""

    member: str
    epoch: int


@dataclass(frozen=True)
class Done:
    """How it ended: who led before and now, and the seconds from the request to the new leader's GCS."""

    before: Before
    now: Serving
    seconds: float


def judge(before: Before, serving: Sequence[Serving]) -> Serving | None:
    """The head that took over since ``before``; None while none has.

    An old leader that has not noticed yet may still say that it serves: only a newer epoch counts.
    """
    newer = [one for one in serving if one.epoch > before.epoch]
    return max(newer, key=lambda one: one.epoch, default=None)


def serving_heads(places: Sequence[Place]) -> list[Serving]:
    """Which of these heads say that they lead and serve (``GET /leader``)."""
    found = []
    for place in places:
        try:
            answer = ask(place, "/leader", timeout=_LOOK_TIMEOUT_S)
        except Unreachable:
            continue
        epoch = answer.body.get("epoch")
        if answer.code == 200 and isinstance(epoch, int):
            found.append(Serving(str(answer.body.get("member") or "?"), epoch))
    return found


def change_leader(
    heads: Heads, path: str, to: str | None, timeout: float, report: Callable[[str], None], known: Members
) -> Done:
    """Ask the leader for ``/switchover``, or another head for ``/failover``, and wait until that one serves.

    ``known``: the members as they were shown to the person who asks. Raises RaywardError when it is refused,
    when another than ``to`` leads afterwards, and when nothing has come of it after ``timeout`` seconds.
    """
    leader = known.leader
    before = Before(leader.name if leader else "", known.epoch)
    if to is not None and known.named(to) is None:
        names = ", ".join(member.name for member in known.members) or "none"
        raise RaywardError(f"there is no member {to!r}", where=heads.source, todo=f"members: {names}")
    asked = leader if path == "/switchover" else _taker(heads, known, to)
    wanted = to if path == "/switchover" or asked is None else asked.name
    first = [asked.place] if asked is not None and asked.place is not None else []
    body: dict[str, Any] = {"to": wanted, "epoch": before.epoch}
    began = time.monotonic()
    report(f"asking {asked.name if asked is not None else 'the heads'} for a {path.strip('/')}")
    said = ""
    try:
        said = str(heads.post(path, body, first).body.get("message") or "")
    except Unreachable as error:
        # It may have arrived: what the heads say from now on tells.
        said = f"the answer got lost ({error})"
    now = _wait(heads, known, before, began + timeout, report, said)
    seconds = time.monotonic() - began
    if now is None:
        raise RaywardError(
            f"not done after {timeout:g} s: {_standing(heads)}"
            + (f"; the agent had said: {said}" if said else ""),
            where=heads.source,
            todo="rayward list; rayward history",
        )
    if to is not None and now.member != to:
        raise RaywardError(
            f"{now.member} leads now (epoch {now.epoch}), not {to}",
            where=heads.source,
            todo="rayward history",
        )
    return Done(before, now, seconds)


def _taker(heads: Heads, known: Members, to: str | None) -> Member:
    """Who is asked to take the lease: the one that is named, else the first candidate whose agent answers."""
    if to is not None:
        member = known.named(to)
        assert member is not None
        return member
    if not known.candidates:
        raise RaywardError(
            "there is no other head that could take over", where=heads.source, todo="rayward list"
        )
    for member in known.candidates:
        if member.place is not None and status_of(member.place, _LOOK_TIMEOUT_S) is not None:
            return member
    return known.candidates[0]


def _wait(
    heads: Heads, known: Members, before: Before, deadline: float, report: Callable[[str], None], said: str
) -> Serving | None:
    own = [member.place for member in known.members if not member.leads and member.place is not None]
    places = tuple(dict.fromkeys((*own, *heads.places)))
    report(f"waiting for the next leader{f' ({said})' if said else ''}")
    while True:
        now = judge(before, serving_heads(places))
        if now is not None or time.monotonic() > deadline:
            return now
        time.sleep(_POLL_S)


def _standing(heads: Heads) -> str:
    try:
        seen = members.look(heads)
    except RaywardError as error:
        return error.what
    if seen.leader is None:
        return "nobody leads"
    return (
        f"{seen.leader.name} leads with epoch {seen.leader.epoch} ({seen.leader.state or 'no state known'})"
    )

"""What an answer of the store means: pass it on, ask again, or stop because somebody else leads. Pure.

It also says what an answer means that came to a command whose first try may or may not have been executed.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from rayward.store.lease_rules import epoch_of
from rayward.store.lease_scripts import inner_error
from rayward.store.resp import ReplyError


class Verdict(enum.Enum):
    """What to do with an error reply."""

    PASS = "pass"  # it is about the command: the client's business
    AGAIN = "again"  # it is about this connection: open another one, ask again at once
    AWAY = "away"  # it is about the state of the store: wait, ask again
    REFUSED = "refused"  # the same, and somebody has to do something about it
    FENCED = "fenced"  # somebody else leads
    EMPTY = "empty"  # the lease is gone: the store came back without its data
    OLDER = "older"  # the lease is an older one: the store came back with older data


# Those about who leads.
LEASE_VERDICTS = (Verdict.FENCED, Verdict.EMPTY, Verdict.OLDER)


@dataclass(frozen=True)
class Judgement:
    """``found``: the epoch in the store (0: none, or released). ``text``: the store's words."""

    verdict: Verdict
    text: str = ""
    found: int = 0


_PASS = Judgement(Verdict.PASS)
_VERDICTS = {
    "NOSCRIPT": Verdict.AGAIN,
    "MOVED": Verdict.AGAIN,
    "ASK": Verdict.AGAIN,
    "LOADING": Verdict.AWAY,
    "READONLY": Verdict.AWAY,
    "MASTERDOWN": Verdict.AWAY,
    "CLUSTERDOWN": Verdict.AWAY,
    "TRYAGAIN": Verdict.AWAY,
    "NOREPLICAS": Verdict.AWAY,
    "BUSY": Verdict.AWAY,
    "UNBLOCKED": Verdict.AWAY,
    "MISCONF": Verdict.REFUSED,
    "OOM": Verdict.REFUSED,
    "NOAUTH": Verdict.REFUSED,
    "WRONGPASS": Verdict.REFUSED,
    "NOPERM": Verdict.REFUSED,
}


def judge(reply: bytes, writer: str) -> Judgement:
    """What an error reply (``-...``) to a command that was sent by ``writer`` means."""
    error = inner_error(ReplyError(reply[1:-2].decode("utf-8", "replace")))
    if error.code == "FENCED":
        return judge_writer(str(error).partition(" ")[2], writer)
    verdict = _VERDICTS.get(error.code, Verdict.PASS)
    return _PASS if verdict is Verdict.PASS else Judgement(verdict, str(error))


def judge_writer(found: str, writer: str) -> Judgement:
    """What it means that the lease names this writer (``none``: no lease, ``released``: nobody).

    A writer that is ours is no verdict against us: the question was asked with an older epoch of our own.
    """
    if found == "none":
        return Judgement(Verdict.EMPTY, "the store holds no lease")
    number, epoch = epoch_of(found), epoch_of(writer)
    if not number:
        return Judgement(Verdict.FENCED, "the lease is released")
    if found == writer:
        return Judgement(Verdict.AGAIN, "the epoch has changed", number)
    if number == epoch:
        # Possible after a store forgot who took this epoch first; one of the two must not write.
        return Judgement(Verdict.FENCED, f"another head holds epoch {number}", number)
    if number < epoch:
        return Judgement(Verdict.OLDER, f"the store holds epoch {number}, ours is {epoch}", number)
    return Judgement(Verdict.FENCED, f"the store holds epoch {number}, ours is {epoch}", number)


def repeated_hsetnx(first: bytes, stored: bytes, value: bytes) -> bytes:
    """The answer to an HSETNX that was repeated after an unknown outcome.

    ``first``: the answer to the repetition; ``stored``: the answer to HGET of the same field, asked right
    behind it. A value that is ours counts as set by us.
    """
    return b":1\r\n" if first == b":0\r\n" and stored == b"$%d\r\n%b\r\n" % (len(value), value) else first

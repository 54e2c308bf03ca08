"""What is known of each head, and which of them leads: pure, no sockets and no clocks.

A head's agent says of itself who leads, one JSON object a line; how the connection to it fares says what its
host and its process do. Both end in one frozen ``HeadView``.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

SILENT_AFTER = 1.5
"""Seconds without a line after which a head counts as silent; lines come at least every 0.5 s."""
CONFIRMATIONS = 2
"""Refused attempts in a row that make REFUSED: one alone may be a listener that is just being set up."""
LONGEST_LINE = 64 * 1024
_LONGEST_WORD = 512
_LARGEST_EPOCH = 2**63 - 1
# Seconds to wait before the attempt that follows 1, 2, 3 ... attempts or streams that came to nothing.
_PACE = (0.0, 0.02, 0.05, 0.1, 0.2)


class Link(enum.Enum):
    """What the connection to one head says about it; each value is a different fact.

    ``UNKNOWN``: asked for the first time, no answer of any kind yet. ``CONNECTED``: it spoke within the last
    1.5 s. ``REFUSED``: its host answers and says that nobody listens: the process is gone (a firewall that
    rejects looks the same). ``SILENT``: no line for 1.5 s and nothing refused: frozen, cut off, powered off.
    """

    UNKNOWN = "unknown"
    CONNECTED = "connected"
    REFUSED = "refused"
    SILENT = "silent"


@dataclass(frozen=True)
class HeadView:
    """One head's agent at ``address`` (host:port). All but ``link`` is what it said last, at ``heard_at``
    (monotonic seconds; None when it never spoke); with another link than CONNECTED that is history."""

    address: str
    link: Link = Link.UNKNOWN
    leader: bool = False
    epoch: int = 0
    serving: bool = False
    gcs: str = ""
    member: str = ""
    cluster: str = ""
    incarnation: str = ""
    heard_at: float | None = None

    @property
    def name(self) -> str:
        """How to call this head in a sentence."""
        return self.member or self.address


@dataclass(frozen=True)
class Floor:
    """The highest epoch that has led so far, and the incarnation of the store that it belongs to: epochs
    only grow within one incarnation."""

    incarnation: str = ""
    epoch: int = 0

    def raised(self, leader: HeadView | None) -> Floor:
        """The floor after ``leader`` has been seen to lead."""
        if leader is None or (leader.incarnation == self.incarnation and leader.epoch <= self.epoch):
            return self
        return Floor(leader.incarnation, leader.epoch)


@dataclass(frozen=True)
class Choice:
    """Which head leads (None: nobody that is known), and the sentence that says why."""

    leader: HeadView | None
    reason: str


@dataclass(frozen=True)
class Contact:
    """What happened on the way to one head, in monotonic seconds; None: never.

    ``refusals`` counts attempts refused in a row, the newest at ``refused_at``.
    """

    since: float
    heard_at: float | None = None
    refused_at: float | None = None
    refusals: int = 0


def newest(contact: Contact) -> float:
    """When the head, or its host, last gave a sign."""
    return max(contact.since, contact.heard_at or 0.0, contact.refused_at or 0.0)


def judge(contact: Contact, now: float) -> Link:
    """What the contact so far says about the head."""
    refused = contact.refused_at is not None and now - contact.refused_at <= SILENT_AFTER
    if contact.refusals >= CONFIRMATIONS and refused:
        return Link.REFUSED
    if contact.heard_at is not None and now - contact.heard_at <= SILENT_AFTER:
        return Link.CONNECTED
    if contact.heard_at is None and now - contact.since <= SILENT_AFTER:
        return Link.UNKNOWN
    return Link.SILENT


def pace(failures: int) -> float:
    """Seconds to wait after ``failures`` (1 or more) attempts in a row that came to nothing."""
    return _PACE[min(max(failures, 1), len(_PACE)) - 1]


def read_line(view: HeadView, line: bytes, now: float) -> HeadView | None:
    """The view after its head said ``line``; None for anything but a JSON object with a true or false
    ``leader``. Fields that are missing or of another type count as not said."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or not isinstance(said.get("leader"), bool):
        return None

    def word(name: str) -> str:
        value = said.get(name)
        return value if isinstance(value, str) and len(value) <= _LONGEST_WORD else ""

    # A head without a lease (RocksDB) says the port only: its GCS is where its agent is.
    port = said.get("gcs_port")
    at_agent = f"{view.address.rpartition(':')[0]}:{port}" if isinstance(port, int) else ""
    epoch = said.get("epoch")
    if not isinstance(epoch, int) or isinstance(epoch, bool) or not 0 <= epoch <= _LARGEST_EPOCH:
        epoch = 0
    return replace(
        view,
        leader=said["leader"],
        epoch=epoch,
        serving=said.get("serving") is True,
        gcs=word("gcs") if "gcs" in said else at_agent,
        member=word("member"),
        cluster=word("cluster"),
        incarnation=word("incarnation"),
        heard_at=now,
    )


def choose_leader(views: Iterable[HeadView], floor: Floor = Floor(), cluster: str = "") -> Choice:
    """The head with the highest epoch among those that are connected and say that they lead.

    Two different members at one epoch: nobody, for one of them is wrong. A leader below ``floor`` was
    followed by another and does not know it. With ``cluster``, heads that name another one are ignored.
    """
    seen = list(views)
    leading = [view for view in seen if view.link is Link.CONNECTED and view.leader]
    own = [view for view in leading if not (cluster and view.cluster and view.cluster != cluster)]
    current = [view for view in own if view.incarnation != floor.incarnation or view.epoch >= floor.epoch]
    if not current:
        return Choice(None, _why_nobody(seen, leading, own, floor))
    epoch = max(view.epoch for view in current)
    first, *others = sorted((view for view in current if view.epoch == epoch), key=lambda view: view.address)
    rivals = sorted({view.name for view in others} - {first.name})
    if rivals:
        names = " and ".join(sorted([first.name, *rivals]))
        return Choice(None, f"{names} both say that they lead with epoch {epoch}")
    return Choice(first, f"{first.name} leads with epoch {epoch}")


def _why_nobody(
    seen: Sequence[HeadView], leading: Sequence[HeadView], own: Sequence[HeadView], floor: Floor
) -> str:
    if own:
        return f"{own[0].name} leads with epoch {own[0].epoch}, but epoch {floor.epoch} has led since"
    if leading:
        return f"{leading[0].name} leads another cluster, {leading[0].cluster!r}"
    if not seen:
        return "no head is known yet"
    states = ", ".join(f"{view.name} {view.link.value}" for view in seen)
    return f"no head says that it leads ({states})"

"""What an elector shows of itself to the rest of its agent: frozen values, replaced whole, never changed."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from rayward.agent.lead import StoreStanding


class Rank(enum.Enum):
    """What this head is now. HANDING_OVER: it holds the lease until its GCS has ended."""

    STANDBY = "standby"
    LEADING = "leader"
    HANDING_OVER = "handing over"


@dataclass(frozen=True)
class Standing:
    """The newest outcome of the elector's loop.

    ``epoch`` is the one held here (0 for a standby), ``known_epoch`` the newest heard of. ``leader`` and
    ``leader_gcs`` name whoever leads, as far as known; ``leader_serves``: its GCS answers. ``lease_left``:
    seconds until the fence would fire here. ``stored_before``: the store holds what a leader has written, so
    that a GCS can be prepared on it. ``can_hand_over``: another head is prepared and may lead. ``word_from``:
    heads whose word keeps this leader's GCS while the store is away.
    """

    rank: Rank = Rank.STANDBY
    epoch: int = 0
    known_epoch: int = 0
    reason: str = "has not looked at the lease yet"
    leader: str = ""
    leader_gcs: str = ""
    leader_serves: bool = False
    paused: bool = False
    store: StoreStanding = StoreStanding.UNASKED
    store_fault: str = ""
    store_todo: str = ""
    incarnation: str = ""
    lease_left: float = 0.0
    can_hand_over: bool = False
    stored_before: bool = False
    word_from: tuple[str, ...] = ()
    members: tuple[dict[str, Any], ...] = field(default=())

    @property
    def leads(self) -> bool:
        """Whether this head holds the lease and means to keep it."""
        return self.rank is Rank.LEADING

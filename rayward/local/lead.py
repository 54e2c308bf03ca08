"""What a head's agent says of its part in leading: whether it leads or stands by, and how far it is. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LEADER, STANDBY, WARM = "leader", "standby", "warm"


@dataclass(frozen=True)
class Lead:
    """The ``lead`` part of an agent's /status. ``role`` is "leader" or "standby"; ``state`` is the agent's
    own word for how far it is ("warm" for a standby that may take over); ``epoch`` numbers leaders;
    ``member`` is the head itself, ``leader`` the one that it takes for the leader; ``reason`` a sentence."""

    role: str
    state: str = ""
    epoch: int | None = None
    member: str = ""
    leader: str = ""
    reason: str = ""

    @property
    def leads(self) -> bool:
        """Whether this head says that it leads."""
        return self.role == LEADER

    @property
    def stands_by(self) -> bool:
        """Whether this head is warm: as ready as a head that does not lead can be."""
        return self.role == STANDBY and self.state == WARM


def lead_of(status: Mapping[str, Any] | None) -> Lead | None:
    """The lead part of an agent's /status; None when there is none: no answer, or a head without a lease."""
    found = (status or {}).get("lead")
    if not isinstance(found, Mapping) or not found.get("role"):
        return None
    epoch = found.get("epoch")
    return Lead(
        role=str(found["role"]),
        state=str(found.get("state") or ""),
        epoch=epoch if isinstance(epoch, int) else None,
        member=str(found.get("member") or ""),
        leader=str(found.get("leader") or ""),
        reason=str(found.get("reason") or ""),
    )

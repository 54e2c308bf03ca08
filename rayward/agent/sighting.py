"""The lease as one head sees it: the newest look at the store, and for how long it has been as it is.

Only this head's own monotonic clock counts; no time that another machine wrote is ever compared.
"""

from __future__ import annotations

import time

from rayward.agent.electorate import Electorate
from rayward.agent.lead import LeaderLink, RecordView, StoreStanding
from rayward.agent.store_desk import Look
from rayward.agent.timing import LeaseTiming


class Sighting:
    """For the elector's thread. ``look`` may be replaced directly where nothing has to be timed."""

    def __init__(self, member: str, address: str, timing: LeaseTiming, electorate: Electorate) -> None:
        self._member, self._address = member, address
        self._timing, self._electorate = timing, electorate
        self.look = Look()
        self._token_since = self._instance_since = time.monotonic()

    def take(self, look: Look) -> None:
        """The newest look. A lease that is not as before stands since now."""
        before = self.look
        if look.token != before.token or before.standing is StoreStanding.UNASKED:
            self._token_since = time.monotonic()
        if _instance(look) != _instance(before):
            self._instance_since = time.monotonic()
        self.look = look

    @property
    def unchanged_for(self) -> float:
        """Seconds for which the lease (or that there is none) has been as it is now."""
        return time.monotonic() - self._token_since

    @property
    def decides_soon(self) -> bool:
        """Whether the next look may decide, for the lease runs out; not when this has gone on for long, as
        it does where nobody may lead."""
        look = self.look
        if look.standing is not StoreStanding.GOOD or look.record is None or look.record.released:
            return False
        return self._timing.ttl * 0.8 < self.unchanged_for < self._timing.ttl * 2

    def link(self) -> LeaderLink:
        """How the agent of the lease's holder looks from here."""
        record = self.look.record
        if record is None:
            return LeaderLink.UNKNOWN
        link = self._electorate.link_to(record.holder, record.address)
        # A refusal may be older than this holder: its agent may just have come back and taken the lease.
        fresh = time.monotonic() - self._instance_since < self._timing.gone_after
        return LeaderLink.UNKNOWN if fresh and link is LeaderLink.GONE else link

    def record(self) -> RecordView | None:
        """The lease for ``decide_lead``."""
        record = self.look.record
        if record is None:
            return None
        own = record.holder == self._member
        return RecordView(
            holder=record.holder,
            epoch=record.epoch,
            released=record.released,
            successor=record.successor,
            unchanged_for=self.unchanged_for,
            ours=own,
            same_place=own and record.address == self._address,
            listed=self._member in record.heads,
            for_us=record.successor == self._member,
            adopted=record.released and not record.instance,
        )

    def released_epoch(self) -> int:
        """The epoch that its own holder has released; 0 for a lease that is held, or was adopted."""
        record = self.look.record
        return record.epoch if record is not None and record.released and record.instance else 0


def _instance(look: Look) -> str:
    return look.record.instance if look.record is not None else ""

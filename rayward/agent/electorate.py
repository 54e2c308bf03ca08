"""The other heads as one head's elector sees them: who is there, who is prepared, who gives its word.

Joins what the streams say (``HeadsWatch``) with what the heads write of themselves into the store.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Callable

from rayward.agent.heads_watch import HeadsWatch, HeadView, Link, ask
from rayward.agent.lead import LeaderLink
from rayward.agent.timing import LeaseTiming

Members = tuple[dict[str, Any], ...]

_LINKS = {
    Link.CONNECTED: LeaderLink.CONNECTED,
    Link.REFUSED: LeaderLink.GONE,
    Link.SILENT: LeaderLink.SILENT,
    Link.UNKNOWN: LeaderLink.UNKNOWN,
}


@dataclass(frozen=True)
class Question:
    """What a leader without a store asks the other heads: their word not to lead for one TTL."""

    epoch: int
    member: str
    trouble_for: float
    cluster: str


class Electorate:
    """Not for one thread only."""

    unknown = LeaderLink.UNKNOWN

    def __init__(self, watch: HeadsWatch | None, timing: LeaseTiming, token: str = "") -> None:
        self._watch, self._timing, self._token = watch, timing, token
        self._changed_at = 0.0
        self._on_change: Callable[[], None] = lambda: None

    def start(self, on_change: Callable[[], None]) -> None:
        """Begin to watch; ``on_change`` is called from the watch's thread."""
        self._on_change = on_change
        if self._watch is not None:
            self._watch.subscribe(self._note_change)
            self._watch.start()

    def stop(self) -> None:
        """End the watch."""
        if self._watch is not None:
            self._watch.stop()

    def _note_change(self) -> None:
        self._changed_at = time.monotonic()
        self._on_change()

    def changed_since(self, moment: float) -> bool:
        """Whether a head's stream has brought news since ``moment`` (monotonic)."""
        return self._changed_at > moment

    def leader(self) -> HeadView | None:
        """The other head that leads, as its own agent says."""
        return self._watch.leader() if self._watch is not None else None

    def link_to(self, holder: str, address: str) -> LeaderLink:
        """How the agent of the lease's holder looks from here: by its address, for names may be reused."""
        views = self._watch.heads() if self._watch is not None else ()
        for view in views:
            if view.address == address:
                return _LINKS[view.link]
        named = [view for view in views if view.member == holder]
        return _LINKS[named[0].link] if named and not address else LeaderLink.UNKNOWN

    def prepared_heads(self, members: Members, own: str) -> tuple[str, ...]:
        """Other heads that say in the store that a GCS of theirs stands by, and whose agents speak now."""
        views = self._watch.heads() if self._watch is not None else ()
        connected = {view.address for view in views if view.link is Link.CONNECTED}
        return tuple(
            entry["member"]
            for entry in members
            if entry["member"] != own
            and entry.get("state") == "prepared"
            and entry.get("address") in connected
        )

    def heads_with_a_say(self, members: Members, own: str) -> tuple[str, ...]:
        """The other heads that are asked when the store is away: those that have written of themselves
        within ``forget_after`` seconds on this head's own clock. That is counted while it stands by, too: a
        head that was lost before this one took over must not keep it from outlasting the store's absence."""
        limit = self._timing.forget_after
        return tuple(
            sorted(
                entry["member"] for entry in members if entry["member"] != own and entry["seen_ago_s"] < limit
            )
        )

    def ask_all(
        self, heads: Sequence[str], members: Members, question: Question
    ) -> tuple[tuple[str, ...], str]:
        """Ask each of ``heads`` for its word; returns those that gave it, and why not all did (or "")."""
        if not heads:
            return (), ""
        addresses = {entry["member"]: str(entry.get("address", "")) for entry in members}
        body = asdict(question)

        def one(head: str) -> str:
            try:
                status, answer = ask(
                    addresses.get(head, ""), "/failsafe", body, self._timing.peer_timeout, self._token
                )
            except Exception as error:  # whatever it is: no word was given
                return f"{head} does not answer ({error or type(error).__name__})"
            if status == 200 and isinstance(answer, dict) and answer.get("given") is True:
                return ""
            told = answer.get("reason") if isinstance(answer, dict) else f"HTTP {status}"
            return f"{head}: {told}"

        with ThreadPoolExecutor(len(heads)) as pool:
            refusals = [found for found in pool.map(one, heads) if found]
        return (() if refusals else tuple(heads)), "; ".join(refusals)

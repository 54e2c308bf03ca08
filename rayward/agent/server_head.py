"""What a head's HTTP port answers about lease, members and history, and what people may ask of it by POST.

The answers are plain data; ``server`` puts them on the wire.
"""

from __future__ import annotations

import json
from typing import Any, Callable

from rayward.agent.head_lead import HeadLead
from rayward.agent.slots import SlotKeeper
from rayward.store.upstream import StoreAwayError

Answer = tuple[int, dict[str, Any]]


class HeadViews:
    """The paths that only a head with a lease has. Safe from any thread."""

    def __init__(self, lead: HeadLead) -> None:
        self._lead = lead
        self._slots = SlotKeeper()
        self._posts: dict[str, Callable[[dict[str, Any]], Answer]] = {
            "/switchover": self._switchover,
            "/failover": self._failover,
            "/pause": lambda _body: self._outcome(lead.elector.set_paused(True)),
            "/resume": lambda _body: self._outcome(lead.elector.set_paused(False)),
            "/store/adopt": lambda _body: self._outcome(lead.elector.adopt()),
            "/failsafe": self._word,
            "/recycle": self._recycle,
        }

    @property
    def paths(self) -> list[str]:
        """What may be posted to."""
        return sorted(self._posts)

    def members(self) -> Answer:
        """Every head, as the store and this head's own agent know it."""
        seen = self._lead.standing
        own = self._lead.status()
        rows = [self._row(entry) for entry in seen.members]
        return 200, {
            "cluster": self._lead.cluster,
            "paused": seen.paused,
            "leader": seen.leader,
            "epoch": own["epoch"],
            "store": own["store"],
            "members": sorted(rows, key=lambda row: (row["role"] != "leader", row["member"])),
        }

    def _row(self, entry: dict[str, Any]) -> dict[str, Any]:
        seen = self._lead.standing
        leads = entry["member"] == seen.leader
        quiet = entry.get("seen_ago_s")
        silent = not leads and isinstance(quiet, (int, float)) and quiet > self._lead.timing.ttl
        return {
            "member": entry["member"],
            "role": "leader" if leads else "unknown" if silent else "standby",
            "state": "leading" if leads else "silent" if silent else str(entry.get("state", "unknown")),
            "epoch": seen.epoch or seen.known_epoch if leads else None,
            "lease_left_s": round(seen.lease_left, 1) if leads and seen.epoch else None,
            "seen_ago_s": quiet,
            "gcs": str(entry.get("gcs", "")),
            "address": str(entry.get("address", "")),
        }

    def history(self) -> Answer:
        """Who led, since when and why."""
        try:
            return 200, {"history": self._lead.elector.history()}
        except StoreAwayError as error:
            return 503, {"error": str(error), "todo": "ask again when the store is back"}

    def post(self, path: str, raw: bytes, authorization: str) -> Answer:
        """Carry out what was posted."""
        action = self._posts.get(path)
        if action is None:
            return 404, {"error": f"nothing can be posted to {path}", "paths": self.paths}
        token = self._lead.token
        if token and authorization != f"Bearer {token}":
            return 401, {"error": "this agent wants a token", "todo": "set RAYWARD_AGENT_TOKEN"}
        try:
            body = json.loads(raw or b"{}")
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            return 400, {"error": "the body is not a JSON object"}
        try:
            return action(body)
        except StoreAwayError as error:
            return 503, {"error": str(error), "todo": "ask again when the store is back"}

    @staticmethod
    def _outcome(outcome: tuple[bool, str]) -> Answer:
        done, words = outcome
        return (200, {"ok": True, "message": words}) if done else (409, {"error": words})

    def _switchover(self, body: dict[str, Any]) -> Answer:
        epoch = body.get("epoch")
        if type(epoch) is int and epoch != self._lead.standing.epoch:
            # A request that comes late or twice must not undo what came after it.
            return 412, {"error": f"epoch {epoch} is over; now it is {self._lead.standing.known_epoch}"}
        return self._outcome(self._lead.elector.hand_over(_member(body)))

    def _failover(self, body: dict[str, Any]) -> Answer:
        wanted = _member(body)
        if wanted and wanted != self._lead.member:
            return 412, {"error": f"this is {self._lead.member}", "todo": f"ask the agent of {wanted}"}
        return self._outcome(self._lead.elector.take_over())

    def _word(self, body: dict[str, Any]) -> Answer:
        epoch, trouble = body.get("epoch"), body.get("trouble_for")
        wrong = 400, {"error": "epoch, trouble_for and cluster are wrong or missing"}
        if type(epoch) is not int or not isinstance(trouble, (int, float)) or not 0 <= trouble < float("inf"):
            return wrong
        if body.get("cluster") != self._lead.cluster_uid:
            return wrong
        given, why = self._lead.elector.word(epoch, float(trouble))
        return 200, {"given": given, "reason": why}

    def _recycle(self, body: dict[str, Any]) -> Answer:
        member, workers = str(body.get("member", "")), body.get("workers")
        if not self._lead.standing.leads:
            return 409, {"error": "this head does not lead"}
        granted, why = self._slots.ask(member, workers if type(workers) is int else 1)
        return 200, {"granted": granted, "reason": why}


def _member(body: dict[str, Any]) -> str | None:
    wanted = body.get("to")
    return wanted if isinstance(wanted, str) and wanted else None

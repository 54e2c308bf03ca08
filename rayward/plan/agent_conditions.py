"""Leader, fence and store as conditions, from what the agents of the head Pods say.

Only for clusters whose keys are in Redis and whose heads run the agent; dropped for all others. It repeats
what it hears and holds on to it over a moment's silence; who leads is settled between the agents.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rayward.plan.conditions import Conditions
from rayward.plan.outcome import Raw
from rayward.plan.pod_state import is_ready, is_running

LEADER, FENCE, STORE = "LeaderElected", "WritesFenced", "StoreHealthy"
_STORE_REASONS = {
    "away": "StoreAway",
    "refused": "StoreRefuses",
    "empty": "StoreEmpty",
    "older": "StoreOlder",
    "foreign": "StoreForeign",
}
_LEADS = re.compile(r"(?P<pod>\S+) (?:leads|led last) in epoch (?P<epoch>\d+)")


@dataclass(frozen=True)
class Leader:
    """A head that leads or led, as the condition remembers it."""

    pod: str
    epoch: int


def remembered_leader(condition: Raw) -> Leader | None:
    """The leader that a LeaderElected condition names, now or last; None when it names none."""
    match = _LEADS.search(str(condition.get("message") or ""))
    return Leader(match["pod"], int(match["epoch"])) if match else None


def set_agent_conditions(
    conditions: Conditions, heads: Sequence[Raw], agents: Mapping[str, Raw] | None, *, applies: bool
) -> None:
    """Set the three. ``heads`` are the living head Pods; ``agents`` None: nobody asked yet, all stays."""
    if not applies:
        for kind in (LEADER, FENCE, STORE):
            conditions.drop(kind)
        return
    if agents is None:
        return
    pods = {str(pod["metadata"]["name"]): pod for pod in heads}
    said = {name: answer for name, answer in agents.items() if name in pods and _lead(answer)}
    leading = [name for name in said if _lead(said[name]).get("role") in ("leader", "handing over")]
    leader = max(leading, key=lambda name: _epoch(said[name]), default=None)
    if not said and _holds(conditions, pods):
        return
    _leader(conditions, leader, said, any(map(is_running, heads)))
    _fence(conditions, leader, said)
    _store(conditions, leader, said)


def _holds(conditions: Conditions, pods: Mapping[str, Raw]) -> bool:
    """Whether silence changes nothing: the head that led is still ready, which only its agent makes it."""
    last = remembered_leader(conditions.get(LEADER))
    ready = last is not None and last.pod in pods and is_ready(pods[last.pod])
    return ready and conditions.is_true(LEADER)


def _lead(answer: Raw) -> Raw:
    found = answer.get("lead")
    return found if isinstance(found, dict) else {}


def _epoch(answer: Raw) -> int:
    found = _lead(answer).get("epoch")
    return found if isinstance(found, int) else 0


def _leader(conditions: Conditions, leader: str | None, said: Mapping[str, Raw], running: bool) -> None:
    if leader is not None:
        text = f"{leader} leads in epoch {_epoch(said[leader])}"
        conditions.set(LEADER, "True", "HeadLeads", text)
        return
    last = remembered_leader(conditions.get(LEADER))
    memory = f"; {last.pod} led last in epoch {last.epoch}" if last else ""
    if said or not running:
        conditions.set(LEADER, "False", "NoLeader", f"No head leads{memory}")
    else:
        conditions.set(LEADER, "Unknown", "AgentSilent", f"No agent of a head answers{memory}")


def _fence(conditions: Conditions, leader: str | None, said: Mapping[str, Raw]) -> None:
    words = {name: str(answer.get("fence") or "") for name, answer in said.items()}
    open_at = sorted(name for name, text in words.items() if text.startswith(("off", "none")))
    if open_at:
        conditions.set(FENCE, "False", "FenceOff", f"The store takes every write of {', '.join(open_at)}")
    elif leader is not None or any(words.values()):
        text = "The store refuses every write of an epoch that is not the newest"
        conditions.set(FENCE, "True", "Fenced", text)
    else:
        conditions.set(FENCE, "Unknown", "AgentSilent", "No agent of a head answers")


def _store(conditions: Conditions, leader: str | None, said: Mapping[str, Raw]) -> None:
    """As the leader sees the store; without a leader, whether any head can use it."""
    looks = {name: _lead(said[name]).get("store") or {} for name in ([leader] if leader else sorted(said))}
    states = {str(look.get("state") or "") for look in looks.values()}
    if "good" in states:
        conditions.set(STORE, "True", "StoreAnswers", "The store answers and is the one that the heads know")
        return
    for name, look in looks.items():
        reason = _STORE_REASONS.get(str(look.get("state")))
        if reason is not None:
            text = f"{name}: {look.get('fault') or 'the store is ' + str(look['state'])}"
            conditions.set(STORE, "False", reason, text, calm=True)
            return
    if said:
        conditions.set(STORE, "Unknown", "NotAskedYet", "The heads have not asked the store yet")
    else:
        conditions.set(STORE, "Unknown", "AgentSilent", "No agent of a head answers")

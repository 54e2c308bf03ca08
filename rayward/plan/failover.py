"""One event for each failover, found by comparing the last status with the new one.

Pure. The last status is the only memory: it says who led, and since when no head was ready.
"""

from __future__ import annotations

from collections.abc import Sequence

from rayward.plan.agent_conditions import LEADER, remembered_leader
from rayward.plan.conditions import find
from rayward.plan.outcome import Event, Raw
from rayward.plan.pod_state import seconds
from rayward.plan.status import is_provisioned

READY = "HeadPodReady"


def failover_events(old: Raw, new: Raw, heads: Sequence[Raw], now: float) -> tuple[Event, ...]:
    """LeaderChanged when another head, or the same one in a later epoch, leads than led before;
    FailoverCompleted when a head is ready again that was not the one before; both in one when they come
    together. ``heads`` are the living head Pods. A cluster that was never complete has no failovers."""
    if not is_provisioned(old):
        return ()
    change = _leader_change(old, new)
    if find(new, READY).get("status") == "True":
        done = _completed(old, new, heads, now)
        if done:
            text = f"{done}; {change}" if change else done
            return (Event("Normal", "FailoverCompleted", text),)
    return (Event("Normal", "LeaderChanged", change),) if change else ()


def _leader_change(old: Raw, new: Raw) -> str:
    before, after = find(old, LEADER), find(new, LEADER)
    last, now_leads = remembered_leader(before), remembered_leader(after)
    if last is None or now_leads is None or after.get("status") != "True" or last == now_leads:
        return ""
    return f"{now_leads.pod} leads in epoch {now_leads.epoch} ({last.pod} in epoch {last.epoch} before)"


def _completed(old: Raw, new: Raw, heads: Sequence[Raw], now: float) -> str:
    """What to say when another head is ready than before, empty when none or the same one is."""
    before = find(old, READY)
    last, name = _named(old), _named(new)
    if before.get("status") == "True":
        return f"{name} is the head now, {last} was before" if last and last != name else ""
    lost = seconds(before.get("lastTransitionTime"))
    head = next((pod for pod in heads if pod["metadata"]["name"] == name), None)
    made = seconds((head or {"metadata": {}})["metadata"].get("creationTimestamp"))
    # The name may be that of the new Pod already: it was written down while the Pod came up.
    replaced = last != name or (made is not None and lost is not None and made >= lost)
    if not replaced:
        return ""
    after = f", {max(0.0, now - lost):.0f} s after the last one was lost" if lost is not None else ""
    return f"{name} is the head now{after}"


def _named(status: Raw) -> str:
    return str((status.get("head") or {}).get("podName") or "")

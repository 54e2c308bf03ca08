"""A RayCluster whose spec cannot be used: nothing of it changes, and its status says why and stays true.

Also one that another operator looks after, of which nothing at all is touched.
"""

from __future__ import annotations

from collections.abc import Sequence

from rayward.api.problems import Problem
from rayward.plan import names
from rayward.plan.conditions import Conditions, find
from rayward.plan.outcome import Event, Observed, Plan, Raw
from rayward.plan.pod_state import is_ready, timestamp

LONGEST = 900


def plan_invalid(raw: Raw, observed: Observed, problems: Sequence[Problem], now: float) -> Plan:
    """Report ``problems`` once for as long as they stay the same; none: the cluster is another operator's."""
    old = dict(raw.get("status") or {})
    if not problems:
        return Plan(status=old)
    # The names that KubeRay gives these events.
    named = all(found.path.startswith(("metadata.name", "metadata.uid")) for found in problems)
    reason = "InvalidRayClusterMetadata" if named else "InvalidRayClusterSpec"
    why = in_short(problems)
    text = f"{reason}: {why}"
    status = {**old, "reason": text, "observedGeneration": raw["metadata"].get("generation", 0)}
    heads = [pod for pod in observed.pods if names.node_type(pod) == names.HEAD]
    if find(old, "HeadPodReady").get("status") == "True" and not any(map(is_ready, heads)):
        conditions = Conditions(old.get("conditions") or (), timestamp(now))
        message = "No head is ready, and none is made while the spec is invalid"
        conditions.set("HeadPodReady", "False", "HeadPodNotFound", message)
        status.update(conditions=conditions.result(), state="")
    said = old.get("reason") == text
    return Plan(status=status, events=() if said else (Event("Warning", reason, why),))


def in_short(problems: Sequence[Problem]) -> str:
    """As many problems as an event has room for, and how many more there are."""
    text = ""
    for number, problem in enumerate(problems):
        more = f"{text}; {problem}" if text else str(problem)[:LONGEST]
        if len(more) > LONGEST:
            return f"{text}; and {len(problems) - number} more"
        text = more
    return text

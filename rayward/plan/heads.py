"""The heads of a RayCluster: how many there are, which go, which come, and when one has to wait.

Which of them leads is none of its business: their agents settle that with the store.
"""

from __future__ import annotations

from collections.abc import Sequence

from rayward.api.fault_tolerance import Backend, FaultTolerance
from rayward.plan import names
from rayward.plan.outcome import Event, Raw
from rayward.plan.pod_state import (
    age_key,
    is_ready,
    is_terminating,
    ray_container_state,
    seconds,
    should_delete,
)
from rayward.plan.pods import head_pod
from rayward.plan.status import is_provisioned
from rayward.plan.steps import Steps

DEAD_NODE_S = 30.0


def reconcile_heads(heads: Sequence[Raw], steps: Steps) -> bool:
    """Bring the heads to their number: living ones stay, surplus ones go, missing ones come, each for
    itself. False when workers must be left alone in this pass."""
    usable = _usable(heads, steps)
    if len(usable) > steps.ft.heads:
        usable = _without_surplus(usable, steps)
    missing = steps.ft.heads - len(usable)
    if not missing:
        return True
    if steps.cluster.annotations.get(names.NO_HEAD_RESTART) == "true" and is_provisioned(
        steps.cluster.status
    ):
        return bool(usable)
    holder = _store_holder(steps.ft, heads, steps.now)
    if holder is not None:
        message = f"Waiting for {holder} to end before the next head starts: one GCS may write"
        steps.events.append(Event("Normal", "WaitingForHeadPod", message))
        return True
    # A head on its way out, perhaps for ever on a dead node, is not waited for: names differ.
    taken = {head_index(pod) for pod in usable}
    free = [index for index in range(steps.ft.heads + len(usable)) if index not in taken]
    for index in free[:missing]:
        pod = head_pod(steps.cluster, steps.settings, index=index)
        steps.create.append(pod)
        prefix = pod["metadata"]["generateName"]
        steps.events.append(Event("Normal", "CreatedHeadPod", f"Created head Pod {prefix}*"))
    return True


def head_index(pod: Raw) -> int:
    """Which of its cluster's heads a Pod is; one that was made when there was but one is number 0."""
    text = str((pod["metadata"].get("labels") or {}).get(names.HEAD_INDEX, ""))
    return int(text) if text.isascii() and text.isdecimal() else 0


def is_fenced(head: Raw) -> bool:
    """Whether this very head Pod writes through rayward's fence, so that the next head need not wait for
    its end: from then on the store refuses its writes."""
    variables = {item["name"]: item.get("value") for item in head["spec"]["containers"][0].get("env") or ()}
    redis = variables.get("RAYWARD_STORE") == Backend.REDIS.value
    # A Pod of a rayward that knew no fence yet has no RAYWARD_HEADS.
    return redis and "RAYWARD_HEADS" in variables and variables.get("RAYWARD_FENCE") != "off"


def _usable(heads: Sequence[Raw], steps: Steps) -> list[Raw]:
    """The heads that may still serve, oldest first; the others are removed."""
    usable = []
    for pod in sorted(heads, key=age_key):
        reason = should_delete(pod)
        if reason is not None:
            steps.remove(pod, reason)
        elif not is_terminating(pod):
            usable.append(pod)
    return usable


def _without_surplus(usable: list[Raw], steps: Steps) -> list[Raw]:
    """As many as there shall be: the one that leads first, then the oldest."""
    by_worth = sorted(usable, key=lambda pod: (not is_ready(pod), age_key(pod)))
    kept, surplus = by_worth[: steps.ft.heads], by_worth[steps.ft.heads :]
    shown = " and ".join(pod["metadata"]["name"] for pod in kept)
    message = f"Found {len(usable)} head Pods instead of {steps.ft.heads}; keeping {shown}"
    steps.events.append(Event("Warning", "TooManyHeadPods", message))
    for pod in surplus:
        steps.remove(pod, f"{shown} {'is the head' if len(kept) == 1 else 'are the heads'}")
    return kept


def _store_holder(ft: FaultTolerance, heads: Sequence[Raw], now: float) -> str | None:
    """The old head whose GCS may still write to the store and that no fence stops: only waiting for its
    end makes sure. Past its time of death by DEAD_NODE_S its node counts as lost."""
    if ft.backend is Backend.MEMORY:
        return None
    for pod in heads:
        due = seconds(pod["metadata"].get("deletionTimestamp"))
        runs = due is not None and "running" in ray_container_state(pod) and now < due + DEAD_NODE_S
        if runs and not is_fenced(pod):
            return str(pod["metadata"]["name"])
    return None

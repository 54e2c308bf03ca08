"""The heads of a RayCluster: how many there are, which go, which come, and when one has to wait.

Which of them leads is none of its business: their agents settle that with the store.
"""

from __future__ import annotations

from collections.abc import Sequence

from rayward.api.fault_tolerance import Backend, fault_tolerance
from rayward.api.raycluster import RayCluster
from rayward.plan import names
from rayward.plan.outcome import Raw
from rayward.plan.pod_state import (
    age_key,
    crash_loop_age,
    disruption,
    is_on_lost_node,
    is_ready,
    is_terminating,
    phase,
    ray_container_state,
    seconds,
    should_delete,
)
from rayward.plan.pods import head_pod
from rayward.plan.status import is_provisioned
from rayward.plan.steps import Steps
from rayward.plan.store_key import is_inside_the_pod

DEAD_NODE_S = 30.0
CRASHES, CRASHING_S = 5, 300.0


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
    holder = _store_holder(heads, steps)
    if holder is not None:
        steps.waiting = f"Waiting for {holder} to end before the next head starts: one GCS may write"
        # Once: a condition repeats it for as long as it is true.
        conditions = steps.cluster.status.get("conditions") or ()
        if all(steps.waiting not in str(item.get("message")) for item in conditions):
            steps.say("WaitingForHeadPod", steps.waiting)
        return True
    # A head on its way out, perhaps for ever on a dead node, is not waited for: names differ.
    taken = {head_index(pod) for pod in usable}
    free = [index for index in range(steps.ft.heads + len(usable)) if index not in taken]
    for index in free[:missing]:
        steps.add(head_pod(steps.cluster, steps.settings, index=index))
    return True


def head_index(pod: Raw) -> int:
    """Which of its cluster's heads a Pod is; one that was made when there was but one is number 0."""
    text = str((pod["metadata"].get("labels") or {}).get(names.HEAD_INDEX, ""))
    return int(text) if text.isascii() and text.isdecimal() else 0


def has_agent(head: Raw) -> bool:
    """Whether rayward's agent runs in this very head Pod."""
    return "RAYWARD_AGENT_PORT" in _environment(head)


def is_fenced(head: Raw) -> bool:
    """Whether this very head Pod writes through rayward's fence, so that the next head need not wait for
    its end: from then on the store refuses its writes."""
    variables = _environment(head)
    redis = variables.get("RAYWARD_STORE") == Backend.REDIS.value
    # A Pod of a rayward that knew no fence yet has no RAYWARD_HEADS.
    return redis and "RAYWARD_HEADS" in variables and variables.get("RAYWARD_FENCE") != "off"


def _environment(head: Raw) -> dict[str, object]:
    return {item["name"]: item.get("value") for item in head["spec"]["containers"][0].get("env") or ()}


def _usable(heads: Sequence[Raw], steps: Steps) -> list[Raw]:
    """The heads that may still serve, oldest first; the others are removed."""
    usable = []
    for pod in sorted(heads, key=age_key):
        reason = None if is_terminating(pod) else _why_replace(pod, steps)
        if reason is not None:
            steps.remove(pod, reason)
        elif not is_terminating(pod):
            usable.append(pod)
    return usable


def _why_replace(pod: Raw, steps: Steps) -> str | None:
    """Why a head must make room for another one, None to keep it."""
    reason = should_delete(pod)
    if reason is not None:
        return reason
    if is_on_lost_node(pod, steps.observed.lost_nodes):
        return f"its node {pod['spec'].get('nodeName') or ''} does not answer".replace("  ", " ")
    why = disruption(pod)
    if why is not None:
        return f"Kubernetes is about to end it ({why})"
    crashing = crash_loop_age(pod, steps.now, CRASHES)
    if crashing is None or not is_provisioned(steps.cluster.status) or not _may_move(steps.cluster):
        return None
    if crashing < CRASHING_S:
        steps.wake(CRASHING_S - crashing)
        return None
    return f"its Ray container has been crashing for {CRASHING_S / 60:g} minutes; another node may suit it"


def _may_move(cluster: RayCluster) -> bool:
    """Whether a head Pod can be made anew elsewhere without losing what its template ties to the place: a
    node's name, a directory of the node, a Redis of its own without a claim."""
    if cluster.annotations.get(names.NO_HEAD_RESTART) == "true":
        return False
    spec = cluster.head.template["spec"]
    volumes = spec.get("volumes") or ()
    if spec.get("nodeName") or any("hostPath" in volume for volume in volumes):
        return False
    claimed = any("persistentVolumeClaim" in volume for volume in volumes)
    return claimed or not is_inside_the_pod(fault_tolerance(cluster).redis_address)


def _without_surplus(usable: list[Raw], steps: Steps) -> list[Raw]:
    """As many as there shall be: the one that leads first, then the oldest."""
    by_worth = sorted(usable, key=lambda pod: (not is_ready(pod), age_key(pod)))
    kept, surplus = by_worth[: steps.ft.heads], by_worth[steps.ft.heads :]
    shown = " and ".join(pod["metadata"]["name"] for pod in kept)
    message = f"Found {len(usable)} head Pods instead of {steps.ft.heads}; keeping {shown}"
    steps.warn("TooManyHeadPods", message)
    for pod in surplus:
        steps.remove(pod, f"{shown} {'is the head' if len(kept) == 1 else 'are the heads'}")
    return kept


def _store_holder(heads: Sequence[Raw], steps: Steps) -> str | None:
    """The old head whose GCS may still write to the store and that no fence stops: only waiting for its
    end makes sure. Past its time of death by DEAD_NODE_S its node counts as lost."""
    if steps.ft.backend is Backend.MEMORY:
        return None
    leaving = {found.name for found in steps.delete}
    for pod in heads:
        due = seconds(pod["metadata"].get("deletionTimestamp"))
        goes = due is not None or pod["metadata"]["name"] in leaving
        over = phase(pod) in ("Failed", "Succeeded") or "running" not in ray_container_state(pod)
        if not goes or over or is_fenced(pod):
            continue
        if due is None:
            return str(pod["metadata"]["name"])
        if steps.now < due + DEAD_NODE_S:
            steps.wake(due + DEAD_NODE_S - steps.now)
            return str(pod["metadata"]["name"])
    return None

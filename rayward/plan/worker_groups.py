"""The worker groups of a RayCluster: which Pods each of them has, gets and loses.

Each group is looked after for itself, in whole replicas; heads are none of its business.
"""

from __future__ import annotations

from rayward.api.raycluster import WorkerGroupSpec
from rayward.plan import names
from rayward.plan.outcome import Raw
from rayward.plan.pod_state import age_key, is_ready, is_terminating, should_delete
from rayward.plan.pods import worker_pod
from rayward.plan.settings import Settings
from rayward.plan.steps import Steps


def reconcile_workers(workers: list[Raw], steps: Steps, settings: Settings) -> None:
    """Bring every group to its size; ``settings`` are those for new Pods. Workers of groups that are no
    longer in the spec go."""
    for group in steps.cluster.workers:
        _worker_group(group, workers, steps, settings)
    known = {names.trim_front(group.group_name) for group in steps.cluster.workers}
    for pod in workers:
        if pod["metadata"]["labels"].get(names.GROUP) not in known:
            steps.remove(pod, "its worker group is no longer in the spec")


def _worker_group(group: WorkerGroupSpec, workers: list[Raw], steps: Steps, settings: Settings) -> None:
    """Bring one group to its size, in whole replicas of ``hosts`` Pods each."""
    label = names.trim_front(group.group_name)
    mine = [pod for pod in workers if pod["metadata"]["labels"].get(names.GROUP) == label]
    if group.suspend:
        for pod in mine:
            steps.remove(pod, "its worker group is suspended")
        return
    replicas = _replicas(group, mine, steps)
    unwanted = set(group.scale_strategy.workers_to_delete)
    for index, pods in list(replicas.items()):
        # Names are looked up among this group's Pods only: a wrong one must not hit a stranger.
        if any(pod["metadata"]["name"] in unwanted for pod in pods):
            for pod in pods:
                steps.remove(pod, "it is listed in workersToDelete")
            del replicas[index]
    for _ in range(group.desired_replicas - len(replicas)):
        index = next(number for number in range(len(replicas) + 1) if number not in replicas)
        replicas[index] = []
        for host in range(group.hosts):
            steps.add(worker_pod(steps.cluster, group, settings, replica_index=index, host_index=host))
    if not steps.cluster.spec.enable_in_tree_autoscaling:
        _scale_down(group, replicas, steps)


def _replicas(group: WorkerGroupSpec, mine: list[Raw], steps: Steps) -> dict[int, list[Raw]]:
    """The group's living Pods by replica. A replica with a lost or missing host goes as a whole, for its
    hosts work as one; Pods without an index (made by others) take free ones."""
    indexed: dict[int, list[Raw]] = {}
    loose: list[list[Raw]] = []
    for pod in sorted(mine, key=age_key):
        reason = should_delete(pod)
        if group.hosts == 1 and reason is not None:
            steps.remove(pod, reason)
        if is_terminating(pod) or (group.hosts == 1 and reason is not None):
            continue
        text = pod["metadata"]["labels"].get(names.REPLICA_INDEX, "")
        if not text.isdecimal() or (group.hosts == 1 and int(text) in indexed):
            loose.append([pod])
        else:
            indexed.setdefault(int(text), []).append(pod)
    for index, pods in list(indexed.items()) if group.hosts > 1 else ():
        reason = next((found for found in map(should_delete, pods) if found), None)
        if reason is None and len(pods) != group.hosts:
            reason = f"its replica has {len(pods)} of {group.hosts} hosts"
        if reason is not None:
            for pod in pods:
                steps.remove(pod, reason)
            del indexed[index]
    for pods in loose:
        indexed[next(number for number in range(len(indexed) + 1) if number not in indexed)] = pods
    return indexed


def _scale_down(group: WorkerGroupSpec, replicas: dict[int, list[Raw]], steps: Steps) -> None:
    """Remove surplus replicas: those not ready first, then the newest, which hold the least work and
    the fewest objects that others would have to rebuild."""
    surplus = len(replicas) - group.desired_replicas
    if surplus <= 0:
        return
    by_age = sorted(replicas.values(), key=lambda pods: max(map(age_key, pods)), reverse=True)
    for pods in sorted(by_age, key=lambda pods: all(map(is_ready, pods)))[:surplus]:
        for pod in pods:
            steps.remove(pod, f"the group has more than {group.desired_replicas} replicas")

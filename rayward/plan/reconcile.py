"""One pass over a RayCluster: from what exists to the steps that bring it where it should be.

Level-triggered: every pass starts from nothing but its arguments. Deletion and status have modules of
their own.
"""

from __future__ import annotations

from rayward.api.fault_tolerance import Backend, FaultTolerance, fault_tolerance
from rayward.api.problems import ManifestError
from rayward.api.raycluster import RayCluster, WorkerGroupSpec, parse_ray_cluster
from rayward.api.validation import validate
from rayward.plan import names
from rayward.plan.deletion import plan_deletion
from rayward.plan.heads import reconcile_heads
from rayward.plan.outcome import Event, ObjectRef, Observed, Plan, Raw
from rayward.plan.pod_state import age_key, is_ready, is_terminating, should_delete
from rayward.plan.pods import worker_pod
from rayward.plan.pvc import gcs_pvc
from rayward.plan.services import head_agents_service, head_service
from rayward.plan.settings import Settings
from rayward.plan.spec_hash import recreate_hash
from rayward.plan.status import cluster_status
from rayward.plan.steps import Steps

__all__ = ["Event", "ObjectRef", "Observed", "Plan", "reconcile"]

STEADY_S = 300.0
SETTLING_S = 2.0


def reconcile(cluster_raw: Raw, observed: Observed, settings: Settings, now: float) -> Plan:
    """All steps that can be done now for one cluster.

    ``observed`` holds the objects that belong to the cluster, ``now`` is seconds since the epoch. An
    invalid spec changes nothing but is reported; a cluster being deleted is always let go in the end.
    The shell must not call again on a view older than what it created itself.
    """
    if cluster_raw["metadata"].get("deletionTimestamp"):
        return plan_deletion(cluster_raw, observed, settings, now)
    old_status = dict(cluster_raw.get("status") or {})
    cluster, invalid = _readable(cluster_raw)
    if cluster is None:
        events = (Event("Warning", "InvalidRayClusterSpec", invalid),) if invalid else ()
        return Plan(status=old_status, events=events)
    ft = fault_tolerance(cluster)
    finalizers = _finalizers(cluster, ft, settings)
    if finalizers is not None and names.CLEANUP_FINALIZER in finalizers:
        # Nothing that could write to Redis may exist before its removal is certain.
        return Plan(finalizers=finalizers, status=old_status, requeue_after=0.0)
    steps = Steps(cluster, ft, settings, now)
    _reconcile_all(observed, steps)
    status = cluster_status(
        cluster, observed, settings, now, create_pending=bool(steps.create), deleting=steps.delete
    )
    return Plan(
        create=tuple(steps.create),
        delete=tuple(steps.delete),
        update=tuple(steps.update),
        finalizers=finalizers,
        status=status,
        requeue_after=STEADY_S if status.get("state") in ("ready", "suspended") else SETTLING_S,
        events=tuple(steps.events),
    )


def _readable(raw: Raw) -> tuple[RayCluster | None, str]:
    """The cluster to plan for, or None and what is wrong with it; nothing is wrong with another's."""
    try:
        cluster = parse_ray_cluster(raw)
    except ManifestError as error:
        return None, "; ".join(str(problem) for problem in error.problems)
    if cluster.spec.managed_by == "kueue.x-k8s.io/multikueue":
        return None, ""
    problems = validate(cluster)
    if problems:
        return None, "; ".join(str(problem) for problem in problems)
    if not cluster.metadata.uid:
        return None, "metadata.uid is missing; it is given when the cluster is stored"
    return cluster, ""


def _finalizers(cluster: RayCluster, ft: FaultTolerance, settings: Settings) -> tuple[str, ...] | None:
    """The new list when it has to change: ours is needed exactly while Redis holds keys to clean up."""
    current = cluster.metadata.finalizers
    needed = ft.backend is Backend.REDIS and settings.redis_cleanup
    if needed and names.CLEANUP_FINALIZER not in current:
        return (*current, names.CLEANUP_FINALIZER)
    if not needed and names.CLEANUP_FINALIZER in current:
        return tuple(name for name in current if name != names.CLEANUP_FINALIZER)
    return None


def _reconcile_all(observed: Observed, steps: Steps) -> None:
    cluster = steps.cluster
    _services(observed, steps)
    claim = gcs_pvc(cluster)
    if claim is not None:
        _claim(claim, observed, steps)
    pods = [pod for pod in observed.pods if names.node_type(pod) in (names.HEAD, names.WORKER)]
    if cluster.spec.suspend:
        for pod in pods:
            steps.remove(pod, "the cluster is suspended")
        return
    heads = [pod for pod in pods if names.node_type(pod) == names.HEAD]
    if _must_recreate(cluster, heads):
        for pod in pods:
            steps.remove(pod, "the spec changed and upgradeStrategy is Recreate")
        return
    if not reconcile_heads(heads, steps):
        return
    workers = [pod for pod in pods if names.node_type(pod) == names.WORKER]
    for group in cluster.workers:
        _worker_group(group, workers, steps)
    known = {names.trim_front(group.group_name) for group in cluster.workers}
    for pod in workers:
        if pod["metadata"]["labels"].get(names.GROUP) not in known:
            steps.remove(pod, "its worker group is no longer in the spec")


def _services(observed: Observed, steps: Steps) -> None:
    existing = {found["metadata"]["name"]: found for found in observed.services}
    wanted = [head_service(steps.cluster, steps.settings), head_agents_service(steps.cluster, steps.settings)]
    for service in (found for found in wanted if found is not None):
        name = service["metadata"]["name"]
        if name not in existing:
            steps.create.append(service)
            steps.events.append(Event("Normal", "CreatedService", f"Created Service {name}"))
        elif _publishes(service) is not None and _publishes(service) != bool(_publishes(existing[name])):
            # Only this follows the spec: it changes with the number of heads, and no client is cut off by it.
            spec = {"publishNotReadyAddresses": _publishes(service)}
            steps.update.append({**service, "spec": spec})
            steps.events.append(Event("Normal", "UpdatedService", f"Service {name}: {spec}"))


def _publishes(service: Raw) -> bool | None:
    """Whether it leads to Pods that are not ready too; None when that is not rayward's to say."""
    found = (service.get("spec") or {}).get("publishNotReadyAddresses")
    return None if found is None else bool(found)


def _claim(claim: Raw, observed: Observed, steps: Steps) -> None:
    name = claim["metadata"]["name"]
    existing = next((pvc for pvc in observed.pvcs if pvc["metadata"]["name"] == name), None)
    if existing is None:
        steps.create.append(claim)
        steps.events.append(Event("Normal", "CreatedPVC", f"Created PersistentVolumeClaim {name}"))
        return
    wanted, found = claim["spec"], existing.get("spec") or {}
    differing = [field for field in wanted if found.get(field) != wanted[field] and field != "resources"]
    size = ((found.get("resources") or {}).get("requests") or {}).get("storage")
    if size != wanted["resources"]["requests"]["storage"]:
        differing.append("size")
    if differing:
        message = (
            f"PersistentVolumeClaim {name} exists with another {', '.join(differing)} and is used as it is"
        )
        steps.events.append(Event("Warning", "FailedToCreatePVC", message))


def _must_recreate(cluster: RayCluster, heads: list[Raw]) -> bool:
    strategy = cluster.spec.upgrade_strategy
    if strategy is None or strategy.type != "Recreate":
        return False
    wanted = recreate_hash(cluster)
    made = [
        (pod["metadata"].get("annotations") or {}).get(names.RECREATE_HASH)
        for pod in heads
        if not is_terminating(pod)
    ]
    return any(written is not None and written != wanted for written in made)


def _worker_group(group: WorkerGroupSpec, workers: list[Raw], steps: Steps) -> None:
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
            pod = worker_pod(steps.cluster, group, steps.settings, replica_index=index, host_index=host)
            steps.create.append(pod)
            prefix = pod["metadata"]["generateName"]
            steps.events.append(Event("Normal", "CreatedWorkerPod", f"Created worker Pod {prefix}*"))
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

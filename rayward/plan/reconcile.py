"""One pass over a RayCluster: from what exists to the steps that bring it where it should be.

Level-triggered: every pass starts from nothing but its arguments. Deletion, heads, worker groups, other
objects and status have modules of their own.
"""

from __future__ import annotations

from dataclasses import replace

from rayward import __version__
from rayward.api.fault_tolerance import Backend, FaultTolerance, fault_tolerance
from rayward.api.problems import ManifestError, Problem
from rayward.api.raycluster import RayCluster, parse_ray_cluster
from rayward.api.unsupported import unsupported_fields
from rayward.api.validation import validate
from rayward.plan import names
from rayward.plan.deletion import kept_keys, plan_deletion
from rayward.plan.failover import failover_events
from rayward.plan.heads import has_agent, reconcile_heads
from rayward.plan.invalid import plan_invalid
from rayward.plan.objects import reconcile_objects
from rayward.plan.outcome import Event, ObjectRef, Observed, Plan, Raw, patch_of
from rayward.plan.pod_state import is_terminating
from rayward.plan.settings import Settings
from rayward.plan.spec_hash import recreate_hash
from rayward.plan.status import cluster_status
from rayward.plan.steps import Steps
from rayward.plan.worker_groups import reconcile_workers

__all__ = ["Event", "ObjectRef", "Observed", "Plan", "reconcile"]

STEADY_S = 300.0


def reconcile(
    cluster_raw: Raw, observed: Observed, settings: Settings, now: float, *, token: str = ""
) -> Plan:
    """All steps that can be done now for one cluster.

    ``observed`` holds the objects that belong to the cluster, ``now`` is seconds since the epoch, ``token`` a
    fresh random text for the Secret of Ray's authentication, should this pass make it (without one it makes
    none). An invalid spec changes nothing but is reported; a cluster being deleted is always let go in the
    end. The shell must not call again on a view older than what it created itself.
    """
    unknown: list[Problem] = []
    if cluster_raw["metadata"].get("deletionTimestamp"):
        return plan_deletion(cluster_raw, observed, settings, now)
    cluster, invalid, of_status = _readable(cluster_raw, unknown)
    if cluster is None:
        return plan_invalid(cluster_raw, observed, invalid, now)
    ft = fault_tolerance(cluster)
    finalizers = _finalizers(cluster, ft, settings)
    if finalizers is not None and names.CLEANUP_FINALIZER in finalizers:
        # Nothing that could write to Redis may exist before its removal is certain.
        return Plan(finalizers=finalizers, status=dict(cluster.status), requeue_after=0.0)
    steps = Steps(cluster, ft, settings, observed, now)
    for problem in of_status:
        steps.warn("InvalidRayClusterStatus", str(problem))
    if finalizers is not None and settings.redis_cleanup:
        steps.events += kept_keys(observed)
    reconcile_objects(steps, token)
    _reconcile_pods(steps)
    if steps.first_look:
        for problem in (*unknown, *unsupported_fields(cluster)):
            steps.warn_once("UnsupportedField", str(problem))
    return _plan(steps, finalizers)


def _plan(steps: Steps, finalizers: tuple[str, ...] | None) -> Plan:
    old = steps.cluster.status
    # A cluster whose Ingress or account cannot be made runs all the same.
    needed = names.head_service_name(steps.cluster)
    status = cluster_status(
        steps.cluster,
        steps.observed,
        steps.settings,
        steps.now,
        create_pending=any(
            made["kind"] == "Pod" or made["metadata"].get("name") == needed for made in steps.create
        ),
        deleting=steps.delete,
        waiting=steps.waiting,
    )
    heads = [pod for pod in steps.observed.pods if names.node_type(pod) == names.HEAD]
    steps.events += failover_events(old, status, heads, steps.now)
    return Plan(
        create=tuple(steps.create),
        delete=tuple(steps.delete),
        update=tuple(steps.update),
        finalizers=finalizers,
        status=status,
        requeue_after=STEADY_S if steps.wake_after is None else min(steps.wake_after, STEADY_S),
        events=tuple(steps.events),
    )


def _readable(
    raw: Raw, unknown: list[Problem]
) -> tuple[RayCluster | None, tuple[Problem, ...], tuple[Problem, ...]]:
    """The cluster to plan for, or None with what is wrong with it (nothing is wrong with another operator's);
    then what is wrong with its status, which this pass mends."""
    try:
        cluster = parse_ray_cluster(raw, unknown=unknown)
    except ManifestError as error:
        return None, error.problems, ()
    if cluster.spec.managed_by == "kueue.x-k8s.io/multikueue":
        return None, (), ()
    problems = validate(cluster)
    of_status = tuple(found for found in problems if found.path.startswith("status"))
    if len(of_status) < len(problems):
        return None, tuple(found for found in problems if found not in of_status), ()
    if not cluster.metadata.uid:
        text = "is missing; it is given when the cluster is stored"
        return None, (Problem("metadata.uid", text, f"RayCluster/{cluster.name}"),), ()
    return cluster, (), of_status


def _finalizers(cluster: RayCluster, ft: FaultTolerance, settings: Settings) -> tuple[str, ...] | None:
    """The new list when it has to change: ours is needed exactly while Redis holds keys to clean up."""
    current = cluster.metadata.finalizers
    needed = ft.backend is Backend.REDIS and settings.redis_cleanup
    if needed and names.CLEANUP_FINALIZER not in current:
        return (*current, names.CLEANUP_FINALIZER)
    if not needed and names.CLEANUP_FINALIZER in current:
        return tuple(name for name in current if name != names.CLEANUP_FINALIZER)
    return None


def _reconcile_pods(steps: Steps) -> None:
    cluster = steps.cluster
    pods = [pod for pod in steps.observed.pods if names.node_type(pod) in (names.HEAD, names.WORKER)]
    if cluster.spec.suspend:
        for pod in pods:
            steps.remove(pod, "the cluster is suspended")
        return
    heads = [pod for pod in pods if names.node_type(pod) == names.HEAD]
    if _must_recreate(heads, steps):
        for pod in pods:
            steps.remove(pod, "the spec changed and upgradeStrategy is Recreate")
        return
    if not reconcile_heads(heads, steps):
        return
    settings = steps.settings
    if heads and not any(map(has_agent, heads)):
        # Heads that another operator made: nobody would tell a forwarder where the GCS is.
        settings = replace(settings, forward=False)
    workers = [pod for pod in pods if names.node_type(pod) == names.WORKER]
    reconcile_workers(workers, steps, settings)


def _must_recreate(heads: list[Raw], steps: Steps) -> bool:
    """Whether the heads are of another spec. A hash that another operator or another version wrote is not
    compared but replaced: they do not count the same fields, and an upgrade must not restart anything."""
    strategy = steps.cluster.spec.upgrade_strategy
    if strategy is None or strategy.type != "Recreate":
        return False
    wanted, differs = recreate_hash(steps.cluster), False
    for pod in heads:
        metadata = pod["metadata"]
        annotations = metadata.get("annotations") or {}
        if is_terminating(pod):
            continue
        if annotations.get(names.RAYWARD_VERSION) == __version__:
            differs |= annotations.get(names.RECREATE_HASH, wanted) != wanted
            continue
        written = {names.RAYWARD_VERSION: __version__, names.RECREATE_HASH: wanted}
        patch = patch_of(pod, "Pod")
        patch["metadata"]["annotations"] = written
        steps.update.append(patch)
    return differs

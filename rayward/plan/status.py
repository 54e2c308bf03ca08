"""The status of a RayCluster, recomputed in full from what exists and equal when nothing changed.

Unlike the operator it follows, ``state`` is ``ready`` only while that is true.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from rayward.api.agent_choice import runs_agent
from rayward.api.fault_tolerance import Backend, fault_tolerance
from rayward.api.quantity import format_bytes, format_count, parse_quantity
from rayward.api.raycluster import RayCluster
from rayward.plan import names
from rayward.plan.agent_conditions import set_agent_conditions
from rayward.plan.conditions import Conditions, find
from rayward.plan.outcome import ObjectRef, Observed, Raw
from rayward.plan.pod_state import (
    age_key,
    condition,
    is_ready,
    is_running,
    is_terminating,
    phase,
    timestamp,
)
from rayward.plan.ray_start import is_gpu
from rayward.plan.settings import Settings
from rayward.plan.status_writes import PROVISIONED

INT32 = 2**31 - 1


def cluster_status(
    cluster: RayCluster,
    observed: Observed,
    settings: Settings,
    now: float,
    *,
    create_pending: bool,
    deleting: Sequence[ObjectRef],
    waiting: str = "",
) -> Raw:
    """The new status. ``create_pending`` and ``deleting`` say what this pass is about to change:
    a cluster with steps left is not ready. ``waiting`` is why a missing head is not made yet."""
    old = cluster.status
    gone = {found.name for found in deleting}
    pods = [pod for pod in observed.pods if pod["metadata"]["name"] not in gone]
    ft = fault_tolerance(cluster)
    wanted_heads = ft.heads
    named = str((old.get("head") or {}).get("podName") or "")
    heads = sorted(_of_type(pods, names.HEAD), key=lambda pod: _leads_most(pod, named))
    head = heads[0] if heads else None
    workers = _of_type(pods, names.WORKER)
    desired = sum(group.desired_replicas * group.hosts for group in cluster.workers)
    all_ready = not create_pending and len(heads) == wanted_heads and len(workers) == desired
    # Of several heads one is ready, the one that leads; the others only have to run.
    all_ready = all_ready and any(map(is_ready, heads)) and all(map(is_running, heads))
    all_ready = all_ready and all(map(is_ready, workers))
    ray_pods = [pod for pod in observed.pods if names.node_type(pod) in (names.HEAD, names.WORKER)]
    status: Raw = {
        "state": "",
        "head": _head(cluster, _shown(heads, named, wanted_heads), observed),
        "endpoints": _endpoints(cluster, observed),
        "readyWorkerReplicas": sum(map(is_ready, workers)),
        "availableWorkerReplicas": sum(phase(pod) == "Running" for pod in workers),
        "desiredWorkerReplicas": min(desired, INT32),
        "minWorkerReplicas": min(sum(group.minimum * group.hosts for group in cluster.workers), INT32),
        "maxWorkerReplicas": min(sum(group.maximum * group.hosts for group in cluster.workers), INT32),
        **desired_resources(cluster),
        "observedGeneration": cluster.metadata.generation,
    }
    conditions = Conditions(old.get("conditions") or (), timestamp(now))
    _head_condition(conditions, head, waiting)
    applies = ft.backend is Backend.REDIS and runs_agent(cluster, cluster.head.template)
    set_agent_conditions(conditions, heads, observed.agents, applies=applies and not cluster.spec.suspend)
    _standby_condition(conditions, heads, wanted_heads - 1, waiting)
    _provisioned(conditions, all_ready=all_ready)
    suspended = _suspension(conditions, bool(cluster.spec.suspend), bool(ray_pods))
    status["state"] = (
        "suspended" if suspended else ("ready" if all_ready and not cluster.spec.suspend else "")
    )
    status["conditions"] = conditions.result()
    return _with_times(status, old, timestamp(now))


def is_provisioned(status: Raw) -> bool:
    """Whether all Pods of the cluster have been ready at the same time once."""
    return bool(find(status, PROVISIONED).get("status") == "True")


def desired_resources(cluster: RayCluster) -> dict[str, str]:
    """What all Pods together ask for; limits count before requests, as for Kubernetes' scheduler they
    are what Ray is told."""
    total = {
        "desiredCPU": Fraction(0),
        "desiredMemory": Fraction(0),
        "desiredGPU": Fraction(0),
        "desiredTPU": Fraction(0),
    }
    groups = [(cluster.head.template, fault_tolerance(cluster).heads)]
    groups += [(group.template, group.desired_replicas * group.hosts) for group in cluster.workers]
    for template, count in groups:
        for container in template["spec"]["containers"]:
            resources = container.get("resources") or {}
            amounts = {**(resources.get("requests") or {}), **(resources.get("limits") or {})}
            for name, amount in amounts.items():
                field = _field_of(name)
                if field is not None:
                    total[field] += parse_quantity(amount) * count
    formats = dict.fromkeys(total, format_count) | {"desiredMemory": format_bytes}
    return {field: formats[field](amount) for field, amount in total.items()}


def _field_of(resource: str) -> str | None:
    if is_gpu(resource):
        return "desiredGPU"
    return {"cpu": "desiredCPU", "memory": "desiredMemory", "google.com/tpu": "desiredTPU"}.get(resource)


def _leads_most(head: Raw, named: str) -> tuple[bool, bool, tuple[str, str]]:
    """Sorts the head that leads first; while none does, the one that status named last, for the others
    have not led yet."""
    return (not is_ready(head), head["metadata"]["name"] != named, age_key(head))


def _shown(heads: Sequence[Raw], named: str, wanted: int) -> Raw | None:
    """The head that status names: of several the one that leads or led last, never one that has not led."""
    head = heads[0] if heads else None
    if head is None or wanted == 1 or is_ready(head) or head["metadata"]["name"] == named:
        return head
    return None


def _of_type(pods: list[Raw], node_type: str) -> list[Raw]:
    return [pod for pod in pods if names.node_type(pod) == node_type and not is_terminating(pod)]


def _service(cluster: RayCluster, observed: Observed) -> Raw | None:
    name = names.head_service_name(cluster)
    return next((found for found in observed.services if found["metadata"]["name"] == name), None)


def _head(cluster: RayCluster, head: Raw | None, observed: Observed) -> Raw:
    service = _service(cluster, observed)
    address = str(((head or {}).get("status") or {}).get("podIP") or "")
    cluster_ip = str(((service or {}).get("spec") or {}).get("clusterIP") or "")
    return {
        "podIP": address,
        "podName": head["metadata"]["name"] if head else "",
        "serviceIP": address if cluster_ip in ("", "None") else cluster_ip,
        "serviceName": service["metadata"]["name"] if service else "",
    }


def _endpoints(cluster: RayCluster, observed: Observed) -> dict[str, str]:
    service = _service(cluster, observed)
    ports = ((service or {}).get("spec") or {}).get("ports") or ()
    found = {}
    for port in ports:
        number = port.get("nodePort") or port.get("targetPort") or port["port"]
        found[str(port.get("name") or f"{port['port']}-port")] = str(number)
    return found


def _head_condition(conditions: Conditions, head: Raw | None, waiting: str) -> None:
    if head is None:
        conditions.set("HeadPodReady", "False", "HeadPodNotFound", waiting or "There is no head Pod")
        return
    ready = condition(head, "Ready")
    if ready is None:
        conditions.set("HeadPodReady", "False", "Unknown", "The head Pod has not reported yet")
        return
    reason, message = str(ready.get("reason") or ""), str(ready.get("message") or "")
    if ready["status"] == "True":
        conditions.set("HeadPodReady", "True", reason or "HeadPodRunningAndReady", message)
        return
    if reason in ("", "ContainersNotReady"):
        reason, message = _container_reason(head) or (reason or "Unknown", message)
    # A kubelet's sentence about back-off counts its seconds.
    conditions.set("HeadPodReady", "False", reason, message, calm=True)


def _standby_condition(conditions: Conditions, heads: Sequence[Raw], wanted: int, waiting: str) -> None:
    """Whether enough heads run beside the one that leads (``heads`` starts with it). How warm they are is
    known to their agents only."""
    kind, why = "StandbyHeadReady", f"; {waiting}" if waiting else ""
    if wanted <= 0:
        conditions.drop(kind)
        return
    if not heads or not is_ready(heads[0]):
        text = f"No head leads yet, so none stands by behind it{why}"
        conditions.set(kind, "False", "NoLeader", text)
        return
    standbys = heads[1:]
    running = sum(map(is_running, standbys))
    if running >= wanted:
        conditions.set(kind, "True", "StandbyHeadRunning", f"{running} of {wanted} standby heads run")
    elif len(standbys) < wanted:
        text = f"{len(standbys)} of {wanted} standby head Pods are there{why}"
        conditions.set(kind, "False", "StandbyHeadMissing", text)
    else:
        idle = next(pod for pod in standbys if not is_running(pod))
        reason, message = _container_reason(idle) or ("StandbyHeadNotRunning", f"Pod is {phase(idle)}")
        text = f"{idle['metadata']['name']}: {message or reason}"
        conditions.set(kind, "False", reason, text, calm=True)


def _container_reason(pod: Raw) -> tuple[str, str] | None:
    """Why a container does not run, which says more than that it is not ready."""
    for container in (pod.get("status") or {}).get("containerStatuses") or ():
        for kind in ("waiting", "terminated"):
            state = (container.get("state") or {}).get(kind)
            if state and state.get("reason"):
                return str(state["reason"]), str(state.get("message") or "")
    return None


def _provisioned(conditions: Conditions, *, all_ready: bool) -> None:
    if all_ready and not conditions.is_true(PROVISIONED):
        text = "All Ray Pods were ready together for the first time"
        conditions.set(PROVISIONED, "True", "AllPodRunningAndReadyFirstTime", text)
    elif not conditions.is_true(PROVISIONED):
        text = "Ray Pods are being started"
        conditions.set(PROVISIONED, "False", "RayClusterPodsProvisioning", text)


def _suspension(conditions: Conditions, wanted: bool, pods_left: bool) -> bool:
    """The pair of suspend conditions; True while the cluster is suspended."""
    suspending, suspended = "RayClusterSuspending", "RayClusterSuspended"
    if wanted and pods_left:
        conditions.set(suspending, "True", suspending)
        conditions.set(suspended, "False", suspended)
        return False
    if wanted:
        conditions.set(suspending, "False", suspending)
        conditions.set(suspended, "True", suspended)
        conditions.set(PROVISIONED, "False", "RayClusterPodsProvisioning", "The cluster is suspended")
        return True
    for kind in (suspending, suspended):
        if conditions.is_true(kind):
            conditions.set(kind, "False", kind)
    return False


def _with_times(status: Raw, old: Raw, now: str) -> Raw:
    """Add the times that say when this status and its state last changed."""
    times = dict(old.get("stateTransitionTimes") or {})
    if status["state"] and status["state"] != old.get("state"):
        times[status["state"]] = now
    status["stateTransitionTimes"] = times
    ignored = ("lastUpdateTime",)
    same = all(old.get(key) == value for key, value in status.items()) and not (
        old.keys() - status.keys() - set(ignored)
    )
    status["lastUpdateTime"] = old["lastUpdateTime"] if same and "lastUpdateTime" in old else now
    return status

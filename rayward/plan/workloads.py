"""Deployment, StatefulSet and Job at their simplest: enough for what stands beside a RayCluster.

One pass per object, level-triggered, the same outcome as for a RayCluster. Jobs have a module of their
own.
"""

from __future__ import annotations

import copy

from rayward.plan.jobs import reconcile_job
from rayward.plan.outcome import ObjectRef, Plan, Raw, reference
from rayward.plan.pod_state import age_key, is_ready, is_terminating, phase
from rayward.plan.spec_hash import fingerprint
from rayward.plan.workload_pods import owned, pod_from

TEMPLATE_HASH = "pod-template-hash"
REVISION = "controller-revision-hash"
POD_NAME = "statefulset.kubernetes.io/pod-name"
POD_INDEX = "apps.kubernetes.io/pod-index"

__all__ = ["backends", "endpoints", "reconcile_workload"]


def reconcile_workload(raw: Raw, pods: tuple[Raw, ...], now: float) -> Plan:
    """The next steps for a Deployment, StatefulSet or Job, given the Pods of its namespace.

    Claims of a StatefulSet are among the objects to create whenever one of its Pods is; existing ones are
    kept. An object being deleted takes its Pods with it. Raises ValueError for any other kind.
    """
    mine = owned(raw, pods)
    if raw["metadata"].get("deletionTimestamp"):
        delete = tuple(
            reference(pod, f"its {raw['kind']} is being deleted") for pod in mine if not is_terminating(pod)
        )
        return Plan(delete=delete, remove_cluster=not mine, status=dict(raw.get("status") or {}))
    if raw["kind"] == "Deployment":
        return _deployment(raw, mine)
    if raw["kind"] == "StatefulSet":
        return _stateful_set(raw, mine)
    if raw["kind"] == "Job":
        return reconcile_job(raw, mine, now)
    raise ValueError(f"{raw['kind']} has no Pods of its own")


def backends(service_raw: Raw, pods: tuple[Raw, ...]) -> tuple[Raw, ...]:
    """The Pods behind a Service: its selector's that are ready, or merely have an address when
    ``publishNotReadyAddresses`` is set. A Service without selector has none."""
    spec = service_raw.get("spec") or {}
    selector = spec.get("selector") or {}
    namespace = service_raw["metadata"].get("namespace", "default")
    found = []
    for pod in pods:
        labels = pod["metadata"].get("labels") or {}
        matches = selector and all(labels.get(key) == value for key, value in selector.items())
        address = (pod.get("status") or {}).get("podIP")
        if not matches or not address or pod["metadata"].get("namespace", "default") != namespace:
            continue
        over = phase(pod) in ("Failed", "Succeeded")
        if is_ready(pod) or (spec.get("publishNotReadyAddresses") and not over):
            found.append(pod)
    return tuple(found)


def endpoints(service_raw: Raw, pods: tuple[Raw, ...]) -> tuple[str, ...]:
    """The addresses of the Pods behind a Service (`backends`), sorted."""
    return tuple(sorted({str(pod["status"]["podIP"]) for pod in backends(service_raw, pods)}))


def _replicas(raw: Raw) -> int:
    count = raw["spec"].get("replicas")
    return 1 if count is None else int(count)


def _ended(pods: list[Raw]) -> list[ObjectRef]:
    return [
        reference(pod, f"the Pod is {phase(pod)}, which is final")
        for pod in pods
        if phase(pod) in ("Failed", "Succeeded") and not is_terminating(pod)
    ]


def _living(pods: list[Raw]) -> list[Raw]:
    return [pod for pod in pods if not is_terminating(pod) and phase(pod) not in ("Failed", "Succeeded")]


def _deployment(raw: Raw, mine: list[Raw]) -> Plan:
    digest = fingerprint(raw["spec"]["template"])[:10]
    delete, living, wanted = _ended(mine), _living(mine), _replicas(raw)
    current = [pod for pod in living if (pod["metadata"].get("labels") or {}).get(TEMPLATE_HASH) == digest]
    old = [pod for pod in living if pod not in current]
    recreate = (raw["spec"].get("strategy") or {}).get("type") == "Recreate"
    if recreate:
        delete += [reference(pod, "the template changed") for pod in old]
        blocked = any(pod for pod in mine if pod not in current and phase(pod) not in ("Failed", "Succeeded"))
    else:
        # New Pods first: an old one goes only when a ready one has taken its place.
        spare = max(0, len(old) - max(0, wanted - sum(map(is_ready, current))))
        by_worth = sorted(old, key=lambda pod: (is_ready(pod), age_key(pod)))
        delete += [reference(pod, "the template changed") for pod in by_worth[:spare]]
        blocked = False
    surplus = sorted(sorted(current, key=age_key, reverse=True), key=is_ready)[
        : max(0, len(current) - wanted)
    ]
    delete += [reference(pod, f"there are more than {wanted} replicas") for pod in surplus]
    missing = 0 if blocked else max(0, wanted - len(current))
    create = []
    for _ in range(missing):
        pod = pod_from(raw, raw["spec"]["template"], {TEMPLATE_HASH: digest})
        pod["metadata"]["generateName"] = f"{raw['metadata']['name'][:46]}-{digest}-"
        create.append(pod)
    status = _replica_status(raw, living, current)
    ready = status["readyReplicas"] >= wanted
    reason = "MinimumReplicasAvailable" if ready else "MinimumReplicasUnavailable"
    status["conditions"] = [{"type": "Available", "status": "True" if ready else "False", "reason": reason}]
    return Plan(create=tuple(create), delete=tuple(delete), status=status)


def _stateful_set(raw: Raw, mine: list[Raw]) -> Plan:
    name, wanted = raw["metadata"]["name"], _replicas(raw)
    digest = fingerprint(raw["spec"]["template"])[:10]
    by_name = {pod["metadata"]["name"]: pod for pod in mine}
    delete, create = _ended(mine), []
    parallel = raw["spec"].get("podManagementPolicy") == "Parallel"
    for ordinal in range(wanted):
        pod = by_name.get(f"{name}-{ordinal}")
        if pod is None:
            create += _stateful_pod(raw, ordinal, digest)
        # A name is free only when its last holder is gone, so a Pod on its way out is waited for.
        if (pod is None or not is_ready(pod)) and not parallel:
            break
    living = _living(mine)
    surplus = [pod for pod in living if _ordinal(pod, name) >= wanted]
    delete += [reference(pod, f"there are more than {wanted} replicas") for pod in surplus]
    kept = [pod for pod in living if pod not in surplus]
    current = [pod for pod in kept if (pod["metadata"].get("labels") or {}).get(REVISION) == digest]
    stale = sorted((pod for pod in kept if pod not in current), key=lambda pod: _ordinal(pod, name))
    on_delete = (raw["spec"].get("updateStrategy") or {}).get("type") == "OnDelete"
    if stale and not on_delete and all(is_ready(pod) for pod in current) and not create:
        delete.append(reference(stale[-1], "the template changed"))
    return Plan(create=tuple(create), delete=tuple(delete), status=_replica_status(raw, living, current))


def _ordinal(pod: Raw, name: str) -> int:
    text = pod["metadata"]["name"].removeprefix(f"{name}-")
    return int(text) if text.isdecimal() else -1


def _stateful_pod(raw: Raw, ordinal: int, digest: str) -> list[Raw]:
    """One Pod and, before it, the claims that its ordinal owns for good."""
    name = f"{raw['metadata']['name']}-{ordinal}"
    labels = {REVISION: digest, POD_NAME: name, POD_INDEX: str(ordinal)}
    pod = pod_from(raw, raw["spec"]["template"], labels)
    pod["metadata"]["name"] = name
    pod["spec"].setdefault("hostname", name)
    if raw["spec"].get("serviceName"):
        pod["spec"].setdefault("subdomain", raw["spec"]["serviceName"])
    claims: list[Raw] = []
    for template in raw["spec"].get("volumeClaimTemplates") or ():
        volume = template["metadata"]["name"]
        claim_name = f"{volume}-{name}"
        claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **copy.deepcopy(template)}
        claim["metadata"] = {
            **claim["metadata"],
            "name": claim_name,
            "namespace": raw["metadata"].get("namespace", "default"),
            "labels": {**(raw["spec"].get("selector") or {}).get("matchLabels", {})},
        }
        claim.pop("status", None)
        claims.append(claim)
        volumes = [found for found in pod["spec"].get("volumes") or () if found["name"] != volume]
        volumes.append({"name": volume, "persistentVolumeClaim": {"claimName": claim_name}})
        pod["spec"]["volumes"] = volumes
    return [*claims, pod]


def _replica_status(raw: Raw, living: list[Raw], current: list[Raw]) -> Raw:
    ready = sum(map(is_ready, living))
    return {
        "replicas": len(living),
        "readyReplicas": ready,
        "availableReplicas": ready,
        "updatedReplicas": len(current),
        "observedGeneration": raw["metadata"].get("generation", 0),
    }

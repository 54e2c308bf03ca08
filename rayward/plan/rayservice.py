"""One pass over a RayService: from what exists to the steps that bring it where it should be.

Level-triggered, as for a RayCluster. Which cluster is built, switched to and let go is decided here; what the
objects look like, who is offered to clients and what status says have modules of their own.
"""

from __future__ import annotations

from rayward.api.problems import ManifestError, Problem
from rayward.api.rayservice import RayService, parse_ray_service, validate_service
from rayward.plan import names
from rayward.plan.conditions import find
from rayward.plan.invalid import in_short
from rayward.plan.outcome import Event, ObjectRef, Raw, reference
from rayward.plan.pod_state import is_terminating
from rayward.plan.serve_heads import head_labels, offered
from rayward.plan.service_outcome import ServiceObserved, ServicePlan
from rayward.plan.service_pass import ServicePass
from rayward.plan.service_status import (
    APPLICATIONS,
    SUSPENDED,
    SUSPENDING,
    cluster_names,
    initializing_since,
    invalid_status,
    is_given_up,
    resumed_status,
    suspended_status,
    timed_out_status,
)
from rayward.plan.settings import Settings

POLL_S = 10.0
ELSEWHERE = "kueue.x-k8s.io/multikueue"


def reconcile_service(
    raw: Raw, observed: ServiceObserved, settings: Settings, now: float, *, suffix: str
) -> ServicePlan:
    """All steps that can be done now for one RayService.

    ``now`` is seconds since the epoch, ``suffix`` five fresh letters for the name of the next cluster, should
    this pass need one. An invalid spec changes nothing of what runs and is reported.
    """
    spec = raw.get("spec")
    if isinstance(spec, dict) and spec.get("managedBy") == ELSEWHERE:
        return ServicePlan(status=dict(raw.get("status") or {}))
    if raw["metadata"].get("deletionTimestamp"):
        return _deletion(raw, observed)
    service, problems = _readable(raw)
    if service is None or problems:
        return _invalid(raw, observed, problems, now)
    if names.SERVICE_FINALIZER not in service.metadata.finalizers:
        finalizers = (*service.metadata.finalizers, names.SERVICE_FINALIZER)
        return ServicePlan(finalizers=finalizers, status=dict(service.status), requeue_after=0.0)
    return _living(service, observed, settings, now, suffix)


def _living(
    service: RayService, observed: ServiceObserved, settings: Settings, now: float, suffix: str
) -> ServicePlan:
    if service.spec.suspend or _suspends(service.status, observed):
        return _suspension(service, observed, now)
    if any(find(service.status, kind).get("status") == "True" for kind in (SUSPENDED, SUSPENDING)):
        return ServicePlan(status=resumed_status(service, now), requeue_after=0.0)
    if is_given_up(service.status):
        status = {**service.status, "observedGeneration": service.metadata.generation}
        return _given_up(observed, status, ())
    limit, since = service.initializing_timeout_s, initializing_since(service.status)
    if limit is not None and since is not None and now - since >= limit:
        last = str(find(service.status, APPLICATIONS).get("message") or "")
        words = (
            f"Not ready within {limit:g} s, so its clusters are removed; make the RayService anew to retry"
        )
        event = Event("Warning", "RayServiceInitializingTimeout", words)
        return _given_up(observed, timed_out_status(service, limit, last, now), (event,))
    found = ServicePass(service, observed, settings, now, suffix)
    if limit is not None and since is not None:
        found.wake(since + limit - now)
    return found.plan()


def _readable(raw: Raw) -> tuple[RayService | None, tuple[Problem, ...]]:
    try:
        # What a newer definition has more than this one knows is no error.
        service = parse_ray_service(raw, unknown=[])
    except ManifestError as error:
        return None, error.problems
    return service, validate_service(service)


def _deletion(raw: Raw, observed: ServiceObserved) -> ServicePlan:
    """Its clusters first, which may have keys to remove from Redis; then the object."""
    finalizers = tuple(raw["metadata"].get("finalizers") or ())
    left = finalizers
    if not observed.clusters:
        left = tuple(name for name in finalizers if name != names.SERVICE_FINALIZER)
    delete, events = _removed(observed.clusters, "the RayService is being deleted")
    return ServicePlan(
        delete=delete,
        finalizers=left if left != finalizers else None,
        remove_cluster=not left and not observed.clusters,
        status=dict(raw.get("status") or {}),
        requeue_after=POLL_S,
        events=events,
    )


def _invalid(raw: Raw, observed: ServiceObserved, problems: tuple[Problem, ...], now: float) -> ServicePlan:
    old: Raw = dict(raw.get("status") or {})
    active, pending = cluster_names(old)
    named = all(found.path.startswith("metadata.") for found in problems)
    reason = "InvalidRayServiceMetadata" if named else "InvalidRayServiceSpec"
    why = in_short(problems)
    status = invalid_status(
        old,
        raw["metadata"].get("generation", 0),
        f"{reason}: {why}",
        len(offered(observed.pods.get(active, ()))),
        now,
    )
    said = find(old, "SpecValid").get("message") == find(status, "SpecValid").get("message")
    spec = raw.get("spec")
    exclude = isinstance(spec, dict) and bool(spec.get("excludeHeadPodFromServeSvc"))
    labels = [
        patch
        for name in (active, pending)
        for patch in head_labels(observed.pods.get(name, ()), observed.proxies, exclude=exclude)
    ]
    return ServicePlan(
        update=tuple(labels), status=status, events=() if said else (Event("Warning", reason, why),)
    )


def _suspends(status: Raw, observed: ServiceObserved) -> bool:
    """Whether a suspension is under way; it is finished before anything comes back."""
    return find(status, SUSPENDING).get("status") == "True" and bool(observed.clusters or observed.services)


def _suspension(service: RayService, observed: ServiceObserved, now: float) -> ServicePlan:
    objects = (*observed.clusters, *({"kind": "Service", **found} for found in observed.services))
    delete, events = _removed(objects, "the RayService is suspended")
    return ServicePlan(
        delete=delete,
        status=suspended_status(service, len(objects), now),
        requeue_after=POLL_S if objects else None,
        events=events,
    )


def _given_up(observed: ServiceObserved, status: Raw, events: tuple[Event, ...]) -> ServicePlan:
    delete, gone = _removed(observed.clusters, "the RayService did not become ready in time")
    return ServicePlan(
        delete=delete,
        status=status,
        requeue_after=POLL_S if observed.clusters else None,
        events=(*events, *gone),
    )


def _removed(objects: tuple[Raw, ...], why: str) -> tuple[tuple[ObjectRef, ...], tuple[Event, ...]]:
    delete = tuple(
        reference({"kind": "RayCluster", **found}, why) for found in objects if not is_terminating(found)
    )
    events = tuple(
        Event("Normal", f"Deleted{step.kind}", f"Deleted {step.kind} {step.name}: {why}", step)
        for step in delete
    )
    return delete, events

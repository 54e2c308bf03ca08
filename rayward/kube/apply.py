"""Carries a plan out on the API server: each step for itself, so that none that fails holds up another.

What happened is told as Events in the words that KubeRay's users know; what failed is returned.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayward.errors import RaywardError
from rayward.kube.client import ApiError, KubeClient
from rayward.kube.events import EventRecorder
from rayward.kube.expect import Expectations
from rayward.kube.kinds import BY_NAME, PODS, PVCS, RAYCLUSTERS, SERVICES, Kind
from rayward.kube.views import cluster_key
from rayward.plan import names
from rayward.plan.merge_patch import difference
from rayward.plan.outcome import Event, ObjectRef, Plan

Raw = dict[str, Any]
_TRIES, _PAUSE_S = 3, 0.2
# No answer, an error half-way, or there already, perhaps by the try before.
_MAYBE_MADE = (0, 409, 500, 503, 504)
_SHOWN = 5

_log = logging.getLogger("rayward.apply")


@dataclass(frozen=True)
class Failure:
    """A step that did not work: what KubeRay calls it in a condition, and what the server said.
    ``namespace_ends``: it never will, for the namespace is being deleted."""

    reason: str
    message: str
    namespace_ends: bool = False


# Nothing went wrong, and nothing was made that one could tell of.
_THERE = Failure("", "")


class Applier:
    """The writing half of the controller of ``kind``. ``mark`` gives the labels by which the caches find what
    belongs to one of its objects: those of KubeRay that lack them get them."""

    def __init__(
        self,
        client: KubeClient,
        expectations: Expectations,
        events: EventRecorder,
        kind: Kind = RAYCLUSTERS,
        mark: Callable[[Raw], dict[str, str]] = lambda cluster: {names.CLUSTER: cluster["metadata"]["name"]},
    ) -> None:
        self._client, self._expectations, self._events = client, expectations, events
        self._kind, self._mark = kind, mark

    async def carry_out(self, cluster: Raw, plan: Plan) -> list[Failure]:
        """Take every step but the status. Raises ApiError or OSError only when the finalizers could not be
        written, before which nothing else may happen."""
        if plan.finalizers is not None:
            await self.write_finalizers(cluster, plan.finalizers)
        told = {id(event.step): event.reason for event in plan.events if event.step is not None}
        failures: dict[int, Failure] = {}
        accounts = [body for body in plan.create if body["kind"] == "ServiceAccount"]
        others = [body for body in plan.create if body["kind"] != "ServiceAccount"]

        # One after the other by kind of step, all of a kind at once. Failures stay in the planner's order,
        # not in that of the answers: the first is told, the same one each time.
        for steps, work in (
            (plan.delete, (self._delete(cluster, it, told.get(id(it), "DeletedPod")) for it in plan.delete)),
            # A Pod whose account is not there yet is refused.
            (accounts, (self._create(cluster, body) for body in accounts)),
            (others, (self._create(cluster, body) for body in others)),
            (plan.update, (self._update(cluster, body) for body in plan.update)),
        ):
            for step, failure in zip(steps, await asyncio.gather(*work), strict=True):
                if failure is not None:
                    failures[id(step)] = failure
        for event in _told(plan.events, failures):
            self._events.record(cluster, event)
        return [failure for failure in failures.values() if failure is not _THERE]

    def tell(self, cluster: Raw, failures: Sequence[Failure]) -> None:
        """Say what failed, each thing once."""
        for failure in dict.fromkeys(failures):
            self._events.record(cluster, Event("Warning", _failed_event(failure.reason), failure.message))

    async def write_finalizers(self, cluster: Raw, finalizers: Sequence[str]) -> None:
        """Set the whole list, unless somebody changed the object meanwhile."""
        metadata = cluster["metadata"]
        body = {"metadata": {"finalizers": list(finalizers), "resourceVersion": metadata["resourceVersion"]}}
        try:
            answer = await self._client.patch(self._kind, metadata["namespace"], metadata["name"], body)
        except ApiError as error:
            if error.status == 404:
                return
            raise
        self._wrote(cluster, self._kind, answer)

    async def write_status(self, cluster: Raw, status: Raw) -> None:
        """Replace the status of this very object. Raises ApiError or OSError."""
        metadata = cluster["metadata"]
        changes = difference(cluster.get("status") or {}, status)
        _log.debug("%s/%s: status %s", metadata["namespace"], metadata["name"], changes)
        body = {"metadata": {"uid": metadata["uid"]}, "status": changes}
        try:
            answer = await self._client.patch(
                self._kind, metadata["namespace"], metadata["name"], body, subresource="status"
            )
        except ApiError as error:
            if error.status == 404:
                return
            raise
        self._wrote(cluster, self._kind, answer)

    def _wrote(self, cluster: Raw, kind: Kind, written: Raw) -> None:
        """The next pass waits until the cache shows what the API server answered."""
        metadata = written["metadata"]
        self._expectations.wrote(
            _owner(cluster), kind, metadata["namespace"], metadata["name"], metadata["resourceVersion"]
        )

    # -- steps -----------------------------------------------------------------------------------------

    async def _delete(self, cluster: Raw, reference: ObjectRef, told: str) -> Failure | None:
        """``told``: what is said when it works, such as DeletedHeadPod."""
        kind = BY_NAME[reference.kind]
        try:
            await _tried(
                lambda: self._client.delete(kind, reference.namespace, reference.name, uid=reference.uid)
            )
        except (ApiError, OSError) as error:
            # Gone, or another object by that name: either way this one is no more.
            if not isinstance(error, ApiError) or error.status not in (404, 409):
                return Failure(told.replace("Deleted", "FailedDelete", 1), f"{reference.name}: {error}")
        if kind in (PODS, RAYCLUSTERS) and reference.uid:
            self._expectations.deleted(_owner(cluster), kind, reference.uid)
        return None

    async def _create(self, cluster: Raw, body: Raw) -> Failure | None:
        kind = BY_NAME[body["kind"]]
        metadata = dict(body["metadata"])
        if "name" not in metadata:
            # Chosen here, not by the server: tried again after a time-out it is found, not made twice.
            name = names.generated_name(metadata.pop("generateName"), secrets.choice)
            metadata["name"] = body["metadata"]["name"] = name
        namespace = metadata["namespace"]
        try:
            made = await _tried(lambda: self._client.create(kind, {**body, "metadata": metadata}))
            self._expectations.created(
                _owner(cluster), kind, namespace, metadata["name"], made["metadata"]["resourceVersion"]
            )
        except asyncio.CancelledError:
            self._expectations.created(_owner(cluster), kind, namespace, metadata["name"], "")
            raise
        except (ApiError, OSError) as error:
            status = error.status if isinstance(error, ApiError) else 0
            if status in _MAYBE_MADE:
                # It may exist all the same: the next pass waits until the cache would show it.
                self._expectations.created(_owner(cluster), kind, namespace, metadata["name"], "")
            if status != 409:
                return _not_made(kind, body, error)
            return await self._unless_ours(cluster, kind, body)
        return None

    async def _unless_ours(self, cluster: Raw, kind: Kind, body: Raw) -> Failure | None:
        """What to say of an object that exists already: nothing, if it is this cluster's. One of KubeRay's
        that lacks the label by which the caches find it gets the label."""
        try:
            found = await self._client.get(kind, body["metadata"]["namespace"], body["metadata"]["name"])
        except (ApiError, OSError):
            return _THERE  # the next pass will see
        metadata, mine = found["metadata"], cluster["metadata"]
        owners = [owner.get("uid") for owner in metadata.get("ownerReferences") or ()]
        mark = self._mark(cluster)
        labelled = mark.items() <= (metadata.get("labels") or {}).items()
        if mine["uid"] in owners and not labelled and kind in (SERVICES, PVCS):
            place = {"name": metadata["name"], "namespace": metadata["namespace"], "labels": mark}
            return await self._update(cluster, {"kind": kind.name, "metadata": place}) or _THERE
        if mine["uid"] in owners or (labelled and not owners):
            # The end of a Pod's name is chosen at random: it is there because the try before had arrived.
            return None if kind is PODS else _THERE
        owner = "cluster" if self._kind is RAYCLUSTERS else "service"
        words = f"exists already and is not this {owner}'s; delete it or give it another name"
        return _not_made(kind, body, RaywardError(words))

    async def _update(self, cluster: Raw, body: Raw) -> Failure | None:
        kind, metadata = BY_NAME[body["kind"]], body["metadata"]
        namespace = metadata["namespace"]
        try:
            answer = await _tried(lambda: self._client.patch(kind, namespace, metadata["name"], body))
            self._wrote(cluster, kind, answer)
        except (ApiError, OSError) as error:
            return Failure(_reason("Update", kind, body), f"{metadata['name']}: {error}")
        return None


async def _tried(call: Callable[[], Awaitable[Any]]) -> Any:
    """The call's result, tried again where the server was away or failed; for a busy one the client waits."""
    for last in range(1, _TRIES + 1):
        try:
            return await call()
        except ApiError as error:
            if last == _TRIES or error.status not in (500, 503, 504):
                raise
            await asyncio.sleep(min(error.retry_after or _PAUSE_S * last, 2.0))
        except OSError:
            if last == _TRIES:
                raise
            await asyncio.sleep(_PAUSE_S * last)
    raise AssertionError("unreachable")


def _owner(cluster: Raw) -> str:
    return cluster_key(cluster["metadata"]["namespace"], cluster["metadata"]["name"])


def _told(events: Sequence[Event], failures: Mapping[int, Failure]) -> list[Event]:
    """What is true of the planner's events after the steps were taken, one for all Pods of a kind that came
    or went for one reason: a group of a hundred Pods is one thing to know."""
    told: list[Event] = []
    pods: dict[tuple[str, str], list[str]] = {}
    for event in events:
        if event.step is None:
            told.append(event)
        elif id(event.step) not in failures:
            name, why = _pod_step(event.step)
            if name and event.reason.startswith(("Created", "Deleted")):
                pods.setdefault((event.reason, why), []).append(name)
            else:
                told.append(event)
    for (reason, why), found in pods.items():
        verb = "Deleted" if reason.startswith("Deleted") else "Created"
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        names_ = ", ".join(found[:_SHOWN]) + more
        words = f"{verb} Pod{'s' * (len(found) > 1)} {names_}{f': {why}' if why else ''}"
        told.append(Event("Normal", reason, words))
    return told


def _pod_step(step: Any) -> tuple[str, str]:
    """The Pod that a step makes or deletes, and why; empty for other steps."""
    if isinstance(step, ObjectRef):
        return (step.name, step.reason) if step.kind == "Pod" else ("", "")
    return (str(step["metadata"].get("name", "")), "") if step["kind"] == "Pod" else ("", "")


def _not_made(kind: Kind, body: Raw, error: Exception) -> Failure:
    """The chosen end of a name is another one at each try: without it the same failure is told once."""
    metadata = body["metadata"]
    name = metadata["name"]
    shown = f"{metadata['generateName']}*" if metadata.get("generateName") else name
    words = error.message if isinstance(error, ApiError) else str(error)
    reason, message = _reason("Create", kind, body), f"{shown}: {words.replace(name, shown)}"
    return Failure(reason, message, namespace_ends(error))


def namespace_ends(error: Exception) -> bool:
    """Whether something could not be made because its namespace is being deleted."""
    causes = error.details.get("causes") or () if isinstance(error, ApiError) else ()
    return any(cause.get("reason") == "NamespaceTerminating" for cause in causes)


def _short(kind: Kind, body: Raw) -> str:
    if kind is PODS:
        return {names.HEAD: "HeadPod", names.WORKER: "WorkerPod"}.get(names.node_type(body), "Pod")
    if kind.name == "Job":
        return "RedisCleanupJob"
    return "PVC" if kind.name == "PersistentVolumeClaim" else kind.name


def _reason(verb: str, kind: Kind, body: Raw) -> str:
    """As in KubeRay's condition ReplicaFailure: FailedCreateHeadPod."""
    return f"Failed{verb}{_short(kind, body)}"


def _failed_event(reason: str) -> str:
    """As in KubeRay's Events: FailedToCreateHeadPod."""
    return reason.replace("Failed", "FailedTo", 1)

"""Which storage namespaces belong to clusters that can be asked about: here, and on Kubernetes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

from rayward.api.fault_tolerance import EXTERNAL_STORAGE_NAMESPACE, fault_tolerance
from rayward.api.problems import ManifestError
from rayward.api.raycluster import parse_ray_cluster
from rayward.errors import RaywardError
from rayward.local import state
from rayward.store.orphans import Owners

Raw = dict[str, Any]
_ANSWER_S = 30.0


def local_owners() -> Owners:
    """The clusters that are up on this machine."""
    return _owners(
        [manifest for folder in state.clusters() for manifest in folder.list("RayCluster")], "here"
    )


def kubernetes_owners(kubeconfig: str | None, contexts: Sequence[str]) -> Owners:
    """The RayClusters of each context (none given: the current one). A server that does not say is no error:
    ``unasked`` names it."""
    found: list[Owners] = []
    for context in contexts or (None,):
        where = f"context {context}" if context else "Kubernetes"
        try:
            clusters = asyncio.run(asyncio.wait_for(_ray_clusters(kubeconfig, context), _ANSWER_S))
        except (RaywardError, OSError, asyncio.TimeoutError) as error:
            found.append(Owners({}, (f"{where} could not be asked ({_short(error)})",)))
        else:
            found.append(_owners(clusters, f"in {where}"))
    return joined(found)


def joined(found: Sequence[Owners]) -> Owners:
    """All of them as one."""
    return Owners(
        {namespace: owner for owners in reversed(found) for namespace, owner in owners.known.items()},
        tuple(sentence for owners in found for sentence in owners.unasked),
    )


def claimed_namespaces(raw: Raw) -> frozenset[str]:
    """All namespaces that this RayCluster may use in any Redis, also one that is suspended, on its way out or
    invalid: whatever could be meant is claimed."""
    claimed = {value for value in _written(raw) if isinstance(value, str)}
    try:
        tolerance = fault_tolerance(parse_ray_cluster(raw))
    except ManifestError:
        pass
    else:
        claimed |= {tolerance.storage_namespace, tolerance.namespace_in_use}
    return frozenset(namespace for namespace in claimed if namespace)


def _owners(clusters: Sequence[Raw], where: str) -> Owners:
    known: dict[str, str] = {}
    unasked: list[str] = []
    for raw in clusters:
        metadata = raw["metadata"]
        name = f"RayCluster {metadata.get('namespace', state.NAMESPACE)}/{metadata['name']} {where}"
        known.update(dict.fromkeys(claimed_namespaces(raw), name))
        if any(isinstance(value, dict) for value in _written(raw)):
            unasked.append(f"{name} takes its namespace from a reference, which is not followed")
    return Owners(known, tuple(unasked))


def _written(raw: Raw) -> Iterator[object]:
    """Everything in the manifest that may name a namespace, read without trusting its form; a reference to a
    Secret or ConfigMap comes as it is."""
    yield _inside(raw, "metadata", "uid")
    yield _inside(raw, "metadata", "annotations", EXTERNAL_STORAGE_NAMESPACE)
    yield _inside(raw, "spec", "gcsFaultToleranceOptions", "externalStorageNamespace")
    containers = _inside(raw, "spec", "headGroupSpec", "template", "spec", "containers")
    for variable in (
        _inside(containers[0], "env") or () if isinstance(containers, list) and containers else ()
    ):
        if _inside(variable, "name") == "RAY_external_storage_namespace":
            yield _inside(variable, "value") or _inside(variable, "valueFrom")


def _inside(value: Any, *path: str) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


async def _ray_clusters(kubeconfig: str | None, context: str | None) -> list[Raw]:
    """Every RayCluster that the server has; none where it does not know the kind."""
    # The client takes its time to load, and most of this command's uses have no Kubernetes.
    from rayward.kube.api_error import ApiError  # noqa: PLC0415
    from rayward.kube.client import KubeClient  # noqa: PLC0415
    from rayward.kube.kinds import RAYCLUSTERS  # noqa: PLC0415

    client = KubeClient.connect(kubeconfig=kubeconfig, context=context)
    kind = {"apiVersion": RAYCLUSTERS.api_version, "kind": RAYCLUSTERS.name}
    found: list[Raw] = []
    try:
        page = await client.list(RAYCLUSTERS)
        found += [{**kind, **item} for item in page.items]
        while page.continue_:
            page = await client.list(RAYCLUSTERS, continue_=page.continue_)
            found += [{**kind, **item} for item in page.items]
    except ApiError as error:
        if error.status == 404:
            return []
        raise RaywardError(f"the API server says: {error.message or error}") from error
    finally:
        await client.close()
    return found


def _short(error: BaseException) -> str:
    if isinstance(error, RaywardError):
        return error.what
    return str(error) or "no answer in time"

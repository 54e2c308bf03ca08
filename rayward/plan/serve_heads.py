"""Which nodes of a RayService's cluster are offered to clients: the head while its proxy answers, workers by
readiness."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from rayward.plan import names
from rayward.plan.outcome import Raw, patch_of
from rayward.plan.pod_state import is_ready, is_terminating


def head_labels(pods: Iterable[Raw], proxies: Mapping[str, bool], *, exclude: bool) -> Iterator[Raw]:
    """A patch for each head Pod whose label says something else than its proxy. A head that was not asked yet
    keeps its label: an operator that has just started withdraws nobody."""
    for pod in pods:
        metadata = pod["metadata"]
        if names.node_type(pod) != names.HEAD or is_terminating(pod):
            continue
        answers = proxies.get(str(metadata.get("uid")))
        if answers is None and not exclude:
            continue
        wanted = "true" if answers and not exclude else "false"
        if (metadata.get("labels") or {}).get(names.SERVE) != wanted:
            patch = patch_of(pod, "Pod")
            patch["metadata"]["labels"] = {names.SERVE: wanted}
            yield patch


def offered(pods: Iterable[Raw]) -> list[Raw]:
    """The Pods that the Service for Serve leads to."""
    return [pod for pod in pods if _label(pod) == "true" and is_ready(pod)]


def addresses(pods: Iterable[Raw]) -> set[str]:
    """The addresses of Pods that have one."""
    return {str(pod["status"]["podIP"]) for pod in pods if (pod.get("status") or {}).get("podIP")}


def _label(pod: Raw) -> str:
    return str((pod["metadata"].get("labels") or {}).get(names.SERVE, ""))

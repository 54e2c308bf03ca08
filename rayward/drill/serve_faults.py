"""The faults of the drills on Ray Serve: what each breaks, and what must have changed afterwards. Pure.

They have a table of their own: what is asked here is whether requests were answered, not what the GCS took.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

GROUP_WORDS = "Ray Serve: requests to a RayService"


@dataclass(frozen=True)
class ServeFault:
    """One way to break a RayService. ``changes``: the part of which another one must be there afterwards
    (see `serve_shape.Shape.parts`; empty: what was hit is a Pod, and says so by its name).
    ``loses_in_flight``: whether requests that were under way may fail with what was hit."""

    name: str
    does: str
    stands_for: str
    changes: str = ""
    loses_in_flight: bool = False


SERVE_FAULTS = (
    ServeFault(
        "serve-head-delete",
        "deletes the Pod of the head that leads",
        "a node that is drained, a Pod that is moved",
    ),
    ServeFault(
        "serve-gcs-kill",
        "kills gcs_server (SIGKILL)",
        "a crash, an abort, the out-of-memory killer",
        changes="gcs",
    ),
    ServeFault(
        "serve-host-loss",
        "kills every process of the leading head's Pod at once (SIGKILL)",
        "a host that goes down",
    ),
    ServeFault(
        "serve-redis-restart",
        "kills redis-server (SIGKILL); its Pod starts it again with its data",
        "a restart of Redis",
        changes="redis",
    ),
    ServeFault(
        "serve-worker-loss",
        "kills every process of one worker's Pod at once (SIGKILL), the next one each run",
        "a host that goes down with replicas on it",
        loses_in_flight=True,
    ),
    ServeFault(
        "serve-upgrade",
        "applies the RayService with another variable on its head: a new cluster takes over",
        "a new version",
        changes="active",
    ),
    ServeFault(
        "serve-operator-kill",
        "kills what keeps the RayService (SIGKILL) and starts it again 5 s later",
        "a crash or an upgrade of the operator",
        changes="operator",
    ),
)

_BY_NAME: Mapping[str, ServeFault] = {fault.name: fault for fault in SERVE_FAULTS}


def known_serve_fault(name: str) -> ServeFault | None:
    """The fault of that name, None where there is none."""
    return _BY_NAME.get(name)

"""Objects that few clusters need: read when a spec asks for them, instead of watched for all.

Saves the operator the right to list them, and the memory. What was found is believed for a while.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from rayward.kube.cache import Key, key_of
from rayward.kube.client import ApiError, KubeClient
from rayward.kube.kinds import (
    INGRESSES,
    PVCS,
    ROLE_BINDINGS,
    ROLES,
    SECRETS,
    SERVICE_ACCOUNTS,
    Kind,
)
from rayward.plan import names

Raw = dict[str, Any]
BELIEVED_S = 60.0


@dataclass(frozen=True)
class Looked:
    """``found``: fields of ``Observed``; ``failures``: reason and message for what could not be read."""

    found: dict[str, tuple[Raw, ...]]
    failures: tuple[tuple[str, str], ...] = ()


@dataclass
class Lookups:
    """What was read for each cluster, and when (monotonic)."""

    client: KubeClient
    clock: Callable[[], float] = time.monotonic
    _found: dict[Key, dict[tuple[Kind, str], tuple[float, Raw]]] = field(default_factory=dict)

    async def look(self, cluster: Raw) -> Looked:
        """Everything that only some specs ask for. Never raises for what the server refuses to show."""
        found: dict[str, list[Raw]] = {}
        failures = []
        for attribute, kind, name in _wanted(cluster):
            try:
                existing = await self._get(cluster, kind, name)
            except (ApiError, OSError) as error:
                failures.append((f"FailedGet{kind.name}", f"{name}: {error}"))
                continue
            if existing is not None:
                found.setdefault(attribute, []).append(existing)
        return Looked({attribute: tuple(items) for attribute, items in found.items()}, tuple(failures))

    def forget(self, key: Key) -> None:
        """The cluster is gone."""
        self._found.pop(key, None)

    async def _get(self, cluster: Raw, kind: Kind, name: str) -> Raw | None:
        known = self._found.setdefault(key_of(cluster), {})
        at, found = known.get((kind, name), (-BELIEVED_S, {}))
        if self.clock() - at < BELIEVED_S:
            return found
        known.pop((kind, name), None)
        try:
            found = await self.client.get(kind, str(cluster["metadata"]["namespace"]), name)
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        # Of a Secret only that it is there.
        found = {"kind": kind.name, "metadata": found["metadata"]} if kind is SECRETS else found
        # Only what exists is remembered: what is missing is about to be made.
        known[(kind, name)] = (self.clock(), found)
        return found


def _wanted(cluster: Raw) -> Iterator[tuple[str, Kind, str]]:
    """(field of Observed, kind, name) of everything rare that this spec has to do with."""
    spec, name = cluster.get("spec") or {}, str(cluster["metadata"]["name"])
    head = spec.get("headGroupSpec") or {}
    own = names.side_object_name(name)
    if spec.get("enableInTreeAutoscaling"):
        pod = (head.get("template") or {}).get("spec") or {}
        yield "service_accounts", SERVICE_ACCOUNTS, str(pod.get("serviceAccountName") or own)
        yield "roles", ROLES, own
        yield "role_bindings", ROLE_BINDINGS, own
    auth = spec.get("authOptions") or {}
    if auth.get("mode") == "token":
        yield "secrets", SECRETS, str(auth.get("secretName") or own)
    if head.get("enableIngress"):
        yield "ingresses", INGRESSES, names.ingress_name(name)
    options = spec.get("gcsFaultToleranceOptions")
    if isinstance(options, dict) and options.get("backend") == "rocksdb":
        # Also its own: one that was there before has no label by which it is watched.
        claim = (options.get("storage") or {}).get("claimName")
        yield "pvcs", PVCS, str(claim or names.gcs_claim_name(name))

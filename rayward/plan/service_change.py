"""What a changed `rayClusterConfig` asks for: nothing, a change of the running cluster, or another cluster.

Compares specs as they are meant, with defaults filled in, so that a field that somebody only wrote out is no
change.
"""

from __future__ import annotations

import copy
import enum
from typing import Any

import msgspec

from rayward.api.raycluster import RayCluster
from rayward.plan.spec_hash import fingerprint, recreate_hash

Raw = dict[str, Any]
_NUMBERS = ("replicas", "minReplicas", "maxReplicas")


class Change(enum.Enum):
    """What it takes to get from the running cluster to the wanted one."""

    NOTHING = "nothing"
    IN_PLACE = "the running cluster can be changed"
    NEW_CLUSTER = "another cluster"


def change_of(running: RayCluster, wanted: RayCluster) -> Change:
    """Other numbers of workers and groups added at the end change the running cluster; whatever else counts
    for `upgradeStrategy: Recreate` needs another one."""
    if recreate_hash(running) != recreate_hash(wanted) and not _only_appends(running, wanted):
        return Change.NEW_CLUSTER
    if len(running.workers) != len(wanted.workers):
        return Change.IN_PLACE
    return Change.IN_PLACE if _numbers(running) != _numbers(wanted) else Change.NOTHING


def changed_in_place(running: Raw, wanted: Raw) -> Raw:
    """The spec of the running cluster with the wanted numbers and groups. Where Ray scales by itself its
    number of replicas stays, and so does what the cluster's own status has put into its spec."""
    spec = copy.deepcopy(running)
    groups = spec.setdefault("workerGroupSpecs", [])
    scales = bool(wanted.get("enableInTreeAutoscaling"))
    coming = wanted.get("workerGroupSpecs") or []
    for group, new in zip(groups, coming, strict=False):
        for field in _NUMBERS:
            if field == "replicas" and scales:
                continue
            if field in new:
                group[field] = new[field]
            else:
                group.pop(field, None)
    groups += copy.deepcopy(coming[len(groups) :])
    return spec


def _only_appends(running: RayCluster, wanted: RayCluster) -> bool:
    count = len(running.workers)
    if len(wanted.workers) <= count:
        return False
    cut = msgspec.structs.replace(wanted.spec, worker_group_specs=wanted.workers[:count])
    return recreate_hash(running) == recreate_hash(msgspec.structs.replace(wanted, spec=cut))


def _numbers(cluster: RayCluster) -> str:
    scales = bool(cluster.spec.enable_in_tree_autoscaling)
    rows = [
        [group.minimum, group.maximum, None if scales else group.desired_replicas]
        for group in cluster.workers
    ]
    return fingerprint(rows)

"""Contradictions inside the head group and the worker groups of a RayCluster.

Works on parsed clusters only; fault tolerance is checked beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from rayward.api.core import DNS_SUBDOMAIN
from rayward.api.fault_tolerance import head_env
from rayward.api.problems import Problem, join_path
from rayward.api.quantity import QuantityError, parse_quantity
from rayward.api.ray_version import ray_version
from rayward.api.raycluster import HeadGroupSpec, RayCluster, WorkerGroupSpec

LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
MAX_LABEL, MAX_LABEL_PREFIX = 63, 253
RESOURCE_PARAMS = ("num-cpus", "num-gpus", "memory", "resources")
PORT_PARAMS = ("port", "dashboard-port", "dashboard-agent-listen-port", "metrics-export-port")
PRIORITY_SINCE = (2, 56)


def validate_groups(cluster: RayCluster) -> Iterator[Problem]:
    """Problems of all groups, in the order of the document."""
    yield from _group(cluster, cluster.head, "spec.headGroupSpec")
    yield from _autoscaler_env(cluster)
    seen: set[str] = set()
    for index, group in enumerate(cluster.workers):
        path = f"spec.workerGroupSpecs[{index}]"
        yield from _group(cluster, group, path)
        yield from _worker(cluster, group, path)
        if group.group_name in seen:
            yield Problem(f"{path}.groupName", f'"{group.group_name}" is the name of another group')
        seen.add(group.group_name)


def _group(cluster: RayCluster, group: HeadGroupSpec | WorkerGroupSpec, path: str) -> Iterator[Problem]:
    params = group.ray_start_params
    for name in RESOURCE_PARAMS if group.resources else ():
        if name in params:
            yield Problem(f"{path}.rayStartParams.{name}", f"cannot be used together with {path}.resources")
    for name, amount in group.resources.items():
        try:
            parse_quantity(amount)
        except QuantityError as error:
            yield Problem(join_path(path, "resources", name), str(error))
    if "labels" in params:
        yield Problem(f"{path}.rayStartParams.labels", f"cannot be set here; use {path}.labels")
    for name in PORT_PARAMS:
        text = params.get(name, "1")
        if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 0 < int(text) < 65536):
            yield Problem(f"{path}.rayStartParams.{name}", f'must be a port from 1 to 65535, got "{text}"')
    yield from _labels(group.labels, f"{path}.labels")
    options = cluster.spec.autoscaler_options
    policy = group.template["spec"].get("restartPolicy")
    if (
        _autoscaler_v2(cluster)
        and options is not None
        and options.version == "v2"
        and policy not in (None, "", "Never")
    ):
        yield Problem(f"{path}.template.spec.restartPolicy", "must be Never or left out with autoscaler v2")


def _labels(labels: dict[str, str], path: str) -> Iterator[Problem]:
    for key, value in labels.items():
        prefix, _, name = key.rpartition("/")
        valid_prefix = not prefix or (len(prefix) <= MAX_LABEL_PREFIX and DNS_SUBDOMAIN.fullmatch(prefix))
        if "/" in key and not prefix:
            valid_prefix = False
        if not valid_prefix or len(name) > MAX_LABEL or not LABEL_NAME.fullmatch(name):
            yield Problem(join_path(path, key), "is not a label name that Kubernetes accepts")
        if len(value) > MAX_LABEL or not LABEL_VALUE.fullmatch(value):
            yield Problem(
                join_path(path, key), f'is not a label value that Kubernetes accepts: "{value[:80]}"'
            )


def _worker(cluster: RayCluster, group: WorkerGroupSpec, path: str) -> Iterator[Problem]:
    if not group.group_name or not LABEL_NAME.fullmatch(group.group_name):
        yield Problem(f"{path}.groupName", f'must be a label value, got "{group.group_name}"')
    for name, value in (
        ("replicas", group.replicas),
        ("minReplicas", group.min_replicas),
        ("maxReplicas", group.max_replicas),
        ("numOfHosts", group.num_of_hosts),
        ("idleTimeoutSeconds", group.idle_timeout_seconds),
    ):
        if value is not None and value < 0:
            yield Problem(f"{path}.{name}", f"must not be negative, got {value}")
    if group.minimum > group.maximum:
        yield Problem(
            f"{path}.minReplicas", f"is {group.minimum}, more than maxReplicas, which is {group.maximum}"
        )
    if group.idle_timeout_seconds is not None and not _autoscaler_v2(cluster):
        yield Problem(f"{path}.idleTimeoutSeconds", "needs spec.autoscalerOptions.version v2 and autoscaling")
    if group.priority:
        version = ray_version(cluster.spec.ray_version)
        if version is None or version < PRIORITY_SINCE or not _autoscaler_v2(cluster):
            yield Problem(f"{path}.priority", "needs spec.rayVersion 2.56 or later and autoscaler v2")
    if group.suspend and cluster.spec.enable_in_tree_autoscaling:
        yield Problem(f"{path}.suspend", "cannot be used while spec.enableInTreeAutoscaling is on")


def _autoscaler_v2(cluster: RayCluster) -> bool:
    options = cluster.spec.autoscaler_options
    return bool(cluster.spec.enable_in_tree_autoscaling) and options is not None and options.version == "v2"


def _autoscaler_env(cluster: RayCluster) -> Iterator[Problem]:
    value = head_env(cluster).get("RAY_enable_autoscaler_v2", {}).get("value")
    if value is None:
        return
    path = "spec.headGroupSpec.template.spec.containers[0].env"
    options = cluster.spec.autoscaler_options
    if value.lower() in ("true", "1") and not cluster.spec.enable_in_tree_autoscaling:
        yield Problem(path, "RAY_enable_autoscaler_v2 needs spec.enableInTreeAutoscaling")
    if options is not None and options.version is not None:
        yield Problem(
            path, "RAY_enable_autoscaler_v2 cannot be set together with spec.autoscalerOptions.version"
        )

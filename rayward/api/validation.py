"""Which combinations of well-formed fields make no sense, each with a sentence that says why.

Works on parsed clusters only. The numbers (#1 to #17) in the tests are those of KubeRay's list of
rejections for GCS fault tolerance; its gate for embedded storage counts as open here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from rayward.api.agent_choice import AGENT, runs_agent
from rayward.api.fault_tolerance import (
    EXTERNAL_STORAGE_NAMESPACE,
    FT_ENABLED,
    MOST_STANDBYS,
    STANDBY_HEADS,
    Backend,
    fault_tolerance,
    head_env,
    standby_heads,
)
from rayward.api.group_validation import validate_groups
from rayward.api.problems import Problem, join_path
from rayward.api.ray_version import ray_version
from rayward.api.raycluster import GcsFaultToleranceOptions, RayCluster

MAX_NAME = 53
DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
MANAGERS = ("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue")
OPTIONS = "spec.gcsFaultToleranceOptions"
HEAD = "spec.headGroupSpec"
HEAD_ENV = f"{HEAD}.template.spec.containers[0].env"
GCS_DIRECTORY, GCS_VOLUME = "/data/gcs", "gcs-storage"
TOKEN_SINCE, K8S_TOKEN_SINCE = (2, 52), (2, 55)


def validate(cluster: RayCluster) -> tuple[Problem, ...]:
    """Every contradiction in ``cluster``; empty when it can be planned."""
    checks = (
        _metadata,
        _fault_tolerance,
        _credentials,
        _rocksdb,
        _standby_heads,
        validate_groups,
        _cluster,
        _unsupported,
        _status,
    )
    subject = f"RayCluster/{cluster.name}"
    return tuple(Problem(found.path, found.message, subject) for check in checks for found in check(cluster))


def _at_least(cluster: RayCluster, minimum: tuple[int, int]) -> bool:
    version = ray_version(cluster.spec.ray_version)
    return version is not None and version >= minimum


def _metadata(cluster: RayCluster) -> Iterator[Problem]:
    name = cluster.name
    if len(name) > MAX_NAME:
        yield Problem("metadata.name", f"must have at most {MAX_NAME} characters, has {len(name)}")
    if not DNS_1035.fullmatch(name):
        yield Problem("metadata.name", f'must start with a-z and hold only a-z, 0-9 and -, got "{name}"')


def _fault_tolerance(cluster: RayCluster) -> Iterator[Problem]:
    options, annotations, env = (
        cluster.spec.gcs_fault_tolerance_options,
        cluster.annotations,
        head_env(cluster),
    )
    switch = annotations.get(FT_ENABLED, "")
    if options is None:
        if switch.lower() != "true" and "RAY_REDIS_ADDRESS" in env:  # 2
            text = (
                f"RAY_REDIS_ADDRESS is set but fault tolerance is not switched on; use {OPTIONS}.redisAddress"
            )
            yield Problem(HEAD_ENV, text)
        return
    if switch:  # 1
        yield Problem(
            join_path("metadata.annotations", FT_ENABLED), f"cannot be used together with {OPTIONS}"
        )
    if cluster.head.ray_start_params.get("redis-password"):  # 3
        yield Problem(
            f"{HEAD}.rayStartParams.redis-password",
            f"cannot be used together with {OPTIONS}; use its redisPassword",
        )
    if "REDIS_PASSWORD" in env:  # 4
        yield Problem(
            HEAD_ENV, f"REDIS_PASSWORD cannot be set together with {OPTIONS}; use its redisPassword"
        )
    if "RAY_REDIS_ADDRESS" in env:  # 5
        yield Problem(
            HEAD_ENV, f"RAY_REDIS_ADDRESS cannot be set together with {OPTIONS}; use its redisAddress"
        )
    if annotations.get(EXTERNAL_STORAGE_NAMESPACE):  # 6
        path = join_path("metadata.annotations", EXTERNAL_STORAGE_NAMESPACE)
        yield Problem(path, f"cannot be used together with {OPTIONS}; use its externalStorageNamespace")
    if options.backend != "rocksdb" and options.storage is not None:  # 17
        yield Problem(
            f"{OPTIONS}.storage", "only means something with backend rocksdb; redis keeps its own files"
        )


def _credentials(cluster: RayCluster) -> Iterator[Problem]:
    instead = f"use {OPTIONS}.redisUsername"
    if cluster.head.ray_start_params.get("redis-username"):  # 7
        yield Problem(f"{HEAD}.rayStartParams.redis-username", f"cannot be set here; {instead}")
    if "REDIS_USERNAME" in head_env(cluster):  # 7
        yield Problem(HEAD_ENV, f"REDIS_USERNAME cannot be set here; {instead}")
    options = cluster.spec.gcs_fault_tolerance_options
    for field, credential in (
        ("redisUsername", options.redis_username if options else None),
        ("redisPassword", options.redis_password if options else None),
    ):
        if credential is not None and credential.value and credential.value_from is not None:
            yield Problem(f"{OPTIONS}.{field}", "has both value and valueFrom; keep one")


def _rocksdb(cluster: RayCluster) -> Iterator[Problem]:
    options = cluster.spec.gcs_fault_tolerance_options
    if options is None or options.backend != "rocksdb":
        return
    yield from _rocksdb_with_redis(options)
    storage = options.storage
    if storage is not None and storage.claim_name:  # 13
        written = {
            "size": storage.size is not None,
            "storageClassName": storage.storage_class_name is not None,
            "accessModes": bool(storage.access_modes),
        }
        for field in (name for name, present in written.items() if present):
            text = "describes a volume to be made and cannot be used together with claimName"
            yield Problem(f"{OPTIONS}.storage.{field}", text)
    env = head_env(cluster)
    for name in ("RAY_gcs_storage", "RAY_gcs_storage_path"):  # 14
        if name in env:
            yield Problem(HEAD_ENV, f"{name} is set by backend rocksdb and cannot be set here")
    pod = cluster.head.template["spec"]
    for index, mount in enumerate(pod["containers"][0].get("volumeMounts") or ()):  # 15
        if mount.get("mountPath", "").rstrip("/") == GCS_DIRECTORY or mount["name"] == GCS_VOLUME:
            path = f"{HEAD}.template.spec.containers[0].volumeMounts[{index}]"
            yield Problem(path, f"{GCS_DIRECTORY} and the name {GCS_VOLUME} belong to backend rocksdb")
    for index, volume in enumerate(pod.get("volumes") or ()):  # 16
        if volume["name"] == GCS_VOLUME:
            path = f"{HEAD}.template.spec.volumes[{index}].name"
            yield Problem(path, f"the name {GCS_VOLUME} belongs to backend rocksdb")


def _rocksdb_with_redis(options: GcsFaultToleranceOptions) -> Iterator[Problem]:
    redis_only = {
        "redisAddress": bool(options.redis_address),  # 9
        "redisUsername": options.redis_username is not None,  # 10
        "redisPassword": options.redis_password is not None,  # 11
        "externalStorageNamespace": bool(options.external_storage_namespace),  # 12
    }
    for field in (name for name, present in redis_only.items() if present):
        yield Problem(f"{OPTIONS}.{field}", "only means something with backend redis, not rocksdb")


def _standby_heads(cluster: RayCluster) -> Iterator[Problem]:
    options, text = cluster.spec.gcs_fault_tolerance_options, cluster.annotations.get(STANDBY_HEADS)
    annotation, field = join_path("metadata.annotations", STANDBY_HEADS), f"{OPTIONS}.enableActivePassiveHead"
    numbers = [str(number) for number in range(MOST_STANDBYS + 1)]
    if text is not None and text.strip() not in numbers:
        yield Problem(annotation, f'must be one of {", ".join(numbers)}; got "{text}"')
    switch = options.enable_active_passive_head if options is not None else None
    if text is not None and switch is not None and switch != bool(standby_heads(cluster)):
        yield Problem(annotation, f"contradicts {field}; keep one of them")
    if not standby_heads(cluster):
        return
    path = field if switch else annotation
    backend = fault_tolerance(cluster).backend
    if backend is Backend.ROCKSDB:
        yield Problem(
            path, "needs backend redis: a second head on another machine cannot read this one's files"
        )
    elif backend is Backend.MEMORY:
        yield Problem(path, f"needs {OPTIONS} with backend redis: without a store nothing can be taken over")
    if not runs_agent(cluster, cluster.head.template):
        todo = (
            f"remove the annotation {AGENT}: disabled, or the ray start of your own from the head's command"
        )
        yield Problem(path, f"needs rayward's agent in the head Pods, which lets one GCS write; {todo}")


def _cluster(cluster: RayCluster) -> Iterator[Problem]:
    spec = cluster.spec
    if spec.managed_by is not None and spec.managed_by not in MANAGERS:
        yield Problem("spec.managedBy", f'must be one of {", ".join(MANAGERS)}; got "{spec.managed_by}"')
    strategy = spec.upgrade_strategy
    if strategy is not None and strategy.type is not None:
        if strategy.type not in ("Recreate", "None"):
            yield Problem(
                "spec.upgradeStrategy.type", f'must be one of Recreate, None; got "{strategy.type}"'
            )
        owner = cluster.metadata.labels.get("ray.io/originated-from-crd")
        if owner in ("RayJob", "RayService"):
            yield Problem(
                "spec.upgradeStrategy.type", f"cannot be set on a cluster that belongs to a {owner}"
            )
    options = spec.autoscaler_options
    if options is not None:
        if (options.idle_timeout_seconds or 0) < 0:
            yield Problem("spec.autoscalerOptions.idleTimeoutSeconds", "must not be negative")
        if any(variable.get("name") == "KUBERAY_GEN_AUTOSCALER_START_CMD" for variable in options.env):
            yield Problem("spec.autoscalerOptions.env", "KUBERAY_GEN_AUTOSCALER_START_CMD is set for you")
    auth = spec.auth_options
    if auth is not None and auth.mode == "token" and not _at_least(cluster, TOKEN_SINCE):
        yield Problem("spec.authOptions.mode", "token needs spec.rayVersion 2.52 or later")
    if auth is not None and auth.enable_k8s_token_auth:
        if auth.mode != "token":
            yield Problem("spec.authOptions.enableK8sTokenAuth", "needs mode token")
        if not _at_least(cluster, K8S_TOKEN_SINCE):
            yield Problem("spec.authOptions.enableK8sTokenAuth", "needs spec.rayVersion 2.55 or later")


def _unsupported(cluster: RayCluster) -> Iterator[Problem]:
    """What would break a cluster, or weaken it where it must not be weak, if it were ignored."""
    if (cluster.spec.tls_options or {}).get("enabled"):
        yield Problem(
            "spec.tlsOptions.enabled",
            "is not supported; set RAY_USE_TLS and its certificates in the templates",
        )


def _status(cluster: RayCluster) -> Iterator[Problem]:
    conditions = cluster.status.get("conditions") or ()
    true = {item.get("type") for item in conditions if item.get("status") == "True"}
    if {"RayClusterSuspending", "RayClusterSuspended"} <= true:
        yield Problem("status.conditions", "RayClusterSuspending and RayClusterSuspended cannot both be True")

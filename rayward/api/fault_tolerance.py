"""How a RayCluster asks for GCS fault tolerance, however it asks, as one value.

New fields, legacy annotations, head environment and rayStartParams all end here; the planner reads
nothing else. It assumes a cluster that passed validation and keeps to the documented precedence.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from rayward.api.raycluster import GcsFaultToleranceOptions, RayCluster, RedisCredential

FT_ENABLED = "ray.io/ft-enabled"
EXTERNAL_STORAGE_NAMESPACE = "ray.io/external-storage-namespace"
STANDBY_HEADS = "rayward.dev/standby-heads"
MOST_STANDBYS = 2
DEFAULT_STORAGE_SIZE = "1Gi"


class Backend(enum.Enum):
    """Where the GCS keeps its tables."""

    MEMORY = "memory"
    REDIS = "redis"
    ROCKSDB = "rocksdb"


class Origin(enum.Enum):
    """Which way of asking switched fault tolerance on."""

    OPTIONS = "options"
    ANNOTATION = "annotation"
    NONE = "none"


@dataclass(frozen=True)
class Credential:
    """A Redis user name or password. ``env_name`` is the variable of the head container that carries
    it; exactly one of ``value`` and ``value_from`` (an EnvVarSource) says what is in it.
    ``in_template`` is true when the user's own template sets that variable already."""

    env_name: str
    value: str | None = field(default=None, repr=False)
    value_from: dict[str, Any] | None = None
    in_template: bool = False


@dataclass(frozen=True)
class Storage:
    """The volume of an embedded store. ``claim_name`` is the user's own claim, None for a managed one."""

    claim_name: str | None = None
    size: str = DEFAULT_STORAGE_SIZE
    storage_class: str | None = None
    access_modes: tuple[str, ...] = ("ReadWriteOnce",)
    sub_path: str = ""
    retain: bool = False


@dataclass(frozen=True)
class FaultTolerance:
    """The whole answer. ``redis_address`` is as written (``host:port`` or a URI) and may be empty;
    ``storage_namespace`` is the computed prefix of the keys in Redis; ``namespace_override`` is what the
    head's own environment says instead, which Ray obeys. ``standbys`` is how many heads stand by beside
    the one that leads."""

    backend: Backend = Backend.MEMORY
    origin: Origin = Origin.NONE
    redis_address: str = ""
    redis_address_from: dict[str, Any] | None = None
    username: Credential | None = None
    password: Credential | None = None
    storage_namespace: str = ""
    namespace_override: str | None = None
    storage: Storage | None = None
    standbys: int = 0

    @property
    def enabled(self) -> bool:
        """True when the state of the GCS outlives its process."""
        return self.origin is not Origin.NONE

    @property
    def heads(self) -> int:
        """How many head Pods there shall be."""
        return 1 + self.standbys

    @property
    def namespace_in_use(self) -> str:
        """The prefix under which Ray really stores its keys."""
        return self.namespace_override or self.storage_namespace


def fault_tolerance(cluster: RayCluster) -> FaultTolerance:
    """What ``cluster`` asks for. Total: never raises for a parsed cluster."""
    options = cluster.spec.gcs_fault_tolerance_options
    if options is not None:
        return _from_options(cluster, options)
    if cluster.annotations.get(FT_ENABLED, "").lower() == "true":
        return _from_annotation(cluster)
    return FaultTolerance()


def head_env(cluster: RayCluster) -> dict[str, dict[str, Any]]:
    """The variables that the user set on the head's Ray container, by name, as Kubernetes resolves
    repeated names: the last one counts."""
    container = cluster.head.template["spec"]["containers"][0]
    return {variable["name"]: variable for variable in container.get("env") or ()}


def _from_options(cluster: RayCluster, options: GcsFaultToleranceOptions) -> FaultTolerance:
    if options.backend == "rocksdb":
        return FaultTolerance(
            backend=Backend.ROCKSDB,
            origin=Origin.OPTIONS,
            storage=_storage(options),
            standbys=standby_heads(cluster),
        )
    return FaultTolerance(
        backend=Backend.REDIS,
        origin=Origin.OPTIONS,
        redis_address=options.redis_address,
        username=_credential(options.redis_username, "REDIS_USERNAME"),
        password=_credential(options.redis_password, "REDIS_PASSWORD"),
        storage_namespace=options.external_storage_namespace or _annotated_namespace(cluster),
        namespace_override=_namespace_override(cluster),
        standbys=standby_heads(cluster),
    )


def _from_annotation(cluster: RayCluster) -> FaultTolerance:
    env = head_env(cluster)
    address = env.get("RAY_REDIS_ADDRESS", {})
    return FaultTolerance(
        backend=Backend.REDIS,
        origin=Origin.ANNOTATION,
        redis_address=address.get("value") or "",
        redis_address_from=address.get("valueFrom"),
        password=_legacy_password(cluster, env),
        storage_namespace=_annotated_namespace(cluster),
        namespace_override=_namespace_override(cluster),
        standbys=standby_heads(cluster),
    )


def standby_heads(cluster: RayCluster) -> int:
    """How many heads shall stand by: what the annotation says, else one when the field asks for it.

    An annotation that is no number counts for nothing here; validation refuses it.
    """
    text = cluster.annotations.get(STANDBY_HEADS, "").strip()
    if text.isascii() and text.isdecimal():
        return min(int(text), MOST_STANDBYS)
    options = cluster.spec.gcs_fault_tolerance_options
    return int(options is not None and bool(options.enable_active_passive_head))


def _annotated_namespace(cluster: RayCluster) -> str:
    return cluster.annotations.get(EXTERNAL_STORAGE_NAMESPACE) or cluster.metadata.uid


def _namespace_override(cluster: RayCluster) -> str | None:
    return head_env(cluster).get("RAY_external_storage_namespace", {}).get("value")


def _credential(written: RedisCredential | None, env_name: str) -> Credential | None:
    if written is None:
        return None
    if written.value_from is not None:
        return Credential(env_name, value_from=written.value_from)
    return Credential(env_name, value=written.value)


def _legacy_password(cluster: RayCluster, env: dict[str, dict[str, Any]]) -> Credential | None:
    if "REDIS_PASSWORD" in env:
        variable = env["REDIS_PASSWORD"]
        source = variable.get("valueFrom")
        value = None if source else variable.get("value", "")
        return Credential("REDIS_PASSWORD", value=value, value_from=source, in_template=True)
    literal = cluster.head.ray_start_params.get("redis-password", "")
    # A reference such as $REDIS_PASSWORD is for the shell; as a value it would be a wrong password.
    if not literal or literal.startswith("$"):
        return None
    return Credential("REDIS_PASSWORD", value=literal)


def _storage(options: GcsFaultToleranceOptions) -> Storage:
    written = options.storage
    if written is None:
        return Storage()
    return Storage(
        claim_name=written.claim_name or None,
        size=DEFAULT_STORAGE_SIZE if written.size is None else str(written.size),
        storage_class=written.storage_class_name,
        access_modes=written.access_modes or ("ReadWriteOnce",),
        sub_path=written.sub_path,
        retain=written.deletion_policy == "Retain",
    )

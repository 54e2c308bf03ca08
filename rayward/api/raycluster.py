"""RayCluster (ray.io/v1) as typed, frozen structs, and the reader that reports every problem at once.

Knows field names and types. Which combinations make sense is the validation's business.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from rayward.api.core import check_pod_spec, check_string_map
from rayward.api.decode import decode
from rayward.api.problems import ManifestError, Problem, shown
from rayward.api.quantity import QuantityError, parse_quantity

Raw = dict[str, Any]
Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
QuantityValue = str | int | float
UNLIMITED = 2**31 - 1


class Metadata(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The parts of ObjectMeta that decide anything here; others are left where they are."""

    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 0
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    annotations: dict[str, str] = msgspec.field(default_factory=dict)
    finalizers: tuple[str, ...] = ()
    deletion_timestamp: str | None = None
    creation_timestamp: str | None = None


class _Spec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Base of all structs whose fields are the RayCluster's own: a misspelt one is an error."""


class RedisCredential(_Spec, frozen=True, kw_only=True, rename="camel"):
    """A user name or password: text, or where to read it (a Kubernetes EnvVarSource)."""

    value: str = ""
    value_from: Raw | None = None

    def __repr__(self) -> str:
        return "RedisCredential(...)"


class GcsStorage(_Spec, frozen=True, kw_only=True, rename="camel"):
    """Where an embedded (RocksDB) GCS keeps its files."""

    claim_name: str = ""
    size: QuantityValue | None = None
    storage_class_name: str | None = None
    access_modes: tuple[str, ...] = ()
    sub_path: str = ""
    deletion_policy: Literal["DeleteWithCluster", "Retain"] = "DeleteWithCluster"


class GcsFaultToleranceOptions(_Spec, frozen=True, kw_only=True, rename="camel"):
    """Its presence alone, even empty, switches GCS fault tolerance on."""

    backend: Literal["", "redis", "rocksdb"] = ""
    redis_address: str = ""
    redis_username: RedisCredential | None = None
    redis_password: RedisCredential | None = None
    external_storage_namespace: str = ""
    storage: GcsStorage | None = None
    enable_active_passive_head: bool | None = None


class ScaleStrategy(_Spec, frozen=True, kw_only=True, rename="camel"):
    """Names of worker Pods that are to go, as Ray's autoscaler asks."""

    workers_to_delete: tuple[str, ...] = ()


class IngressOptions(_Spec, frozen=True, kw_only=True, rename="camel"):
    """Where the dashboard shall appear. ``tls`` is a list of IngressTLS, kept raw."""

    host: str = ""
    path: str = ""
    path_type: Literal["Exact", "Prefix", "ImplementationSpecific"] | None = None
    tls: list[Raw] = msgspec.field(default_factory=list)


class HeadGroupSpec(_Spec, frozen=True, kw_only=True, rename="camel"):
    """The head Pod. ``template`` is a PodTemplateSpec, kept raw; its first container runs Ray."""

    template: Raw
    head_service: Raw | None = None
    enable_ingress: bool | None = None
    ingress_options: IngressOptions | None = None
    resources: dict[str, str] = msgspec.field(default_factory=dict)
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    ray_start_params: dict[str, str] = msgspec.field(default_factory=dict)
    service_type: Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"] | None = None


class WorkerGroupSpec(_Spec, frozen=True, kw_only=True, rename="camel"):
    """A group of equal worker Pods."""

    group_name: str
    template: Raw
    replicas: Int32 | None = None
    min_replicas: Int32 | None = None
    max_replicas: Int32 | None = None
    num_of_hosts: Int32 = 1
    suspend: bool | None = None
    idle_timeout_seconds: Int32 | None = None
    priority: Int32 | None = None
    resources: dict[str, str] = msgspec.field(default_factory=dict)
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    ray_start_params: dict[str, str] = msgspec.field(default_factory=dict)
    scale_strategy: ScaleStrategy = msgspec.field(default_factory=ScaleStrategy)

    @property
    def minimum(self) -> int:
        """The smallest number of replicas; the CRD's default is 0."""
        return self.min_replicas or 0

    @property
    def maximum(self) -> int:
        """The largest number of replicas; the CRD's default is the largest int32."""
        return UNLIMITED if self.max_replicas is None else self.max_replicas

    @property
    def desired_replicas(self) -> int:
        """``replicas`` held between minimum and maximum; 0 while the group is suspended."""
        if self.suspend:
            return 0
        wanted = self.minimum if self.replicas is None else self.replicas
        return min(max(wanted, self.minimum), self.maximum)

    @property
    def hosts(self) -> int:
        """Pods per replica. 0, which old CRDs stored, means 1."""
        return self.num_of_hosts or 1


class UpgradeStrategy(_Spec, frozen=True, kw_only=True, rename="camel"):
    """What a changed spec does to running Pods: nothing (None, the default) or Recreate."""

    type: str | None = None


class AuthOptions(_Spec, frozen=True, kw_only=True, rename="camel"):
    """Ray's token authentication. Only the literal mode ``token`` switches it on."""

    mode: Literal["disabled", "token"] | None = None
    secret_name: str | None = None
    enable_k8s_token_auth: bool | None = msgspec.field(default=None, name="enableK8sTokenAuth")


class AutoscalerOptions(_Spec, frozen=True, kw_only=True, rename="camel"):
    """Overrides for the autoscaler's sidecar."""

    resources: Raw | None = None
    image: str | None = None
    image_pull_policy: str | None = None
    security_context: Raw | None = None
    idle_timeout_seconds: Int32 | None = None
    upscaling_mode: Literal["Default", "Aggressive", "Conservative"] | None = None
    version: Literal["v1", "v2"] | None = None
    env: list[Raw] = msgspec.field(default_factory=list)
    env_from: list[Raw] = msgspec.field(default_factory=list)
    volume_mounts: list[Raw] = msgspec.field(default_factory=list)
    command: list[str] = msgspec.field(default_factory=list)
    args: list[str] = msgspec.field(default_factory=list)


class RayClusterSpec(_Spec, frozen=True, kw_only=True, rename="camel"):
    """Everything a user can say about a RayCluster; mappings nobody here acts on are kept raw."""

    head_group_spec: HeadGroupSpec
    worker_group_specs: tuple[WorkerGroupSpec, ...] = ()
    ray_version: str = ""
    gcs_fault_tolerance_options: GcsFaultToleranceOptions | None = None
    suspend: bool | None = None
    managed_by: str | None = None
    enable_in_tree_autoscaling: bool | None = None
    autoscaler_options: AutoscalerOptions | None = None
    upgrade_strategy: UpgradeStrategy | None = None
    auth_options: AuthOptions | None = None
    head_service_annotations: dict[str, str] = msgspec.field(default_factory=dict)
    history_server_options: Raw | None = None
    network_policy: Raw | None = None
    tls_options: Raw | None = None


class RayCluster(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One RayCluster. ``status`` is what was last written, raw."""

    api_version: str
    kind: Literal["RayCluster"]
    metadata: Metadata
    spec: RayClusterSpec
    status: Raw = msgspec.field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def namespace(self) -> str:
        return self.metadata.namespace

    @property
    def annotations(self) -> dict[str, str]:
        return self.metadata.annotations

    @property
    def head(self) -> HeadGroupSpec:
        return self.spec.head_group_spec

    @property
    def workers(self) -> tuple[WorkerGroupSpec, ...]:
        return self.spec.worker_group_specs


def parse_ray_cluster(raw: Raw, source: str = "", *, unknown: list[Problem] | None = None) -> RayCluster:
    """The manifest as a RayCluster. Raises ManifestError with all problems of structure and type.

    ``source`` is the file's name for messages. Unknown fields are problems in the RayCluster's own
    mappings and pass in Pod templates. With ``unknown`` they pass everywhere and are added to it: an object
    from an API server may carry fields of a newer definition.
    """
    problems: list[Problem] = []
    cluster = decode(RayCluster, raw, "", problems, unknown)
    spec = raw.get("spec") if isinstance(raw, dict) else None
    if isinstance(spec, dict):
        problems.extend(_template_problems(spec))
        problems.extend(_quantity_problems(spec))
        problems.extend(_raw_problems(spec))
    if problems or cluster is None:
        metadata = raw.get("metadata") if isinstance(raw, dict) else None
        name = metadata.get("name", "") if isinstance(metadata, dict) else ""
        raise ManifestError(
            [Problem(p.path, p.message, f"RayCluster/{name}") for p in problems], source=source
        )
    return cluster


def _template_problems(spec: Raw) -> list[Problem]:
    groups: list[tuple[str, object]] = [("spec.headGroupSpec", spec.get("headGroupSpec"))]
    workers = spec.get("workerGroupSpecs")
    for index, group in enumerate(workers if isinstance(workers, list) else ()):
        groups.append((f"spec.workerGroupSpecs[{index}]", group))
    found: list[Problem] = []
    for path, group in groups:
        template = group.get("template") if isinstance(group, dict) else None
        if isinstance(template, dict):
            metadata: Any = template.get("metadata")
            if metadata is not None and not isinstance(metadata, dict):
                found.append(
                    Problem(f"{path}.template.metadata", f"expected a mapping, got {shown(metadata)}")
                )
            for field in ("labels", "annotations") if isinstance(metadata, dict) else ():
                found.extend(check_string_map(metadata.get(field), f"{path}.template.metadata.{field}"))
            found.extend(check_pod_spec(template.get("spec"), f"{path}.template.spec"))
            found.extend(_resource_problems(template.get("spec"), f"{path}.template.spec"))
    return found


def _resource_problems(pod_spec: object, path: str) -> list[Problem]:
    """Quantities of the containers: ray start is told its processors and memory from the first one's, and
    status adds all of them up."""
    containers = pod_spec.get("containers") if isinstance(pod_spec, dict) else None
    found: list[Problem] = []
    for index, container in enumerate(containers if isinstance(containers, list) else ()):
        resources: Any = container.get("resources") if isinstance(container, dict) else None
        if resources is not None and not isinstance(resources, dict):
            found.append(Problem(f"{path}.containers[{index}].resources", "expected a mapping"))
            continue
        for kind in ("limits", "requests"):
            table = (resources or {}).get(kind)
            where = f"{path}.containers[{index}].resources.{kind}"
            if table is not None and not isinstance(table, dict):
                found.append(Problem(where, "expected a mapping"))
                continue
            for name, value in (table or {}).items():
                found.extend(_quantity_problem(value, f"{where}.{name}"))
    return found


def _raw_problems(spec: Raw) -> list[Problem]:
    """What is read of mappings that are Kubernetes' own: the head Service, the autoscaler's variables."""
    found: list[Problem] = []
    options, head = spec.get("autoscalerOptions"), spec.get("headGroupSpec")
    variables = options.get("env") if isinstance(options, dict) else None
    for index, variable in enumerate(variables if isinstance(variables, list) else ()):
        if not isinstance(variable, dict) or not isinstance(variable.get("name"), str):
            found.append(Problem(f"spec.autoscalerOptions.env[{index}].name", "is missing"))
    service = head.get("headService") if isinstance(head, dict) else None
    if isinstance(service, dict):
        path = "spec.headGroupSpec.headService"
        for field in ("metadata", "spec"):
            if not isinstance(service.get(field) or {}, dict):
                found.append(Problem(f"{path}.{field}", f"expected a mapping, got {shown(service[field])}"))
        found.extend(_service_problems(service, path))
    return found


def _service_problems(service: Raw, path: str) -> list[Problem]:
    found: list[Problem] = []
    metadata, spec = service.get("metadata"), service.get("spec")
    for field in ("labels", "annotations"):
        if isinstance(metadata, dict):
            found.extend(check_string_map(metadata.get(field), f"{path}.metadata.{field}"))
    ports = (spec.get("ports") or []) if isinstance(spec, dict) else []
    for index, port in enumerate(ports if isinstance(ports, list) else [None]):
        number = port.get("port") if isinstance(port, dict) else None
        if not isinstance(number, int) or not isinstance(port.get("name", ""), str | None):
            text = "must be a list of ports with a number"
            found.append(Problem(f"{path}.spec.ports[{index}]", text))
    return found


def _quantity_problems(spec: Raw) -> list[Problem]:
    options = spec.get("gcsFaultToleranceOptions")
    storage = options.get("storage") if isinstance(options, dict) else None
    size = storage.get("size") if isinstance(storage, dict) else None
    if not isinstance(size, str | int | float) or isinstance(size, bool):
        return []
    path = "spec.gcsFaultToleranceOptions.storage.size"
    found = _quantity_problem(size, path)
    if not found and parse_quantity(size) <= 0:
        found.append(Problem(path, f"must be greater than zero, got {size}"))
    return found


def _quantity_problem(value: object, path: str) -> list[Problem]:
    try:
        if not isinstance(value, str | int | float):
            raise QuantityError(f"expected a quantity such as 500m, 2 or 1.5Gi, got {type(value).__name__}")
        parse_quantity(value)
    except QuantityError as error:
        return [Problem(path, str(error))]
    return []

"""RayService (ray.io/v1) as typed, frozen structs, and the checks that need nothing but the object itself.

The cluster inside it is a RayCluster's spec and is read and checked as one, under its own path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from rayward.api.decode import decode
from rayward.api.problems import ManifestError, Problem, join_path, shown
from rayward.api.raycluster import Int32, Metadata, RayCluster, parse_ray_cluster
from rayward.api.serve_config import ServeConfig, read_serve_config
from rayward.api.validation import DNS_1035, MANAGERS, validate

Raw = dict[str, Any]

# A cluster's name is the service's, a hyphen and five characters, and has 53 itself.
MAX_NAME = 47
INITIALIZING_TIMEOUT = "ray.io/initializing-timeout"
NEW_CLUSTER, INCREMENTAL, NO_UPGRADE = "NewCluster", "NewClusterWithIncrementalUpgrade", "None"
DELETION_DELAY_S = 60
_CLUSTER = "spec.rayClusterConfig"
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_DURATION = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|ms|s|m|h)")


class _Spec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Base of all structs whose fields are the RayService's own: a misspelt one is an error."""


class ClusterUpgradeOptions(_Spec, frozen=True, kw_only=True, rename="camel"):
    """How an incremental upgrade moves traffic; read so that it can be refused with its reason."""

    step_size_percent: Int32
    interval_seconds: Int32
    gateway_class_name: str
    max_surge_percent: Int32 = 100


class ServiceUpgradeStrategy(_Spec, frozen=True, kw_only=True, rename="camel"):
    """What a changed cluster spec does: another cluster beside this one (NewCluster), or nothing (None)."""

    type: str | None = None
    cluster_upgrade_options: ClusterUpgradeOptions | None = None


class RayServiceSpec(_Spec, frozen=True, kw_only=True, rename="camel"):
    """Everything a user can say about a RayService. ``ray_cluster_config`` is a RayCluster's spec, raw."""

    ray_cluster_config: Raw
    serve_config_v2: str = msgspec.field(default="", name="serveConfigV2")
    serve_service: Raw | None = None
    upgrade_strategy: ServiceUpgradeStrategy | None = None
    ray_cluster_deletion_delay_seconds: Int32 | None = None
    exclude_head_pod_from_serve_svc: bool | None = None
    suspend: bool | None = None
    managed_by: str | None = None
    service_unhealthy_second_threshold: Int32 | None = None
    deployment_unhealthy_second_threshold: Int32 | None = None


class RayService(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One RayService. ``status`` is what was last written, raw."""

    api_version: str
    kind: Literal["RayService"]
    metadata: Metadata
    spec: RayServiceSpec
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
    def deletion_delay_s(self) -> int:
        """Seconds that a cluster stays after another has taken its place."""
        delay = self.spec.ray_cluster_deletion_delay_seconds
        return DELETION_DELAY_S if delay is None else delay

    @property
    def initializing_timeout_s(self) -> float | None:
        """Seconds after which a service that never became ready is given up; None: never. Only for a service
        that `validate_service` finds nothing wrong with."""
        return seconds_of(self.annotations.get(INITIALIZING_TIMEOUT, ""))


def parse_ray_service(raw: Raw, source: str = "", *, unknown: list[Problem] | None = None) -> RayService:
    """The manifest as a RayService. Raises ManifestError with all problems of structure and type, those of
    the cluster's spec among them; ``source`` and ``unknown`` are as for ``parse_ray_cluster``."""
    problems: list[Problem] = []
    service = decode(RayService, raw, "", problems, unknown)
    metadata = raw.get("metadata") if isinstance(raw, dict) else None
    name = metadata.get("name", "") if isinstance(metadata, dict) else ""
    spec = raw.get("spec") if isinstance(raw, dict) else None
    config = spec.get("rayClusterConfig") if isinstance(spec, dict) else None
    if isinstance(config, dict):
        problems += _cluster_problems(config, unknown)
    custom = spec.get("serveService") if isinstance(spec, dict) else None
    if isinstance(custom, dict):
        problems += _service_problems(custom)
    if problems or service is None:
        raise ManifestError(
            [Problem(found.path, found.message, f"RayService/{name}") for found in problems], source=source
        )
    return service


def inner_cluster(service: RayService, *, unknown: list[Problem] | None = None) -> RayCluster:
    """The cluster that the service describes, as if it stood alone under the service's name."""
    raw = {
        "apiVersion": service.api_version,
        "kind": "RayCluster",
        "metadata": {"name": service.name, "namespace": service.namespace},
        "spec": service.spec.ray_cluster_config,
    }
    return parse_ray_cluster(raw, unknown=unknown)


def validate_service(service: RayService) -> tuple[Problem, ...]:
    """Every contradiction in ``service``; empty when it can be planned."""
    subject = f"RayService/{service.name}"
    found = [*_metadata(service), *_own(service), *_inner(service)]
    config = read_serve_config(service.spec.serve_config_v2)
    if not isinstance(config, ServeConfig):
        found += [Problem("spec.serveConfigV2", text) for text in config]
    return tuple(Problem(problem.path, problem.message, subject) for problem in found)


def seconds_of(text: str) -> float | None:
    """`30s`, `1h5m` or `90` as seconds; None for an empty text. Raises ValueError for anything else, and for
    what is not positive."""
    text = text.strip()
    if not text:
        return None
    if text.isascii() and text.isdecimal():
        seconds = float(text)
    else:
        parts = _DURATION.findall(text)
        if "".join(parts) != text:
            raise ValueError(f"{shown(text)} is no duration")
        seconds = sum(_part(part) for part in parts)
    if seconds <= 0:
        raise ValueError(f"{shown(text)} is not positive")
    return seconds


def _part(text: str) -> float:
    number = text.rstrip("nuµmsh")
    return float(number) * _SECONDS[text[len(number) :]]


def _metadata(service: RayService) -> Iterator[Problem]:
    name = service.name
    if len(name) > MAX_NAME:
        text = f"must have at most {MAX_NAME} characters, has {len(name)}: its clusters' names are longer"
        yield Problem("metadata.name", text)
    if not DNS_1035.fullmatch(name):
        yield Problem("metadata.name", f'must start with a-z and hold only a-z, 0-9 and -, got "{name}"')
    try:
        seconds_of(service.annotations.get(INITIALIZING_TIMEOUT, ""))
    except ValueError as error:
        path = join_path("metadata.annotations", INITIALIZING_TIMEOUT)
        yield Problem(path, f"{error}; write 600 or 10m")


def _own(service: RayService) -> Iterator[Problem]:
    spec = service.spec
    if spec.managed_by is not None and spec.managed_by not in MANAGERS:
        yield Problem("spec.managedBy", f'must be one of {", ".join(MANAGERS)}; got "{spec.managed_by}"')
    if (spec.ray_cluster_deletion_delay_seconds or 0) < 0:
        yield Problem("spec.rayClusterDeletionDelaySeconds", "must not be negative")
    strategy = spec.upgrade_strategy
    kind = strategy.type if strategy is not None else None
    if kind == INCREMENTAL:
        yield Problem(
            "spec.upgradeStrategy.type",
            f"{INCREMENTAL} is not supported yet: it needs a Gateway API; use {NEW_CLUSTER}, which switches "
            "when the new cluster answers",
        )
    elif kind not in (None, "", NEW_CLUSTER, NO_UPGRADE):
        yield Problem(
            "spec.upgradeStrategy.type", f'must be one of {NEW_CLUSTER}, {NO_UPGRADE}; got "{kind}"'
        )


def _inner(service: RayService) -> Iterator[Problem]:
    cluster = inner_cluster(service)
    for problem in validate(cluster):
        if problem.path != "metadata.name":
            yield Problem(_below(problem.path), problem.message)
    if (
        "suspend" in service.spec.ray_cluster_config
        and service.spec.ray_cluster_config["suspend"] is not None
    ):
        yield Problem(f"{_CLUSTER}.suspend", "is the service's to decide; use spec.suspend")
    strategy = cluster.spec.upgrade_strategy
    if strategy is not None and strategy.type is not None:
        text = "cannot be set on the cluster of a RayService; use spec.upgradeStrategy"
        yield Problem(f"{_CLUSTER}.upgradeStrategy.type", text)
    options = cluster.spec.gcs_fault_tolerance_options
    if options is not None and options.external_storage_namespace and may_upgrade(service):
        yield Problem(
            f"{_CLUSTER}.gcsFaultToleranceOptions.externalStorageNamespace",
            "cannot be fixed while upgrades make a second cluster: both would write to the same keys, and "
            "the clean-up of the old one would remove them; leave it out (each cluster gets its own), or set "
            f"spec.upgradeStrategy.type: {NO_UPGRADE}",
        )
    if (
        options is not None
        and options.storage is not None
        and options.storage.claim_name
        and may_upgrade(service)
    ):
        yield Problem(
            f"{_CLUSTER}.gcsFaultToleranceOptions.storage.claimName",
            "cannot be fixed while upgrades make a second cluster: both heads would open the same files; "
            f"leave it out, or set spec.upgradeStrategy.type: {NO_UPGRADE}",
        )


def may_upgrade(service: RayService) -> bool:
    """Whether a changed spec makes another cluster."""
    strategy = service.spec.upgrade_strategy
    return strategy is None or strategy.type != NO_UPGRADE


def _cluster_problems(config: Raw, unknown: list[Problem] | None) -> list[Problem]:
    inner: list[Problem] | None = [] if unknown is not None else None
    raw = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "x"}, "spec": config}
    try:
        parse_ray_cluster(raw, unknown=inner)
    except ManifestError as error:
        return [Problem(_below(found.path), found.message) for found in error.problems]
    finally:
        if unknown is not None and inner:
            unknown += [Problem(_below(found.path), found.message) for found in inner]
    return []


def _below(path: str) -> str:
    """A path inside of a RayCluster as one inside of a RayService."""
    return _CLUSTER + path[len("spec") :] if path == "spec" or path.startswith("spec.") else path


def _service_problems(custom: Raw) -> Iterator[Problem]:
    for field in ("metadata", "spec"):
        if custom.get(field) is not None and not isinstance(custom[field], dict):
            yield Problem(f"spec.serveService.{field}", f"expected a mapping, got {shown(custom[field])}")
    spec: Any = custom.get("spec")
    ports = (spec.get("ports") or []) if isinstance(spec, dict) else []
    for index, port in enumerate(ports if isinstance(ports, list) else [None]):
        if not isinstance(port, dict) or not isinstance(port.get("port"), int):
            yield Problem(f"spec.serveService.spec.ports[{index}]", "must be a list of ports with a number")

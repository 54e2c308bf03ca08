"""Environment variables of Ray containers, in the order in which the documents show them.

The user's own come first and unchanged; what rayward adds over KubeRay comes last.
"""

from __future__ import annotations

from typing import Any

from rayward import __version__
from rayward.api.agent_choice import runs_agent
from rayward.api.fault_tolerance import Backend, Credential, FaultTolerance
from rayward.api.raycluster import RayCluster
from rayward.plan import names
from rayward.plan.ray_start import gcs_port
from rayward.plan.serve_node import service_owned
from rayward.plan.settings import Settings

Raw = dict[str, Any]
GCS_DIRECTORY = "/data/gcs"
STATE_DIRECTORY = "/var/lib/rayward"
WORKER_RECONNECT_S = "600"
_SERVICE_OWNED = {
    "RAY_timeout_ms_task_wait_for_death_info": "0",
    "RAY_gcs_server_request_timeout_seconds": "5",
    "RAY_SERVE_KV_TIMEOUT_S": "5",
}


class Environment:
    """A container's variables while they are put together."""

    def __init__(self, written: list[Raw] | None) -> None:
        self.variables: list[Raw] = [dict(variable) for variable in written or ()]

    def append(self, name: str, value: str) -> None:
        """Add a variable whatever the user wrote: the last one of a name counts."""
        self.variables.append({"name": name, "value": value})

    def default(self, name: str, value: str) -> None:
        """Add a variable unless there is one."""
        if all(variable["name"] != name for variable in self.variables):
            self.append(name, value)

    def field(self, name: str, path: str) -> None:
        """Add a variable that Kubernetes fills from the Pod itself."""
        source = {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}
        self.variables.append({"name": name, "valueFrom": source})

    def default_field(self, name: str, path: str) -> None:
        """The same, unless there is a variable of that name."""
        if all(variable["name"] != name for variable in self.variables):
            self.field(name, path)

    def credential(self, credential: Credential | None) -> None:
        """Add a credential, unless the user's template carries it already."""
        if credential is None or credential.in_template:
            return
        if credential.value_from is not None:
            self.variables.append({"name": credential.env_name, "valueFrom": credential.value_from})
        else:
            self.append(credential.env_name, credential.value or "")


def head_environment(
    cluster: RayCluster,
    ft: FaultTolerance,
    settings: Settings,
    *,
    written: list[Raw] | None,
    start: str,
    agent: bool,
    serve_port: int,
) -> list[Raw]:
    """All variables of the head's Ray container; ``start`` is its plain ray start line, ``serve_port``
    where Serve's proxy of a RayService listens."""
    env = Environment(written)
    _autoscaler(env, cluster)
    _store(env, ft)
    authentication(env, cluster)
    for name, value in settings.default_env:
        env.default(name, value)
    _identity(env, start)
    port = gcs_port(cluster)
    env.default("RAY_PORT", port)
    _service_owned(env, cluster)
    env.default("RAY_ADDRESS", f"127.0.0.1:{port}")
    env.default("RAY_USAGE_STATS_KUBERAY_IN_USE", "1")
    crd = cluster.metadata.labels.get(names.OWNER_KIND, "RayCluster")
    env.append("RAY_USAGE_STATS_EXTRA_TAGS", f"rayward_version={__version__};kuberay_crd={crd}")
    env.default("RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE", "1")
    _reconnect(env, settings)
    if agent:
        _agent(env, cluster, ft, settings, serve_port)
        if ft.backend is Backend.REDIS:
            env.default("RAYWARD_STATE_DIR", STATE_DIRECTORY)
        env.default("RAYWARD_STORE", ft.backend.value)
    return env.variables


def worker_environment(
    cluster: RayCluster,
    ft: FaultTolerance,
    settings: Settings,
    *,
    written: list[Raw] | None,
    start: str,
    agent: bool,
    serve_port: int,
) -> list[Raw]:
    """All variables of a worker's Ray container; ``start`` is its plain ray start line."""
    env = Environment(written)
    if ft.enabled:
        # Longer than the head's 60 s, so that a worker outlives the head's own restart.
        env.default("RAY_gcs_rpc_server_reconnect_timeout_s", WORKER_RECONNECT_S)
    authentication(env, cluster)
    for name, value in settings.default_env:
        env.default(name, value)
    head_names(env, cluster, settings)
    _identity(env, start)
    port = gcs_port(cluster)
    env.default("RAY_PORT", port)
    _service_owned(env, cluster)
    forwards = agent and settings.forward and _heads_have_agents(cluster, ft)
    # Ray reads 127.0.0.1 as "this node's address", and there the agent's forwarder listens.
    gcs_host = "127.0.0.1" if forwards else names.head_address(cluster, settings.cluster_domain)
    env.default("RAY_ADDRESS", f"{gcs_host}:{port}")
    env.default("RAY_USAGE_STATS_KUBERAY_IN_USE", "1")
    env.default("RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE", "1")
    _reconnect(env, settings)
    if agent:
        _agent(env, cluster, ft, settings, serve_port)
        if ft.enabled:
            env.default("RAYWARD_FORWARD", "on" if forwards else "off")
    return env.variables


def head_names(env: Environment, cluster: RayCluster, settings: Settings) -> None:
    """The head Service's names, for workers and for every init container."""
    env.append("FQ_RAY_IP", names.head_address(cluster, settings.cluster_domain))
    env.append("RAY_IP", names.head_service_name(cluster))


def _autoscaler(env: Environment, cluster: RayCluster) -> None:
    options = cluster.spec.autoscaler_options
    if cluster.spec.enable_in_tree_autoscaling and options is not None and options.version is not None:
        env.append("RAY_enable_autoscaler_v2", "true" if options.version == "v2" else "false")


def _store(env: Environment, ft: FaultTolerance) -> None:
    if ft.backend is Backend.ROCKSDB:
        env.append("RAY_gcs_storage", "rocksdb")
        env.append("RAY_gcs_storage_path", GCS_DIRECTORY)
    elif ft.backend is Backend.REDIS:
        env.default("RAY_external_storage_namespace", ft.storage_namespace)
        if ft.redis_address_from is None:
            env.default("RAY_REDIS_ADDRESS", ft.redis_address)
        env.credential(ft.username)
        env.credential(ft.password)


def authentication(env: Environment, cluster: RayCluster) -> None:
    """How Ray knows its own: for every container in which something of Ray talks to the GCS."""
    options = cluster.spec.auth_options
    if options is None or options.mode != "token":
        return
    env.default("RAY_AUTH_MODE", "token")
    if options.enable_k8s_token_auth:
        env.default("RAY_ENABLE_K8S_TOKEN_AUTH", "true")
    elif all(variable["name"] != "RAY_AUTH_TOKEN" for variable in env.variables):
        secret = {"name": names.token_secret_name(cluster), "key": names.TOKEN_KEY}
        env.variables.append({"name": "RAY_AUTH_TOKEN", "valueFrom": {"secretKeyRef": secret}})


def _identity(env: Environment, start: str) -> None:
    env.field("RAY_CLUSTER_NAME", f"metadata.labels['{names.CLUSTER}']")
    env.field("RAY_CLUSTER_NAMESPACE", "metadata.namespace")
    env.field("RAY_CLOUD_INSTANCE_ID", "metadata.name")
    env.field("RAY_NODE_TYPE_NAME", f"metadata.labels['{names.GROUP}']")
    env.append("KUBERAY_GEN_RAY_START_CMD", start)


def _service_owned(env: Environment, cluster: RayCluster) -> None:
    if service_owned(cluster):
        for name, value in _SERVICE_OWNED.items():
            env.default(name, value)


def _reconnect(env: Environment, settings: Settings) -> None:
    if settings.reconnect is not None:
        for name, value in settings.reconnect.environment().items():
            env.default(name, value)


def _heads_have_agents(cluster: RayCluster, ft: FaultTolerance) -> bool:
    """Whether there is somebody to ask which head leads."""
    return ft.enabled and runs_agent(cluster, cluster.head.template)


def _agent(
    env: Environment, cluster: RayCluster, ft: FaultTolerance, settings: Settings, serve_port: int
) -> None:
    env.default("RAYWARD_CLUSTER", cluster.name)
    env.default_field("RAYWARD_POD", "metadata.name")
    if ft.enabled:
        env.default("RAYWARD_CLUSTER_UID", cluster.metadata.uid)
    if _heads_have_agents(cluster, ft):
        heads = names.head_agents_address(cluster, settings.cluster_domain)
        env.default("RAYWARD_HEADS", f"{heads}:{settings.agent_port}")
    if service_owned(cluster):
        env.default("RAYWARD_SERVE_PORT", str(serve_port))
    # Not the user's to choose: probes and Services count on it.
    env.append("RAYWARD_AGENT_PORT", str(settings.agent_port))

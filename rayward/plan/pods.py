"""Head and worker Pods of a RayCluster, as raw manifests ready to be created.

Puts together what the other modules of this room decide. Names are left to whoever creates the Pod.
"""

from __future__ import annotations

import copy
import shlex
from typing import Any

from rayward import __version__
from rayward.api.agent_choice import runs_agent, starts_ray_itself, user_text
from rayward.api.fault_tolerance import (
    EXTERNAL_STORAGE_NAMESPACE,
    FT_ENABLED,
    Backend,
    FaultTolerance,
    Storage,
    fault_tolerance,
)
from rayward.api.raycluster import RayCluster, WorkerGroupSpec
from rayward.plan import autoscaler, environment, names, probes, ray_start
from rayward.plan.serve_node import let_leave, serve_port, service_owned
from rayward.plan.settings import Settings
from rayward.plan.spec_hash import recreate_hash

Raw = dict[str, Any]
AGENT_VOLUME = "rayward-agent"
AGENT_DIRECTORY = "/opt/rayward"
GCS_VOLUME = "gcs-storage"
STATE_VOLUME = "rayward-state"
WAIT_CONTAINER = "wait-gcs-ready"
TOKEN_VOLUME, TOKEN_DIRECTORY = "ray-token", "/var/run/secrets/ray.io/serviceaccount"


def head_pod(cluster: RayCluster, settings: Settings, *, index: int = 0) -> Raw:
    """The head Pod, or number ``index`` of several. ``cluster`` must have passed validation and carry its
    uid."""
    ft = fault_tolerance(cluster)
    params = ray_start.head_params(cluster, ft)
    start = ray_start.ray_start_line(params, head=True)
    pod, container, agent = _skeleton(cluster, cluster.head.template, settings, start, "head")
    container["env"] = environment.head_environment(
        cluster, ft, settings, written=container.get("env"), start=start, agent=agent,
        serve_port=serve_port(cluster, container),
    )  # fmt: skip
    _metadata(cluster, pod, names.HEAD, names.HEAD_GROUP, cluster.head.labels)
    pod["metadata"]["generateName"] = names.head_generate_name(cluster.name)
    pod["metadata"]["annotations"].update(_head_annotations(cluster, ft))
    if ft.storage is not None:
        _mount_store(pod["spec"], container, ft.storage, cluster.name)
    if agent and ft.backend is Backend.REDIS:
        _keep_memory(pod["spec"], container)
    _shared_memory(pod["spec"], container, params)
    _metrics_port(container, params)
    if settings.inject_probes:
        found = (
            probes.agent_probes(settings) if agent else _plain_probes(cluster, params, container, head=True)
        )
        _add_missing(container, found)
    if cluster.spec.enable_in_tree_autoscaling:
        autoscaler.add_sidecar(cluster, pod["spec"], container)
    _init_containers(cluster, pod["spec"], settings)
    _account_token(cluster, pod["spec"])
    if ft.standbys:
        pod["metadata"]["labels"][names.HEAD_INDEX] = str(index)
        _keep_heads_apart(cluster, pod["spec"])
    return pod


def worker_pod(
    cluster: RayCluster,
    group: WorkerGroupSpec,
    settings: Settings,
    *,
    replica_index: int,
    host_index: int = 0,
) -> Raw:
    """One worker Pod of ``group``: host ``host_index`` of replica ``replica_index``."""
    ft = fault_tolerance(cluster)
    params = ray_start.worker_params(cluster, group, settings)
    start = ray_start.ray_start_line(params, head=False)
    pod, container, agent = _skeleton(cluster, group.template, settings, start, "worker")
    written, mounts = copy.deepcopy(container.get("env")), copy.deepcopy(container.get("volumeMounts"))
    container["env"] = environment.worker_environment(
        cluster, ft, settings, written=container.get("env"), start=start, agent=agent,
        serve_port=serve_port(cluster, container),
    )  # fmt: skip
    _metadata(cluster, pod, names.WORKER, group.group_name, group.labels)
    pod["metadata"]["generateName"] = names.worker_generate_name(cluster.name, group.group_name)
    pod["metadata"]["labels"].update(names.replica_labels(group, replica_index, host_index))
    _shared_memory(pod["spec"], container, params)
    _metrics_port(container, params)
    if settings.inject_probes:
        found = (
            probes.agent_probes(settings, serves=service_owned(cluster))
            if agent
            else _plain_probes(cluster, params, container, head=False)
        )
        _add_missing(container, found)
    if settings.inject_init_container and not agent:
        # The agent waits for the GCS by itself, without a second container that polls it.
        mine = [mount for mount in mounts or () if mount["name"] != AGENT_VOLUME]
        pod["spec"].setdefault("initContainers", []).append(
            _wait_gcs_ready(cluster, container, settings, written, mine)
        )
    _init_containers(cluster, pod["spec"], settings)
    _account_token(cluster, pod["spec"])
    return pod


def _skeleton(
    cluster: RayCluster, template: Raw, settings: Settings, start: str, role: str
) -> tuple[Raw, Raw, bool]:
    """A Pod with the template's spec and its Ray container's command: (Pod, Ray container, agent?)."""
    spec = _without_nulls(template["spec"])
    container: Raw = spec["containers"][0]
    agent = runs_agent(cluster, template)
    if not starts_ray_itself(cluster, template):
        before = user_text(container)
        container["command"] = ["/bin/bash", "-cl" if settings.login_shell else "-c", "--"]
        container["args"] = [
            ray_start.shell_line(start, settings, before=before, agent=role if agent else None)
        ]
    if agent:
        add_agent_volume(spec, container, settings)
    let_leave(cluster, spec, container, settings, agent=agent)
    options = cluster.spec.autoscaler_options
    if cluster.spec.enable_in_tree_autoscaling and options is not None and options.version == "v2":
        spec["restartPolicy"] = "Never"
    metadata = copy.deepcopy(template.get("metadata") or {})
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    return pod, container, agent


def _without_nulls(value: Any) -> Any:
    """A copy in which a field that says null is one that says nothing."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def add_agent_volume(spec: Raw, container: Raw, settings: Settings) -> None:
    """Mount the ConfigMap that carries the agent's zip file."""
    source = {"name": settings.agent_config_map}
    spec.setdefault("volumes", []).append({"name": AGENT_VOLUME, "configMap": source})
    mount = {"name": AGENT_VOLUME, "mountPath": AGENT_DIRECTORY, "readOnly": True}
    container.setdefault("volumeMounts", []).append(mount)


def _keep_memory(spec: Raw, container: Raw) -> None:
    """A head remembers from one container to the next which store it led on (``agent.memory``)."""
    spec.setdefault("volumes", []).append({"name": STATE_VOLUME, "emptyDir": {}})
    mount = {"name": STATE_VOLUME, "mountPath": environment.STATE_DIRECTORY}
    container.setdefault("volumeMounts", []).append(mount)


def _metadata(
    cluster: RayCluster, pod: Raw, node_type: str, group: str, group_labels: dict[str, str]
) -> None:
    written: Raw = pod["metadata"]
    labels = {**(written.get("labels") or {}), **group_labels}
    pod["metadata"] = {
        "namespace": cluster.namespace,
        "labels": names.ray_labels(cluster, node_type, group, labels),
        "annotations": dict(written.get("annotations") or {}),
        "ownerReferences": [names.owner_reference(cluster)],
    }
    if service_owned(cluster):
        pod["metadata"]["labels"][names.SERVE] = "true" if node_type == names.WORKER else "false"


def _head_annotations(cluster: RayCluster, ft: FaultTolerance) -> dict[str, str]:
    annotations = {
        FT_ENABLED: "true" if ft.enabled else "false",
        names.RAYWARD_VERSION: __version__,
        names.RECREATE_HASH: recreate_hash(cluster),
    }
    if ft.backend is Backend.REDIS:
        annotations[EXTERNAL_STORAGE_NAMESPACE] = ft.storage_namespace
    return annotations


def _keep_heads_apart(cluster: RayCluster, spec: Raw) -> None:
    """Ask for a node without another head of this cluster: one lost node must not take both."""
    labels = {names.CLUSTER: cluster.name, names.NODE_TYPE: names.HEAD}
    term = {
        "weight": 100,
        "podAffinityTerm": {
            "labelSelector": {"matchLabels": labels},
            "topologyKey": "kubernetes.io/hostname",
        },
    }
    anti = spec.setdefault("affinity", {}).setdefault("podAntiAffinity", {})
    anti.setdefault("preferredDuringSchedulingIgnoredDuringExecution", []).append(term)


def _mount_store(spec: Raw, container: Raw, storage: Storage, cluster: str) -> None:
    claim = storage.claim_name or names.gcs_claim_name(cluster)
    volume = {"name": GCS_VOLUME, "persistentVolumeClaim": {"claimName": claim}}
    spec.setdefault("volumes", []).append(volume)
    mount = {"name": GCS_VOLUME, "mountPath": environment.GCS_DIRECTORY}
    if storage.sub_path:
        mount["subPath"] = storage.sub_path
    container.setdefault("volumeMounts", []).append(mount)


def _shared_memory(spec: Raw, container: Raw, params: dict[str, str]) -> None:
    """Ray's object store lives in /dev/shm, which containers get far too little of by default."""
    mounts = container.setdefault("volumeMounts", [])
    if "plasma-directory" in params or any(mount.get("mountPath") == "/dev/shm" for mount in mounts):
        return
    resources = container.get("resources") or {}
    size = (resources.get("limits") or {}).get("memory") or (resources.get("requests") or {}).get("memory")
    memory = {"medium": "Memory", **({"sizeLimit": str(size)} if size else {})}
    volumes = spec.setdefault("volumes", [])
    if all(volume["name"] != "shared-mem" for volume in volumes):
        volumes.append({"name": "shared-mem", "emptyDir": memory})
    mounts.append({"name": "shared-mem", "mountPath": "/dev/shm"})


def _metrics_port(container: Raw, params: dict[str, str]) -> None:
    ports = container.setdefault("ports", [])
    if all(port.get("name") != "metrics" for port in ports):
        ports.append({"name": "metrics", "containerPort": int(params["metrics-export-port"])})


def _plain_probes(
    cluster: RayCluster, params: dict[str, str], container: Raw, *, head: bool
) -> dict[str, Raw]:
    serve = serve_port(cluster, container) if service_owned(cluster) and not head else None
    return probes.plain_probes(cluster.spec.ray_version, params, head=head, serve_port=serve)


def _add_missing(container: Raw, found: dict[str, Raw]) -> None:
    for name, probe in found.items():
        if container.get(name) is None:
            container[name] = probe


def _init_containers(cluster: RayCluster, spec: Raw, settings: Settings) -> None:
    for container in spec.get("initContainers") or ():
        env = environment.Environment(container.get("env"))
        environment.head_names(env, cluster, settings)
        container["env"] = env.variables


def _account_token(cluster: RayCluster, spec: Raw) -> None:
    """Where Kubernetes itself is asked who may speak to Ray, the Pod shows its service account's token."""
    options = cluster.spec.auth_options
    if options is None or options.mode != "token" or not options.enable_k8s_token_auth:
        return
    volumes = spec.setdefault("volumes", [])
    if all(volume["name"] != TOKEN_VOLUME for volume in volumes):
        token = {"serviceAccountToken": {"path": "token"}}
        volumes.append({"name": TOKEN_VOLUME, "projected": {"sources": [token]}})
    waiting = [one for one in spec.get("initContainers") or () if one["name"] == WAIT_CONTAINER]
    scaling = [one for one in spec["containers"][1:] if one["name"] == autoscaler.CONTAINER]
    for container in (spec["containers"][0], *waiting, *scaling):
        mounts = container.setdefault("volumeMounts", [])
        if all(mount["name"] != TOKEN_VOLUME for mount in mounts):
            mounts.append({"name": TOKEN_VOLUME, "mountPath": TOKEN_DIRECTORY, "readOnly": True})


def _wait_gcs_ready(
    cluster: RayCluster, ray: Raw, settings: Settings, written: list[Raw] | None, mounts: list[Raw]
) -> Raw:
    """The init container that holds a worker back until the GCS answers (only without the agent)."""
    address = f"{names.head_address(cluster, settings.cluster_domain)}:{ray_start.gcs_port(cluster)}"
    check = f"ray health-check --address {shlex.quote(address)}"
    script = (
        "waited=0\n"
        "while true; do\n"
        f"  if [ $waited -lt 120 ]; then {check} > /dev/null 2>&1; else {check}; fi && break\n"
        '  echo "$waited seconds elapsed: waiting for the GCS"\n'
        "  sleep 5; waited=$((waited + 5))\n"
        "done\n"
    )
    amount = {"cpu": "200m", "memory": "256Mi"}
    env = environment.Environment(copy.deepcopy(written))
    environment.authentication(env, cluster)
    container: Raw = {
        "name": WAIT_CONTAINER,
        "image": ray["image"],
        "command": ["/bin/bash", "-cl" if settings.login_shell else "-c", "--"],
        "args": [script],
        "env": env.variables,
        "volumeMounts": mounts,
        "resources": {"limits": dict(amount), "requests": dict(amount)},
    }
    for field in ("imagePullPolicy", "securityContext"):
        if ray.get(field) is not None:
            container[field] = copy.deepcopy(ray[field])
    return container

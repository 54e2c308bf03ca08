"""The sidecar that runs Ray's autoscaler in the head Pod.

Only puts the container together; the account and rights that it needs are built beside it.
"""

from __future__ import annotations

import copy
from typing import Any

from rayward.api.raycluster import AutoscalerOptions, RayCluster
from rayward.plan import names
from rayward.plan.environment import Environment, authentication

Raw = dict[str, Any]
LOGS_VOLUME = "ray-logs"
CONTAINER = "autoscaler"


def add_sidecar(cluster: RayCluster, spec: Raw, ray: Raw) -> None:
    """Append the autoscaler to the head Pod's ``spec``; it reads Ray's logs through a shared volume."""
    options = cluster.spec.autoscaler_options or AutoscalerOptions()
    start = (
        "ray kuberay-autoscaler --cluster-name $(RAY_CLUSTER_NAME)"
        " --cluster-namespace $(RAY_CLUSTER_NAMESPACE)"
    )
    sidecar: Raw = {
        "name": CONTAINER,
        "image": options.image or ray["image"],
        "imagePullPolicy": options.image_pull_policy or "IfNotPresent",
        "command": options.command or ["/bin/bash", "-c", "--"],
        "args": options.args or [start],
        "env": _environment(cluster, start, copy.deepcopy(options.env)),
        "resources": copy.deepcopy(options.resources) or _default_resources(),
        "volumeMounts": [
            {"name": LOGS_VOLUME, "mountPath": "/tmp/ray"},
            *copy.deepcopy(options.volume_mounts),
        ],
    }
    if options.env_from:
        sidecar["envFrom"] = copy.deepcopy(options.env_from)
    if options.security_context:
        sidecar["securityContext"] = copy.deepcopy(options.security_context)
    mounts = ray.setdefault("volumeMounts", [])
    if all(mount.get("mountPath") != "/tmp/ray" for mount in mounts):
        spec.setdefault("volumes", []).append({"name": LOGS_VOLUME, "emptyDir": {}})
        mounts.append({"name": LOGS_VOLUME, "mountPath": "/tmp/ray"})
    else:
        shared = next(mount for mount in mounts if mount.get("mountPath") == "/tmp/ray")
        sidecar["volumeMounts"][0] = {"name": shared["name"], "mountPath": "/tmp/ray"}
    spec["containers"].append(sidecar)
    spec["serviceAccountName"] = names.service_account_name(cluster)


def _environment(cluster: RayCluster, start: str, written: list[Raw]) -> list[Raw]:
    env = Environment(None)
    env.field("RAY_CLUSTER_NAME", f"metadata.labels['{names.CLUSTER}']")
    env.field("RAY_CLUSTER_NAMESPACE", "metadata.namespace")
    env.field("RAY_HEAD_POD_NAME", "metadata.name")
    env.append("KUBERAY_CRD_VER", "v1")
    env.append("KUBERAY_GEN_AUTOSCALER_START_CMD", start)
    env.variables += written
    authentication(env, cluster)
    return env.variables


def _default_resources() -> Raw:
    amount = {"cpu": "500m", "memory": "512Mi"}
    return {"limits": dict(amount), "requests": dict(amount)}

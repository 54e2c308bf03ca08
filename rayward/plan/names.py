"""Names, labels and lengths that tools around Ray on Kubernetes rely on, all in one place.

Pure text; knows which object is called what and nothing else about it.
"""

from __future__ import annotations

from typing import Any

from rayward.api import agent_choice
from rayward.api.raycluster import RayCluster, WorkerGroupSpec

CLUSTER = "ray.io/cluster"
NODE_TYPE = "ray.io/node-type"
GROUP = "ray.io/group"
IDENTIFIER = "ray.io/identifier"
IS_RAY_NODE = "ray.io/is-ray-node"
SERVE = "ray.io/serve"
REPLICA_INDEX = "ray.io/worker-group-replica-index"
REPLICA_NAME = "ray.io/worker-group-replica-name"
HOST_INDEX = "ray.io/replica-host-index"
APP_NAME = "app.kubernetes.io/name"
CREATED_BY = "app.kubernetes.io/created-by"
HEAD_GROUP = "headgroup"
HEAD, WORKER, REDIS_CLEANUP = "head", "worker", "redis-cleanup"

CLEANUP_FINALIZER = "ray.io/gcs-ft-redis-cleanup-finalizer"
DELETION_TIMEOUT = "ray.io/gcs-ft-deletion-timeout"
NO_HEAD_RESTART = "ray.io/disable-provisioned-head-restart"
RECREATE_HASH = "ray.io/upgrade-strategy-recreate-hash"
RAYWARD_VERSION = "rayward.dev/version"
AGENT = agent_choice.AGENT
HEAD_INDEX = "rayward.dev/head-index"
OWNER_KIND = "ray.io/originated-from-crd"

MAX_LABEL = 63
MAX_POD_PREFIX = 50


def trim_front(text: str, limit: int = MAX_LABEL) -> str:
    """The last ``limit`` characters, the end of a generated name being the part that tells objects
    apart; a first character that may not start a name becomes ``r``."""
    text = text[-limit:]
    return text if text[:1].isalnum() else f"r{text[1:]}"


def head_generate_name(cluster: str) -> str:
    """What a head Pod's name starts with."""
    return f"{cluster[:MAX_POD_PREFIX]}-head-".lower()


def worker_generate_name(cluster: str, group: str) -> str:
    """What the names of a group's Pods start with."""
    return f"{f'{cluster}-{group}'[:MAX_POD_PREFIX]}-worker-".lower()


def head_service_name(cluster: RayCluster) -> str:
    """The head Service: the custom one's name, else ``<cluster>-head-svc``."""
    custom = ((cluster.head.head_service or {}).get("metadata") or {}).get("name")
    return str(custom) if custom else f"{cluster.name}-head-svc"


def head_agents_service_name(cluster: str) -> str:
    """The Service behind which the agents of all heads are, whether they lead or stand by."""
    name = trim_front(f"{cluster}-head-agents")
    # A Service's name starts with a letter, of which the cut may have left none.
    return name if name[0].isalpha() else f"r{name[1:]}"


def head_agents_address(cluster: RayCluster, cluster_domain: str) -> str:
    """The fully qualified name of that Service."""
    return f"{head_agents_service_name(cluster.name)}.{cluster.namespace}.svc.{cluster_domain}"


def head_address(cluster: RayCluster, cluster_domain: str) -> str:
    """The fully qualified name of the head Service."""
    return f"{head_service_name(cluster)}.{cluster.namespace}.svc.{cluster_domain}"


def cleanup_job_name(cluster: str) -> str:
    """The Job that wipes a deleted cluster's keys."""
    return trim_front(f"{cluster}-redis-cleanup")


def gcs_claim_name(cluster: str) -> str:
    """The claim of an embedded store whose volume rayward manages."""
    return f"{cluster}-gcs-pvc"


def ray_labels(cluster: RayCluster, node_type: str, group: str, template: dict[str, str]) -> dict[str, str]:
    """Labels of a Ray Pod: ``template`` may add its own and override the two app labels, no other."""
    return {
        APP_NAME: "kuberay",
        CREATED_BY: "kuberay-operator",
        IS_RAY_NODE: "yes",
        IDENTIFIER: trim_front(f"{cluster.name}-{node_type}"),
        **template,
        CLUSTER: cluster.name,
        NODE_TYPE: node_type,
        GROUP: trim_front(group),
    }


def replica_labels(group: WorkerGroupSpec, replica_index: int, host_index: int) -> dict[str, str]:
    """Which replica of its group a worker is, and for several hosts per replica which host of it."""
    labels = {REPLICA_INDEX: str(replica_index)}
    if group.hosts > 1:
        labels[REPLICA_NAME] = trim_front(f"{group.group_name}-{replica_index}")
        labels[HOST_INDEX] = str(host_index)
    return labels


def node_type(raw: dict[str, Any]) -> str:
    """head, worker or redis-cleanup, as the object's label says; empty for anything else."""
    return str((raw["metadata"].get("labels") or {}).get(NODE_TYPE, ""))


def owner_reference(cluster: RayCluster) -> dict[str, Any]:
    """What makes the cluster the controller of an object, so that it goes when the cluster goes."""
    return {
        "apiVersion": cluster.api_version,
        "kind": cluster.kind,
        "name": cluster.name,
        "uid": cluster.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }

"""Names, labels and lengths that tools around Ray on Kubernetes rely on, all in one place.

Pure text; knows which object is called what and nothing else about it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
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
OWNER_NAME = "ray.io/originated-from-cr-name"
HEADLESS_WORKERS = "ray.io/headless-worker-svc"
SERVE_SERVICE = "ray.io/enable-serve-service"
SERVICE_FINALIZER = "ray.io/rayservice-finalizer"
SERVE_CONFIG_HASH = "rayward.dev/serve-config-hash"
UNREFERENCED_SINCE = "rayward.dev/unreferenced-since"
INGRESS_CLASS = "kubernetes.io/ingress.class"
TOKEN_KEY = "auth_token"

# Kubernetes' own for generated names: no vowels, so that none spells a word.
SUFFIX_LETTERS, SUFFIX_LENGTH = "bcdfghjklmnpqrstvwxz2456789", 5
MAX_LABEL = 63
MAX_POD_PREFIX = 50
MAX_SIDE_OBJECT = 50


def trim_front(text: str, limit: int = MAX_LABEL) -> str:
    """The last ``limit`` characters, the end of a generated name being the part that tells objects
    apart; a first character that may not start a name becomes ``r``."""
    text = text[-limit:]
    return text if text[:1].isalnum() else f"r{text[1:]}"


def generated_name(prefix: str, choose: Callable[[str], str]) -> str:
    """What becomes of a ``generateName``; ``choose`` picks a letter, for nothing here is random."""
    return prefix + "".join(choose(SUFFIX_LETTERS) for _ in range(SUFFIX_LENGTH))


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
    """The Job that wipes a deleted cluster's keys. Of a long name the front stays, and a digest of all of
    it: cut short, two clusters of one namespace must not want the same Job."""
    name = f"{cluster}-redis-cleanup"
    if len(name) <= MAX_LABEL:
        return name
    digest = hashlib.sha256(cluster.encode()).hexdigest()[:8]
    return f"{cluster[: MAX_LABEL - len(f'-{digest}-redis-cleanup')]}-{digest}-redis-cleanup"


def side_object_name(cluster: str) -> str:
    """The autoscaler's account and rights, and the Secret of the token: the cluster's own name."""
    return trim_front(cluster, MAX_SIDE_OBJECT)


def service_account_name(cluster: RayCluster) -> str:
    """The account that the head Pod runs under while Ray scales itself: the template's own, if any."""
    return str(cluster.head.template["spec"].get("serviceAccountName") or side_object_name(cluster.name))


def token_secret_name(cluster: RayCluster) -> str:
    """The Secret that holds Ray's authentication token."""
    options = cluster.spec.auth_options
    return (options.secret_name if options else None) or side_object_name(cluster.name)


def ingress_name(cluster: str) -> str:
    """The Ingress to the head's dashboard."""
    return trim_front(f"{cluster}-head-ingress", MAX_SIDE_OBJECT)


def headless_service_name(cluster: str) -> str:
    """The Service by which the hosts of one replica find each other."""
    return f"{cluster}-headless"


def serve_service_name(cluster: str) -> str:
    """The Service to Ray Serve's proxies on all nodes."""
    return f"{cluster}-serve-svc"


def service_cluster_name(service: str, suffix: str) -> str:
    """A cluster of a RayService: its name and five letters that tell it from the one before."""
    return f"{service}-{suffix}"


def service_head_service_name(service: str) -> str:
    """The Service to the head of whichever cluster of a RayService is active."""
    return f"{service}-head-svc"


def service_index_key(raw: dict[str, Any]) -> tuple[str, str] | None:
    """Namespace and name of the RayService that an object is labelled with; None without one."""
    labels = raw["metadata"].get("labels") or {}
    if labels.get(OWNER_KIND) != "RayService" or not labels.get(OWNER_NAME):
        return None
    return str(raw["metadata"].get("namespace") or "default"), str(labels[OWNER_NAME])


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


def common_labels(cluster: RayCluster) -> dict[str, str]:
    """Labels of objects beside the Pods."""
    return {CLUSTER: cluster.name, APP_NAME: "kuberay", CREATED_BY: "kuberay-operator"}


def owned_metadata(cluster: RayCluster, name: str, labels: dict[str, str] | None = None) -> dict[str, Any]:
    """Metadata of an object beside the Pods that goes when the cluster goes."""
    return {
        "name": name,
        "namespace": cluster.namespace,
        "labels": common_labels(cluster) if labels is None else labels,
        "ownerReferences": [owner_reference(cluster)],
    }


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

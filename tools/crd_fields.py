"""Sentences, defaults, rules and columns of the RayCluster definition, for tools/make_crds.py."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]
UNLIMITED = 2**31 - 1

RAY_CLUSTER = "One Ray cluster: a head, with standbys if asked for, and groups of equal workers."
SPEC = "What the cluster shall be."

DESCRIPTIONS: dict[str, str] = {
    "RayClusterSpec.authOptions": "Token authentication between Ray's processes and their clients.",
    "RayClusterSpec.autoscalerOptions": "The autoscaler's container; needs enableInTreeAutoscaling.",
    "RayClusterSpec.enableInTreeAutoscaling": "Let Ray choose the number of workers by its load.",
    "RayClusterSpec.gcsFaultToleranceOptions": (
        "Keep the GCS's state in a store, so that a new head goes on where the last one ended. Its presence,"
        " even empty, switches this on."
    ),
    "RayClusterSpec.headGroupSpec": "The head.",
    "RayClusterSpec.headServiceAnnotations": "Annotations for the head Service.",
    "RayClusterSpec.historyServerOptions": "Accepted and without effect: no collector is added.",
    "RayClusterSpec.managedBy": "The operator that looks after this cluster. Fixed once set.",
    "RayClusterSpec.networkPolicy": "Accepted and without effect: write NetworkPolicy objects of your own.",
    "RayClusterSpec.rayVersion": "The version of Ray in the images. Some fields need one; probes follow it.",
    "RayClusterSpec.suspend": "Delete all Pods while true. State in a store or on a claim stays.",
    "RayClusterSpec.tlsOptions": "Accepted as long as it is off; refused when enabled.",
    "RayClusterSpec.upgradeStrategy": "What a changed spec does to Pods that run.",
    "RayClusterSpec.workerGroupSpecs": "The groups of workers.",
    "GcsFaultToleranceOptions.backend": "Where the state is kept; redis when empty. Fixed once set.",
    "GcsFaultToleranceOptions.enableActivePassiveHead": "A second head that stands by. Needs Redis.",
    "GcsFaultToleranceOptions.externalStorageNamespace": "Prefix of the keys in Redis; by default the uid.",
    "GcsFaultToleranceOptions.redisAddress": "host:port, redis://, rediss:// or redis+sentinel://.",
    "GcsFaultToleranceOptions.redisPassword": "The password for Redis.",
    "GcsFaultToleranceOptions.redisUsername": "The user name for Redis; needs Ray 2.41 or later.",
    "GcsFaultToleranceOptions.storage": "The volume of backend rocksdb.",
    "RedisCredential.value": "The text itself. A Secret is the better place.",
    "RedisCredential.valueFrom": "Where to read it, as in a container's environment.",
    "GcsStorage.accessModes": "Of the claim to be made; ReadWriteOnce by default.",
    "GcsStorage.claimName": "A PersistentVolumeClaim of your own, which is never changed or deleted.",
    "GcsStorage.deletionPolicy": "Whether the claim that was made goes with the cluster.",
    "GcsStorage.size": "Of the claim to be made; 1Gi by default.",
    "GcsStorage.storageClassName": "Of the claim to be made; the default class when left out.",
    "GcsStorage.subPath": "A directory inside the volume.",
    "HeadGroupSpec.enableIngress": "Make an Ingress to the dashboard.",
    "HeadGroupSpec.headService": "A head Service of your own; its selector is replaced.",
    "HeadGroupSpec.ingressOptions": "Where the dashboard appears; needs enableIngress.",
    "HeadGroupSpec.labels": "Ray labels of the node, and labels of its Pod.",
    "HeadGroupSpec.rayStartParams": "Options of ray start, without leading dashes.",
    "HeadGroupSpec.resources": "What Ray is told that the node has, instead of the container's resources.",
    "HeadGroupSpec.serviceType": "Type of the head Service; a headless ClusterIP when left out.",
    "HeadGroupSpec.template": "The head Pod (PodTemplateSpec). Its first container runs Ray.",
    "IngressOptions.host": "Host name of the rule; any when empty.",
    "IngressOptions.path": "Path of the rule; / when empty.",
    "IngressOptions.pathType": "How the path is compared; Prefix when left out.",
    "IngressOptions.tls": "TLS of the Ingress (a list of IngressTLS).",
    "WorkerGroupSpec.groupName": "A name that no other group of the cluster has.",
    "WorkerGroupSpec.idleTimeoutSeconds": "When Ray gives up an idle worker; needs autoscaler v2.",
    "WorkerGroupSpec.labels": "Ray labels of the nodes, and labels of their Pods.",
    "WorkerGroupSpec.maxReplicas": "The largest number of replicas.",
    "WorkerGroupSpec.minReplicas": "The smallest number of replicas.",
    "WorkerGroupSpec.numOfHosts": "Pods per replica; they come and go together.",
    "WorkerGroupSpec.priority": "Which group Ray scales first; needs autoscaler v2 and Ray 2.56.",
    "WorkerGroupSpec.rayStartParams": "Options of ray start, without leading dashes.",
    "WorkerGroupSpec.replicas": "The number wanted, held between minReplicas and maxReplicas.",
    "WorkerGroupSpec.resources": "What Ray is told that a node has, instead of the container's resources.",
    "WorkerGroupSpec.scaleStrategy": "Written by Ray's autoscaler.",
    "WorkerGroupSpec.suspend": "Delete the group's Pods while true; not together with autoscaling.",
    "WorkerGroupSpec.template": "A worker Pod (PodTemplateSpec). Its first container runs Ray.",
    "ScaleStrategy.workersToDelete": "Names of Pods of this group that are to go.",
    "UpgradeStrategy.type": "Recreate deletes all Pods when the spec changes; None, the default, nothing.",
    "AuthOptions.enableK8sTokenAuth": "Ask Kubernetes who may speak to Ray; needs Ray 2.55 and mode token.",
    "AuthOptions.mode": "token switches it on; needs Ray 2.52 or later.",
    "AuthOptions.secretName": "A Secret of your own with the token under the key auth_token.",
    "AutoscalerOptions.args": "Arguments of the container.",
    "AutoscalerOptions.command": "Command of the container.",
    "AutoscalerOptions.env": "Further environment variables.",
    "AutoscalerOptions.envFrom": "Further sources of environment variables.",
    "AutoscalerOptions.idleTimeoutSeconds": "When Ray gives up an idle worker.",
    "AutoscalerOptions.image": "Image; the head's when left out.",
    "AutoscalerOptions.imagePullPolicy": "When the image is pulled; IfNotPresent when left out.",
    "AutoscalerOptions.resources": "Resources; 500m processors and 512Mi when left out.",
    "AutoscalerOptions.securityContext": "Security context of the container.",
    "AutoscalerOptions.upscalingMode": "How fast Ray adds workers.",
    "AutoscalerOptions.version": "v2 is Ray's newer autoscaler; with it Pods never restart in place.",
    "AutoscalerOptions.volumeMounts": "Further volume mounts.",
}

_MANAGERS = ["ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"]
_FIXED_MANAGER = [{"rule": "self == oldSelf", "message": "managedBy is fixed once set"}]
_FIXED_BACKEND = [
    {
        "rule": "(self == 'rocksdb') == (oldSelf == 'rocksdb')",
        "message": "backend is fixed once set: the other store knows nothing of this cluster",
    }
]
_NOT_NEGATIVE = {"minimum": 0}

EXTRAS: dict[str, Schema] = {
    "RayClusterSpec.managedBy": {"enum": _MANAGERS, "x-kubernetes-validations": _FIXED_MANAGER},
    "RayClusterSpec.tlsOptions": {"properties": {"enabled": {"type": "boolean", "default": False}}},
    "RayClusterSpec.workerGroupSpecs": {"maxItems": 2000},
    "GcsFaultToleranceOptions.backend": {"x-kubernetes-validations": _FIXED_BACKEND},
    "GcsStorage.deletionPolicy": {"default": "DeleteWithCluster"},
    "WorkerGroupSpec.groupName": {"minLength": 1},
    "WorkerGroupSpec.idleTimeoutSeconds": _NOT_NEGATIVE,
    "WorkerGroupSpec.maxReplicas": {**_NOT_NEGATIVE, "default": UNLIMITED},
    "WorkerGroupSpec.minReplicas": {**_NOT_NEGATIVE, "default": 0},
    "WorkerGroupSpec.numOfHosts": {**_NOT_NEGATIVE, "default": 1},
    "WorkerGroupSpec.replicas": {**_NOT_NEGATIVE, "default": 0},
    "UpgradeStrategy.type": {"enum": ["Recreate", "None"]},
    "AutoscalerOptions.idleTimeoutSeconds": _NOT_NEGATIVE,
    "AutoscalerOptions.imagePullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
}

_ROCKSDB = "has(self.backend) && self.backend == 'rocksdb'"
RULES: dict[str, list[tuple[str, str]]] = {
    "RayCluster": [("size(self.metadata.name) <= 53", "metadata.name must have at most 53 characters")],
    "GcsFaultToleranceOptions": [
        (
            f"!({_ROCKSDB}) || !(has(self.redisAddress) && self.redisAddress != ''"
            " || has(self.redisUsername) || has(self.redisPassword)"
            " || has(self.externalStorageNamespace) && self.externalStorageNamespace != '')",
            "backend rocksdb takes no redisAddress, redisUsername, redisPassword, externalStorageNamespace",
        ),
        (f"({_ROCKSDB}) || !has(self.storage)", "storage needs backend rocksdb"),
        (
            f"!({_ROCKSDB}) || !has(self.enableActivePassiveHead) || !self.enableActivePassiveHead",
            "enableActivePassiveHead needs backend redis: another machine cannot read this one's files",
        ),
    ],
    "GcsStorage": [
        (
            "!has(self.claimName) || self.claimName == '' || !(has(self.size) || has(self.storageClassName)"
            " || has(self.accessModes) && size(self.accessModes) > 0)",
            "claimName excludes size, storageClassName and accessModes",
        )
    ],
    "RedisCredential": [
        (
            "!has(self.value) || self.value == '' || !has(self.valueFrom)",
            "value and valueFrom exclude each other",
        )
    ],
    "WorkerGroupSpec": [
        (
            "!has(self.minReplicas) || !has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
            "minReplicas must not be more than maxReplicas",
        )
    ],
    "AuthOptions": [
        (
            "!has(self.enableK8sTokenAuth) || !self.enableK8sTokenAuth"
            " || has(self.mode) && self.mode == 'token'",
            "enableK8sTokenAuth needs mode token",
        )
    ],
}


def column(name: str, kind: str, path: str, priority: int = 0) -> Schema:
    """A column of `kubectl get`; one with a priority is shown with `--output=wide` only."""
    return {"name": name, "type": kind, "jsonPath": path, "priority": priority}


COLUMNS = [
    column("desired workers", "integer", ".status.desiredWorkerReplicas"),
    column("available workers", "integer", ".status.availableWorkerReplicas"),
    column("cpus", "string", ".status.desiredCPU"),
    column("memory", "string", ".status.desiredMemory"),
    column("gpus", "string", ".status.desiredGPU"),
    column("tpus", "string", ".status.desiredTPU", 1),
    column("status", "string", ".status.state"),
    column("age", "date", ".metadata.creationTimestamp"),
    column("head pod name", "string", ".status.head.podName", 1),
    column("head pod IP", "string", ".status.head.podIP", 1),
    column("head service IP", "string", ".status.head.serviceIP", 1),
]


def conditions_schema() -> Schema:
    """The conditions that every kind has in its status."""
    text: Schema = {"type": "string"}
    properties: Schema = {
        "lastTransitionTime": {**text, "format": "date-time"},
        "message": {**text, "maxLength": 32768},
        "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
        "reason": {
            **text,
            "maxLength": 1024,
            "minLength": 1,
            "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
        },
        "status": {**text, "enum": ["True", "False", "Unknown"]},
        "type": {**text, "maxLength": 316},
    }
    required = ["lastTransitionTime", "message", "reason", "status", "type"]
    return {
        "type": "array",
        "items": {"type": "object", "properties": properties, "required": required},
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    }


def status_schema(quantity: Schema) -> Schema:
    """What the operator writes."""
    text: Schema = {"type": "string"}
    time: Schema = {"type": "string", "format": "date-time"}
    number: Schema = {"type": "integer", "format": "int32"}
    head = dict.fromkeys(("podIP", "podName", "serviceIP", "serviceName"), text)
    counts = ("ready", "available", "desired", "min", "max")
    properties: Schema = {
        "state": {**text, "description": "ready, suspended, or empty while neither is true."},
        "reason": {**text, "description": "Why the spec cannot be used; empty when it can."},
        "head": {"type": "object", "properties": head, "description": "The head that leads."},
        "endpoints": {
            "type": "object",
            "additionalProperties": text,
            "description": "Ports of the head Service by name.",
        },
        "conditions": conditions_schema(),
        **{f"{name}WorkerReplicas": number for name in counts},
        **{f"desired{name}": quantity for name in ("CPU", "GPU", "Memory", "TPU")},
        "observedGeneration": {"type": "integer", "format": "int64"},
        "lastUpdateTime": {**time, "nullable": True},
        "stateTransitionTimes": {"type": "object", "additionalProperties": time},
    }
    return {"description": "What the cluster is.", "type": "object", "properties": properties}

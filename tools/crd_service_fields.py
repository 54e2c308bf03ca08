"""Sentences, defaults, rules and columns of the RayService definition, for tools/make_crds.py."""

from __future__ import annotations

from typing import Any

import crd_fields as fields

Schema = dict[str, Any]

RAY_SERVICE = "Ray Serve applications, and the Ray cluster on which they run."
SPEC = "What is served, and on what."

DESCRIPTIONS: dict[str, str] = {
    "RayServiceSpec.rayClusterConfig": (
        "The cluster, as the spec of a RayCluster. A change makes another cluster, which takes over when its"
        " applications answer; numbers of replicas and added worker groups are changed in place."
    ),
    "RayServiceSpec.serveConfigV2": "Ray Serve's configuration (YAML). A change is applied in place.",
    "RayServiceSpec.serveService": "A serve Service of your own; its selector and namespace are replaced.",
    "RayServiceSpec.upgradeStrategy": "What a changed rayClusterConfig does.",
    "RayServiceSpec.rayClusterDeletionDelaySeconds": (
        "How long a cluster stays after another one has taken its place; 60 when left out."
    ),
    "RayServiceSpec.excludeHeadPodFromServeSvc": "Send no request through the head's proxy.",
    "RayServiceSpec.suspend": "Delete the clusters and Services of this object while true.",
    "RayServiceSpec.managedBy": "The operator that looks after this service. Fixed once set.",
    "RayServiceSpec.serviceUnhealthySecondThreshold": "Accepted and without effect.",
    "RayServiceSpec.deploymentUnhealthySecondThreshold": "Accepted and without effect.",
    "ServiceUpgradeStrategy.type": (
        "NewCluster, the default, makes another cluster and switches to it; None ignores the change."
        " NewClusterWithIncrementalUpgrade is not supported yet."
    ),
    "ServiceUpgradeStrategy.clusterUpgradeOptions": "For NewClusterWithIncrementalUpgrade.",
    "ClusterUpgradeOptions.gatewayClassName": "The GatewayClass of the Gateway to be made.",
    "ClusterUpgradeOptions.intervalSeconds": "Time between two steps of the traffic.",
    "ClusterUpgradeOptions.maxSurgePercent": "How much of the new cluster's capacity may be added at once.",
    "ClusterUpgradeOptions.stepSizePercent": "How much of the traffic moves in one step.",
}

# Where the cluster of a service is not like one that stands alone.
CLUSTER_DESCRIPTIONS = {
    "gcsFaultToleranceOptions.backend": "Where the state is kept; redis when empty.",
    "managedBy": "Not to be set here: spec.managedBy is the service's.",
    "suspend": "Not to be set here: a service is suspended as a whole, with spec.suspend.",
    "upgradeStrategy": "Not to be set here: spec.upgradeStrategy is the service's.",
}

EXTRAS: dict[str, Schema] = {
    "RayServiceSpec.rayClusterDeletionDelaySeconds": {"minimum": 0},
    "RayServiceSpec.managedBy": fields.EXTRAS["RayClusterSpec.managedBy"],
    "ServiceUpgradeStrategy.type": {"enum": ["NewCluster", "NewClusterWithIncrementalUpgrade", "None"]},
    "ClusterUpgradeOptions.maxSurgePercent": {"default": 100},
}

RULES = {"RayService": [("size(self.metadata.name) <= 47", "metadata.name must have at most 47 characters")]}

COLUMNS = [
    fields.column("service status", "string", ".status.serviceStatus"),
    fields.column("num serve endpoints", "integer", ".status.numServeEndpoints"),
    fields.column("age", "date", ".metadata.creationTimestamp"),
    fields.column("active cluster", "string", ".status.activeServiceStatus.rayClusterName", 1),
    fields.column("pending cluster", "string", ".status.pendingServiceStatus.rayClusterName", 1),
]


def status_schema(conditions: Schema, cluster: Schema) -> Schema:
    """What the operator writes. ``conditions`` is the list that all kinds have, ``cluster`` the schema of a
    RayCluster's status."""
    text: Schema = {"type": "string"}
    time: Schema = {"type": "string", "format": "date-time"}
    number: Schema = {"type": "integer", "format": "int32"}
    said: Schema = {"status": text, "message": text}
    deployments = {
        "type": "object",
        "additionalProperties": {"type": "object", "properties": said},
        "description": "Its deployments by name, in Ray's words.",
    }
    application = {"type": "object", "properties": {**said, "serveDeploymentStatuses": deployments}}
    served: Schema = {
        "type": "object",
        "properties": {
            "rayClusterName": text,
            "rayClusterStatus": {**cluster, "description": "What the RayCluster says of itself."},
            "applicationStatuses": {
                "type": "object",
                "additionalProperties": application,
                "description": "The applications by name, in Ray's words.",
            },
            "targetCapacity": number,
            "trafficRoutedPercent": number,
            "lastTrafficMigratedTime": {**time, "nullable": True},
        },
    }
    properties: Schema = {
        "activeServiceStatus": {**served, "description": "The cluster to which requests go."},
        "pendingServiceStatus": {**served, "description": "The cluster that is to take over."},
        "serviceStatus": {**text, "description": "Running while requests can be answered, else empty."},
        "numServeEndpoints": {**number, "description": "Pods to which the serve Service sends requests."},
        "conditions": conditions,
        "observedGeneration": {"type": "integer", "format": "int64"},
        "lastUpdateTime": {**time, "nullable": True},
    }
    return {"description": "What the service is.", "type": "object", "properties": properties}

"""What a RayCluster says that nobody here acts on, each with a sentence on what that means.

The list behind the warnings of the operator and the table in docs/manifests.md. What is refused because
ignoring it would be dangerous is not here but in the validation.
"""

from __future__ import annotations

from collections.abc import Iterator

from rayward.api.problems import Problem, join_path
from rayward.api.raycluster import RayCluster

# Labels and annotations by which batch schedulers are asked to start all Pods of a cluster together.
_BATCH_LABELS = (
    "ray.io/gang-scheduling-enabled",
    "ray.io/priority-class-name",
    "ray.io/scheduler-name",
    "volcano.sh/queue-name",
    "volcano.sh/network-topology-mode",
    "yunikorn.apache.org/app-id",
    "yunikorn.apache.org/queue",
    "kai.scheduler/queue",
)


def unsupported_fields(cluster: RayCluster) -> Iterator[Problem]:
    """Fields and labels without effect, in the order of the document."""
    for key in _BATCH_LABELS:
        if key in cluster.metadata.labels:
            text = (
                "has no effect: no batch scheduler is told of this cluster;"
                " set schedulerName and labels in the Pod templates"
            )
            yield Problem(join_path("metadata.labels", key), text)
    spec = cluster.spec
    if spec.autoscaler_options is not None and not spec.enable_in_tree_autoscaling:
        yield Problem("spec.autoscalerOptions", "has no effect while spec.enableInTreeAutoscaling is off")
    if spec.history_server_options is not None:
        yield Problem("spec.historyServerOptions", "has no effect: no collector is added to the Pods")
    if spec.network_policy is not None:
        yield Problem("spec.networkPolicy", "has no effect: write NetworkPolicy objects of your own")
    auth = spec.auth_options
    if auth is not None and auth.secret_name and (auth.mode != "token" or auth.enable_k8s_token_auth):
        yield Problem("spec.authOptions.secretName", "has no effect: no token is read from a Secret")
    head = cluster.head
    if head.ingress_options is not None and not head.enable_ingress:
        yield Problem("spec.headGroupSpec.ingressOptions", "has no effect while enableIngress is off")

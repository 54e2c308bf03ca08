"""The Job that removes a deleted cluster's keys from Redis.

It reuses the head's image, environment and placement, for those are known to reach that Redis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rayward.api.raycluster import RayCluster
from rayward.plan import names
from rayward.plan.pods import AGENT_VOLUME, add_agent_volume, head_pod
from rayward.plan.settings import Settings

Raw = dict[str, Any]
DEADLINE_S = 300
_OF_THE_SERVER = ("livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "ports")


def cleanup_job(cluster: RayCluster, settings: Settings) -> Raw:
    """One try of at most DEADLINE_S seconds; the cleaner itself retries a Redis that is away."""
    pod = head_pod(cluster, settings)
    labels = {**pod["metadata"]["labels"], names.NODE_TYPE: names.REDIS_CLEANUP}
    labels.pop(names.HEAD_INDEX, None)
    annotations = pod["metadata"]["annotations"]
    spec: Raw = pod["spec"]
    container: Raw = spec["containers"][0]
    for field in _OF_THE_SERVER:
        container.pop(field, None)
    container["command"] = [settings.agent_image_python, "/opt/rayward/agent.zip", "store-cleanup"]
    container.pop("args", None)
    amount = {"cpu": "200m", "memory": "256Mi"}
    # The reason of a failure outlives the Pod's log in the Pod's status, and from there in an event.
    container["terminationMessagePolicy"] = "FallbackToLogsOnError"
    container["resources"] = {"limits": dict(amount), "requests": dict(amount)}
    if all(volume["name"] != AGENT_VOLUME for volume in spec.get("volumes") or ()):
        add_agent_volume(spec, container, settings)
    spec["containers"] = [container]
    spec["restartPolicy"] = "Never"
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": names.cleanup_job_name(cluster.name),
            "namespace": cluster.namespace,
            "labels": dict(labels),
            "annotations": dict(annotations),
            "ownerReferences": [names.owner_reference(cluster)],
        },
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": DEADLINE_S,
            "template": {
                "metadata": {"labels": dict(labels), "annotations": dict(annotations)},
                "spec": spec,
            },
        },
    }


@dataclass(frozen=True)
class Verdict:
    """How the Job ended; ``why`` is its condition's reason and message when it failed."""

    complete: bool
    why: str = ""


def verdict(job: Raw) -> Verdict | None:
    """What the Job's conditions say, None while it runs."""
    failed = None
    for condition in (job.get("status") or {}).get("conditions") or ():
        if condition.get("status") != "True":
            continue
        if condition.get("type") == "Complete":
            return Verdict(True)
        if condition.get("type") in ("Failed", "FailureTarget"):
            parts = (condition.get("reason"), condition.get("message"))
            failed = Verdict(False, ": ".join(str(part) for part in parts if part) or "no reason given")
    return failed

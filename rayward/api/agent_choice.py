"""Whether rayward's agent starts Ray in the Pods of a template, or the user does.

Two heads and the fence need the agent, so validation and planning ask the same question here.
"""

from __future__ import annotations

from typing import Any

from rayward.api.raycluster import RayCluster

AGENT = "rayward.dev/agent"
OVERWRITE_COMMAND = "ray.io/overwrite-container-cmd"

Raw = dict[str, Any]


def runs_agent(cluster: RayCluster, template: Raw) -> bool:
    """Whether the agent starts Ray in Pods of ``template``: not when it is switched off, and not when
    the user starts Ray in a way of their own."""
    return cluster.annotations.get(AGENT) != "disabled" and not starts_ray_itself(cluster, template)


def starts_ray_itself(cluster: RayCluster, template: Raw) -> bool:
    """Whether the user's own command starts Ray."""
    overwritten = cluster.annotations.get(OVERWRITE_COMMAND, "").lower() == "true"
    return overwritten or "ray start" in user_text(template["spec"]["containers"][0])


def user_text(container: Raw) -> str:
    """The user's command and arguments as one text, empty when there are none."""
    return " ".join([*(container.get("command") or ()), *(container.get("args") or ())])

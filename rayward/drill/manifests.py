"""The clusters that drills bring up for themselves, and what a drill changes in a user's manifests. Pure.

Nothing of it touches what is measured: the heads also keep an audit of writes, and a Redis that is killed is
started again by a loop in its own container instead of by kubelet, whose back-off grows to minutes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

from rayward.api.manifest import load_manifests
from rayward.drill.faults import Fault, Need
from rayward.local.state import Manifest
from rayward.plan.names import AGENT

HA, SENTINEL = "ha-cluster.yaml", "ha-sentinel.yaml"
AUDIT = {"RAYWARD_AUDIT": "1"}
_LOOP = (
    "trap 'kill $child; wait $child; exit 0' TERM INT; "
    "while :; do ( {command} ) & child=$!; wait $child; done"
)


def own(name: str) -> list[Manifest]:
    """The objects of one of the drill's own manifests (``HA``, ``SENTINEL``)."""
    text = resources.files("rayward.drill").joinpath(name).read_text(encoding="utf-8")
    return load_manifests(text, name)


def fitting(fault: Fault) -> str | None:
    """Which of the drill's own manifests a fault needs; None where the default cluster will do."""
    if Need.SENTINEL in fault.needs:
        return SENTINEL
    return (
        HA if {Need.STANDBY, Need.REDIS} & set(fault.needs) or fault.group in ("heads", "processes") else None
    )


def for_drill(manifests: list[Manifest], environment: Mapping[str, str] = AUDIT) -> list[Manifest]:
    """The same objects with these variables on the heads and with Redis containers that survive a kill."""
    return [_restartable(item) for item in with_environment(manifests, environment)]


def cluster_spec(manifest: Manifest) -> dict[str, Any] | None:
    """The spec of the Ray cluster that a manifest describes; None where it describes none."""
    if manifest["kind"] == "RayCluster":
        found: dict[str, Any] = manifest["spec"]
        return found
    return manifest["spec"]["rayClusterConfig"] if manifest["kind"] == "RayService" else None


def with_environment(
    manifests: list[Manifest], environment: Mapping[str, str], workers: bool = False
) -> list[Manifest]:
    """The same objects with more variables in the Ray containers of heads, and of ``workers``."""
    found = copy.deepcopy(manifests)
    for spec in filter(None, map(cluster_spec, found)):
        groups = [spec["headGroupSpec"]]
        groups += spec.get("workerGroupSpecs") or [] if workers else []
        for group in groups:
            container = group["template"]["spec"]["containers"][0]
            others = [item for item in container.get("env") or [] if item["name"] not in environment]
            container["env"] = [
                *others,
                *({"name": name, "value": value} for name, value in environment.items()),
            ]
    return found


def without_agent(manifests: list[Manifest]) -> list[Manifest]:
    """The same objects, with every RayCluster marked to start Ray by itself (``ray start --block``), as
    KubeRay does; a RayService hands the mark on to its clusters."""
    return [_marked(manifest) if cluster_spec(manifest) is not None else manifest for manifest in manifests]


def for_stock(manifests: list[Manifest]) -> list[Manifest]:
    """The same objects as plain Ray on KubeRay runs them: one head, no agent; its store stays."""
    found = without_agent(copy.deepcopy(manifests))
    for manifest in found:
        spec = cluster_spec(manifest) or {}
        spec.get("gcsFaultToleranceOptions", {}).pop("enableActivePassiveHead", None)
    return found


def without_fault_tolerance(manifests: list[Manifest]) -> list[Manifest]:
    """The same objects with one head whose GCS keeps its state in memory: the negative control."""
    found = copy.deepcopy(manifests)
    for spec in filter(None, map(cluster_spec, found)):
        spec.pop("gcsFaultToleranceOptions", None)
    return found


def _marked(manifest: Manifest) -> Manifest:
    metadata = manifest["metadata"]
    annotations = {**(metadata.get("annotations") or {}), AGENT: "disabled"}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def _restartable(manifest: Manifest) -> Manifest:
    found = copy.deepcopy(manifest)
    for container in _containers(found):
        command = container.get("command") or []
        if len(command) == 3 and command[1] == "-c" and "redis-server" in command[2]:
            container["command"] = [*command[:2], _LOOP.format(command=command[2].rstrip())]
    return found


def _containers(manifest: Manifest) -> Iterator[dict[str, Any]]:
    spec = manifest.get("spec") or {}
    template = (spec.get("template") or {}).get("spec") or {}
    if manifest["kind"] in ("Deployment", "StatefulSet"):
        yield from template.get("containers") or []
    elif manifest["kind"] == "Pod":
        yield from spec.get("containers") or []

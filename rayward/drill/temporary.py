"""Clusters that a drill brings up for itself and takes down again, whatever happens: the user's own manifest,
and the same one as plain Ray runs it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from rayward.drill.drill import Tell
from rayward.local import cluster as local
from rayward.local import state
from rayward.local.cluster import LocalCluster
from rayward.local.state import Manifest
from rayward.plan.names import AGENT

_READY_LIMIT = 180.0
# What is given to an object when it is stored; a new one gets its own.
_ASSIGNED = ("uid", "creationTimestamp", "generation", "deletionTimestamp", "finalizers")


def without_agent(manifests: list[Manifest]) -> list[Manifest]:
    """The same objects, with every RayCluster marked to start Ray by itself (``ray start --block``), as
    KubeRay does. Pure."""
    return [_marked(manifest) if manifest["kind"] == "RayCluster" else manifest for manifest in manifests]


def _marked(manifest: Manifest) -> Manifest:
    metadata = manifest["metadata"]
    annotations = {**(metadata.get("annotations") or {}), AGENT: "disabled"}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


@contextlib.contextmanager
def temporary_cluster(manifests: list[Manifest], name: str, tell: Tell) -> Iterator[LocalCluster]:
    """A cluster for the time of the context. What an earlier drill that was killed left is removed first."""
    mode, _ = local.choose_mode(os.environ)
    for folder in state.clusters():
        if folder.name == name:
            tell(f"cluster {name} is left from an earlier drill: taking it down")
            LocalCluster(folder).down()
    tell(f"bringing cluster {name} up")
    named = [
        {**manifest, "metadata": {**manifest["metadata"], "name": name}}
        if manifest["kind"] == "RayCluster"
        else manifest
        for manifest in manifests
    ]
    made = local.create(name, named, mode)
    try:
        made.wait_ready(_READY_LIMIT, lambda _: None)
        yield made
    finally:
        tell(f"taking cluster {name} down")
        made.down()


def manifests_for(path: Path | None) -> list[Manifest]:
    """What to run when no cluster was named: the file's objects, else the default ones."""
    return local.read_manifests(path, None)[1]


def manifests_of(cluster: LocalCluster) -> list[Manifest]:
    """The objects that a cluster was made from, as they would be given again."""
    found = []
    for kind in cluster.folder.kinds():
        for item in cluster.folder.list(kind):
            metadata = item["metadata"]
            made_by_rayward = (
                kind == "Pod" or metadata.get("ownerReferences") or metadata["name"] == local.AGENT_CONFIG_MAP
            )
            if not made_by_rayward:
                kept = {key: value for key, value in metadata.items() if key not in _ASSIGNED}
                found.append(
                    {**{key: value for key, value in item.items() if key != "status"}, "metadata": kept}
                )
    return found

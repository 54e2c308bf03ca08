"""Clusters that a drill brings up for itself and takes down again, whatever happens: the user's own manifest,
and the same one as plain Ray runs it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from rayward.drill import manifests
from rayward.drill.drill import Tell
from rayward.local import cluster as local
from rayward.local import state
from rayward.local.cluster import LocalCluster
from rayward.local.state import Manifest

_READY_LIMIT = 180.0
# What is given to an object when it is stored; a new one gets its own.
_ASSIGNED = ("uid", "creationTimestamp", "generation", "deletionTimestamp", "finalizers")


@contextlib.contextmanager
def temporary_cluster(objects: list[Manifest], name: str, tell: Tell) -> Iterator[LocalCluster]:
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
        for manifest in objects
    ]
    made = local.create(name, named, mode)
    try:
        made.wait_ready(_READY_LIMIT, lambda _: None)
        yield made
    finally:
        tell(f"taking cluster {name} down")
        try:
            made.down()
        except BaseException:  # interrupted once more: at once, then
            made.down(force=True)
            raise


def manifests_for(path: Path | None, name: str | None = None) -> list[Manifest]:
    """What to run when no cluster was named: the file's objects, else one of the drill's own manifests by
    ``name``, else the default ones; made ready for a drill."""
    if path is None and name is not None:
        return manifests.for_drill(manifests.own(name))
    return manifests.for_drill(local.read_manifests(path, None)[1])


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

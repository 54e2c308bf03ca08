"""``up``, ``down`` and ``delete``: bringing clusters of this machine to life and to an end."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import click

from rayward.cli import kinds, output
from rayward.errors import RaywardError
from rayward.local import cluster as local
from rayward.local import state
from rayward.local.progress import Progress

HOST_MODE_NOTE = (
    "Pods share this host's network ({reason}): each has an address in 127/8 and ports of its own; volumes "
    "are folders, whose paths are put into commands. Left out: network, mount and process namespaces, names "
    "of Services in /etc/hosts, network faults. Root on a host with namespaces misses nothing."
)

_QUIET = 2.0


def line(progress: Progress) -> str:
    """One line for a cluster that is coming up or going down."""
    return ", ".join(f"{pod.name} {pod.status}" for pod in progress.pods) or "no Pods yet"


class _Teller:
    """Says how the Pods are and, once that has not changed for a while, what the nodes wait for."""

    def __init__(self, cluster: local.LocalCluster, shown: output.Progress) -> None:
        self._cluster = cluster
        self._shown = shown
        self._line, self._why = "", ""
        self._changed = self._asked = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        now, text = time.monotonic(), line(progress)
        if text != self._line:
            self._line, self._why, self._changed = text, "", now
        elif min(now - self._changed, now - self._asked) > _QUIET:
            self._asked, self._why = now, self._cluster.waiting_for()
        self._shown.say(f"{text} ({self._why})" if self._why else text)


@click.command(epilog="example: rayward up -f examples/ray-cluster.external-redis.yaml")
@click.option(
    "-f",
    "--filename",
    type=click.Path(path_type=Path),
    help="Manifests to run (default: one head, two workers, RocksDB).",
)
@click.option("--name", help="The cluster's name (default: that of the RayCluster in the file).")
@click.option("--timeout", default=180.0, show_default=True, help="Seconds to wait until all Pods are ready.")
@click.option("--no-wait", is_flag=True, help="Return once the cluster has been started.")
def up(filename: Path | None, name: str | None, timeout: float, no_wait: bool) -> None:
    """Run a cluster on this machine from ray.io/v1 manifests.

    It lives on when this command ends; `rayward down` removes it and all that it left. Without the rights for
    namespaces it runs on the host's network and says what that leaves out.
    """
    chosen, manifests = local.read_manifests(filename, name)
    mode, reason = local.choose_mode(os.environ)
    if mode == "host":
        output.note(HOST_MODE_NOTE.format(reason=reason))
    started = time.monotonic()
    made = None
    try:
        with output.progress(f"starting cluster {chosen}") as shown:
            made = local.create(chosen, manifests, mode)
            if no_wait:
                print(f"cluster/{chosen} started")
                return
            made.wait_ready(timeout, _Teller(made, shown))
    except KeyboardInterrupt:
        print(f"\ninterrupted: removing cluster {chosen}", file=sys.stderr)
        if made is not None and made.folder.exists:
            made.down(timeout=20)
        raise
    print(f"cluster/{chosen} is ready after {time.monotonic() - started:.1f} s: {len(made.pods())} Pods")
    print("next: rayward get pods; rayward status; rayward drill run gcs-kill")


@click.command(epilog="example: rayward apply -f examples/ray-service.high-availability.yaml")
@click.option("-f", "--filename", type=click.Path(path_type=Path), required=True, help="Manifests to apply.")
@kinds.cluster_option
def apply(filename: Path, cluster: str | None) -> None:
    """Change what runs: bring objects of a cluster that is up to what the manifests say.

    A RayService takes a new serveConfigV2 in place; for another rayClusterConfig it builds a new cluster
    beside the old one and switches when that answers. A RayCluster's Pods stay as they are unless
    upgradeStrategy says Recreate; numbers of workers follow.
    """
    chosen, manifests = local.read_manifests(filename, None)
    found = local.find(cluster or (chosen if len(state.clusters()) > 1 else None))
    for manifest, word in found.apply(manifests):
        print(f"{kinds.plural(manifest['kind'])}/{manifest['metadata']['name']} {word}")


@click.command(epilog="example: rayward down raycluster-external-redis")
@click.argument("name", required=False, shell_complete=kinds.complete_cluster)
@click.option("--all", "everything", is_flag=True, help="Take every cluster of this machine down.")
@click.option("--force", is_flag=True, help="End everything at once, without cleanup Jobs.")
@click.option("--timeout", default=90.0, show_default=True, help="Seconds before it is ended by force.")
def down(name: str | None, everything: bool, force: bool, timeout: float) -> None:
    """Remove a cluster and everything it left: processes, namespaces, addresses, files.

    Works as well when rayward's own processes were killed. RayClusters are deleted first, so that their keys
    go from an external Redis too.
    """
    chosen = [local.LocalCluster(folder) for folder in state.clusters()] if everything else [local.find(name)]
    for cluster in chosen:
        with output.progress(f"taking cluster {cluster.name} down") as shown:
            remarks = cluster.down(timeout, _Teller(cluster, shown), force)
        for remark in remarks:
            output.note(remark)
        print(f"cluster/{cluster.name} is down")
    if not chosen:
        print("no cluster is up")


@click.command(epilog="example: rayward delete raycluster raycluster-external-redis")
@click.argument("kind", shell_complete=kinds.complete_kind)
@click.argument("name", required=False, shell_complete=kinds.complete_object)
@kinds.cluster_option
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until it is gone.")
@click.option("--timeout", default=120.0, show_default=True, help="Seconds to wait.")
def delete(kind: str, name: str | None, cluster: str | None, wait: bool, timeout: float) -> None:
    """Delete one object: KIND NAME or KIND/NAME.

    Deleting a RayCluster ends its Pods and runs the Redis cleanup Job; what stands beside it (its Redis, say)
    stays until `rayward down`.
    """
    kind, name = kinds.split(kind, name)
    if name is None:
        raise RaywardError(
            "the name is missing", where="rayward delete", todo=f"rayward delete {kind.lower()} NAME"
        )
    found = local.find(cluster)
    found.delete(kind, name)
    shown_name = f"{kinds.plural(kind)}/{name}"
    if wait:
        with output.progress(f"deleting {shown_name}"):
            if not found.wait_gone(kind, name, timeout):
                raise RaywardError(
                    f"{shown_name} is still there after {timeout:g} s", todo="rayward describe " + name
                )
    print(f"{shown_name} deleted")

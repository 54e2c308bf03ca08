"""What a user hands to `up`: a mode and a manifest file, checked, and made into objects of a cluster."""

from __future__ import annotations

import base64
import datetime
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rayward.agent.bundle import build_zip
from rayward.api.fault_tolerance import fault_tolerance
from rayward.api.manifest import load_manifests
from rayward.api.problems import ManifestError
from rayward.api.raycluster import parse_ray_cluster
from rayward.api.rayservice import parse_ray_service, validate_service
from rayward.api.validation import validate
from rayward.errors import RaywardError
from rayward.local import linux, state
from rayward.local.state import NAMESPACE, ClusterFolder, Manifest

MODE_VARIABLE = "RAYWARD_LOCAL_MODE"
AGENT_CONFIG_MAP = "rayward-agent"
DEFAULT_MANIFEST = Path(__file__).with_name("default-cluster.yaml")


def choose_mode(environ: Mapping[str, str]) -> tuple[str, str]:
    """ "namespaces" or "host", and for host the reason why Pods get no network of their own."""
    asked = environ.get(MODE_VARIABLE, "")
    if asked not in ("", "namespaces", "host"):
        raise RaywardError(f"must be namespaces or host, got {asked!r}", where=MODE_VARIABLE)
    if asked == "host":
        return "host", f"{MODE_VARIABLE}=host asks for it"
    reason = linux.namespaces_available()
    if reason is None:
        return "namespaces", ""
    if asked == "namespaces":
        raise RaywardError(
            f"namespaces cannot be used: {reason}", where=MODE_VARIABLE, todo="run as root, or unset it"
        )
    return "host", reason


def read_manifests(path: Path | None, name: str | None) -> tuple[str, list[Manifest]]:
    """Load, check and name what ``up`` shall run; returns the cluster's name and its objects.

    Raises ManifestError with every problem of every RayCluster and RayService in the file.
    """
    source = path or DEFAULT_MANIFEST
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise RaywardError(f"cannot be read: {reason}", where=str(source)) from error
    manifests = load_manifests(text, str(source))
    clusters = [manifest for manifest in manifests if manifest["kind"] in ("RayCluster", "RayService")]
    for manifest in clusters:
        _check(manifest, str(source))
    chosen = name or (clusters or manifests)[0]["metadata"]["name"]
    if name is not None and len(clusters) == 1:
        clusters[0]["metadata"]["name"] = name
    return state.check_name(chosen), manifests


def _check(manifest: Manifest, source: str) -> None:
    if manifest["kind"] == "RayService":
        problems = validate_service(parse_ray_service(manifest, source))
    else:
        problems = validate(parse_ray_cluster(manifest, source))
    if problems:
        raise ManifestError(problems, source=source)


def refuse_what_host_mode_cannot(manifests: Iterable[Manifest]) -> None:
    """Raises RaywardError for a RayCluster with several heads, and for a RayService: on the host's network
    heads, and the proxies of Ray Serve on all nodes, would share ports and one would be taken for another."""
    for manifest in manifests:
        if manifest["kind"] == "RayService":
            raise RaywardError(
                "each node's Serve proxy needs a network of its own, and Pods share this host's network",
                where=f"RayService {manifest['metadata']['name']}",
                todo="run as root on a host with namespaces",
            )
        if manifest["kind"] != "RayCluster":
            continue
        heads = fault_tolerance(parse_ray_cluster(manifest)).heads
        if heads > 1:
            raise RaywardError(
                f"{heads} heads need a network of their own each, and Pods share this host's network",
                where=f"RayCluster {manifest['metadata']['name']}",
                todo="run as root on a host with namespaces, or take enableActivePassiveHead out",
            )


def now_text() -> str:
    """The time as Kubernetes writes it."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def admitted(manifest: Manifest) -> Manifest:
    """An object as it is stored: with a namespace, a uid and the time of its creation."""
    metadata: dict[str, Any] = {
        "namespace": NAMESPACE,
        **manifest["metadata"],
        "uid": str(uuid.uuid4()),
        "creationTimestamp": now_text(),
        "generation": 1,
    }
    return {**manifest, "metadata": metadata}


def changed(found: Manifest, manifest: Manifest) -> Manifest:
    """An object that exists, with the content of a manifest; what it is, and what was written to it since it
    was made (finalizers, status, an address), stays."""
    metadata = {**found["metadata"]}
    for field in ("labels", "annotations"):
        if field in manifest["metadata"]:
            metadata[field] = manifest["metadata"][field]
    wanted = {**manifest, "metadata": metadata, **({"status": found["status"]} if "status" in found else {})}
    if manifest["kind"] == "Service" and "clusterIP" in found["spec"]:
        wanted["spec"] = {"clusterIP": found["spec"]["clusterIP"], **manifest["spec"]}
    if wanted.get("spec") != found.get("spec"):
        metadata["generation"] = int(metadata.get("generation") or 1) + 1
    return wanted


def agent_config_map(folder: ClusterFolder) -> Manifest:
    """The ConfigMap that carries the agent into Pods."""
    archive = folder.path / "agent.zip"
    build_zip(archive)
    content = base64.b64encode(archive.read_bytes()).decode()
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": AGENT_CONFIG_MAP},
        "binaryData": {"agent.zip": content},
    }

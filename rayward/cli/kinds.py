"""The kinds that the command line knows, by the names that kubectl users type, and completion for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from rayward.errors import RaywardError
from rayward.local import cluster as local
from rayward.local import state

_KINDS = {
    "Pod": ("pods", "pod", "po"),
    "Service": ("services", "service", "svc"),
    "RayCluster": ("rayclusters", "raycluster", "rayclusters.ray.io"),
    "RayService": ("rayservices", "rayservice", "rsvc", "rayservices.ray.io"),
    "Deployment": ("deployments", "deployment", "deploy"),
    "StatefulSet": ("statefulsets", "statefulset", "sts"),
    "Job": ("jobs", "job", "jobs.batch"),
    "ConfigMap": ("configmaps", "configmap", "cm"),
    "Secret": ("secrets", "secret"),
    "PersistentVolumeClaim": ("persistentvolumeclaims", "persistentvolumeclaim", "pvc"),
}
_BY_WORD = {word: kind for kind, words in _KINDS.items() for word in words}

Function = TypeVar("Function", bound=Callable[..., Any])


def cluster_option(function: Function) -> Function:
    """The ``--cluster`` option, on every command that looks into one cluster."""
    option = click.option(
        "-C",
        "--cluster",
        shell_complete=complete_cluster,
        help="Which cluster (default: the only one that is up).",
    )
    return option(function)


def kind_of(word: str) -> str:
    """The kind behind a word such as ``pods``, ``po`` or ``Pod``; raises RaywardError for others."""
    found = _BY_WORD.get(word.lower())
    if found is None:
        raise RaywardError(
            f"there is no kind {word!r}", todo="one of " + ", ".join(words[0] for words in _KINDS.values())
        )
    return found


def plural(kind: str) -> str:
    """The kind's plural, as in ``pods/NAME``."""
    return _KINDS[kind][0]


def split(kind: str, name: str | None) -> tuple[str, str | None]:
    """``pod NAME`` and ``pod/NAME`` mean the same."""
    if "/" in kind and name is None:
        kind, _, name = kind.partition("/")
    return kind_of(kind), name


def complete_kind(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Kinds that start like this."""
    return [CompletionItem(words[0]) for words in _KINDS.values() if words[0].startswith(incomplete)]


def complete_cluster(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Clusters that are up."""
    return [CompletionItem(folder.name) for folder in state.clusters() if folder.name.startswith(incomplete)]


def complete_pod(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Pods of the chosen cluster."""
    return _names("Pod", context, incomplete)


def complete_object(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Objects of the kind typed before."""
    kind = _BY_WORD.get(str(context.params.get("kind", "")).lower())
    return _names(kind, context, incomplete) if kind else []


def _names(kind: str, context: click.Context, incomplete: str) -> list[CompletionItem]:
    try:
        cluster = local.find(context.params.get("cluster"))
    except RaywardError:
        return []
    names = (item["metadata"]["name"] for item in cluster.folder.list(kind))
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]

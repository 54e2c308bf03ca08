"""What nodes of a RayService's cluster have besides: where Ray Serve listens, and how they leave.

Knows one Pod; which Services lead to it is decided elsewhere.
"""

from __future__ import annotations

import shlex
from typing import Any

from rayward.api.raycluster import RayCluster
from rayward.plan import names
from rayward.plan.ray_start import agent_command
from rayward.plan.settings import Settings

Raw = dict[str, Any]
SERVE_PORT = 8000
GRACE_S = 30
# Kubernetes takes a Pod out of its Services while it is being stopped, which reaches the last node in about a
# second or two.
_PLAIN_WAIT_S = 3


def service_owned(cluster: RayCluster) -> bool:
    """Whether the cluster is a RayService's, so that requests of clients arrive at its nodes."""
    return cluster.metadata.labels.get(names.OWNER_KIND) == "RayService"


def serve_port(cluster: RayCluster, container: Raw) -> int:
    """Where Ray Serve's proxy listens: the port named ``serve`` of this Ray container, else of the head's (a
    cluster has one such port), else Serve's own default."""
    for ports in (container.get("ports"), cluster.head.template["spec"]["containers"][0].get("ports")):
        for port in ports or ():
            if port.get("name") == "serve":
                return int(port["containerPort"])
    return SERVE_PORT


def let_leave(cluster: RayCluster, spec: Raw, container: Raw, settings: Settings, *, agent: bool) -> None:
    """Have the Pod serve on until Services have stopped sending, before Ray is told to end. A ``preStop`` of
    the template stays."""
    if not service_owned(cluster):
        return
    lifecycle = container.setdefault("lifecycle", {})
    if lifecycle.get("preStop") is not None:
        return
    grace = spec.get("terminationGracePeriodSeconds")
    # The larger part of the grace period is for Ray's own end.
    most = (GRACE_S if grace is None else int(grace)) // 3
    wait = f"sleep {min(most, _PLAIN_WAIT_S)}"
    if agent:
        command = shlex.join([*agent_command(settings), "leave", f"--most={most}"])
        wait = f"{command} || {wait}"
    shell = ["/bin/bash", "-cl" if settings.login_shell else "-c", "--", wait]
    lifecycle["preStop"] = {"exec": {"command": shell}}

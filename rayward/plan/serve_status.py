"""What Ray's dashboard says of Ray Serve, as the status of a RayService has it, and what follows from it.

Reads the answer of `GET /api/serve/applications/`; asking is a shell's business.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Raw = dict[str, Any]

RUNNING, DEPLOY_FAILED, UNHEALTHY = "RUNNING", "DEPLOY_FAILED", "UNHEALTHY"
# An import error brings a traceback along: its end is what a user needs, and status is no log.
_LONGEST = 1000
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PLACED = re.compile(r"(\d+) on (\S+)")


@dataclass(frozen=True)
class Deployment:
    """One deployment: Ray's word for its state, and how many replicas run on which node (by address)."""

    status: str = ""
    message: str = ""
    replicas: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Application:
    """One application, with its deployments by name."""

    status: str = ""
    message: str = ""
    deployments: dict[str, Deployment] = field(default_factory=dict)


@dataclass(frozen=True)
class ServeView:
    """What a cluster's dashboard said last. ``applications`` None: it has not answered yet, or it answered
    something else."""

    applications: dict[str, Application] | None = None

    @property
    def empty(self) -> bool:
        """Whether Ray answered that it has no application: a new cluster, or one that has lost them."""
        return self.applications is not None and not self.applications

    def serves(self, wanted: Iterable[str]) -> bool:
        """Whether every application of the configuration runs, and there is one."""
        found, names = self.applications or {}, tuple(wanted)
        return bool(names) and all(found.get(name, Application()).status == RUNNING for name in names)

    def hosts(self) -> set[str]:
        """The addresses of all nodes on which a replica runs."""
        return {
            address
            for application in (self.applications or {}).values()
            for deployment in application.deployments.values()
            for address in deployment.replicas
        }

    def failures(self) -> list[str]:
        """A sentence for each application that Ray gave up or calls unhealthy, with its last words: the cause
        stands at the end of a traceback, or at the deployment that failed."""
        told = []
        for name, found in sorted((self.applications or {}).items()):
            if found.status not in (DEPLOY_FAILED, UNHEALTHY):
                continue
            words = [_last_line(found.message)]
            words += [
                f"{part}: {_last_line(deployment.message)}"
                for part, deployment in sorted(found.deployments.items())
                if deployment.status in (DEPLOY_FAILED, UNHEALTHY) and deployment.message
            ]
            told.append(": ".join([f"{name} is {found.status}", *filter(None, words)]))
        return told


def read_answer(answer: object) -> ServeView:
    """The answer of the dashboard, as far as it is one."""
    applications = answer.get("applications") if isinstance(answer, dict) else None
    if not isinstance(applications, dict):
        return ServeView()
    return ServeView({str(name): _application(found) for name, found in applications.items()})


def application_statuses(view: ServeView, nodes: Mapping[str, str]) -> Raw:
    """`applicationStatuses` of a RayService's status, as KubeRay has it. A deployment of which Ray has
    nothing to say has in its message how many replicas run on which node: a field of its own would be dropped
    by the definition that KubeRay has. ``nodes``: the names of Pods by address."""
    return {
        name: {
            "status": found.status,
            "message": found.message,
            "serveDeploymentStatuses": {
                part: {
                    "status": deployment.status,
                    "message": deployment.message or placement_text(deployment.replicas, nodes),
                }
                for part, deployment in sorted(found.deployments.items())
            },
        }
        for name, found in sorted((view.applications or {}).items())
    }


def placement_text(replicas: Mapping[str, int], nodes: Mapping[str, str]) -> str:
    """How many replicas run where; ``replicas`` by address, ``nodes`` the names of Pods by address."""
    counts = {nodes.get(address, address): count for address, count in replicas.items()}
    return ", ".join(f"{count} on {node}" for node, count in sorted(counts.items()))


def placement_of(message: str) -> dict[str, int]:
    """What `placement_text` has put into words, by the Pod's name; empty for any other message."""
    parts = [_PLACED.fullmatch(part) for part in message.split(", ")]
    return {part[2]: int(part[1]) for part in parts if part} if all(parts) else {}


def _application(found: object) -> Application:
    raw = found if isinstance(found, dict) else {}
    deployments = raw.get("deployments")
    parts = deployments if isinstance(deployments, dict) else {}
    return Application(
        str(raw.get("status") or ""),
        _short(raw.get("message")),
        {str(name): _deployment(part) for name, part in parts.items()},
    )


def _deployment(found: object) -> Deployment:
    raw = found if isinstance(found, dict) else {}
    replicas = raw.get("replicas")
    running = [
        str(item.get("node_ip"))
        for item in (replicas if isinstance(replicas, list) else ())
        if isinstance(item, dict) and item.get("state") == RUNNING
    ]
    return Deployment(str(raw.get("status") or ""), _short(raw.get("message")), dict(Counter(running)))


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _short(message: object) -> str:
    text = _COLOUR.sub("", str(message or "")).strip()
    return text if len(text) <= _LONGEST else "... " + text[4 - _LONGEST :]

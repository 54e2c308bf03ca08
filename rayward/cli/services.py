"""RayServices for a person: a row in a table, and in `status` the applications and who serves them."""

from __future__ import annotations

from typing import Any

from rayward.cli import output
from rayward.plan.conditions import find
from rayward.plan.service_status import APPLICATIONS, READY, UPGRADE, cluster_names

Manifest = dict[str, Any]


def row(service: Manifest, age: str) -> list[object]:
    """The service in ``get rayservices``."""
    status = service.get("status") or {}
    shown = "terminating" if service["metadata"].get("deletionTimestamp") else status.get("serviceStatus")
    upgrade = find(status, UPGRADE).get("status", "Unknown")
    active = cluster_names(status)[0] or "<none>"
    endpoints = status.get("numServeEndpoints", 0)
    return [service["metadata"]["name"], shown or _why_not(status), endpoints, active, upgrade, age]


def report(service: Manifest) -> dict[str, Any]:
    """The service in ``status --json``: one entry for each deployment, with where its replicas run."""
    status = service.get("status") or {}
    active, pending = cluster_names(status)
    applications = (status.get("activeServiceStatus") or status.get("pendingServiceStatus") or {}).get(
        "applicationStatuses"
    ) or {}
    return {
        "name": service["metadata"]["name"],
        "status": status.get("serviceStatus") or _why_not(status),
        "endpoints": status.get("numServeEndpoints", 0),
        "active": active,
        "pending": pending,
        "says": find(status, APPLICATIONS).get("message", ""),
        "applications": [
            {
                "application": name,
                "status": found.get("status", ""),
                "message": found.get("message", ""),
                "deployments": [
                    {
                        "deployment": part,
                        "status": deployment.get("status", ""),
                        "says": deployment.get("message", ""),
                    }
                    for part, deployment in sorted((found.get("serveDeploymentStatuses") or {}).items())
                ],
            }
            for name, found in sorted(applications.items())
        ],
    }


def show(found: dict[str, Any]) -> None:
    """A report for a person."""
    cluster = f"cluster {found['active'] or '<none>'}"
    if found["pending"]:
        cluster += f", {found['pending']} is built"
    print(f"service {found['name']}: {found['status']}, {found['endpoints']} endpoints, {cluster}")
    rows = [
        [
            f"{application['application']}/{deployment['deployment']}",
            deployment["status"],
            deployment["says"] or "<none>",
        ]
        for application in found["applications"]
        for deployment in application["deployments"]
    ]
    if rows:
        output.table(["deployment", "status", "replicas, or Ray's words"], rows)
    for application in found["applications"]:
        if application["message"]:
            print(f"{application['application']} is {application['status']}: {application['message']}")


def _why_not(status: Manifest) -> str:
    return str(find(status, READY).get("reason") or "Pending")

"""Renders the README's tables from what the benchmarks wrote: ``python -m benchmarks.table``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import common

TITLES = {
    "gcs_kill": "Faults of the GCS",
    "reconnect_cost": "Reconnect settings: processor time at rest (share of one core), and what they bring",
    "agent_idle": "The agent at rest",
    "up_time": "Bringing one head and two workers up",
    "ha_host_loss": "The active head's host is lost",
    "ha_switchover": "Planned switchover",
    "redis_away": "Redis away",
    "load_size": "Recovery by the number of actors in the store",
    "suite": "All faults mixed",
    "serve_requests": "Requests to a RayService, connections kept",
    "serve_requests_new": "Requests to a RayService, a connection each",
    "serve_change": "Another text in serveConfigV2",
    "kube_services": "Many RayServices on Kubernetes (hollow nodes)",
    "kube_scale": "Many RayClusters on Kubernetes (hollow nodes)",
    "kube_recovery": "The same faults through Kubernetes",
}


def markdown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; a pipe in a cell is escaped."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def section(name: str, result: Mapping[str, Any]) -> str:
    """One benchmark: its title, its table, and on what and when it was measured."""
    machine = result["machine"]
    made = (
        f"{machine['cpus']} CPUs, {machine['memory_bytes'] / 2**30:.0f} GiB, Linux {machine['kernel']}, "
        f"Python {machine['python']}, Ray {machine['ray']}, {machine['date'][:10]}. "
        f"`python -m benchmarks.{name}`"
    )
    return f"**{TITLES[name]}**\n\n{markdown(**result['table'])}\n\n{made}\n"


def main() -> None:
    """Print a section for each benchmark that has been run."""
    for name in TITLES:
        path = common.OUT / f"{name}.json"
        if path.exists():
            print(section(name, json.loads(path.read_text(encoding="utf-8"))))
        else:
            print(f"(no {path.name} yet: `python -m benchmarks.{name}`)\n")


if __name__ == "__main__":
    main()

"""What /metrics says of a node, in Prometheus' text format 0.0.4."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rayward.agent.supervisor import Supervisor

Sample = tuple[str, float]


def metric(name: str, kind: str, what: str, samples: Iterable[Sample]) -> list[str]:
    """One metric with its help and type; ``samples`` are pairs of a label text (or none) and a value."""
    lines = [f"# HELP {name} {what}", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        number = f"{value:.6f}".rstrip("0").rstrip(".") if value % 1 else f"{value:.0f}"
        lines.append(f"{name}{{{labels}}} {number}" if labels else f"{name} {number}")
    return lines


def metrics_text(supervisor: Supervisor, ready: bool) -> str:
    """All metrics of this node now."""
    seen = supervisor.snapshot
    lines = metric("rayward_ready", "gauge", "Whether this node takes work.", [("", ready)])
    if seen.gcs_serving is not None:
        lines += metric(
            "rayward_gcs_serving",
            "gauge",
            "Whether the GCS serves, as far as this node can see.",
            [("", seen.gcs_serving)],
        )
    processes = sorted(seen.processes.items())
    lines += metric(
        "rayward_process_starts_total",
        "counter",
        "Starts of each of Ray's processes, the first one included.",
        [(f'process="{name}"', process["starts"]) for name, process in processes],
    )
    lines += metric(
        "rayward_process_up",
        "gauge",
        "Whether each of Ray's processes runs.",
        [(f'process="{name}"', process["pid"] is not None) for name, process in processes],
    )
    lines += metric(
        "rayward_events_total",
        "counter",
        "Events by reason.",
        [(f'reason="{reason}"', count) for reason, count in sorted(supervisor.events.counts().items())],
    )
    lines += metric(
        "rayward_gcs_recovery_seconds_last",
        "gauge",
        "Seconds from the GCS's last death until it served.",
        [("", recovery["seconds"]) for recovery in seen.recoveries[-1:]],
    )
    return "\n".join([*lines, *_lead_lines(supervisor), *_forwarder_lines(supervisor)]) + "\n"


def _lead_lines(supervisor: Supervisor) -> list[str]:
    lead = supervisor.lead
    if lead is None:
        return []
    standing = lead.standing
    lines = metric("rayward_leader", "gauge", "Whether this head leads.", [("", standing.leads)])
    lines += metric(
        "rayward_epoch", "gauge", "The newest epoch that this head knows.", [("", standing.known_epoch)]
    )
    lines += metric(
        "rayward_lease_left_seconds",
        "gauge",
        "Seconds until the fence would end this head's GCS; 0 on a standby.",
        [("", standing.lease_left)],
    )
    lines += metric(
        "rayward_paused", "gauge", "Whether failover by itself is switched off.", [("", standing.paused)]
    )
    lines += metric(
        "rayward_store_good",
        "gauge",
        "Whether the newest look at the store found it usable.",
        [("", standing.store.value == "good")],
    )
    return lines + lead.gateway_metrics()


def _forwarder_lines(supervisor: Supervisor) -> list[str]:
    if supervisor.forwarder is None:
        return []
    status = supervisor.forwarder.status()
    lines: list[str] = []
    for name, kind, what, value in (
        ("connections", "gauge", "Connections passed on to the leader now.", status.connections),
        ("parked", "gauge", "Connections that wait for a leader now.", status.parked),
        ("cuts_total", "counter", "Connections cut because the leader changed.", status.cuts),
        ("bytes_to_gcs_total", "counter", "Bytes passed on to the GCS.", status.bytes_to_gcs),
        ("bytes_from_gcs_total", "counter", "Bytes passed back from the GCS.", status.bytes_from_gcs),
    ):
        lines += metric(f"rayward_forwarder_{name}", kind, what, [("", value)])
    refused = [(f'reason="{reason}"', count) for reason, count in sorted(status.refused.items())]
    return lines + metric(
        "rayward_forwarder_refused_total",
        "counter",
        "Connections and attempts that came to nothing.",
        refused,
    )

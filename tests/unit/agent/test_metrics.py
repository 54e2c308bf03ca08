"""/metrics of a head and of a worker, read by Prometheus' own parser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from elector_rig import PlayedNode
from prometheus_client.parser import text_string_to_metric_families

from rayward.agent.config import build
from rayward.agent.decide import Kind
from rayward.agent.forwarder_rules import ForwarderStatus
from rayward.agent.gateway_metrics import gateway_metrics
from rayward.agent.head_lead import HeadLead
from rayward.agent.lead import StoreStanding
from rayward.agent.metrics import metrics_text
from rayward.agent.standing import Rank, Standing

COUNTERS = {
    "commands": 12, "reads": 5, "writes": 7, "refused": 1, "retried": 2, "reconnects": 3, "parked": 4,
    "parked_bytes": 500, "clients": 6,
    "latency": {"bounds": [0.001, 0.01], "buckets": [2, 3], "count": 6, "sum": 0.25},
}  # fmt: skip


def parsed(text: str) -> dict[str, tuple[str, dict[str, float]]]:
    """Kind and samples (by name and labels) of each metric; every one has a help text."""
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        samples = {
            sample.name + "".join(f",{key}={value}" for key, value in sample.labels.items()): sample.value
            for sample in family.samples
        }
        assert family.name not in found, "a metric may be told once only"
        found[family.name] = (family.type, samples)
    return found


def head(tmp_path: Path) -> tuple[PlayedNode, HeadLead]:
    environ = {"RAY_REDIS_ADDRESS": "127.0.0.1:1", "RAYWARD_POD": "a"}
    config = build(Kind.HEAD, ["ray", "start", "--head"], environ)
    assert config.head is not None
    node = PlayedNode(config, tmp_path / "journal")
    node.lead = HeadLead(config, config.head, environ, "10.0.0.1", node.events, node.wake)
    return node, node.lead


def test_a_leader(tmp_path: Path) -> None:
    node, lead = head(tmp_path)
    lead.elector.standing = Standing(
        rank=Rank.LEADING, epoch=7, known_epoch=7, lease_left=1.25, paused=True, store=StoreStanding.GOOD
    )
    found = parsed(metrics_text(node, True))  # type: ignore[arg-type]
    assert found["rayward_leader"] == ("gauge", {"rayward_leader": 1})
    assert found["rayward_epoch"][1] == {"rayward_epoch": 7}
    assert found["rayward_lease_left_seconds"][1] == {"rayward_lease_left_seconds": 1.25}
    assert found["rayward_paused"][1] == {"rayward_paused": 1}
    assert found["rayward_store_good"][1] == {"rayward_store_good": 1}
    assert not [name for name in found if "gateway" in name], "it has not reported yet"


def test_a_standby_without_a_store(tmp_path: Path) -> None:
    node, lead = head(tmp_path)
    lead.elector.standing = Standing(known_epoch=7, store=StoreStanding.AWAY)
    found = parsed(metrics_text(node, False))  # type: ignore[arg-type]
    values = {name: sum(samples.values()) for name, (_, samples) in found.items() if samples}
    assert (values["rayward_leader"], values["rayward_epoch"], values["rayward_store_good"]) == (0, 7, 0)
    assert values["rayward_ready"] == 0


def test_the_gateways_counters() -> None:
    found = parsed("\n".join(gateway_metrics(COUNTERS)) + "\n")
    assert found["rayward_gateway_writes"] == ("counter", {"rayward_gateway_writes_total": 7})
    assert found["rayward_gateway_parked"] == ("gauge", {"rayward_gateway_parked": 4})
    assert found["rayward_gateway_parked_bytes"] == ("gauge", {"rayward_gateway_parked_bytes": 500})
    kind, samples = found["rayward_gateway_store_seconds"]
    assert kind == "histogram"
    assert samples == {
        "rayward_gateway_store_seconds_bucket,le=0.001": 2,
        "rayward_gateway_store_seconds_bucket,le=0.01": 5,
        "rayward_gateway_store_seconds_bucket,le=+Inf": 6,
        "rayward_gateway_store_seconds_sum": 0.25,
        "rayward_gateway_store_seconds_count": 6,
    }
    assert gateway_metrics({}) == []
    assert gateway_metrics({"latency": "?"}) == []


def test_every_counter_that_a_gateway_reports_is_shown() -> None:
    """The names are the gateway's own."""
    from rayward.store.gateway_counters import Counters  # noqa: PLC0415 - the gateway's room

    report = Counters().as_json()
    for name in COUNTERS:
        assert name in report, f"the gateway reports no {name!r}: {sorted(report)}"
    parsed("\n".join(gateway_metrics(report)) + "\n")


class Forwards:
    """A forwarder that has done something."""

    def status(self) -> ForwarderStatus:
        return ForwarderStatus(
            "10.0.0.5:6379", "10.0.0.1:6379", 7, "a leads", connections=3, parked=2, cuts=1, bytes_to_gcs=10,
            bytes_from_gcs=20, refused={"too many wait": 4, "timeout": 5},
        )  # fmt: skip


def test_a_workers_forwarder(tmp_path: Path) -> None:
    config = build(Kind.WORKER, ["ray", "start", "--address=h:6379"], {"RAYWARD_HEADS": "h"})
    node: Any = PlayedNode(config, tmp_path / "journal")
    node.forwarder = Forwards()
    node.snapshot = replace(node.snapshot, gcs_serving=None)
    found = parsed(metrics_text(node, True))
    values = {name: sum(samples.values()) for name, (_, samples) in found.items() if "forwarder" in name}
    assert values == {
        "rayward_forwarder_connections": 3, "rayward_forwarder_parked": 2, "rayward_forwarder_cuts": 1,
        "rayward_forwarder_bytes_to_gcs": 10, "rayward_forwarder_bytes_from_gcs": 20,
        "rayward_forwarder_refused": 9,
    }  # fmt: skip
    assert "rayward_gcs_serving" not in found

"""Whom Ray Serve's observer asks, and how often. Pure."""

from __future__ import annotations

from typing import Any

import pytest

from rayward.plan.service_outcome import ServicePlan, Submission
from rayward.serve.looks import Dashboard, Proxy, dashboard_pause_s, proxy_pause_s, questions

LEADER, STANDBY, LEAVING, COMING, WORKER = "10.0.0.2", "10.0.0.3", "10.0.0.4", "", "10.0.0.5"
ONE = Submission("one", 8265)


def pod(address: str, kind: str = "head", ready: bool = False, **metadata: str) -> dict[str, Any]:
    labels = {"ray.io/node-type": kind}
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    status = {"phase": "Running", "podIP": address, "conditions": conditions}
    return {"metadata": {"uid": f"u{address}", "labels": labels, **metadata}, "status": status}


PODS = (
    pod(COMING),
    pod(LEAVING, ready=True, deletionTimestamp="2026-01-01T00:00:00Z"),
    pod(STANDBY),
    pod(LEADER, ready=True),
    pod(WORKER, "worker", ready=True),
)


def test_the_ready_head_and_all_living_heads_proxies_are_asked() -> None:
    plan = ServicePlan(serve=(ONE,), serve_port=9000)
    assert questions(plan, {"one": PODS}) == (
        [Dashboard(LEADER, ONE)],
        [Proxy(f"u{STANDBY}", STANDBY, 9000), Proxy(f"u{LEADER}", LEADER, 9000)],
    )


def test_without_a_head_a_dashboard_is_known_and_not_asked() -> None:
    assert questions(ServicePlan(serve=(ONE,)), {}) == ([Dashboard("", ONE)], [])


@pytest.mark.parametrize(("services", "dashboard_s", "proxy_s"), [(1, 10.0, 1.0), (1000, 50.0, 10.0)])
def test_many_services_are_asked_less_often(services: int, dashboard_s: float, proxy_s: float) -> None:
    assert (dashboard_pause_s(services), proxy_pause_s(services)) == (dashboard_s, proxy_s)

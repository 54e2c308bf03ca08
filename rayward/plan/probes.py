"""Liveness and readiness of Ray containers whose template says nothing about them.

With the agent its own cheap endpoints are asked; without it, what KubeRay asks for that Ray version.
"""

from __future__ import annotations

from typing import Any

from rayward.api.ray_version import ray_version
from rayward.plan.ray_start import AGENT_LISTEN_PORT, DASHBOARD_PORT
from rayward.plan.settings import Settings

Raw = dict[str, Any]
_UNIFIED_HEALTH_SINCE = (2, 53)


def agent_probes(settings: Settings, *, serves: bool = False) -> dict[str, Raw]:
    """Both probes against the agent's HTTP port. ``serves``: a worker of a RayService, which is ready only
    while its Serve proxy answers. Of a proxy's slow answers the agent keeps count, so the probe need not."""
    port, ready = settings.agent_port, "/servez" if serves else "/readyz"
    return {
        "livenessProbe": {"httpGet": {"path": "/livez", "port": port}, **_timing(5, 2, 5, 12)},
        "readinessProbe": {"httpGet": {"path": ready, "port": port}, **_timing(0, 2, 1, 2)},
    }


def plain_probes(
    version: str, params: dict[str, str], *, head: bool, serve_port: int | None
) -> dict[str, Raw]:
    """Both probes as KubeRay adds them. ``serve_port`` is set for the workers of a RayService only:
    their readiness also asks the Serve proxy."""
    timeout = 5 if head else 2
    check = _check(version, params, head=head)
    ready = _timing(10, timeout, 5, 10)
    readiness = {**check, **ready}
    if serve_port is not None:
        text = f"{_raylet(params)} && {_wget(serve_port, '-/healthz', 10)}"
        readiness = {**_exec(text), **ready, "failureThreshold": 1}
    return {"livenessProbe": {**check, **_timing(30, timeout, 5, 120)}, "readinessProbe": readiness}


def _check(version: str, params: dict[str, str], *, head: bool) -> Raw:
    known = ray_version(version)
    if known is not None and known >= _UNIFIED_HEALTH_SINCE:
        return {"httpGet": {"path": "/api/healthz", "port": int(_agent_port(params))}}
    text = _raylet(params)
    if head:
        text += f" && {_wget(params.get('dashboard-port', DASHBOARD_PORT), 'api/gcs_healthz', 10)}"
    return _exec(text)


def _agent_port(params: dict[str, str]) -> str:
    return params.get("dashboard-agent-listen-port", AGENT_LISTEN_PORT)


def _raylet(params: dict[str, str]) -> str:
    return _wget(_agent_port(params), "api/local_raylet_healthz", 2)


def _wget(port: str | int, path: str, timeout: int) -> str:
    return f"wget --tries 1 -T {timeout} -q -O- http://localhost:{port}/{path} | grep success"


def _exec(text: str) -> Raw:
    return {"exec": {"command": ["bash", "-c", text]}}


def _timing(delay: int, timeout: int, period: int, failure: int) -> Raw:
    return {
        "initialDelaySeconds": delay,
        "timeoutSeconds": timeout,
        "periodSeconds": period,
        "successThreshold": 1,
        "failureThreshold": failure,
    }

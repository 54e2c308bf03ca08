"""What the operator is told by flags and environment, in the names that KubeRay's users know.

Reads them, checks them, and turns the part that planning needs into ``plan.settings.Settings``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rayward.errors import RaywardError
from rayward.plan.settings import Settings

ON, OFF = ("1", "t", "true", "yes", "on"), ("0", "f", "false", "no", "off", "")


@dataclass(frozen=True)
class OperatorSettings:
    """How one operator process runs. ``namespaces`` empty: all; ``workers``: reconciles at the same time,
    and ``urgent_workers`` more for clusters that have lost a head;
    ``qps`` and ``burst``: requests to the API server; ports 0: any free one, -1: none."""

    namespaces: tuple[str, ...] = ()
    workers: int = 8
    urgent_workers: int = 4
    qps: float = 100.0
    burst: int = 200
    metrics_address: tuple[str, int] = ("", 8080)
    health_address: tuple[str, int] = ("", 8082)
    elect: bool = True
    election_namespace: str = ""
    identity: str = ""
    steady_s: float = 300.0
    planning: Settings = field(default_factory=Settings)


def planning_settings(environ: Mapping[str, str]) -> Settings:
    """The planner's settings from the operator's environment. Raises RaywardError for what cannot be read."""
    return Settings(
        cluster_domain=environ.get("CLUSTER_DOMAIN") or "cluster.local",
        redis_cleanup=flag(environ, "ENABLE_GCS_FT_REDIS_CLEANUP", True),
        login_shell=flag(environ, "ENABLE_LOGIN_SHELL", False),
        inject_probes=flag(environ, "ENABLE_PROBES_INJECTION", True),
        inject_init_container=flag(environ, "ENABLE_INIT_CONTAINER_INJECTION", True),
        cluster_ip_head_service=flag(environ, "ENABLE_RAY_HEAD_CLUSTER_IP_SERVICE", False),
    )


def steady_seconds(environ: Mapping[str, str]) -> float:
    """Seconds after which a cluster is looked at again though nothing was seen to change."""
    name = "RAYCLUSTER_DEFAULT_REQUEUE_SECONDS_ENV"
    text = environ.get(name, "")
    if not text:
        return OperatorSettings.steady_s
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise RaywardError(f"{name}={text!r} is no number of seconds", todo="use a whole number, at least 1")
    return float(text)


def flag(environ: Mapping[str, str], name: str, default: bool) -> bool:
    """A variable that is true or false; absent or empty it is ``default``."""
    text = environ.get(name, "").strip().lower()
    if not text:
        return default
    if text not in ON and text not in OFF:
        raise RaywardError(f"{name}={text!r} is neither true nor false", todo="use true or false")
    return text in ON


def bind_address(text: str, option: str) -> tuple[str, int]:
    """`:8080`, `127.0.0.1:8080`, `[::]:8080`, `0` (none) as host and port."""
    if text.strip() in ("0", ""):
        return "", -1
    host, _, port = text.strip().rpartition(":")
    if not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise RaywardError(f"{option}={text!r} is no address", todo="use HOST:PORT or :PORT, 0 for none")
    return host.strip("[]"), int(port)

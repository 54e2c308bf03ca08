"""What one pass over a RayService sees and decides, beyond what every pass does (`outcome`). Plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rayward.plan.outcome import Plan, Raw
from rayward.plan.serve_status import ServeView


@dataclass(frozen=True)
class ServeSeen:
    """What is known of Ray Serve on one cluster. ``view`` is the dashboard's last answer; ``taken`` names the
    configuration (`Submission.digest`) that the dashboard has accepted, as far as this process knows, and
    ``view_after`` says whether ``view`` was asked for after that; ``problem`` is why it refused one, or did
    not answer."""

    view: ServeView = field(default_factory=ServeView)
    taken: str = ""
    view_after: bool = False
    problem: str = ""
    refused: str = ""


@dataclass(frozen=True)
class ServiceObserved:
    """Everything that exists of one RayService: its RayClusters, its two Services, the Ray Pods of its
    clusters by the cluster's name, what is known of Ray Serve there, and of each head Pod (by its uid)
    whether the proxy on it answers and has routes; a head that was not asked yet is missing."""

    clusters: tuple[Raw, ...] = ()
    services: tuple[Raw, ...] = ()
    pods: Mapping[str, tuple[Raw, ...]] = field(default_factory=dict)
    serve: Mapping[str, ServeSeen] = field(default_factory=dict)
    proxies: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Submission:
    """Asking one cluster's dashboard: always for its applications, and before that to take ``body`` (JSON),
    if there is one. ``digest`` names the body. ``settled``: nothing is expected to change by itself."""

    cluster: str
    dashboard_port: int
    body: bytes | None = None
    digest: str = ""
    settled: bool = False


@dataclass(frozen=True)
class ServicePlan(Plan):
    """A plan, and what Ray Serve is to be asked: one entry for each cluster; a cluster without one is not
    asked any more. ``serve_port`` is where the heads' proxies are to be asked."""

    serve: tuple[Submission, ...] = ()
    serve_port: int = 8000

"""``rayward operator``: the process that runs RayClusters on Kubernetes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from rayward.errors import RaywardError

_LEVELS = ("debug", "info", "warning", "error")
_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@click.command(epilog="example: rayward operator --kubeconfig ~/.kube/config --watch-namespace team-a")
@click.option("--kubeconfig", type=click.Path(), help="Default: the Pod's account, else as kubectl finds it.")
@click.option("--context", help="Which context of the kubeconfig.")
@click.option("--watch-namespace", default="", help="Comma-separated; empty: all namespaces.")
@click.option("--metrics-addr", default=":8080", show_default=True, help="Where /metrics is; 0: nowhere.")
@click.option(
    "--health-probe-bind-address", default=":8082", show_default=True, help="Where /healthz and /readyz are."
)
@click.option(
    "--enable-leader-election",
    type=bool,
    is_flag=False,
    flag_value="true",
    default=True,
    show_default=True,
    metavar="[=true|false]",
    help="Only one of several replicas acts.",
)
@click.option("--no-leader-election", is_flag=True, help="The same as --enable-leader-election=false.")
@click.option("--leader-election-namespace", default="", help="Default: the operator's own namespace.")
@click.option(
    "--reconcile-concurrency", default=8, show_default=True, type=click.IntRange(1, 256),
    help="Clusters worked on at the same time.",
)  # fmt: skip
@click.option("--qps", default=100.0, show_default=True, type=click.FloatRange(1), help="Requests a second.")
@click.option("--burst", default=200, show_default=True, type=click.IntRange(1), help="Requests at once.")
@click.option("--log-level", default="info", show_default=True, type=click.Choice(_LEVELS))
@click.option(
    "--log-encoder", default="auto", show_default=True, type=click.Choice(["auto", "json", "console"])
)
def operator(
    kubeconfig: str | None,
    context: str | None,
    watch_namespace: str,
    metrics_addr: str,
    health_probe_bind_address: str,
    enable_leader_election: bool,
    no_leader_election: bool,
    leader_election_namespace: str,
    reconcile_concurrency: int,
    qps: float,
    burst: int,
    log_level: str,
    log_encoder: str,
) -> None:
    """Run RayClusters on Kubernetes: accepts KubeRay's manifests, recovers in seconds.

    Runs in the foreground until SIGTERM. Also reads KubeRay's environment variables
    (docs/operator-reference.md).
    """
    import asyncio  # noqa: PLC0415 - the other commands do without all of this

    from rayward.kube import logs  # noqa: PLC0415
    from rayward.kube.client import KubeClient  # noqa: PLC0415
    from rayward.kube.operator import Operator  # noqa: PLC0415
    from rayward.kube.settings import (  # noqa: PLC0415
        OperatorSettings,
        bind_address,
        planning_settings,
        steady_seconds,
    )

    logs.configure(log_level, log_encoder)
    settings = OperatorSettings(
        namespaces=tuple(name.strip() for name in watch_namespace.split(",") if name.strip()),
        workers=reconcile_concurrency,
        qps=qps,
        burst=burst,
        metrics_address=bind_address(metrics_addr, "--metrics-addr"),
        health_address=bind_address(health_probe_bind_address, "--health-probe-bind-address"),
        elect=enable_leader_election and not no_leader_election,
        election_namespace=leader_election_namespace or _own_namespace(),
        identity=os.environ.get("POD_NAME", ""),
        steady_s=steady_seconds(os.environ),
        planning=planning_settings(os.environ),
    )

    async def run() -> int:
        client = KubeClient.connect(kubeconfig=kubeconfig, context=context, qps=qps, burst=burst)
        return await Operator(client, settings).run()

    sys.exit(asyncio.run(run()))


def _own_namespace() -> str:
    try:
        return _ACCOUNT_NAMESPACE.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return os.environ.get("POD_NAMESPACE", "default")
    except OSError as error:
        raise RaywardError(
            f"cannot be read: {error.strerror}",
            where=str(_ACCOUNT_NAMESPACE),
            todo="--leader-election-namespace NAMESPACE",
        ) from error

"""The ``ray start`` line of a Pod: defaults, overrides, rendering, and the shell text around it.

Knows Ray's options and the group they come from, not the Pod they end up in.
"""

from __future__ import annotations

import json
import re
from typing import Any

from rayward.api.fault_tolerance import FaultTolerance, Origin
from rayward.api.quantity import parse_quantity, whole
from rayward.api.raycluster import HeadGroupSpec, RayCluster, WorkerGroupSpec
from rayward.plan import names
from rayward.plan.settings import Settings

Raw = dict[str, Any]
GCS_PORT = "6379"
DASHBOARD_PORT = "8265"
METRICS_PORT = "8080"
AGENT_LISTEN_PORT = "52365"
# Options that Ray reads as --flag=value although they look like switches.
_VALUED_SWITCHES = frozenset({"log-color", "include-dashboard", "include-log-monitor"})
_ACCELERATORS = {"aws.amazon.com/neuroncore": "neuron_cores", "google.com/tpu": "TPU"}
_MIG = re.compile(r"nvidia\.com/mig-\d+g\..+")


def gcs_port(cluster: RayCluster) -> str:
    """The port on which the head serves the GCS."""
    return cluster.head.ray_start_params.get("port", GCS_PORT)


def head_params(cluster: RayCluster, ft: FaultTolerance) -> dict[str, str]:
    """The head's ray start options without leading dashes."""
    params = _common(cluster.head, cluster.head.template)
    params.setdefault("dashboard-host", "0.0.0.0")
    if cluster.spec.enable_in_tree_autoscaling:
        params["no-monitor"] = "true"
    if ft.origin is Origin.OPTIONS:
        # The shell expands these, so that the secret stands in no manifest.
        if ft.username is not None:
            params["redis-username"] = "$REDIS_USERNAME"
        if ft.password is not None:
            params["redis-password"] = "$REDIS_PASSWORD"
    return params


def worker_params(cluster: RayCluster, group: WorkerGroupSpec, settings: Settings) -> dict[str, str]:
    """A worker's ray start options without leading dashes."""
    params = _common(group, group.template)
    params.setdefault(
        "address", f"{names.head_address(cluster, settings.cluster_domain)}:{gcs_port(cluster)}"
    )
    return params


def ray_start_line(params: dict[str, str], *, head: bool) -> str:
    """``ray start`` with its options sorted by name, spaced the way the published examples show it."""
    line = "ray start --head " if head else "ray start "
    for key in sorted(params):
        value = params[key]
        switch = value.lower() in ("true", "false") and key not in _VALUED_SWITCHES
        if not switch:
            line += f" --{key}={value} "
        elif value.lower() == "true":
            line += f" --{key} "
    return line


def shell_line(start: str, settings: Settings, *, before: str = "", agent: str | None = None) -> str:
    """What the container's shell runs: the user's own text, the open-file limit, then Ray.

    ``agent`` ("head" or "worker") puts the agent in Ray's place and hands it the line, unquoted, so that
    the shell expands it as it would have for Ray itself.
    """
    limit = f"ulimit -n {settings.ulimit_open_files}"
    ray = f"exec {' '.join(agent_command(settings))} {agent} -- {start}" if agent else start
    return f"{before} && {limit}; {ray}" if before else f"{limit}; {ray}"


def agent_command(settings: Settings) -> list[str]:
    """How the agent's zip is run inside a Ray container."""
    return [settings.agent_image_python, "/opt/rayward/agent.zip"]


def _common(group: HeadGroupSpec | WorkerGroupSpec, template: Raw) -> dict[str, str]:
    params = dict(group.ray_start_params)
    if group.resources:
        _override_resources(params, group.resources)
    if group.labels:
        params["labels"] = ",".join(f"{key}={group.labels[key]}" for key in sorted(group.labels))
    _container_resources(params, template["spec"]["containers"][0].get("resources") or {})
    params.setdefault("metrics-export-port", METRICS_PORT)
    params.setdefault("dashboard-agent-listen-port", AGENT_LISTEN_PORT)
    params["block"] = "true"
    return params


def _override_resources(params: dict[str, str], resources: dict[str, str]) -> None:
    """The group's ``resources`` win over anything that would be derived from the container."""
    custom: dict[str, int | float] = {}
    for name in sorted(resources):
        if name.lower() == "cpu":
            params["num-cpus"] = str(whole(resources[name]))
        elif name.lower() == "memory":
            params["memory"] = str(whole(resources[name]))
        elif name.lower().endswith("gpu"):
            params["num-gpus"] = str(whole(resources[name]))
        else:
            custom[name] = _number(resources[name])
    if custom:
        params["resources"] = _quoted(custom)


def _container_resources(params: dict[str, str], resources: Raw) -> None:
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    cpu = _positive(limits.get("cpu")) or _positive(requests.get("cpu"))
    if "num-cpus" not in params and cpu:
        params["num-cpus"] = str(whole(cpu))
    memory = _positive(limits.get("memory"))
    if "memory" not in params and memory:
        params["memory"] = str(whole(memory))
    for name in sorted(limits):
        if "num-gpus" not in params and _positive(limits[name]) and is_gpu(name):
            params["num-gpus"] = str(whole(limits[name]))
        if name in _ACCELERATORS and _positive(limits[name]):
            _add_accelerator(params, _ACCELERATORS[name], _number(limits[name]))
            break


def is_gpu(resource: str) -> bool:
    """Whether Ray counts a Kubernetes resource as GPUs."""
    return resource.lower().endswith("gpu") or _MIG.fullmatch(resource.lower()) is not None


def _add_accelerator(params: dict[str, str], name: str, amount: int | float) -> None:
    """Join one accelerator with the user's own custom resources; leave alone what cannot be read."""
    written = params.get("resources", "")
    if not written:
        params["resources"] = _quoted({name: amount})
        return
    try:
        own = json.loads(written.strip("'\"").replace('\\"', '"'))
    except ValueError:
        return
    if isinstance(own, dict) and name not in own:
        params["resources"] = _quoted({**own, name: amount})


def _quoted(resources: dict[str, Any]) -> str:
    return f"'{json.dumps(resources, sort_keys=True, separators=(',', ':'))}'"


def _positive(value: Any) -> str | None:
    return str(value) if value is not None and parse_quantity(value) > 0 else None


def _number(value: Any) -> int | float:
    number = parse_quantity(value)
    return number.numerator if number.denominator == 1 else float(number)

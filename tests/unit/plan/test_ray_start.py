"""The ray start line: defaults, overrides and rendering, by table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rayward.api.fault_tolerance import FaultTolerance
from rayward.api.raycluster import RayCluster
from rayward.plan.ray_start import head_params, ray_start_line, shell_line, worker_params
from rayward.plan.settings import Settings

Raw = dict[str, Any]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"b": "1", "a": "x"}, "ray start  --a=x  --b=1 "),
        ({"block": "true", "no-monitor": "false"}, "ray start  --block "),
        (
            {"include-dashboard": "false", "log-color": "true"},
            "ray start  --include-dashboard=false  --log-color=true ",
        ),
        ({"include-log-monitor": "true"}, "ray start  --include-log-monitor=true "),
        ({}, "ray start "),
    ],
)
def test_rendering(params: dict[str, str], expected: str) -> None:
    assert ray_start_line(params, head=False) == expected


@pytest.mark.parametrize(
    ("group", "resources", "expected"),
    [
        ({}, {"limits": {"cpu": "1500m"}, "requests": {"cpu": "1"}}, {"num-cpus": "2"}),
        ({}, {"requests": {"cpu": "3"}}, {"num-cpus": "3"}),
        ({"rayStartParams": {"num-cpus": "7"}}, {"limits": {"cpu": "2"}}, {"num-cpus": "7"}),
        ({}, {"limits": {"memory": "1Gi"}}, {"memory": "1073741824"}),
        ({}, {"requests": {"memory": "1Gi"}}, {}),
        ({}, {"limits": {"nvidia.com/gpu": 2}}, {"num-gpus": "2"}),
        ({}, {"limits": {"nvidia.com/mig-1g.5gb": "1"}}, {"num-gpus": "1"}),
        ({}, {"limits": {"nvidia.com/gpu": "0"}}, {}),
        ({}, {"limits": {"google.com/tpu": "4"}}, {"resources": "'{\"TPU\":4}'"}),
        (
            {"rayStartParams": {"resources": '"{\\"a\\": 1}"'}},
            {"limits": {"aws.amazon.com/neuroncore": "2"}},
            {"resources": '\'{"a":1,"neuron_cores":2}\''},
        ),
        (
            {"resources": {"CPU": "2", "memory": "1Ki", "GPU": "1", "custom": "1500m"}},
            {"limits": {"cpu": "9"}},
            {"num-cpus": "2", "memory": "1024", "num-gpus": "1", "resources": "'{\"custom\":1.5}'"},
        ),
        ({"labels": {"b": "2", "a": "1"}}, {}, {"labels": "a=1,b=2"}),
    ],
)
def test_what_the_container_and_the_group_say(
    raw: Raw, parsed: Callable[[], RayCluster], group: Raw, resources: Raw, expected: dict[str, str]
) -> None:
    spec = raw["spec"]["workerGroupSpecs"][0]
    spec.pop("rayStartParams")
    spec.update(group)
    spec["template"]["spec"]["containers"][0]["resources"] = resources
    cluster = parsed()
    params = worker_params(cluster, cluster.workers[0], Settings(cluster_domain="d"))
    assert params.pop("address") == "raycluster-external-redis-head-svc.default.svc.d:6379"
    assert {
        "metrics-export-port": "8080",
        "dashboard-agent-listen-port": "52365",
        "block": "true",
    }.items() <= params.items()
    assert {
        key: params[key]
        for key in sorted(params.keys() - {"metrics-export-port", "dashboard-agent-listen-port", "block"})
    } == expected


def test_the_heads_port_reaches_the_workers(raw: Raw, parsed: Callable[[], RayCluster]) -> None:
    raw["spec"]["headGroupSpec"]["rayStartParams"].update(port="7777", block="false")
    cluster = parsed()
    assert head_params(cluster, FaultTolerance())["block"] == "true"
    assert worker_params(cluster, cluster.workers[0], Settings())["address"].endswith(":7777")


def test_shell_line() -> None:
    settings = Settings(ulimit_open_files=9, agent_image_python="py")
    assert shell_line("ray start ", settings) == "ulimit -n 9; ray start "
    agent = shell_line("ray start ", settings, before="x", agent="head")
    assert agent == "x && ulimit -n 9; exec py /opt/rayward/agent.zip head -- ray start "

"""Nodes of a RayService's cluster: where Serve listens, when a worker is ready, how a node leaves."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from rayward.api.raycluster import RayCluster
from rayward.plan.cleanup import cleanup_job
from rayward.plan.pods import head_pod, worker_pod
from rayward.plan.settings import Settings

Raw = dict[str, Any]
Parsed = Callable[[], RayCluster]
LEAVE = "python3 /opt/rayward/agent.zip leave --most={most} || sleep {plain}"


@pytest.fixture
def owned(raw: Raw) -> Raw:
    """The guide's cluster as one of a RayService."""
    raw["metadata"]["labels"].update(
        {"ray.io/originated-from-crd": "RayService", "ray.io/originated-from-cr-name": "fruit"}
    )
    return raw


def container_of(raw: Raw, head: bool) -> Raw:
    group = raw["spec"]["headGroupSpec"] if head else raw["spec"]["workerGroupSpecs"][0]
    found: Raw = group["template"]["spec"]["containers"][0]
    return found


def nodes(cluster: RayCluster, settings: Settings) -> list[Raw]:
    """The Ray containers of a head and of a worker."""
    pods = head_pod(cluster, settings), worker_pod(cluster, cluster.workers[0], settings, replica_index=0)
    return [pod["spec"]["containers"][0] for pod in pods]


def env(container: Raw) -> dict[str, Any]:
    return {item["name"]: item.get("value") for item in container["env"]}


def stop(container: Raw) -> list[str]:
    found: list[str] = container["lifecycle"]["preStop"]["exec"]["command"]
    return found


def plain(raw: Raw) -> None:
    raw["metadata"]["annotations"]["rayward.dev/agent"] = "disabled"


@pytest.mark.parametrize(
    ("on_head", "on_worker", "expected"),
    [
        (None, None, ["8000", "8000"]),
        ([{"name": "serve", "containerPort": 9000}], None, ["9000", "9000"]),
        (None, [{"name": "serve", "containerPort": 9001}], ["8000", "9001"]),
        ([{"name": "serve-admin", "containerPort": 9000}, {"containerPort": 9002}], None, ["8000", "8000"]),
    ],
)
def test_the_agent_is_told_where_serve_listens(
    owned: Raw, parsed: Parsed, settings: Settings, on_head: Any, on_worker: Any, expected: list[str]
) -> None:
    container_of(owned, True)["ports"], container_of(owned, False)["ports"] = on_head, on_worker
    assert [env(one)["RAYWARD_SERVE_PORT"] for one in nodes(parsed(), settings)] == expected


def test_a_port_of_the_templates_counts(owned: Raw, parsed: Parsed, settings: Settings) -> None:
    container_of(owned, False)["env"] = [{"name": "RAYWARD_SERVE_PORT", "value": "7000"}]
    assert [env(one)["RAYWARD_SERVE_PORT"] for one in nodes(parsed(), settings)] == ["8000", "7000"]


def test_a_worker_is_ready_when_its_proxy_answers_and_a_head_when_its_gcs_does(
    owned: Raw, parsed: Parsed, settings: Settings
) -> None:
    head, worker = nodes(parsed(), settings)
    assert head["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": 8008}
    ready = worker["readinessProbe"]
    assert ready["httpGet"] == {"path": "/servez", "port": 8008}
    timing = ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "failureThreshold")
    assert [ready[key] for key in timing] == [0, 2, 1, 2]
    assert [one["livenessProbe"]["httpGet"]["path"] for one in (head, worker)] == ["/livez", "/livez"]


def test_probes_of_the_template_win(owned: Raw, parsed: Parsed, settings: Settings) -> None:
    own = {"tcpSocket": {"port": 8000}}
    container_of(owned, False)["readinessProbe"] = own
    assert nodes(parsed(), settings)[1]["readinessProbe"] == own


@pytest.mark.parametrize(
    ("grace", "most", "after"), [(None, 10, 3), (120, 40, 3), (9, 3, 3), (6, 2, 2), (0, 0, 0)]
)
def test_a_node_leaves_before_it_is_stopped_and_keeps_most_of_the_grace_period(
    owned: Raw, parsed: Parsed, settings: Settings, grace: int | None, most: int, after: int
) -> None:
    for group in (owned["spec"]["headGroupSpec"], owned["spec"]["workerGroupSpecs"][0]):
        group["template"]["spec"]["terminationGracePeriodSeconds"] = grace
    for container in nodes(parsed(), settings):
        assert stop(container) == ["/bin/bash", "-c", "--", LEAVE.format(most=most, plain=after)]


def test_a_login_shell_and_another_interpreter_hold_here_too(owned: Raw, parsed: Parsed) -> None:
    settings = Settings(login_shell=True, agent_image_python="/opt/my python/bin/python3")
    shell, flags, _, words = stop(nodes(parsed(), settings)[0])
    assert (shell, flags) == ("/bin/bash", "-cl")
    assert words.startswith("'/opt/my python/bin/python3' /opt/rayward/agent.zip leave ")


def test_a_lifecycle_of_the_template_stays(owned: Raw, parsed: Parsed, settings: Settings) -> None:
    own = {"exec": {"command": ["true"]}}
    container_of(owned, True)["lifecycle"] = {"preStop": own}
    container_of(owned, False)["lifecycle"] = {"postStart": own}
    head, worker = nodes(parsed(), settings)
    assert head["lifecycle"] == {"preStop": own}
    assert worker["lifecycle"]["postStart"] == own
    assert "leave" in stop(worker)[-1]


def test_without_the_agent_probes_are_kuberays_and_a_node_waits(
    owned: Raw, parsed: Parsed, settings: Settings
) -> None:
    plain(owned)
    head, worker = nodes(parsed(), settings)
    assert [stop(one)[-1] for one in (head, worker)] == ["sleep 3", "sleep 3"]
    assert "RAYWARD_SERVE_PORT" not in {**env(head), **env(worker)}
    words = worker["readinessProbe"]["exec"]["command"][-1]
    assert "localhost:8000/-/healthz" in words
    assert worker["readinessProbe"]["failureThreshold"] == 1
    assert "healthz" not in head["readinessProbe"].get("exec", {}).get("command", [""])[-1]


def test_a_users_own_ray_start_waits_too(owned: Raw, parsed: Parsed, settings: Settings) -> None:
    container_of(owned, False).update(command=["sh", "-c"], args=["ray start --address=x:1 --block"])
    assert stop(nodes(parsed(), settings)[1])[-1] == "sleep 3"


@pytest.mark.parametrize("agent", [True, False])
def test_nodes_of_no_rayservice_are_as_they_were(
    raw: Raw, parsed: Parsed, settings: Settings, *, agent: bool
) -> None:
    if not agent:
        plain(raw)
    container_of(raw, True)["ports"] = [{"name": "serve", "containerPort": 9000}]
    for container in nodes(parsed(), settings):
        assert "lifecycle" not in container
        assert "RAYWARD_SERVE_PORT" not in env(container)
        assert "servez" not in str(container["readinessProbe"])


def test_the_template_is_left_as_it_was(owned: Raw, parsed: Parsed, settings: Settings) -> None:
    container_of(owned, True)["lifecycle"] = {}
    before = copy.deepcopy(owned)
    nodes(parsed(), settings)
    assert owned == before


def test_the_clean_up_job_does_not_wait(owned: Raw, parsed: Parsed, settings: Settings) -> None:
    job = cleanup_job(parsed(), settings)
    assert "lifecycle" not in job["spec"]["template"]["spec"]["containers"][0]

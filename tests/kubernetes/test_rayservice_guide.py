"""The guide to RayService's high availability, with kubectl: real API server, Ray Serve and Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from control_plane import ControlPlane, until
from live_cluster import UP_S, LiveCluster
from live_service import LiveService, Queries, live_service
from operator_process import OperatorProcess

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def guide(live_operator: OperatorProcess, control_plane: ControlPlane) -> Iterator[LiveService]:
    """Step 3: the service is up."""
    with live_service(control_plane) as found:
        yield found


def test_the_guide(guide: LiveService) -> None:
    """The steps in their order, for each needs the one before."""
    step_4(guide)
    step_5(guide)
    steps_6_and_7(guide)
    another_text(guide)
    what_ray_cannot_import(guide)
    another_cluster(guide)
    deletion(guide)


def step_4(guide: LiveService) -> None:
    described = guide.kubectl("describe", "service", f"{guide.name}-serve-svc")
    assert f"ray.io/cluster={guide.cluster.name},ray.io/serve=true" in described
    pods = guide.cluster.pods()
    assert guide.endpoints() == {pod["status"]["podIP"] for pod in pods.values()}
    assert len(pods) == 3


def step_5(guide: LiveService) -> None:
    head, workers = guide.cluster.head(), set(guide.cluster.pods("--selector=ray.io/node-type=worker"))
    (application,) = guide.status["activeServiceStatus"]["applicationStatuses"].values()
    deployments = application["serveDeploymentStatuses"]
    assert set(deployments) == {"FruitMarket", "MangoStand", "OrangeStand", "PearStand"}
    for deployment in deployments.values():
        assert set(deployment["message"].split(", ")) == {f"1 on {worker}" for worker in workers}
    assert guide.cluster.pods()[head]["metadata"]["labels"]["ray.io/serve"] == "true"
    shown = guide.kubectl("get", "rayservice", guide.name)
    assert "Running" in shown


def steps_6_and_7(guide: LiveService) -> None:
    queries = Queries(guide)
    old = guide.cluster.head()
    workers = set(guide.cluster.pods("--selector=ray.io/node-type=worker"))
    guide.cluster.delete_head(bound_s=120)
    until("the old one is gone", lambda: old not in guide.cluster.pods(), 120)
    guide.wait_serving()
    queries.wait(20)
    sent, failed = queries.end()
    assert (failed, sent > 60) == (0, True)
    assert set(guide.cluster.pods("--selector=ray.io/node-type=worker")) == workers
    assert set(guide.cluster.restarts().values()) == {0}


def another_text(guide: LiveService) -> None:
    before = guide.cluster.name
    text = guide.raw["spec"]["serveConfigV2"]
    assert guide.ask("ORANGE", 3) == "6"
    guide.patch({"serveConfigV2": text.replace("price: 2", "price: 5")})
    until("the new price", lambda: guide.ask("ORANGE", 3) == "15", 120)
    assert guide.cluster.name == before


def what_ray_cannot_import(guide: LiveService) -> None:
    text = guide.raw["spec"]["serveConfigV2"]
    guide.patch({"serveConfigV2": text.replace("fruit.market", "nowhere.market")})
    until("it is told", lambda: "nowhere" in guide.condition("ApplicationsRunning")["message"], 120)
    assert guide.condition("Ready")["status"] == "True"
    guide.patch({"serveConfigV2": "applications: [}"})
    until("it is told", lambda: guide.condition("SpecValid")["reason"] == "ValidationFailed")
    assert any(event.startswith("InvalidRayServiceSpec") for event in guide.events())
    guide.patch({"serveConfigV2": text})
    until("all is well", lambda: guide.condition("ApplicationsRunning")["status"] == "True", 120)
    assert guide.condition("SpecValid")["status"] == ""
    assert guide.ask("ORANGE", 3) == "15"


def another_cluster(guide: LiveService) -> None:
    old, queries = guide.cluster.name, Queries(guide)
    spec = guide.raw["spec"]["rayClusterConfig"]
    head = spec["headGroupSpec"]
    head["template"]["spec"]["containers"][0]["env"].append({"name": "CHANGED", "value": "yes"})
    guide.patch({"rayClusterConfig": {"headGroupSpec": head}, "rayClusterDeletionDelaySeconds": 2})
    until("an upgrade", lambda: guide.condition("UpgradeInProgress")["status"] == "True", 60)
    until("the new cluster serves", lambda: guide.side("active") not in ("", old), UP_S)
    until("the old one is gone", lambda: len(guide.kubectl("get", "rayclusters", "-oname").split()) == 1, 180)
    guide.wait_serving()
    queries.wait(20)
    sent, failed = queries.end()
    assert (failed, sent > 60) == (0, True)
    assert guide.condition("UpgradeInProgress")["status"] == "False"


def deletion(guide: LiveService) -> None:
    guide.kubectl("delete", "rayservice", guide.name, "--timeout=120s", timeout_s=130)
    assert guide.kubectl("get", "rayclusters", "-oname") == ""
    assert LiveCluster(guide.plane, guide.namespace, "").redis("DBSIZE") == "0"

"""KubeRay's TestAutoscalingRayService: Ray's own autoscaler on the real API server, real Serve, real load.

Ray Serve makes more replicas as requests pile up, for which Ray asks Kubernetes for another worker; when they
are gone so is the worker. No request may fail meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from control_plane import ControlPlane, until
from kubelet_fixture import NodeProcess, real_node
from live_cluster import UP_S
from live_service import LiveService
from operator_process import operator_process
from steady_requests import answered, steady_requests

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
NAME = NAMESPACE = "scaled"
QUIET_RATE, BURST_RATE = 1.0, 8.0
BACK_S = 300
"""KubeRay's own bound."""

SERVICE = f"""
apiVersion: ray.io/v1
kind: RayService
metadata: {{name: {NAME}}}
spec:
  excludeHeadPodFromServeSvc: true
  serveConfigV2: |
    applications:
      - name: shop
        import_path: shop.app
        route_prefix: /fruit
        deployments:
          - name: Shop
            max_ongoing_requests: 100
            autoscaling_config:
              min_replicas: 1
              max_replicas: 3
              target_ongoing_requests: 1
              upscale_delay_s: 1
              downscale_delay_s: 2
              metrics_interval_s: 1
              look_back_period_s: 2
            ray_actor_options: {{num_cpus: 1}}
  rayClusterConfig:
    rayVersion: "2.60.0"
    enableInTreeAutoscaling: true
    autoscalerOptions: {{idleTimeoutSeconds: 5}}
    headGroupSpec:
      rayStartParams: {{num-cpus: "0"}}
      template:
        spec:
          # No request passes through the head: it need not take its time to end.
          terminationGracePeriodSeconds: 5
          containers:
            - name: ray
              image: rayproject/ray:2.60.0
              env: [{{name: PYTHONPATH, value: /home/ray/code}}]
              volumeMounts: [{{name: code, mountPath: /home/ray/code}}]
          volumes: [{{name: code, configMap: {{name: shop}}}}]
    workerGroupSpecs:
      - groupName: small
        replicas: 1
        minReplicas: 1
        maxReplicas: 2
        rayStartParams: {{num-cpus: "1"}}
        template:
          spec:
            containers:
              - name: ray
                image: rayproject/ray:2.60.0
                env: [{{name: PYTHONPATH, value: /home/ray/code}}]
                volumeMounts: [{{name: code, mountPath: /home/ray/code}}]
            volumes: [{{name: code, configMap: {{name: shop}}}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: shop}}
data:
  shop.py: |
    import asyncio

    from ray import serve

    @serve.deployment
    class Shop:
        async def __call__(self, request):
            _, amount = await request.json()
            await asyncio.sleep(0.5)
            return amount

    app = Shop.bind()
"""


@pytest.fixture(scope="module")
def node(controllers: ControlPlane) -> Iterator[NodeProcess]:
    """A node that runs Pods for real."""
    with real_node(controllers) as found:
        yield found


@pytest.fixture(scope="module")
def service(
    crds: ControlPlane, node: NodeProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveService]:
    """The service with one worker."""
    log = tmp_path_factory.mktemp("operator") / "log"
    with operator_process(crds.kubeconfig, log):
        crds.kubectl("create", "namespace", NAMESPACE)
        crds.kubectl("--namespace", NAMESPACE, "apply", "--filename=-", input=SERVICE)
        found = LiveService(crds, NAMESPACE, NAME)
        found.wait_serving(1)
        yield found
        crds.kubectl("delete", "namespace", NAMESPACE, "--timeout=90s", timeout_s=100)


def url(node: NodeProcess) -> str:
    """Where requests to the service go, as seen from this host."""
    given = node.ground.folder.setting("addresses")
    return f"http://{given[f'service:{NAMESPACE}/{NAME}-serve-svc']}:8000"


def test_workers_follow_the_load(service: LiveService, node: NodeProcess) -> None:
    def workers() -> set[str]:
        return set(service.cluster.pods("--selector=ray.io/node-type=worker"))

    cluster, (first,) = service.cluster.name, workers()
    with steady_requests(url(node), QUIET_RATE) as quiet:
        answered(quiet, 10)
        assert workers() == {first}
        with steady_requests(url(node), BURST_RATE) as burst:
            until("a second worker answers", lambda: len(service.endpoints()) == 2, UP_S)
            assert first in workers()
            answered(burst, 10)
            assert len(workers()) == 2, "the third replica would need more workers than maxReplicas"
        until("it is gone again", lambda: len(workers()) == len(service.endpoints()) == 1, BACK_S)
        answered(quiet, 10)
    assert service.cluster.name == cluster
    assert set(service.cluster.restarts().values()) == {0}

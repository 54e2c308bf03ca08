"""The scenarios of KubeRay's end-to-end tests of RayService on one machine: real Ray Serve, Redis and load.

After kuberay/test/e2erayservice. In each of them requests keep coming, and not one may fail. Every scenario
begins when all is well and can run alone; they share a service only because a start takes long.
"""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import CommandLine, eventually
from steady_requests import answered, steady_requests

from rayward.drill.census import GCS, find_process
from rayward.drill.serve_load import BODY, EXPECT, PATH, ServeLoad
from rayward.drill.serve_look import operator_of, serve_service, service_of, url_of
from rayward.local.cluster import LocalCluster
from rayward.local.service_table import own_address
from rayward.local.state import ClusterFolder, is_alive
from rayward.plan.conditions import find
from rayward.plan.names import HEAD, WORKER, node_type
from rayward.plan.pod_state import is_ready, is_terminating
from rayward.plan.service_status import cluster_names

pytestmark = [pytest.mark.ray, pytest.mark.namespaces, pytest.mark.timeout(900)]
NAME, ALONE, NEVER = "tscene", "talone", "tnever"
RATE = 8.0
DELAY_S = 10
LATER_S = 20
"""What waits for the GCS of a while ago has given up by then."""
NOBODY_S = 5
"""Seconds for which no operator is there."""
TWO_LOOKS_S = 12
"""An operator asks a dashboard at once, and again every ten seconds."""

SERVICE = f"""
apiVersion: ray.io/v1
kind: RayService
metadata: {{name: {NAME}}}
spec:
  excludeHeadPodFromServeSvc: true
  rayClusterDeletionDelaySeconds: {DELAY_S}
  serveConfigV2: |
    applications:
      - name: shop
        import_path: shop.app
        route_prefix: /fruit
        deployments:
          - name: Shop
            num_replicas: 2
            max_ongoing_requests: 100
            ray_actor_options: {{num_cpus: 0.1}}
  rayClusterConfig:
    rayVersion: "2.60.0"
    gcsFaultToleranceOptions:
      redisAddress: redis:6379
      redisPassword: {{valueFrom: {{secretKeyRef: {{name: redis, key: password}}}}}}
    headGroupSpec:
      rayStartParams: {{num-cpus: "0"}}
      template: &node
        spec:
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
        maxReplicas: 1
        rayStartParams: {{num-cpus: "1"}}
        template: *node
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: shop}}
data:
  shop.py: |
    from ray import serve

    @serve.deployment
    class Shop:
        async def __call__(self, request):
            _, amount = await request.json()
            return amount

    app = Shop.bind()
---
apiVersion: v1
kind: Service
metadata: {{name: redis}}
spec: {{selector: {{app: redis}}, ports: [{{port: 6379}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: redis}}
spec:
  selector: {{matchLabels: {{app: redis}}}}
  template:
    metadata: {{labels: {{app: redis}}}}
    spec:
      containers:
        - name: redis
          image: redis:7.4.0
          command: ["sh", "-c", 'exec redis-server --protected-mode no --requirepass "$PASSWORD"']
          env: [{{name: PASSWORD, valueFrom: {{secretKeyRef: {{name: redis, key: password}}}}}}]
          readinessProbe: {{tcpSocket: {{port: 6379}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Secret
metadata: {{name: redis}}
stringData: {{password: "5241590000000000"}}
"""

NEVER_READY = f"""
apiVersion: ray.io/v1
kind: RayService
metadata:
  name: {NEVER}
  annotations: {{ray.io/initializing-timeout: 10s}}
spec:
  serveConfigV2: "applications: [{{name: shop, import_path: shop.app}}]"
  rayClusterConfig:
    headGroupSpec:
      rayStartParams: {{num-cpus: "0"}}
      template:
        spec:
          terminationGracePeriodSeconds: 1
          containers:
            - name: ray
              image: rayproject/ray:2.60.0
              envFrom: [{{configMapRef: {{name: nowhere}}}}]
"""
BESIDE = """---
apiVersion: v1
kind: Pod
metadata: {name: beside}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: busybox, command: ["sleep", "1000"]}]
"""


class Service:
    """The RayService of a cluster that is up, and the manifest that it came from."""

    def __init__(self, cli: CommandLine, path: Path, name: str = NAME) -> None:
        self.cli, self.path, self.name = cli, path, name
        self.cluster = LocalCluster(ClusterFolder(cli.home / "clusters" / name))

    @property
    def status(self) -> dict[str, Any]:
        return dict(service_of(self.cluster).get("status") or {})

    @property
    def active(self) -> str:
        return cluster_names(self.status)[0]

    def condition(self, kind: str) -> tuple[str, str]:
        """A condition's status and reason."""
        found = find(self.status, kind)
        return str(found.get("status")), str(found.get("reason"))

    def clusters(self) -> set[str]:
        return {item["metadata"]["name"] for item in self.cluster.folder.list("RayCluster")}

    def nodes(self, kind: str) -> dict[str, dict[str, Any]]:
        """The Ray Pods that are heads, or workers, by name."""
        return {pod["metadata"]["name"]: pod for pod in self.cluster.pods() if node_type(pod) == kind}

    def head(self) -> dict[str, Any]:
        (found,) = self.nodes(HEAD).values()
        return found

    def restarts(self, kind: str) -> dict[str, list[int]]:
        """How often each container of those Pods was started again."""
        return {
            name: [entry["restartCount"] for entry in pod["status"]["containerStatuses"]]
            for name, pod in self.nodes(kind).items()
        }

    def leads_to(self) -> set[str]:
        """The addresses between which connections to the Service are spread."""
        found = serve_service(self.cluster)
        if found is None:
            return set()
        ready = self.cluster.service_table().ready
        return {
            end.address for place, ends in ready.items() for end in ends if place[0] == own_address(found)
        }

    def whole(self) -> bool:
        """One cluster of one head and one worker, all ready, and requests are led to the worker alone."""
        nodes = [*self.nodes(HEAD).values(), *self.nodes(WORKER).values()]
        if sorted(map(node_type, nodes)) != [HEAD, WORKER] or not all(map(is_ready, nodes)):
            return False
        status = self.status
        serves = status.get("serviceStatus") == "Running" and status.get("numServeEndpoints") == 1
        wanted = {"Ready": "True", "ApplicationsRunning": "True", "UpgradeInProgress": "False"}
        serves = serves and all(find(status, kind).get("status") == so for kind, so in wanted.items())
        return serves and self.leads_to() == {nodes[1]["status"]["podIP"]}

    def wait_whole(self, timeout: float = 240) -> None:
        eventually(
            self.whole, timeout, why=lambda: self.cli.out("status") + "\n" + self.cli.out("get", "pods")
        )

    def sent_at(self) -> float | None:
        """When Ray Serve was last sent its applications, by its own account; None when it does not answer."""
        url = f"http://{self.head()['status'].get('podIP')}:8265/api/serve/applications/"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return float(json.load(answer)["applications"]["shop"]["last_deployed_time_s"])
        except (OSError, KeyError):
            return None

    def ask(self) -> str:
        """The answer to one request on a connection of its own."""
        request = urllib.request.Request(url_of(self.cluster) + PATH, BODY.encode(), method="POST")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return str(answer.read().decode())

    def answers(self) -> bool:
        try:
            return self.ask() == EXPECT
        except OSError:  # its routes may be there before what they lead to
            return False

    def apply(self) -> str:
        return self.cli.out("apply", "-f", str(self.path), "--cluster", self.name)

    def change(self, old: str, new: str) -> None:
        """Apply the manifest with one text in it replaced."""
        text = self.path.read_text()
        assert text.count(old) == 1
        self.path.write_text(text.replace(old, new))
        assert f"rayservices/{self.name} configured" in self.apply()

    def under_load(self) -> AbstractContextManager[ServeLoad]:
        """Requests before, during and after, of which none may fail."""
        return steady_requests(url_of(self.cluster), RATE)


def moment_of(condition: Callable[[], object], timeout: float) -> tuple[float, float]:
    """When it came true: a moment before that, and one after."""
    moments = [time.monotonic()]

    def look() -> bool:
        began, found = time.monotonic(), bool(condition())
        moments.append(time.monotonic() if found else began)
        return found

    eventually(look, timeout)
    return moments[-2], moments[-1]


@pytest.fixture(scope="module")
def shop(shared: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service, up once for all scenarios."""
    path = tmp_path_factory.mktemp("scenarios") / "service.yaml"
    path.write_text(SERVICE)
    shared("up", "-f", str(path), "--name", NAME, "--timeout", "300", timeout=330)
    yield Service(shared, path)
    shared("down", NAME)


@pytest.fixture
def service(shop: Service) -> Service:
    """The service when all is well with it."""
    shop.wait_whole()
    return shop


def test_constant_load(service: Service) -> None:
    with service.under_load() as load:
        answered(load, 200 / RATE)


def test_gcs_fault_tolerance(service: Service) -> None:
    """``pkill gcs_server`` in the head. The agent starts the next one in its place, so the head's container
    has not restarted at the end, where KubeRay's has once."""
    before, sent_at = [service.restarts(kind) for kind in (HEAD, WORKER)], service.sent_at()
    old = find_process(service.head(), GCS)
    assert old is not None
    assert sent_at is not None
    with service.under_load() as load:
        os.kill(old[0], signal.SIGTERM)
        eventually(lambda: find_process(service.head(), GCS) not in (None, old), timeout=120)
        eventually(lambda: service.sent_at() == sent_at, timeout=120, why=service.sent_at)
        service.wait_whole()
        answered(load, LATER_S)
        assert service.whole()
    assert [service.restarts(kind) for kind in (HEAD, WORKER)] == before
    assert all(count == 0 for pods in before for counts in pods.values() for count in counts)


def test_the_operator_restarts(service: Service) -> None:
    """The next operator finds everything as it should be: nothing is sent to Ray Serve until it changes."""
    operator, sent_at = operator_of(service.cluster), service.sent_at()
    assert operator is not None
    with service.under_load() as load:
        os.kill(operator[0], signal.SIGKILL)
        eventually(lambda: not is_alive(*operator))
        answered(load, NOBODY_S)
        assert not service.cluster.folder.node_runs()
        assert "configured" not in service.apply()
        assert service.cluster.folder.node_runs()
        answered(load, TWO_LOOKS_S)
        assert service.sent_at() == sent_at
        service.change("max_ongoing_requests: 100", "max_ongoing_requests: 101")
        eventually(lambda: service.sent_at() not in (None, sent_at), timeout=120)
        service.wait_whole()


def test_redeploy(service: Service) -> None:
    """The head's Pod is deleted; within two minutes all is as before, with another head."""
    old, workers, sent_at = service.head(), service.restarts(WORKER), service.sent_at()
    name = old["metadata"]["name"]
    with service.under_load():
        service.cli("delete", "pod", name)
        eventually(
            lambda: name not in service.nodes(HEAD) and service.whole(), 240, why=lambda: service.status
        )
        assert service.ask() == EXPECT
        eventually(lambda: service.sent_at() == sent_at, timeout=120, why=service.sent_at)
    assert service.restarts(WORKER) == workers


def test_redeploy_without_gcs_fault_tolerance(rayward: CommandLine) -> None:
    """The same where nothing outlives the head, which is the only node: its successor is sent all anew."""
    service = alone(rayward)
    old = service.head()["metadata"]["name"]

    def serves_again() -> bool:
        heads = service.nodes(HEAD)
        addresses = {pod["status"].get("podIP") for pod in heads.values()}
        return len(heads) == 1 and old not in heads and service.leads_to() == addresses and service.answers()

    assert service.ask() == EXPECT
    rayward("delete", "pod", old)
    eventually(serves_again, 240, why=lambda: service.status)
    assert [service.ask() for _ in range(10)] == [EXPECT] * 10
    rayward("down", ALONE)


def alone(cli: CommandLine) -> Service:
    """A service of one head without a store, up."""
    service, code, *_ = yaml.safe_load_all(SERVICE)
    service["metadata"]["name"] = ALONE
    del service["spec"]["excludeHeadPodFromServeSvc"]
    cluster = service["spec"]["rayClusterConfig"]
    del cluster["gcsFaultToleranceOptions"], cluster["workerGroupSpecs"]
    cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] = "1"
    path = cli.home / "alone.yaml"
    path.write_text(yaml.safe_dump_all([service, code]))
    cli("up", "-f", str(path), "--name", ALONE)
    return Service(cli, path, ALONE)


def test_zero_downtime_upgrade_and_deletion_delay(service: Service) -> None:
    old = service.active
    pods = {pod["metadata"]["name"] for pod in service.cluster.pods(ray_io_cluster=old)}

    def leaves() -> bool:
        """Whether anything of the old cluster is on its way out."""
        cluster = service.cluster.folder.get("RayCluster", old)
        stay = {pod["metadata"]["name"] for pod in service.cluster.pods() if not is_terminating(pod)}
        return cluster is None or is_terminating(cluster) or not pods <= stay

    with service.under_load():
        service.change('rayVersion: "2.60.0"', 'rayVersion: ""')
        eventually(lambda: service.condition("UpgradeInProgress")[0] == "True", timeout=120)
        assert service.active == old
        before_switch, after_switch = moment_of(lambda: service.active != old, timeout=300)
        before_end, after_end = moment_of(leaves, timeout=120)
        stayed = after_end - before_switch
        assert stayed >= DELAY_S, f"the old cluster was left to stay for {stayed:.2f} s at the most"
        assert before_end - after_switch <= DELAY_S + 5
        eventually(lambda: old not in service.clusters(), timeout=180)
        service.wait_whole()
    assert service.clusters() == {service.active}
    assert service.condition("UpgradeInProgress") == ("False", "NoPendingCluster")


def test_initializing_timeout(rayward: CommandLine) -> None:
    """Its Pod lacks a ConfigMap, as KubeRay's lacks an image. No Ray is started here."""
    path = rayward.home / "never.yaml"
    path.write_text(NEVER_READY)
    rayward("up", "-f", str(path), "--name", NEVER, "--no-wait")
    service = Service(rayward, path, NEVER)
    eventually(lambda: service.condition("Ready") == ("False", "Initializing"))
    eventually(lambda: "CreateContainerConfigError" in rayward.out("get", "pods"), why=service.cluster.pods)
    eventually(lambda: service.condition("Ready") == ("False", "InitializingTimeout"), timeout=120)
    eventually(lambda: not service.clusters() and not service.cluster.pods())
    # What it lacked is not asked for any more. The Pod beside it tells that the operator has seen it.
    service.path.write_text(NEVER_READY.replace("envFrom: [{configMapRef: {name: nowhere}}]", "") + BESIDE)
    assert f"rayservices/{NEVER} configured" in service.apply()
    eventually(lambda: [pod["status"]["phase"] for pod in service.cluster.pods()] == ["Running"])
    assert service.condition("Ready") == ("False", "InitializingTimeout")
    assert not service.clusters()
    # Only one that is made anew begins again.
    service.path.write_text(NEVER_READY)
    rayward("delete", "rayservice", NEVER)
    service.apply()
    eventually(lambda: len(service.clusters()) == 1)
    rayward("down", NEVER)

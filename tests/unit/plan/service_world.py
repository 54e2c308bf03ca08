"""A RayService and what exists of it, to which plans are applied as a shell would: without any shell."""

from __future__ import annotations

import copy
from typing import Any

from rayward.plan import names
from rayward.plan.merge_patch import merge_patch
from rayward.plan.rayservice import reconcile_service
from rayward.plan.serve_status import read_answer
from rayward.plan.service_outcome import ServeSeen, ServiceObserved, ServicePlan, Submission
from rayward.plan.settings import Settings

Raw = dict[str, Any]
CONFIG = """\
applications:
  - name: fruit
    import_path: fruit:app
    deployments:
      - {name: Market, num_replicas: 2}
"""
OTHER_CONFIG = CONFIG.replace("num_replicas: 2", "num_replicas: 1")


def template(name: str) -> Raw:
    return {"spec": {"containers": [{"name": name, "image": "rayproject/ray:2.60.0"}]}}


def cluster_spec() -> Raw:
    return {
        "rayVersion": "2.60.0",
        "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": template("ray-head")},
        "workerGroupSpecs": [
            {"groupName": "a", "replicas": 2, "maxReplicas": 5, "template": template("ray-worker")}
        ],
    }


class World:
    """``now`` is seconds since the epoch; every new cluster's suffix is the next letter, five times."""

    def __init__(self, **spec: Any) -> None:
        self.now = 1_000_000.0
        self.service: Raw = {
            "apiVersion": "ray.io/v1",
            "kind": "RayService",
            "metadata": {"name": "shop", "namespace": "default", "uid": "uid-shop", "generation": 1},
            "spec": {"serveConfigV2": CONFIG, "rayClusterConfig": cluster_spec(), **spec},
        }
        self.objects: dict[tuple[str, str], Raw] = {}
        self.pods: dict[str, list[Raw]] = {}
        self.serve: dict[str, ServeSeen] = {}
        self.proxies: dict[str, bool] = {}
        self.events: list[tuple[str, str]] = []
        self.gone = False
        self._suffixes = iter("bcdfgh")
        self._suffix = next(self._suffixes) * 5

    # -- what exists -----------------------------------------------------------------------------------

    def kind(self, kind: str) -> dict[str, Raw]:
        return {name: found for (of, name), found in self.objects.items() if of == kind}

    @property
    def clusters(self) -> dict[str, Raw]:
        return self.kind("RayCluster")

    @property
    def status(self) -> Raw:
        found: Raw = self.service.get("status") or {}
        return found

    def side(self, field: str) -> str:
        return str((self.status.get(f"{field}ServiceStatus") or {}).get("rayClusterName") or "")

    def condition(self, kind: str) -> tuple[str, str]:
        found = [item for item in self.status["conditions"] if item["type"] == kind]
        return (found[0]["status"], found[0]["reason"]) if found else ("", "")

    def message(self, kind: str) -> str:
        return next(str(item["message"]) for item in self.status["conditions"] if item["type"] == kind)

    def reasons(self) -> list[str]:
        return [reason for reason, _ in self.events]

    # -- what happens ----------------------------------------------------------------------------------

    def look(self) -> ServicePlan:
        """A pass of which nothing is carried out."""
        observed = ServiceObserved(
            clusters=tuple(copy.deepcopy(list(self.clusters.values()))),
            services=tuple(copy.deepcopy(list(self.kind("Service").values()))),
            pods={name: tuple(copy.deepcopy(found)) for name, found in self.pods.items()},
            serve=dict(self.serve),
            proxies=dict(self.proxies),
        )
        return reconcile_service(
            copy.deepcopy(self.service), observed, Settings(), self.now, suffix=self._suffix
        )

    def step(self) -> ServicePlan:
        """A pass, carried out."""
        plan = self.look()
        for body in plan.create:
            self.objects[body["kind"], body["metadata"]["name"]] = {
                **body,
                "metadata": {**body["metadata"], "uid": f"uid-{body['metadata']['name']}"},
            }
            if body["kind"] == "RayCluster":
                self._suffix = next(self._suffixes) * 5
        for patch in plan.update:
            self._patch(patch)
        for step in plan.delete:
            del self.objects[step.kind, step.name]
            self.pods.pop(step.name, None)
        if plan.finalizers is not None:
            self.service["metadata"]["finalizers"] = list(plan.finalizers)
        self.service["status"] = plan.status
        self.gone = plan.remove_cluster
        self.events += [(event.reason, event.message) for event in plan.events]
        return plan

    def _patch(self, patch: Raw) -> None:
        name = patch["metadata"]["name"]
        if patch["kind"] != "Pod":
            self.objects[patch["kind"], name] = merge_patch(self.objects[patch["kind"], name], patch)
            return
        for found in self.pods.values():
            found[:] = [merge_patch(pod, patch) if pod["metadata"]["name"] == name else pod for pod in found]

    def settle(self) -> ServicePlan:
        """Passes until one changes nothing, as a shell that comes back after every change."""
        for _ in range(10):
            before = copy.deepcopy((self.objects, self.pods, self.service))
            plan = self.step()
            if (self.objects, self.pods, self.service) == before:
                return plan
        raise AssertionError(f"it does not settle: {self.events}")

    def submission(self, cluster: str) -> Submission:
        """What is to be asked of one cluster's dashboard."""
        return next(found for found in self.look().serve if found.cluster == cluster)

    def take(self, cluster: str) -> None:
        """Ray takes what it is sent."""
        self.serve[cluster] = ServeSeen(taken=self.submission(cluster).digest)

    def runs(self, cluster: str, *, status: str = "RUNNING", taken: str | None = None) -> None:
        """Ray says that the application is in that state, with replicas on both workers."""
        before = self.serve.get(cluster, ServeSeen())
        replicas = [{"node_ip": f"{cluster}-w{index}", "state": "RUNNING"} for index in (0, 1)]
        market = {"status": "HEALTHY", "message": "", "replicas": replicas}
        answer = {"fruit": {"status": status, "message": "", "deployments": {"Market": market}}}
        view = read_answer({"applications": answer, "proxies": {}})
        self.serve[cluster] = ServeSeen(view, before.taken if taken is None else taken, True)

    def bring_pods(self, cluster: str, *, ready: tuple[bool, bool] = (True, True), head: bool = True) -> None:
        """A head and two workers."""
        self.pods[cluster] = [
            pod(cluster, "h", names.HEAD, serve=False, ready=head),
            *(pod(cluster, f"w{index}", names.WORKER, ready=ready[index]) for index in (0, 1)),
        ]

    def up(self) -> str:
        """The service serves; the name of its cluster."""
        self.settle()
        name = self.side("pending")
        self.bring_pods(name)
        self.take(name)
        self.runs(name)
        self.settle()
        assert self.side("active") == name
        return name


def pod(cluster: str, name: str, role: str, *, serve: bool = True, ready: bool = True) -> Raw:
    labels = {names.CLUSTER: cluster, names.NODE_TYPE: role, names.SERVE: "true" if serve else "false"}
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    full = f"{cluster}-{name}"
    return {
        "kind": "Pod",
        "metadata": {"name": full, "namespace": "default", "uid": f"uid-{full}", "labels": labels},
        "spec": {"containers": [{"name": "ray"}]},
        "status": {"phase": "Running", "podIP": full, "conditions": [condition]},
    }

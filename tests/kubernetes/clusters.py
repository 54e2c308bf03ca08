"""RayClusters for tests of the operator: their manifests, a namespace for them, what becomes of them."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control_plane import ControlPlane, until
from kubelet_fixture import NodeProcess, hollow_nodes
from operator_process import OperatorProcess, operator_process

from rayward.kube.kinds import (
    CONFIGMAPS,
    EVENTS,
    INGRESSES,
    JOBS,
    PODS,
    PVCS,
    RAYCLUSTERS,
    ROLE_BINDINGS,
    ROLES,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVICES,
    Kind,
)
from rayward.plan import names

Raw = dict[str, Any]
IMAGE = "rayproject/ray:2.60.0"
# Other nodes may be there that run Pods for real; these clusters are for the hollow ones only.
HOLLOW = {"rayward.test/hollow": "yes"}
QUOTAS = Kind("", "v1", "resourcequotas", "ResourceQuota")
FINALIZER = names.CLEANUP_FINALIZER
HOLD = "rayward.test/hold"
BOUND_S = 60.0
REDIS = {"redisAddress": "redis.example:6379"}
OF_A_CLUSTER = (
    RAYCLUSTERS, PODS, SERVICES, CONFIGMAPS, SECRETS, PVCS, SERVICE_ACCOUNTS, ROLES, ROLE_BINDINGS, JOBS,
    INGRESSES, EVENTS,
)  # fmt: skip
"""The kinds of everything that the operator makes or changes."""


def template(**container: Any) -> Raw:
    """A Pod template for the hollow nodes; ``container`` goes into its Ray container."""
    ray = {"name": "ray", "image": IMAGE, "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}, **container}
    return {"spec": {"nodeSelector": dict(HOLLOW), "containers": [ray]}}


def group(name: str = "small", replicas: int | None = 1, **more: Any) -> Raw:
    """A worker group."""
    return {
        "groupName": name,
        "replicas": replicas,
        "minReplicas": 0,
        "maxReplicas": 10,
        "rayStartParams": {},
        "template": template(),
        **more,
    }


def cluster(
    name: str = "one",
    *groups: Raw,
    annotations: dict[str, str] | None = None,
    labels: dict[str, str] | None = None,
    head: Raw | None = None,
    **spec: Any,
) -> Raw:
    """A RayCluster with one worker group of one, or with ``groups``; ``head`` adds to its head group."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": name, "annotations": annotations or {}, "labels": labels or {}},
        "spec": {
            "rayVersion": "2.60.0",
            "headGroupSpec": {"rayStartParams": {}, "template": template(), **(head or {})},
            "workerGroupSpecs": list(groups) or [group()],
            **spec,
        },
    }


def uid(found: Raw) -> str:
    """The uid of an object."""
    return str(found["metadata"]["uid"])


def name_of(found: Raw) -> str:
    """The name of an object."""
    return str(found["metadata"]["name"])


def env(pod: Raw) -> dict[str, Any]:
    """The variables of a Pod's Ray container; those from elsewhere have None."""
    return {item["name"]: item.get("value") for item in pod["spec"]["containers"][0].get("env") or ()}


def is_going(found: Raw) -> bool:
    """Whether its deletion was asked for."""
    return bool(found["metadata"].get("deletionTimestamp"))


@dataclass(frozen=True)
class Stage:
    """A namespace on the API server, as the administrator and the users of clusters see it."""

    plane: ControlPlane
    namespace: str

    # -- objects ---------------------------------------------------------------------------------------

    def get(self, kind: Kind, name: str) -> Raw | None:
        """One object, None when there is none."""
        code, answer = self.plane.request("GET", kind.path(self.namespace, name))
        assert code in (200, 404), answer
        return answer if code == 200 else None

    def there(self, kind: Kind, name: str) -> Raw:
        """One object that has to be there."""
        found = self.get(kind, name)
        assert found is not None, f"no {kind.name} {name}"
        return found

    def list(self, kind: Kind, labels: str = "") -> list[Raw]:
        """All objects of a kind, or those with ``labels``."""
        code, answer = self.plane.request("GET", f"{kind.path(self.namespace)}?labelSelector={labels}")
        assert code == 200, answer
        return list(answer["items"])

    def named(self, kind: Kind) -> set[str]:
        """The names of all objects of a kind."""
        return {name_of(found) for found in self.list(kind)}

    def create(self, kind: Kind, body: Raw) -> Raw:
        """Make an object; as it is then."""
        manifest = {"apiVersion": kind.api_version, "kind": kind.name, **copy.deepcopy(body)}
        code, answer = self.plane.request("POST", kind.path(self.namespace), manifest)
        assert code == 201, answer
        return answer

    def patch(self, kind: Kind, name: str, body: object, subresource: str = "") -> Raw:
        """Change an object: by a merge, or by a list of steps."""
        content = "json-patch" if isinstance(body, list) else "merge-patch"
        path = kind.path(self.namespace, name, subresource)
        code, answer = self.plane.request("PATCH", path, body, content_type=f"application/{content}+json")
        assert code == 200, answer
        return answer

    def delete(self, kind: Kind, name: str) -> None:
        """Ask for an object's deletion."""
        code, answer = self.plane.request("DELETE", kind.path(self.namespace, name))
        assert code in (200, 202), answer

    def version(self, kind: Kind) -> str:
        """The version of all objects of a kind, for ``history``."""
        _, answer = self.plane.request("GET", kind.path(self.namespace))
        return str(answer["metadata"]["resourceVersion"])

    def history(self, kind: Kind, version: str) -> list[tuple[str, Raw]]:
        """What happened to a kind's objects after a version: (ADDED, MODIFIED or DELETED, object)."""
        query = f"?watch=1&resourceVersion={version}&timeoutSeconds=1"
        code, answer = self.plane.request("GET", f"{kind.path(self.namespace)}{query}")
        assert code == 200, answer
        lines = answer["text"].splitlines() if "text" in answer else [json.dumps(answer)]
        events = [json.loads(line) for line in lines]
        assert all(event["type"] != "ERROR" for event in events), events
        return [(event["type"], event["object"]) for event in events]

    def hold(self, pod: Raw) -> None:
        """From now on a deleted Pod stays, as on a node that does not answer any more."""
        self.patch(PODS, name_of(pod), {"metadata": {"finalizers": [HOLD]}})

    def let_go(self, pod: Raw) -> None:
        """The end of ``hold``."""
        self.patch(PODS, name_of(pod), {"metadata": {"finalizers": None}})

    @contextlib.contextmanager
    def quota(self, hard: dict[str, str]) -> Iterator[None]:
        """No more of these in the namespace, for the length of a block."""
        self.create(QUOTAS, {"metadata": {"name": "few"}, "spec": {"hard": hard}})

        def counts() -> bool:
            return (self.there(QUOTAS, "few").get("status") or {}).get("hard") == hard

        until("the quota counts", counts, BOUND_S)
        try:
            yield
        finally:
            self.delete(QUOTAS, "few")

    # -- clusters --------------------------------------------------------------------------------------

    def apply(self, manifest: Raw) -> Raw:
        """Make a cluster; as it is then."""
        return self.create(RAYCLUSTERS, manifest)

    def cluster(self, name: str = "one") -> Raw:
        """A cluster, which has to be there."""
        return self.there(RAYCLUSTERS, name)

    def change(self, body: object, name: str = "one") -> Raw:
        """Change a cluster's spec: by a merge of it, or by a list of steps below it."""
        if isinstance(body, list):
            return self.patch(RAYCLUSTERS, name, [{**step, "path": f"/spec/{step['path']}"} for step in body])
        return self.patch(RAYCLUSTERS, name, {"spec": body})

    def scale(self, replicas: int, name: str = "one", index: int = 0) -> None:
        """Another size for a worker group."""
        path = f"workerGroupSpecs/{index}/replicas"
        self.change([{"op": "replace", "path": path, "value": replicas}], name)

    def status(self, name: str = "one") -> Raw:
        """A cluster's status, empty while there is none."""
        return self.cluster(name).get("status") or {}

    def condition(self, kind: str, name: str = "one") -> tuple[str, str]:
        """Status and reason of one of its conditions; empty while it has none of that type."""
        for found in self.status(name).get("conditions") or ():
            if found["type"] == kind:
                return found["status"], found["reason"]
        return "", ""

    def message(self, kind: str, name: str = "one") -> str:
        """What one of its conditions says."""
        found = self.status(name).get("conditions") or ()
        return next((str(item.get("message")) for item in found if item["type"] == kind), "")

    def pods(self, name: str = "one", node_type: str = "", *, going: bool = False) -> list[Raw]:
        """Its Pods, oldest first, without those on their way out unless they are asked for."""
        labels = f"{names.CLUSTER}={name}" + (f",{names.NODE_TYPE}={node_type}" if node_type else "")
        found = [pod for pod in self.list(PODS, labels) if going or not is_going(pod)]
        if not node_type:
            found = [pod for pod in found if names.node_type(pod) != names.REDIS_CLEANUP]
        return sorted(found, key=lambda pod: (pod["metadata"]["creationTimestamp"], name_of(pod)))

    def heads(self, name: str = "one") -> list[Raw]:
        """Its living heads."""
        return self.pods(name, names.HEAD)

    def head(self, name: str = "one") -> Raw:
        """Its head, of which there must be exactly one."""
        (found,) = self.heads(name)
        return found

    def workers(self, name: str = "one") -> list[Raw]:
        """Its living workers."""
        return self.pods(name, names.WORKER)

    def events(self, reason: str = "", about: str = "") -> list[str]:
        """What Events of a reason say, of one object or of all."""
        return [
            found["message"]
            for found in self.list(EVENTS)
            if reason in ("", found["reason"]) and about in ("", found["involvedObject"]["name"])
        ]

    # -- waiting ---------------------------------------------------------------------------------------

    def until_state(self, state: str = "ready", name: str = "one", bound_s: float = BOUND_S) -> Raw:
        """The cluster once it says ``state`` of its newest spec."""

        def says() -> Raw | None:
            found = self.cluster(name)
            status = found.get("status") or {}
            newest = status.get("observedGeneration") == found["metadata"]["generation"]
            return found if newest and status.get("state", "") == state else None

        try:
            return until(f"{name} is {state or 'in no state'}", says, bound_s)
        except AssertionError as problem:
            raise AssertionError(f"{problem}\n{self.story(name)}") from None

    def until_pods(self, wanted: int, name: str = "one", bound_s: float = BOUND_S) -> list[Raw]:
        """Its living Pods, once there are so many and none is on its way out."""
        try:
            until(
                f"{name} has {wanted} Pods",
                lambda: len(self.pods(name)) == wanted == len(self.pods(name, going=True)),
                bound_s,
            )
        except AssertionError as problem:
            raise AssertionError(f"{problem}\n{self.story(name)}") from None
        return self.pods(name)

    def until_event(self, reason: str, words: str = "", bound_s: float = BOUND_S) -> str:
        """The first Event of that reason that holds ``words``."""

        def told() -> str:
            return next((said for said in self.events(reason) if words in said), "")

        try:
            return until(f"an Event {reason}: {words}", told, bound_s)
        except AssertionError as problem:
            told_so_far = [f"{found['reason']}: {found['message']}" for found in self.list(EVENTS)]
            raise AssertionError(f"{problem}; there are {told_so_far}") from None

    def until_gone(self, name: str = "one", bound_s: float = BOUND_S) -> None:
        """Until there is no such cluster any more."""
        try:
            until(f"{name} is gone", lambda: self.get(RAYCLUSTERS, name) is None, bound_s)
        except AssertionError as problem:
            raise AssertionError(f"{problem}\n{self.story(name)}") from None

    def story(self, name: str) -> str:
        """All that a failed test wants to know of a cluster."""
        pods = {
            name_of(pod): (pod["status"].get("phase"), is_going(pod)) for pod in self.pods(name, going=True)
        }
        found = self.get(RAYCLUSTERS, name) or {}
        said = [f"{event['reason']}: {event['message']}" for event in self.list(EVENTS)]
        return json.dumps({"status": found.get("status"), "pods": pods, "events": said}, indent=1)[:6000]

    def versions(self) -> dict[str, str]:
        """The version of every object of the kinds that the operator makes."""
        return {
            f"{kind.name} {name_of(found)}": found["metadata"]["resourceVersion"]
            for kind in OF_A_CLUSTER
            for found in self.list(kind)
            if kind is not EVENTS or found["source"].get("component") == "rayward-operator"
        }


def metric(operator: OperatorProcess, name: str, /, **labels: str) -> float:
    """The sum of a metric's samples with these labels."""
    return _metric(operator.metrics(), name, **labels)


def _metric(text: str, name: str, /, **labels: str) -> float:
    total = 0.0
    for line in text.splitlines():
        match = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
        if match is None or match[1] != name:
            continue
        found = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or ""))
        if labels.items() <= found.items():
            total += float(match[3])
    return total


def writes(operator: OperatorProcess) -> float:
    """How many requests of the operator have changed something, or tried to, but for its Lease."""
    # Of one moment: the Lease is renewed between two looks.
    text, requests = operator.metrics(), "rest_client_requests_total"

    def sent(**labels: str) -> float:
        return sum(_metric(text, requests, method=verb, **labels) for verb in ("CREATE", "PATCH", "DELETE"))

    return sent() - sent(resource="leases")


@contextlib.contextmanager
def hollow(plane: ControlPlane, nodes: int = 3) -> Iterator[NodeProcess]:
    """Nodes on which the Pods of ``template`` are ready at once, and no others."""
    labels = [f"--label={key}={value}" for key, value in HOLLOW.items()]
    with hollow_nodes(plane, nodes=nodes, options=labels) as found:
        yield found


@contextlib.contextmanager
def operating(plane: ControlPlane, *options: str, **more: Any) -> Iterator[OperatorProcess]:
    """An operator with all rights; its log is shown when the block fails."""
    with tempfile.TemporaryDirectory(prefix="rayward-operator-") as folder:
        log = Path(folder) / "log"
        try:
            with operator_process(plane.kubeconfig, log, *options, **more) as found:
                yield found
        except BaseException:
            print(f"--- the operator's log\n{log.read_text()[-6000:]}")
            raise


def stays(what: str, condition: Callable[[], Any], seconds: float) -> None:
    """That ``condition`` is true for some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert condition(), f"not for {seconds:g} s: {what}"
        time.sleep(0.05)

"""deploy/ on a real API server with RBAC on, and the operator with exactly the rights that it gives."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from control_plane import ControlPlane, until
from helm_chart import needs_helm, render
from operator_process import ROOT, OperatorProcess, operator_process

from rayward.plan import names

SYSTEM, ACCOUNT = "rayward-system", "rayward"
DEPLOY = ROOT / "deploy"
BOUND_S = 60.0
Raw = dict[str, Any]


@pytest.fixture(scope="module")
def installed(crds: ControlPlane) -> Iterator[ControlPlane]:
    """``kubectl apply -k deploy/``."""
    apply(crds, DEPLOY)
    yield crds
    crds.kubectl("delete", "-k", str(DEPLOY / "operator"), "--ignore-not-found", "--wait=false")


def apply(plane: ControlPlane, folder: Path) -> list[str]:
    """What ``kubectl apply -k`` says, line by line. Before 1.23 kubectl refuses the CRD's rules (CEL), as
    docs/kubernetes.md says."""
    old = ("--validate=false",) if plane.version < (1, 23) else ()
    return plane.kubectl("apply", *old, "-k", str(folder)).stdout.splitlines()


@pytest.fixture(scope="module")
def operator(installed: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """The operator as the account that deploy/ makes, with its rights and no others."""
    installed.kubectl("--namespace", SYSTEM, "delete", "deployment", ACCOUNT, "--ignore-not-found")
    log = tmp_path_factory.mktemp("operator") / "log"
    account = installed.kubeconfig_as(SYSTEM, ACCOUNT)
    with operator_process(account, log, "--leader-election-namespace", SYSTEM) as found:
        yield found


def objects(plane: ControlPlane, namespace: str, what: str) -> dict[str, Raw]:
    said = plane.kubectl("--namespace", namespace, "get", what, "--output=json").stdout
    return {item["metadata"]["name"]: item for item in json.loads(said)["items"]}


def test_all_of_it_is_accepted_and_a_second_time_changes_nothing(installed: ControlPlane) -> None:
    said = apply(installed, DEPLOY)
    kinds = {line.partition("/")[0] for line in said}
    assert kinds >= {
        "namespace",
        "serviceaccount",
        "clusterrole.rbac.authorization.k8s.io",
        "clusterrolebinding.rbac.authorization.k8s.io",
        "role.rbac.authorization.k8s.io",
        "rolebinding.rbac.authorization.k8s.io",
        "deployment.apps",
        "service",
        "customresourcedefinition.apiextensions.k8s.io",
    }
    # An old server drops the CRD's rules each time.
    others = [line for line in said if "customresourcedefinition" not in line or installed.version >= (1, 25)]
    assert all(line.endswith("unchanged") for line in others), said
    without_crds = apply(installed, DEPLOY / "operator")
    assert without_crds == [line for line in said if "customresourcedefinition" not in line]


def test_the_pod_disruption_budget(installed: ControlPlane) -> None:
    if installed.version < (1, 21):
        pytest.skip("this API server is older than policy/v1")
    installed.kubectl("apply", "-f", str(DEPLOY / "operator" / "pod-disruption-budget.yaml"))


@needs_helm
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"singleNamespaceInstall": True, "replicas": 1, "podAnnotations": {"a": "b"}},
        {
            "priorityClassName": "system-cluster-critical",
            "tolerations": [{"key": "infra", "operator": "Exists", "effect": "NoSchedule"}],
            "nodeSelector": {"disk": "ssd"},
            "env": [{"name": "ENABLE_LOGIN_SHELL", "value": "true"}],
            "labels": {"team": "a"},
            "serviceAccount": {"name": "mine", "annotations": {"role": "r"}},
        },
    ],
)
def test_the_api_server_accepts_what_the_chart_renders(
    installed: ControlPlane, namespace: str, values: Raw
) -> None:
    known = {"policy/v1"} if installed.version < (1, 21) else set()
    rendered = [found for found in render(values, namespace) if found["apiVersion"] not in known]
    text = yaml.safe_dump_all(rendered)
    installed.kubectl("apply", "--dry-run=server", "--filename=-", input=text)


# --- what the rights are good for


def may(plane: ControlPlane, verb: str, resource: str, namespace: str) -> bool:
    account = f"--as=system:serviceaccount:{SYSTEM}:{ACCOUNT}"
    # What follows a slash would be an object's name.
    resource, _, part = resource.partition("/")
    words = [verb, resource, f"--subresource={part}", account, "--namespace", namespace]
    done: subprocess.CompletedProcess[str] = plane.kubectl("auth", "can-i", *words, check=False)
    return done.stdout.strip() == "yes"


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        *(("list", what) for what in ("secrets", "serviceaccounts", "roles.rbac.authorization.k8s.io")),
        *(("delete", what) for what in ("secrets", "persistentvolumeclaims", "namespaces", "configmaps")),
        *(("deletecollection", what) for what in ("rayclusters.ray.io", "services", "pods")),
        *(("update", what) for what in ("rayclusters.ray.io", "rayservices.ray.io", "pods", "nodes")),
        *(
            ("create", what)
            for what in ("rayservices.ray.io", "pods/exec", "clusterroles", "deployments.apps")
        ),
        ("delete", "rayservices.ray.io"),
        ("patch", "secrets"),
        ("escalate", "roles.rbac.authorization.k8s.io"),
        ("bind", "clusterroles.rbac.authorization.k8s.io"),
        ("patch", "roles.rbac.authorization.k8s.io"),
        ("impersonate", "users"),
        ("create", "leases.coordination.k8s.io"),
    ],
)
def test_what_it_may_not_do(installed: ControlPlane, namespace: str, verb: str, resource: str) -> None:
    assert not may(installed, verb, resource, namespace)


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        *((verb, "rayclusters.ray.io") for verb in ("create", "delete", "watch")),
        *((verb, "rayservices.ray.io") for verb in ("list", "patch")),
        *(("patch", f"{kind}.ray.io/status") for kind in ("rayclusters", "rayservices")),
        *(("update", f"{kind}.ray.io/finalizers") for kind in ("rayclusters", "rayservices")),
        *((verb, "services") for verb in ("create", "patch", "delete")),
        ("patch", "pods"),
    ],
)
def test_what_a_ray_service_needs(installed: ControlPlane, namespace: str, verb: str, resource: str) -> None:
    assert may(installed, verb, resource, namespace)


def test_the_lease_only_at_home(installed: ControlPlane) -> None:
    assert may(installed, "patch", "leases.coordination.k8s.io", SYSTEM)


def everything() -> str:
    """A cluster that asks for all kinds of objects at once, and one whose keys are in Redis."""
    worker = {"spec": {"containers": [{"name": "ray", "image": "rayproject/ray:2.60.0"}]}}
    group = {"groupName": "small", "replicas": 2, "minReplicas": 0, "maxReplicas": 4, "template": worker}
    head = {"template": worker, "rayStartParams": {"num-cpus": "0"}}
    asks = {
        "rayVersion": "2.60.0",
        "enableInTreeAutoscaling": True,
        "authOptions": {"mode": "token"},
        "gcsFaultToleranceOptions": {"backend": "rocksdb"},
        "headGroupSpec": {**head, "enableIngress": True},
        "workerGroupSpecs": [group],
    }
    redis = {
        "rayVersion": "2.60.0",
        "gcsFaultToleranceOptions": {"redisAddress": "redis:6379"},
        "headGroupSpec": head,
        "workerGroupSpecs": [group],
    }
    clusters = [
        {"metadata": {"name": "asks"}, "spec": asks},
        {"metadata": {"name": "redis", "annotations": {names.DELETION_TIMEOUT: "5"}}, "spec": redis},
    ]
    return yaml.safe_dump_all(
        {"apiVersion": "ray.io/v1", "kind": "RayCluster", **cluster} for cluster in clusters
    )


def test_the_operator_works_with_exactly_these_rights(
    operator: OperatorProcess, installed: ControlPlane, namespace: str
) -> None:
    installed.kubectl("--namespace", namespace, "apply", "--filename=-", input=everything())

    def made() -> bool:
        return {
            what: len(objects(installed, namespace, what))
            for what in ("pods", "persistentvolumeclaims", "ingresses", "roles", "rolebindings")
        } == {
            "pods": 6,
            "persistentvolumeclaims": 1,
            "ingresses": 1,
            "roles": 1,
            "rolebindings": 1,
        } and {"asks", "redis"} == {
            name
            for name, found in objects(installed, namespace, "rayclusters").items()
            if found.get("status")
        }

    until("every object exists and both clusters have a status", made, BOUND_S)
    assert "asks" in objects(installed, namespace, "serviceaccounts")
    assert "asks" in objects(installed, namespace, "secrets")
    assert {"asks-head-svc", "redis-head-svc"} <= objects(installed, namespace, "services").keys()
    assert any(name.startswith("rayward-agent") for name in objects(installed, namespace, "configmaps"))
    until("an Event is written", lambda: bool(objects(installed, namespace, "events")), BOUND_S)
    scaled = [{"op": "replace", "path": "/spec/workerGroupSpecs/0/replicas", "value": 1}]
    installed.kubectl(
        "--namespace",
        namespace,
        "patch",
        "raycluster",
        "redis",
        "--type=json",
        f"--patch={json.dumps(scaled)}",
    )
    until("a worker is deleted", lambda: len(objects(installed, namespace, "pods")) == 5, BOUND_S)
    installed.kubectl("--namespace", namespace, "delete", "raycluster", "redis", "--wait=false")
    until(
        "a clean-up Job is made",
        lambda: "redis-redis-cleanup" in objects(installed, namespace, "jobs"),
        BOUND_S,
    )
    until(
        "the cluster goes though its Job cannot run",
        lambda: "redis" not in objects(installed, namespace, "rayclusters"),
        BOUND_S,
    )
    refused = [entry for entry in operator.entries() if "orbidden" in json.dumps(entry)]
    assert not refused


def test_a_ray_service_asks_for_no_other_rights(
    operator: OperatorProcess, installed: ControlPlane, namespace: str
) -> None:
    """Its cluster is made, its status written, and all of it goes again: suspended, and then deleted."""
    # With a store the cluster holds a finalizer, whose clean-up is tested with clusters.
    cluster = list(yaml.safe_load_all(everything()))[1]["spec"]
    del cluster["gcsFaultToleranceOptions"]
    config = "applications: [{name: a, import_path: m.a}]"
    service = {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": "shop"},
        "spec": {"rayClusterConfig": cluster, "serveConfigV2": config},
    }
    installed.kubectl("--namespace", namespace, "apply", "--filename=-", input=yaml.safe_dump(service))
    until(
        "its cluster is made, with Pods",
        lambda: len(objects(installed, namespace, "pods")) == 3,
        BOUND_S,
    )

    def conditions() -> dict[str, str]:
        status = objects(installed, namespace, "rayservices")["shop"].get("status") or {}
        return {found["type"]: found["status"] for found in status.get("conditions", ())}

    until("its status is written", lambda: "Ready" in conditions(), BOUND_S)
    suspend = '--patch={"spec":{"suspend":true}}'
    installed.kubectl("--namespace", namespace, "patch", "rsvc", "shop", "--type=merge", suspend)
    until("it is suspended", lambda: conditions().get("Suspended") == "True", BOUND_S)
    assert not objects(installed, namespace, "rayclusters")
    installed.kubectl("--namespace", namespace, "delete", "rsvc", "shop", "--wait=false")
    until("it is gone", lambda: not objects(installed, namespace, "rayservices"), BOUND_S)
    assert not [entry for entry in operator.entries() if "orbidden" in json.dumps(entry)]


def test_a_right_that_is_missing_is_named_and_stops_nothing_else(
    operator: OperatorProcess, installed: ControlPlane, namespace: str
) -> None:
    """Somebody has cut the role: no Services may be made. The head comes all the same."""
    whole = json.loads(installed.kubectl("get", "clusterrole", ACCOUNT, "--output=json").stdout)
    rules = [
        {**rule, "verbs": [verb for verb in rule["verbs"] if verb != "create"]}
        if "services" in rule["resources"]
        else rule
        for rule in whole["rules"]
    ]
    cut = json.dumps([{"op": "replace", "path": "/rules", "value": rules}])
    installed.kubectl("patch", "clusterrole", ACCOUNT, "--type=json", f"--patch={cut}")
    try:
        until("it counts", lambda: not may(installed, "create", "services", namespace), BOUND_S)
        one = yaml.safe_dump(list(yaml.safe_load_all(everything()))[1])
        installed.kubectl("--namespace", namespace, "apply", "--filename=-", input=one)
        until("its Pods are there", lambda: len(objects(installed, namespace, "pods")) == 3, BOUND_S)

        def told() -> bool:
            found = objects(installed, namespace, "events").values()
            return any(item["reason"] == "FailedToCreateService" for item in found)

        until("an Event names what failed", told, BOUND_S)
    finally:
        apply(installed, DEPLOY / "operator")
        installed.kubectl("--namespace", SYSTEM, "delete", "deployment", ACCOUNT, "--ignore-not-found")
    until(
        "the Service comes when the right is back",
        lambda: "redis-head-svc" in objects(installed, namespace, "services"),
        BOUND_S,
    )
    assert operator.get("/readyz")[0] == 200

"""The operator as a process: killed, doubled, without its rights or its kinds, with the API server away."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import control_plane as planes
import pytest
from binaries import Binaries
from clusters import (
    FINALIZER,
    OF_A_CLUSTER,
    REDIS,
    Raw,
    Stage,
    cluster,
    group,
    metric,
    name_of,
    operating,
    stays,
    uid,
    writes,
)
from control_plane import ControlPlane, until
from kubelet_fixture import NodeProcess
from operator_process import ROOT, operator_process

from rayward.kube.kinds import (
    JOBS,
    LEASES,
    PODS,
    PVCS,
    RAYCLUSTERS,
    SERVICE_ACCOUNTS,
    Kind,
)

CLUSTER_ROLES = Kind("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False)
CLUSTER_ROLE_BINDINGS = Kind(
    "rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False
)
LEASE = LEASES.path("default", "rayward-operator")


@pytest.fixture
def bare(crds: ControlPlane, hollow_node: NodeProcess, namespace: str) -> Stage:
    """A namespace in which each test has operators of its own."""
    return Stage(crds, namespace)


def holder(plane: ControlPlane) -> str:
    """Who holds the Lease; empty: nobody."""
    code, lease = plane.request("GET", LEASE)
    return str(lease["spec"].get("holderIdentity") or "") if code == 200 else ""


def comings_and_goings(stage: Stage, version: str) -> list[tuple[str, str]]:
    """Every Pod that was made or has gone since a version: (ADDED or DELETED, name)."""
    found = stage.history(PODS, version)
    return [(what, name_of(pod)) for what, pod in found if what in ("ADDED", "DELETED")]


# --- killed


def test_killed_at_any_moment_it_makes_nothing_twice(bare: Stage) -> None:
    """Six times while five clusters come up, slowly enough that it is in the middle of something."""
    moments = random.Random(20260101)
    version = bare.version(PODS)
    names = [f"c{index}" for index in range(5)]
    for name in names:
        bare.apply(cluster(name, group(replicas=2), gcsFaultToleranceOptions=REDIS))
    slowly = ("--qps", "25", "--burst", "10")
    same = {"POD_NAME": "operator-0"}  # as of a Pod whose container restarts: the Lease is its own
    cut_short = 0
    for _ in range(6):
        with operating(bare.plane, *slowly, environment=same) as operator:
            until(
                "it works again", lambda operator=operator: writes(operator) > 0 or operator.said("leading;")
            )
            pause = moments.uniform(0.0, 0.5)
            stays("it lives", lambda operator=operator: operator.process.poll() is None, pause)
            cut_short += len(bare.list(PODS)) < 15
            operator.kill()
    assert cut_short >= 3, "it was killed when all was done"
    with operating(bare.plane, environment=same):
        for name in names:
            bare.until_state(name=name)
    for name in names:
        assert (len(bare.heads(name)), len(bare.workers(name))) == (1, 2)
    # All that were ever made are those that are there.
    assert sorted(comings_and_goings(bare, version)) == sorted(
        ("ADDED", name_of(pod)) for pod in bare.list(PODS)
    )


def test_killed_in_the_middle_of_a_deletion(bare: Stage) -> None:
    same = {"POD_NAME": "operator-0"}
    names = [f"c{index}" for index in range(3)]
    with operating(bare.plane, environment=same):
        for name in names:
            bare.apply(cluster(name, gcsFaultToleranceOptions=REDIS))
        for name in names:
            bare.until_state(name=name)
    for name in names:
        bare.delete(RAYCLUSTERS, name)
    for _ in range(3):
        with operating(bare.plane, "--qps", "20", "--burst", "5", environment=same) as operator:
            operator.kill()
    with operating(bare.plane, environment=same):
        for name in names:
            bare.until_gone(name)
            said = bare.events("RedisCleanupDone", name) + bare.events("ForceDeletedStuckCluster", name)
            assert all("Removed all keys" in words for words in said)


# --- two of them


def test_the_second_takes_over_at_once_when_the_first_ends(bare: Stage) -> None:
    with operating(bare.plane) as first, operating(bare.plane, wait=False) as second:
        until("the second has filled its caches", lambda: second.get("/readyz")[0] == 200)
        bare.apply(cluster("early"))
        bare.until_state(name="early")
        assert not second.said("leading;")
        assert writes(second) == 0
        assert metric(second, "leader_election_master_status") == 0
        assert metric(first, "leader_election_master_status") == 1
        leader = holder(bare.plane)
        assert first.stop() == 0
        # Less than the 15 s for which a Lease that was not let go has to stand still.
        until("the second leads", lambda: second.said("leading;"), 8)
        assert holder(bare.plane) not in ("", leader)
        bare.apply(cluster("late"))
        bare.until_state(name="late")
        assert len(bare.list(PODS)) == 4


def test_it_takes_over_from_one_that_is_gone_without_a_word(bare: Stage) -> None:
    with operating(bare.plane) as first, operating(bare.plane, wait=False) as second:
        until("the second has filled its caches", lambda: second.get("/readyz")[0] == 200)
        first.kill()
        bare.apply(cluster())
        stays("it waits for the Lease to stand still", lambda: not second.said("leading;"), 3.0)
        until("the second leads", lambda: second.said("leading;"), 40)
        bare.until_state()
        assert len(bare.pods()) == 2


def test_it_ends_in_order(bare: Stage) -> None:
    with operating(bare.plane) as operator:
        bare.apply(cluster())
        bare.until_state()
        assert holder(bare.plane)
        assert operator.stop() == 0
    assert holder(bare.plane) == ""


# --- without its rights or kinds


def test_no_right_to_see_one_kind(bare: Stage, tmp_path: Path) -> None:
    """Claims, which hardly any cluster has: the others work, and everybody who looks is told."""
    every = ["get", "list", "watch", "create", "patch", "delete", "update"]
    kinds = [kind for kind in OF_A_CLUSTER if kind is not PVCS]
    rules = [
        {"apiGroups": [kind.group], "resources": [kind.plural, f"{kind.plural}/status"], "verbs": every}
        for kind in (*kinds, LEASES)
    ]
    rules += [
        {"apiGroups": ["ray.io"], "resources": ["rayclusters/finalizers"], "verbs": ["update"]},
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "watch"]},
    ]
    name = f"no-claims-{bare.namespace}"
    bare.create(SERVICE_ACCOUNTS, {"metadata": {"name": "poor"}})
    bare.create(CLUSTER_ROLES, {"metadata": {"name": name}, "rules": rules})
    subject = {"kind": "ServiceAccount", "name": "poor", "namespace": bare.namespace}
    role = {"apiGroup": CLUSTER_ROLES.group, "kind": "ClusterRole", "name": name}
    bare.create(CLUSTER_ROLE_BINDINGS, {"metadata": {"name": name}, "roleRef": role, "subjects": [subject]})
    kubeconfig = bare.plane.kubeconfig_as(bare.namespace, "poor")
    try:
        with operator_process(kubeconfig, tmp_path / "log", wait=False) as operator:
            until("it works all the same", lambda: operator.said("leading;"))
            code, said = operator.get("/readyz")
            assert code == 503
            assert "no permission to list or watch persistentvolumeclaims" in said
            assert operator.get("/healthz")[0] == 200
            assert operator.said("no permission to list or watch persistentvolumeclaims")
            bare.apply(cluster("fine", gcsFaultToleranceOptions=REDIS))
            bare.apply(cluster("files", gcsFaultToleranceOptions={"backend": "rocksdb"}))
            bare.until_state(name="fine")
            bare.until_event("FailedToCreatePVC", "forbidden")
            bare.until_pods(2, "files")
            bare.delete(RAYCLUSTERS, "fine")
            bare.until_gone("fine")
            rules.append({"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": every})
            bare.patch(CLUSTER_ROLES, name, {"rules": rules})
            until("all is well", lambda: operator.get("/readyz")[0] == 200)
            until("the claim is made", lambda: bare.get(PVCS, "files-gcs-pvc"))
    finally:
        for kind in (CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES):
            bare.delete(kind, name)


@pytest.fixture
def empty(binaries: Binaries) -> Iterator[ControlPlane]:
    """A control plane that knows no RayCluster yet."""
    with planes.running(binaries) as plane:
        yield plane


def test_its_kinds_come_later(empty: ControlPlane) -> None:
    with operating(empty, wait=False) as operator:
        until("it says what is missing", lambda: "CustomResourceDefinition" in operator.get("/readyz")[1])
        assert operator.get("/readyz")[0] == 503
        assert operator.get("/healthz")[0] == 200
        assert operator.said("does not know rayclusters.ray.io at the cluster scope")
        crds = sorted((ROOT / "deploy" / "crds").glob("*.yaml"))
        empty.kubectl("create", "--validate=false", *(f"--filename={file}" for file in crds))
        until("it works", lambda: operator.get("/readyz")[0] == 200 and operator.said("leading;"))
        stage = Stage(empty, "default")
        until("the kind is served", lambda: empty.request("GET", RAYCLUSTERS.path("default"))[0] == 200)
        stage.apply(cluster())
        stage.until_pods(2)
        stage.until_event("CreatedHeadPod")


def test_clean_up_switched_off(bare: Stage) -> None:
    """A finalizer that is there already goes: nothing of a cluster may be held for what nobody does."""
    manifest = cluster("before", gcsFaultToleranceOptions=REDIS)
    manifest["metadata"]["finalizers"] = [FINALIZER]
    bare.apply(manifest)
    manifest["metadata"]["name"] = "going"
    bare.apply(manifest)
    bare.delete(RAYCLUSTERS, "going")
    with operating(bare.plane, environment={"ENABLE_GCS_FT_REDIS_CLEANUP": "false"}):
        bare.until_gone("going")
        bare.until_event("RedisCleanupDisabled")
        bare.until_state(name="before")
        bare.apply(cluster("after", gcsFaultToleranceOptions=REDIS))
        bare.until_state(name="after")
        for name in ("before", "after"):
            assert bare.cluster(name)["metadata"].get("finalizers") is None
            bare.delete(RAYCLUSTERS, name)
            bare.until_gone(name)
        assert bare.list(JOBS) == []


def test_only_the_namespaces_that_it_is_given(bare: Stage, control_plane: ControlPlane) -> None:
    with operating(bare.plane, "--watch-namespace", bare.namespace):
        other = Stage(control_plane, "default")
        other.apply(cluster("not-ours"))
        try:
            bare.apply(cluster())
            bare.until_state()
            assert other.pods("not-ours") == []
            assert other.status("not-ours") == {}
        finally:
            other.delete(RAYCLUSTERS, "not-ours")


# --- the API server is away (last: the controllers come back slowly)


def test_the_api_server_goes_and_comes_back(bare: Stage) -> None:
    """In the middle of work; what was wanted is done afterwards, once."""
    names = [f"c{index}" for index in range(4)]
    slowly = ("--qps", "25", "--burst", "10")
    with operating(bare.plane, "--no-leader-election", *slowly) as operator:
        bare.apply(cluster("before"))
        bare.until_state(name="before")
        for name in names:
            bare.apply(cluster(name, group(replicas=2), gcsFaultToleranceOptions=REDIS))
        until("some Pods are made", lambda: len(bare.list(PODS)) >= 4)
        bare.plane.stop_api_server()
        try:
            until("it has noticed", lambda: operator.get("/readyz")[0] == 503)
            stays("it does not give up", lambda: operator.process.poll() is None, 1.0)
        finally:
            bare.plane.start_api_server()
        for name in names:
            bare.until_state(name=name, bound_s=90)
        made = [name_of(pod) for pod in bare.list(PODS)]
        assert len(made) == 2 + 3 * len(names)
        assert bare.events("DeletedWorkerPod") == bare.events("TooManyHeadPods") == []
        # Each watch comes back by itself, after a pause of its own.
        until("every watch is back", lambda: operator.get("/readyz")[0] == 200, 60)
        head: Raw = bare.head("before")
        bare.delete(PODS, name_of(head))
        until("it goes on", lambda: [uid(pod) for pod in bare.heads("before")] not in ([], [uid(head)]), 30)
        bare.until_state(name="before", bound_s=90)

"""From KubeRay to rayward and back: Pods, Services and finalizer that one left are taken over by the other.

KubeRay itself is not here; its objects are built as it leaves them, and what it looks for is asked of the
API server by the same labels and names.
"""

from __future__ import annotations

from typing import Any

import pytest
from clusters import (
    FINALIZER,
    REDIS,
    Raw,
    Stage,
    cluster,
    env,
    group,
    metric,
    name_of,
    operating,
    template,
    uid,
)
from control_plane import ControlPlane, until
from kubelet_fixture import NodeProcess

from rayward.kube.kinds import JOBS, PODS, RAYCLUSTERS, SERVICES
from rayward.plan import names

HEADS = "ray.io/cluster=one,ray.io/node-type=head"


def labels(node_type: str, group_name: str) -> dict[str, str]:
    """KubeRay's labels of a Pod."""
    found = {
        "app.kubernetes.io/created-by": "kuberay-operator",
        "app.kubernetes.io/name": "kuberay",
        "ray.io/cluster": "one",
        "ray.io/group": group_name,
        "ray.io/identifier": f"one-{node_type}",
        "ray.io/is-ray-node": "yes",
        "ray.io/node-type": node_type,
    }
    return found if node_type == "head" else {**found, "ray.io/worker-group-replica-index": "0"}


def owner(found: Raw) -> Raw:
    """KubeRay's owner reference."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "name": "one",
        "uid": uid(found),
        "controller": True,
        "blockOwnerDeletion": True,
    }


def kuberays_pod(found: Raw, name: str, node_type: str, group_name: str, annotations: dict[str, str]) -> Raw:
    """A Pod as KubeRay makes it: no agent, its own start line."""
    start = "ray start --head " if node_type == "head" else "ray start "
    container = template()["spec"]["containers"][0]
    container["command"] = ["/bin/bash", "-c", "--"]
    container["args"] = [f"ulimit -n 65536; {start} --block "]
    container["env"] = [
        {
            "name": "RAY_CLUSTER_NAME",
            "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['ray.io/cluster']"}},
        },
        {"name": "KUBERAY_GEN_RAY_START_CMD", "value": start},
        {"name": "RAY_PORT", "value": "6379"},
    ]
    if node_type == "head":
        container["env"].append({"name": "RAY_REDIS_ADDRESS", "value": REDIS["redisAddress"]})
        container["env"].append({"name": "RAY_external_storage_namespace", "value": uid(found)})
    return {
        "metadata": {
            "name": name,
            "labels": labels(node_type, group_name),
            "annotations": annotations,
            "ownerReferences": [owner(found)],
        },
        "spec": {**template()["spec"], "containers": [container], "restartPolicy": "Always"},
    }


def left_by_kuberay(stage: Stage, spec: Raw) -> None:
    """A cluster that KubeRay has run, all of it, and its last status."""
    manifest = cluster("one", group(), gcsFaultToleranceOptions=REDIS, **spec)
    manifest["metadata"]["finalizers"] = [FINALIZER]
    found = stage.apply(manifest)
    annotations = {
        "ray.io/ft-enabled": "true",
        "ray.io/external-storage-namespace": uid(found),
        "ray.io/kuberay-version": "v1.7.0",
        "ray.io/upgrade-strategy-recreate-hash": "0123456789abcdef0123456789abcdef",
    }
    stage.create(PODS, kuberays_pod(found, "one-head-k5x2q", "head", "headgroup", annotations))
    stage.create(PODS, kuberays_pod(found, "one-small-worker-9d4hv", "worker", "small", {}))
    selector = {key: value for key, value in labels("head", "headgroup").items() if "is-ray" not in key}
    del selector["ray.io/group"]
    ports = [{"name": "gcs-server", "port": 6379, "targetPort": 6379, "appProtocol": "tcp"}]
    stage.create(
        SERVICES,
        {
            "metadata": {"name": "one-head-svc", "labels": selector, "ownerReferences": [owner(found)]},
            "spec": {
                "clusterIP": "None",
                "selector": selector,
                "ports": ports,
                "publishNotReadyAddresses": True,
            },
        },
    )
    until("its Pods are ready", lambda: all(pod["status"].get("podIP") for pod in stage.pods()))
    moment = "2026-01-01T00:00:00Z"
    conditions = [
        {
            "type": "HeadPodReady", "status": "True", "reason": "HeadPodRunningAndReady", "message": "",
            "lastTransitionTime": moment,
        },
        {
            "type": "RayClusterProvisioned", "status": "True", "reason": "AllPodRunningAndReadyFirstTime",
            "message": "All Ray Pods are ready for the first time", "lastTransitionTime": moment,
        },
    ]  # fmt: skip
    status = {
        "state": "ready",
        "conditions": conditions,
        "head": {"podName": "one-head-k5x2q", "serviceName": "one-head-svc"},
        "observedGeneration": 1,
        "stateTransitionTimes": {"ready": moment},
    }
    stage.patch(RAYCLUSTERS, "one", {"status": status}, "status")


@pytest.fixture
def bare(crds: ControlPlane, hollow_node: NodeProcess, namespace: str) -> Stage:
    """A namespace without an operator."""
    return Stage(crds, namespace)


@pytest.mark.parametrize("spec", [{}, {"upgradeStrategy": {"type": "Recreate"}}], ids=["plain", "Recreate"])
def test_kuberays_pods_are_taken_over(bare: Stage, spec: dict[str, Any]) -> None:
    left_by_kuberay(bare, spec)
    before = {uid(pod) for pod in bare.pods()}
    service = bare.there(SERVICES, "one-head-svc")
    with operating(bare.plane) as operator:
        until("the agents' Service is made", lambda: bare.get(SERVICES, "one-head-agents"))
        bare.until_state()
        until("the heads have conditions", lambda: bare.condition("LeaderElected")[0])
        assert {uid(pod) for pod in bare.pods(going=True)} == before
        assert uid(bare.there(SERVICES, "one-head-svc")) == uid(service)
        assert bare.cluster()["metadata"]["finalizers"] == [FINALIZER]
        assert bare.status()["stateTransitionTimes"] == {"ready": "2026-01-01T00:00:00Z"}
        assert bare.events("FailoverCompleted") == []
        assert "one" not in operator.log.read_text() or not operator.said("failed")

        # A new worker beside the old head goes straight to it: nobody would tell a forwarder who leads.
        (worker,) = bare.workers()
        bare.delete(PODS, name_of(worker))
        until(
            "there is another worker", lambda: [uid(pod) for pod in bare.workers()] not in ([], [uid(worker)])
        )
        (new,) = bare.workers()
        assert env(new)["RAYWARD_FORWARD"] == "off"
        assert env(new)["RAY_ADDRESS"] == f"one-head-svc.{bare.namespace}.svc.cluster.local:6379"
        assert [name_of(pod) for pod in bare.heads()] == ["one-head-k5x2q"]

        # The next head is rayward's, once the old one can no longer write.
        bare.delete(PODS, "one-head-k5x2q")
        until(
            "there is another head",
            lambda: [name_of(pod) for pod in bare.heads()] not in ([], ["one-head-k5x2q"]),
        )
        bare.until_state()
        assert "RAYWARD_AGENT_PORT" in env(bare.head())
        bare.delete(RAYCLUSTERS, "one")
        bare.until_gone()
        bare.until_event("RedisCleanupDone")


def test_a_service_of_kuberays_without_the_clusters_label_gets_it(bare: Stage) -> None:
    """KubeRay labels the Service of a group of several hosts with something else; no cache would show it."""
    found = bare.apply(cluster("one", group("hosts", 1, numOfHosts=2)))
    service = {
        "metadata": {
            "name": "one-headless",
            "labels": {"ray.io/headless-worker-svc": "one"},
            "ownerReferences": [owner(found)],
        },
        "spec": {"clusterIP": "None", "selector": {"ray.io/cluster": "one", "ray.io/node-type": "worker"}},
    }
    bare.create(SERVICES, service)
    before = uid(bare.there(SERVICES, "one-headless"))
    both = "ray.io/cluster=one,ray.io/headless-worker-svc=one"
    with operating(bare.plane, "--watch-namespace", bare.namespace) as operator:
        bare.until_state()
        until("it has the label", lambda: bare.list(SERVICES, both))
        assert uid(bare.there(SERVICES, "one-headless")) == before
        until("the head's Service is told of", lambda: bare.events("CreatedService"))
        assert not [text for text in bare.events("CreatedService") if "headless" in text]
        assert bare.events("FailedCreateService") == []
        refused = metric(operator, "rest_client_requests_total", resource="services", code="409")
        assert refused == 1, "the cache shows it from then on"


def test_a_finalizer_of_kuberays_does_not_hold_a_deleted_cluster(bare: Stage) -> None:
    """KubeRay was gone when its cluster was deleted."""
    left_by_kuberay(bare, {})
    bare.delete(RAYCLUSTERS, "one")
    assert bare.cluster()["metadata"]["deletionTimestamp"]
    with operating(bare.plane):
        bare.until_gone()
        bare.until_event("RedisCleanupDone")


def test_what_kuberay_looks_for_is_there(bare: Stage) -> None:
    """The way back: each of its look-ups finds exactly the right objects, or it would stop."""
    with operating(bare.plane):
        bare.apply(cluster("one", group(), group("hosts", 1, numOfHosts=2), gcsFaultToleranceOptions=REDIS))
        bare.until_state()
    found = bare.cluster()
    assert found["metadata"]["finalizers"] == [FINALIZER]
    (head,) = bare.list(PODS, HEADS)
    assert len(bare.list(PODS, "ray.io/cluster=one,ray.io/node-type=worker,ray.io/group=small")) == 1
    assert len(bare.list(PODS, "ray.io/cluster=one,ray.io/node-type=worker,ray.io/group=hosts")) == 2
    assert len(bare.list(PODS, "app.kubernetes.io/created-by=kuberay-operator")) == 4
    for pod in bare.pods():
        assert pod["metadata"]["ownerReferences"] == [owner(found)]
        wanted = labels(names.node_type(pod), pod["metadata"]["labels"]["ray.io/group"])
        assert wanted.items() <= {**pod["metadata"]["labels"], names.REPLICA_INDEX: "0"}.items()
    # More than one Service with these labels is an error for it.
    (service,) = bare.list(SERVICES, f"{HEADS},ray.io/identifier=one-head")
    assert name_of(service) == "one-head-svc"
    assert service["spec"]["selector"].items() <= head["metadata"]["labels"].items()
    assert service["metadata"]["ownerReferences"] == [owner(found)]
    assert [name_of(item) for item in bare.list(SERVICES, "ray.io/headless-worker-svc=one")] == [
        "one-headless"
    ]
    annotations = head["metadata"]["annotations"]
    assert annotations["ray.io/ft-enabled"] == "true"
    assert annotations["ray.io/external-storage-namespace"] == uid(found)
    assert bare.list(JOBS) == []
    bare.patch(RAYCLUSTERS, "one", {"metadata": {"finalizers": None}})

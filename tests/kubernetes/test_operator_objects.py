"""What a cluster has beside its Pods: claims, accounts, tokens, Services, the agent's ConfigMap."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from clusters import (
    REDIS,
    Raw,
    Stage,
    cluster,
    env,
    metric,
    name_of,
    stays,
    template,
    uid,
)
from control_plane import until
from operator_process import OperatorProcess

from rayward.kube.kinds import (
    INGRESSES,
    PODS,
    PVCS,
    RAYCLUSTERS,
    ROLE_BINDINGS,
    ROLES,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVICES,
)
from rayward.plan import names

CLAIM = "one-gcs-pvc"


def files(name: str = "one", labels: dict[str, str] | None = None, **storage: Any) -> Raw:
    """A cluster whose GCS keeps files."""
    options: Raw = {"backend": "rocksdb"}
    if storage:
        options["storage"] = storage
    return cluster(name, labels=labels, gcsFaultToleranceOptions=options)


def claim(**spec: Any) -> Raw:
    """A claim that is there before its cluster."""
    requests = {"requests": {"storage": spec.pop("size", "1Gi")}}
    return {
        "metadata": {"name": CLAIM},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": requests, **spec},
    }


def looked_at(stage: Stage) -> None:
    """Until the operator has seen all of the newest spec."""
    until("there are Pods", lambda: len(stage.pods()) == 2)

    def says() -> bool:
        found = stage.cluster()
        observed = (found.get("status") or {}).get("observedGeneration")
        return bool(observed == found["metadata"]["generation"])

    until("the status is of this spec", says)


# --- the claim of an embedded store


def test_no_claim_where_redis_keeps_the_keys(stage: Stage) -> None:
    stage.apply(cluster(gcsFaultToleranceOptions=REDIS))
    stage.until_state()
    assert stage.list(PVCS) == []


@pytest.mark.parametrize(
    "labels", [{}, {"ray.io/originated-from-crd": "RayService"}], ids=["own", "a RayService's"]
)
def test_a_claim_that_goes_with_its_cluster(stage: Stage, labels: dict[str, str]) -> None:
    stage.apply(files(labels=labels))
    looked_at(stage)
    found = stage.there(PVCS, CLAIM)
    assert found["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert found["spec"]["resources"]["requests"]["storage"] == "1Gi"
    assert found["metadata"]["labels"][names.CLUSTER] == "one"
    (owner,) = found["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("RayCluster", uid(stage.cluster()))
    head = stage.head()
    assert env(head)["RAY_gcs_storage"] == "rocksdb"
    assert "RAY_REDIS_ADDRESS" not in env(head)
    volumes = {item["name"]: item for item in head["spec"]["volumes"]}
    assert volumes["gcs-storage"]["persistentVolumeClaim"] == {"claimName": CLAIM}
    assert head["metadata"]["creationTimestamp"] >= found["metadata"]["creationTimestamp"]
    stage.until_event("CreatedPVC", CLAIM)
    stage.delete(RAYCLUSTERS, "one")
    until("the claim goes too", lambda: stage.get(PVCS, CLAIM) is None, 60)


def test_size_and_modes_of_a_claim(stage: Stage) -> None:
    stage.apply(files(size="5Gi", accessModes=["ReadWriteMany"], storageClassName="fast"))
    looked_at(stage)
    spec = stage.there(PVCS, CLAIM)["spec"]
    assert spec["resources"]["requests"]["storage"] == "5Gi"
    assert (spec["accessModes"], spec["storageClassName"]) == (["ReadWriteMany"], "fast")


def test_a_claim_that_the_user_brings(stage: Stage) -> None:
    stage.apply(files(claimName="mine"))
    looked_at(stage)
    assert stage.list(PVCS) == []
    stage.until_event("FailedToCreatePVC", "There is no PersistentVolumeClaim mine")
    brought = claim()
    brought["metadata"]["name"] = "mine"
    stage.create(PVCS, brought)
    stage.delete(RAYCLUSTERS, "one")
    stage.until_gone()
    until("the Pods are gone", lambda: not stage.list(PODS), 60)
    assert stage.there(PVCS, "mine")["metadata"].get("ownerReferences") is None


def test_a_claim_that_is_there_already_is_used_as_it_is(stage: Stage) -> None:
    before = stage.create(PVCS, claim(storageClassName="slow"))
    stage.apply(files())
    looked_at(stage)
    assert uid(stage.there(PVCS, CLAIM)) == uid(before)
    assert stage.there(PVCS, CLAIM)["metadata"].get("ownerReferences") is None
    # The spec leaves the class open: no contradiction. Nor was anything made, or said to be.
    stays("nothing is said of it", lambda: not [said for said in stage.events() if CLAIM in said], 1.0)
    assert stage.condition("ReplicaFailure") == ("", "")


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ({"size": "2Gi"}, "size is 1Gi, the spec says 2Gi"),
        ({"storageClassName": "fast"}, "storageClassName is slow, the spec says fast"),
        ({"accessModes": ["ReadWriteMany"]}, "accessModes"),
    ],
)
def test_a_claim_that_differs_is_used_and_told(stage: Stage, storage: Raw, words: str) -> None:
    stage.create(PVCS, claim(storageClassName="slow"))
    stage.apply(files(**storage))
    looked_at(stage)
    stage.until_event("FailedToCreatePVC", words)


def test_a_claim_that_is_kept(stage: Stage) -> None:
    stage.apply(files(deletionPolicy="Retain"))
    looked_at(stage)
    assert stage.there(PVCS, CLAIM)["metadata"].get("ownerReferences") is None

    def owners() -> list[str]:
        return [owner["uid"] for owner in stage.there(PVCS, CLAIM)["metadata"].get("ownerReferences") or ()]

    storage = "gcsFaultToleranceOptions/storage/deletionPolicy"
    stage.change([{"op": "replace", "path": storage, "value": "DeleteWithCluster"}])
    until("it goes with the cluster from now on", lambda: owners() == [uid(stage.cluster())])
    stage.change([{"op": "replace", "path": storage, "value": "Retain"}])
    until("it is kept again", lambda: owners() == [])
    stage.delete(RAYCLUSTERS, "one")
    stage.until_gone()
    until("the Pods are gone", lambda: not stage.list(PODS), 60)
    assert stage.get(PVCS, CLAIM) is not None
    stage.patch(PVCS, CLAIM, {"metadata": {"finalizers": None}})


# --- accounts and tokens


def test_the_autoscaler_has_its_rights(stage: Stage) -> None:
    stage.apply(cluster(enableInTreeAutoscaling=True))
    stage.until_state()
    head = stage.head()
    assert head["spec"]["serviceAccountName"] == "one"
    assert [container["name"] for container in head["spec"]["containers"]] == ["ray", "autoscaler"]
    assert {"one"} == stage.named(ROLES) == stage.named(ROLE_BINDINGS)
    assert "one" in stage.named(SERVICE_ACCOUNTS)
    binding = stage.there(ROLE_BINDINGS, "one")
    assert binding["subjects"][0] == {"kind": "ServiceAccount", "name": "one", "namespace": stage.namespace}
    assert binding["roleRef"]["name"] == "one"
    account = f"system:serviceaccount:{stage.namespace}:one"

    def may(verb: str, what: str) -> bool:
        words = ("auth", "can-i", verb, what, f"--as={account}", "--namespace", stage.namespace)
        return stage.plane.kubectl(*words, check=False).stdout.strip() == "yes"

    assert may("patch", "rayclusters.ray.io")
    assert may("list", "pods")
    assert not may("delete", "pods")
    assert stage.events("FailedToCreateHeadPod") == [], "its account was there first"


def test_workers_are_the_autoscalers_to_remove(stage: Stage) -> None:
    stage.apply(cluster(enableInTreeAutoscaling=True))
    stage.until_state()
    (worker,) = stage.workers()
    stage.scale(0)
    looked = until("it is seen", lambda: stage.status().get("desiredWorkerReplicas") == 0)
    assert looked
    stays("the worker is kept", lambda: [uid(pod) for pod in stage.workers()] == [uid(worker)], 1.0)
    named = {"op": "add", "path": "workerGroupSpecs/0/scaleStrategy"}
    stage.change([{**named, "value": {"workersToDelete": [name_of(worker)]}}])
    stage.until_pods(1)
    stage.until_state()


def test_an_account_of_the_users_own(stage: Stage) -> None:
    own = template()
    own["spec"]["serviceAccountName"] = "mine"
    stage.apply(cluster(enableInTreeAutoscaling=True, head={"template": own}))
    stage.until_event("AutoscalerServiceAccountNotFound", "mine")
    stage.create(SERVICE_ACCOUNTS, {"metadata": {"name": "mine"}})
    stage.until_state(bound_s=90)  # by itself: the server refused the head for want of the account
    assert "one" not in stage.named(SERVICE_ACCOUNTS)
    assert stage.there(ROLE_BINDINGS, "one")["subjects"][0]["name"] == "mine"


def test_a_token_is_made_once(stage: Stage) -> None:
    stage.apply(cluster(authOptions={"mode": "token"}))
    stage.until_state()
    secret = stage.there(SECRETS, "one")
    token = base64.b64decode(secret["data"][names.TOKEN_KEY]).decode()
    assert len(token) >= 32
    for pod in stage.pods():
        (variable,) = [
            item for item in pod["spec"]["containers"][0]["env"] if item["name"] == "RAY_AUTH_TOKEN"
        ]
        assert variable["valueFrom"]["secretKeyRef"] == {"name": "one", "key": names.TOKEN_KEY}
    stage.scale(2)
    stage.until_pods(3)
    assert stage.there(SECRETS, "one")["metadata"]["resourceVersion"] == secret["metadata"]["resourceVersion"]
    stage.delete(RAYCLUSTERS, "one")
    until("it goes with the cluster", lambda: stage.get(SECRETS, "one") is None, 60)


def test_two_tokens_differ(stage: Stage) -> None:
    for name in ("one", "two"):
        stage.apply(cluster(name, authOptions={"mode": "token"}))
        stage.until_state(name=name)
    tokens = {stage.there(SECRETS, name)["data"][names.TOKEN_KEY] for name in ("one", "two")}
    assert len(tokens) == 2


# --- Services and Ingress


def test_services_that_are_asked_for(stage: Stage) -> None:
    ports = [{"containerPort": 6379, "name": "gcs-server"}, {"containerPort": 8000, "name": "serve"}]
    stage.apply(
        cluster(
            annotations={names.SERVE_SERVICE: "true", "kubernetes.io/ingress.class": "nginx"},
            gcsFaultToleranceOptions=REDIS,
            head={"serviceType": "NodePort", "template": template(ports=ports), "enableIngress": True},
        )
    )
    stage.until_state()
    assert stage.named(SERVICES) == {"one-head-svc", "one-head-agents", "one-serve-svc"}
    service = stage.there(SERVICES, "one-head-svc")
    assert service["spec"]["type"] == "NodePort"
    (port,) = [item for item in service["spec"]["ports"] if item["name"] == "gcs-server"]
    assert stage.status()["endpoints"]["gcs-server"] == str(port["nodePort"])
    assert stage.status()["head"]["serviceIP"] == service["spec"]["clusterIP"]
    assert stage.there(INGRESSES, "one-head-ingress")["spec"]["ingressClassName"] == "nginx"


def test_a_service_that_is_deleted_comes_back(stage: Stage) -> None:
    stage.apply(cluster())
    stage.until_state()
    before = stage.there(SERVICES, "one-head-svc")
    stage.delete(SERVICES, "one-head-svc")
    until("it is back", lambda: uid(stage.get(SERVICES, "one-head-svc") or before) != uid(before))
    stage.until_state()


def test_somebody_elses_service_of_that_name(stage: Stage) -> None:
    """It is left as it is, and the cluster says what is wrong until somebody acts."""
    ports = [{"port": 80}]
    theirs = stage.create(SERVICES, {"metadata": {"name": "one-head-svc"}, "spec": {"ports": ports}})
    stage.apply(cluster())
    stage.until_event("FailedToCreateService", "exists already and is not this cluster's")
    stage.until_pods(2)
    assert (
        stage.there(SERVICES, "one-head-svc")["metadata"]["resourceVersion"]
        == (theirs["metadata"]["resourceVersion"])
    )
    assert stage.status().get("state", "") != "ready"
    stage.delete(SERVICES, "one-head-svc")
    stage.until_state()


# --- what is not there yet


def test_a_password_that_comes_later(stage: Stage, operator: OperatorProcess) -> None:
    """The kubelet waits for the Secret; until then nothing is claimed, and nothing is made twice."""
    late = template(env=[{"name": "OTHER", "valueFrom": {"secretKeyRef": {"name": "late", "key": "x"}}}])
    late["spec"]["nodeSelector"] = {"rayward.test/no": "such"}
    password = {"valueFrom": {"secretKeyRef": {"name": "late", "key": "password"}}}
    stage.apply(
        cluster(gcsFaultToleranceOptions={**REDIS, "redisPassword": password}, head={"template": late})
    )
    stage.until_pods(2)
    looked_at(stage)
    assert stage.status().get("state", "") == ""
    assert stage.condition("HeadPodReady")[0] == "False"
    assert stage.condition("RayClusterProvisioned")[0] == "False"
    (head,) = stage.heads()
    waiting = {"name": "ray", "image": "", "imageID": "", "ready": False, "restartCount": 0}
    reason = {"reason": "CreateContainerConfigError", "message": 'secret "late" not found'}
    now = {"type": "Ready", "status": "False", "reason": "ContainersNotReady"}
    stage.patch(
        PODS,
        name_of(head),
        {"status": {"containerStatuses": [{**waiting, "state": {"waiting": reason}}], "conditions": [now]}},
        "status",
    )
    until(
        "the status says why",
        lambda: stage.condition("HeadPodReady") == ("False", "CreateContainerConfigError"),
    )
    assert 'secret "late" not found' in stage.message("HeadPodReady")
    stage.create(SECRETS, {"metadata": {"name": "late"}, "stringData": {"password": "p", "x": "y"}})
    ready = {"phase": "Running", "containerStatuses": [{**waiting, "ready": True, "state": {"running": {}}}]}
    conditions = [{"type": "Ready", "status": "True"}]
    stage.patch(PODS, name_of(head), {"status": {**ready, "conditions": conditions}}, "status")
    stage.until_state()
    assert [uid(pod) for pod in stage.heads()] == [uid(head)]
    assert metric(operator, "kuberay_cluster_info", namespace=stage.namespace) == 1
    assert "late" not in {word for entry in operator.entries() for word in entry["message"].split()}

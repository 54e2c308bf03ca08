"""What a cluster gets beside its Pods: the autoscaler's rights, a token, Services, an Ingress, a claim."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from rayward.plan.merge_patch import merge_patch
from rayward.plan.outcome import Plan

Raw = dict[str, Any]
NAME = "raycluster-external-redis"


def made(plan: Plan, kind: str) -> list[Raw]:
    return [found for found in plan.create if found["kind"] == kind]


def reasons(plan: Plan) -> list[str]:
    return [event.reason for event in plan.events]


def env(container: Raw) -> dict[str, Raw]:
    return {item["name"]: item for item in container["env"]}


def all_settled(standing: Any) -> None:
    """Whatever the last pass asked for is there: the next one has nothing to do."""
    standing.build()
    plan = standing.run()
    assert (plan.create, plan.update, plan.delete) == ((), (), ())


# -- autoscaler -----------------------------------------------------------------------------------------


def test_the_autoscaler_gets_an_account_and_exactly_its_rights(standing: Any) -> None:
    standing.raw["spec"]["enableInTreeAutoscaling"] = True
    plan = standing.run()
    (account,), (role,), (binding,) = (made(plan, kind) for kind in ("ServiceAccount", "Role", "RoleBinding"))
    assert {found["metadata"]["name"] for found in (account, role, binding)} == {NAME}
    assert all(
        found["metadata"]["ownerReferences"][0]["uid"] == "66a4e2af" for found in (account, role, binding)
    )
    rights = {
        (group, kind): set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for kind in rule["resources"]
    }
    assert rights == {
        ("", "pods"): {"get", "list", "watch", "patch"},
        ("", "pods/resize"): {"patch"},
        ("ray.io", "rayclusters"): {"get", "patch"},
    }
    assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": NAME}
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": NAME, "namespace": "default"}]
    assert {"CreatedServiceAccount", "CreatedRole", "CreatedRoleBinding"} <= set(reasons(plan))
    all_settled(standing)
    assert standing.pod("head-a")["spec"]["serviceAccountName"] == NAME


def test_long_names_are_cut_from_the_front_the_same_everywhere(standing: Any) -> None:
    standing.raw["spec"]["enableInTreeAutoscaling"] = True
    standing.raw["metadata"]["name"] = "ab-" + "c" * 50
    standing.build()
    found = {
        item["metadata"]["name"] for item in standing.objects if item["kind"].startswith(("Ro", "ServiceA"))
    }
    assert found == {"c" * 50}
    standing.raw["metadata"]["name"] = "abc-" + "d" * 49
    standing.build()
    assert {item["metadata"]["name"] for item in standing.objects if item["kind"] == "Role"} == {
        "r" + "d" * 49
    }
    assert standing.pods[0]["spec"]["serviceAccountName"] == "r" + "d" * 49


def test_an_account_of_ones_own_is_used_and_missed_once(standing: Any) -> None:
    standing.raw["spec"]["enableInTreeAutoscaling"] = True
    standing.raw["spec"]["headGroupSpec"]["template"]["spec"]["serviceAccountName"] = "mine"
    standing.raw["metadata"]["generation"] = 4
    plan = standing.settle()
    assert made(plan, "ServiceAccount") == []
    assert made(plan, "RoleBinding")[0]["subjects"][0]["name"] == "mine"
    (event,) = [event for event in plan.events if event.type == "Warning"]
    assert event.reason == "AutoscalerServiceAccountNotFound"
    assert "mine" in event.message
    assert "AutoscalerServiceAccountNotFound" not in reasons(standing.run())
    standing.raw["metadata"]["generation"] = 5
    account = {"kind": "ServiceAccount", "metadata": {"name": "mine"}}
    standing.objects.append(account)
    assert "AutoscalerServiceAccountNotFound" not in reasons(standing.run())


def test_an_account_that_cannot_be_made_keeps_nobody_from_being_ready(standing: Any) -> None:
    standing.raw["spec"]["enableInTreeAutoscaling"] = True
    standing.build()
    standing.objects = [found for found in standing.objects if found["kind"] == "Service"]
    plan = standing.run()
    assert len(plan.create) == 3
    assert plan.status["state"] == "ready"
    standing.objects = []
    assert standing.run().status["state"] == ""


# -- token ----------------------------------------------------------------------------------------------


def test_a_token_is_made_once_and_stands_in_no_pod(standing: Any) -> None:
    standing.raw["spec"].update(authOptions={"mode": "token"}, enableInTreeAutoscaling=True)
    plan = standing.run()
    (secret,) = made(plan, "Secret")
    assert secret["metadata"]["name"] == NAME
    assert base64.b64decode(secret["data"]["auth_token"]) == b"t0ken"
    assert "t0ken" not in str([event.message for event in plan.events])
    all_settled(standing)
    for pod in standing.pods:
        assert "t0ken" not in json.dumps(pod)
        for container in pod["spec"]["containers"]:
            reference = env(container)["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
            assert reference == {"name": NAME, "key": "auth_token"}
            assert env(container)["RAY_AUTH_MODE"]["value"] == "token"


def test_without_a_random_text_no_secret_is_made(standing: Any) -> None:
    standing.raw["spec"]["authOptions"] = {"mode": "token"}
    assert made(standing.run(), "Secret")
    assert made(standing.run(token=""), "Secret") == []


def test_a_secret_of_ones_own_is_used_and_missed_once(standing: Any) -> None:
    standing.raw["spec"]["authOptions"] = {"mode": "token", "secretName": "mine"}
    standing.raw["metadata"]["generation"] = 4
    plan = standing.settle()
    assert made(plan, "Secret") == []
    assert "AuthSecretNotFound" in reasons(plan)
    assert "AuthSecretNotFound" not in reasons(standing.run())
    standing.build()
    reference = env(standing.pods[0]["spec"]["containers"][0])["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
    assert reference["name"] == "mine"


def test_where_kubernetes_is_asked_there_is_no_secret_but_the_accounts_token(standing: Any) -> None:
    standing.raw["spec"]["authOptions"] = {"mode": "token", "enableK8sTokenAuth": True}
    standing.raw["metadata"]["annotations"]["rayward.dev/agent"] = "disabled"
    standing.raw["spec"]["enableInTreeAutoscaling"] = True
    assert made(standing.run(), "Secret") == []
    standing.build()
    mount = {"name": "ray-token", "mountPath": "/var/run/secrets/ray.io/serviceaccount", "readOnly": True}
    for pod in standing.pods:
        assert [volume["name"] for volume in pod["spec"]["volumes"]].count("ray-token") == 1
        for container in (*pod["spec"]["containers"], *pod["spec"].get("initContainers", ())):
            variables = env(container)
            assert variables["RAY_ENABLE_K8S_TOKEN_AUTH"]["value"] == "true"
            assert "RAY_AUTH_TOKEN" not in variables
            assert mount in container["volumeMounts"]


# -- Services -------------------------------------------------------------------------------------------


def test_hosts_of_one_replica_get_a_headless_service(standing: Any) -> None:
    assert not [found for found in standing.objects if found["metadata"]["name"].endswith("-headless")]
    standing.raw["spec"]["workerGroupSpecs"][0]["numOfHosts"] = 2
    standing.build()
    (service,) = [found for found in standing.objects if found["metadata"]["name"] == f"{NAME}-headless"]
    assert service["spec"] == {
        "type": "ClusterIP",
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": {"ray.io/cluster": NAME, "ray.io/node-type": "worker"},
    }
    assert service["metadata"]["labels"]["ray.io/headless-worker-svc"] == NAME
    all_settled(standing)


def test_the_annotation_asks_for_a_service_to_serve(standing: Any) -> None:
    standing.raw["metadata"]["annotations"]["ray.io/enable-serve-service"] = "true"
    standing.raw["spec"]["headGroupSpec"]["serviceType"] = "NodePort"
    (service,) = made(standing.run(), "Service")
    assert service["metadata"]["name"] == f"{NAME}-serve-svc"
    assert service["metadata"]["labels"]["ray.io/serve"] == f"{NAME}-serve"
    assert service["spec"]["selector"] == {"ray.io/cluster": NAME}
    assert service["spec"]["type"] == "NodePort"
    assert [(port["name"], port["port"]) for port in service["spec"]["ports"]] == [("serve", 8000)]
    all_settled(standing)


def test_without_a_port_for_serve_it_is_said_once(standing: Any) -> None:
    standing.raw["metadata"].update(annotations={"ray.io/enable-serve-service": "true"}, generation=4)
    container = standing.raw["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    container["ports"] = [
        {"name": "serve-grpc", "containerPort": 9000},
        {"name": "gcs", "containerPort": 6379},
    ]
    (service,) = made(standing.run(), "Service")
    assert [port["name"] for port in service["spec"]["ports"]] == ["serve-grpc"]
    container["ports"].pop(0)
    plan = standing.settle()
    assert made(plan, "Service") == []
    assert "FailedToCreateService" in reasons(plan)
    assert "FailedToCreateService" not in reasons(standing.run())


# -- Ingress --------------------------------------------------------------------------------------------


def test_an_ingress_leads_to_the_dashboard(standing: Any) -> None:
    head = standing.raw["spec"]["headGroupSpec"]
    head["enableIngress"] = True
    standing.raw["metadata"]["annotations"] = {"kubernetes.io/ingress.class": "nginx", "a": "b"}
    (ingress,) = made(standing.run(), "Ingress")
    assert ingress["apiVersion"] == "networking.k8s.io/v1"
    assert ingress["metadata"]["name"] == f"{NAME}-head-ingress"
    assert ingress["metadata"]["annotations"] == {"a": "b"}
    assert ingress["spec"]["ingressClassName"] == "nginx"
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    assert (path["path"], path["pathType"]) == (f"/{NAME}/(.*)", "Exact")
    assert path["backend"] == {"service": {"name": f"{NAME}-head-svc", "port": {"number": 8265}}}
    all_settled(standing)


def test_ingress_options(standing: Any) -> None:
    head = standing.raw["spec"]["headGroupSpec"]
    head.update(enableIngress=True, ingressOptions={})
    (ingress,) = made(standing.run(), "Ingress")
    (rule,) = ingress["spec"]["rules"]
    assert "host" not in rule
    assert "ingressClassName" not in ingress["spec"]
    assert (rule["http"]["paths"][0]["path"], rule["http"]["paths"][0]["pathType"]) == ("/", "Prefix")
    tls = [{"hosts": ["ray.example"], "secretName": "cert"}]
    head["ingressOptions"] = {"host": "ray.example", "path": "/ray", "pathType": "Exact", "tls": tls}
    (ingress,) = made(standing.run(), "Ingress")
    (rule,) = ingress["spec"]["rules"]
    assert (rule["host"], rule["http"]["paths"][0]["path"]) == ("ray.example", "/ray")
    assert ingress["spec"]["tls"] == tls


# -- claim ----------------------------------------------------------------------------------------------


@pytest.fixture
def rocks(standing: Any) -> Any:
    standing.raw["spec"]["gcsFaultToleranceOptions"] = {"backend": "rocksdb", "storage": {"size": "1Gi"}}
    standing.raw["metadata"]["finalizers"] = []
    return standing.build()


def claim(standing: Any) -> Raw:
    found: Raw = next(found for found in standing.objects if found["kind"] == "PersistentVolumeClaim")
    return found


def storage(standing: Any, **fields: Any) -> None:
    standing.raw["spec"]["gcsFaultToleranceOptions"]["storage"] = fields
    standing.raw["metadata"]["generation"] += 1


def apply(standing: Any, plan: Plan) -> None:
    (update,) = plan.update
    found = claim(standing)
    standing.objects = [merge_patch(item, update) if item is found else item for item in standing.objects]


def test_the_policy_of_a_living_claim_can_be_changed_both_ways(rocks: Any) -> None:
    other = {"kind": "Backup", "name": "b", "uid": "other"}
    ours = claim(rocks)["metadata"]["ownerReferences"][0]
    claim(rocks)["metadata"].update(uid="claim-uid", ownerReferences=[other, ours])
    assert rocks.run().update == ()
    storage(rocks, deletionPolicy="Retain")
    plan = rocks.run()
    (update,) = plan.update
    assert update["metadata"]["uid"] == "claim-uid"
    assert "spec" not in update
    assert reasons(plan) == ["UpdatedPVC"]
    apply(rocks, plan)
    assert claim(rocks)["metadata"]["ownerReferences"] == [other]
    assert claim(rocks)["spec"]["resources"]
    assert rocks.run().update == ()
    storage(rocks, deletionPolicy="DeleteWithCluster")
    apply(rocks, rocks.run())
    assert claim(rocks)["metadata"]["ownerReferences"] == [other, ours]
    assert rocks.run().update == ()


@pytest.mark.parametrize("why", ["somebody else made it", "somebody else controls it"])
def test_a_claim_of_others_is_used_and_never_owned(rocks: Any, why: str) -> None:
    claim(rocks)["metadata"].pop("ownerReferences")
    if why == "somebody else made it":
        claim(rocks)["metadata"]["labels"] = {}
    else:
        claim(rocks)["metadata"]["ownerReferences"] = [{"uid": "other", "controller": True}]
    plan = rocks.run()
    assert (plan.update, plan.create) == ((), ())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"size": "2Gi"}, "size is 1Gi, the spec says 2Gi"),
        ({"storageClassName": "fast"}, "storageClassName is None, the spec says fast"),
        ({"accessModes": ["ReadWriteMany"]}, "accessModes is ['ReadWriteOnce']"),
    ],
)
def test_a_claim_that_differs_is_used_as_it_is_and_said_so_once(rocks: Any, fields: Raw, words: str) -> None:
    storage(rocks, **fields)
    plan = rocks.settle()
    assert (plan.create, plan.update) == ((), ())
    (event,) = plan.events
    assert (event.type, event.reason) == ("Warning", "FailedToCreatePVC")
    assert words in event.message
    assert rocks.run().events == ()


@pytest.mark.parametrize("fields", [{"size": "1024Mi"}, {"size": 1073741824}, {}])
def test_the_same_amount_in_other_words_is_no_difference(rocks: Any, fields: Raw) -> None:
    claim(rocks)["spec"]["storageClassName"] = "the-default"
    storage(rocks, **fields)
    assert rocks.run().events == ()


def test_a_claim_of_ones_own_that_is_missing_is_said_once_and_holds_nobody_up(rocks: Any) -> None:
    storage(rocks, claimName="mine")
    rocks.pods = []
    plan = rocks.settle()
    assert [event.reason for event in plan.events if event.type == "Warning"] == ["FailedToCreatePVC"]
    assert len(made(plan, "Pod")) == 2
    assert made(plan, "PersistentVolumeClaim") == []
    assert all(event.type == "Normal" for event in rocks.run().events)
    rocks.objects.append({"kind": "PersistentVolumeClaim", "metadata": {"name": "mine"}})
    rocks.raw["metadata"]["generation"] += 1
    plan = rocks.run()
    assert all(event.type == "Normal" for event in plan.events)
    assert plan.update == ()

"""Specs that make no sense: a Warning that says why, no Pod, the status stays true, and nobody else notices.

The table of all rejections is the planner's; here are samples of each kind, through the real API server.
"""

from __future__ import annotations

from typing import Any

import pytest
from clusters import IMAGE, REDIS, Raw, Stage, cluster, group, name_of, template, uid
from control_plane import until

from rayward.kube.kinds import PODS, RAYCLUSTERS

FT = "spec.gcsFaultToleranceOptions"


def variables(*names: str) -> Raw:
    """A head whose Ray container has these variables."""
    return {"template": template(env=[{"name": name, "value": "x"} for name in names])}


REJECTED: list[tuple[str, Raw, str]] = [
    ("1", cluster(annotations={"ray.io/ft-enabled": "false"}, gcsFaultToleranceOptions=REDIS), "ft-enabled"),
    ("2", cluster(head=variables("RAY_REDIS_ADDRESS")), "fault tolerance is not switched on"),
    (
        "3",
        cluster(head={"rayStartParams": {"redis-password": "p"}}, gcsFaultToleranceOptions=REDIS),
        "redis-password",
    ),
    ("4", cluster(head=variables("REDIS_PASSWORD"), gcsFaultToleranceOptions=REDIS), "REDIS_PASSWORD"),
    (
        "6",
        cluster(annotations={"ray.io/external-storage-namespace": "n"}, gcsFaultToleranceOptions=REDIS),
        "external-storage-namespace",
    ),
    ("7", cluster(head=variables("REDIS_USERNAME")), "REDIS_USERNAME"),
    ("9", cluster(gcsFaultToleranceOptions={"backend": "rocksdb", **REDIS}), f"{FT}.redisAddress"),
    (
        "13",
        cluster(
            gcsFaultToleranceOptions={"backend": "rocksdb", "storage": {"claimName": "c", "size": "1Gi"}}
        ),
        "claimName",
    ),
    (
        "16",
        cluster(
            head={"template": {"spec": {**template()["spec"], "volumes": [{"name": "gcs-storage"}]}}},
            gcsFaultToleranceOptions={"backend": "rocksdb"},
        ),
        "gcs-storage",
    ),
    ("17", cluster(gcsFaultToleranceOptions={**REDIS, "storage": {"size": "1Gi"}}), f"{FT}.storage"),
    ("name", cluster("one-" + "x" * 50), "at most 53 characters"),
    ("minimum", cluster("one", group(minReplicas=5, maxReplicas=2)), "minReplicas"),
    ("twice", cluster("one", group("a"), group("a")), "groupName"),
    ("tls", cluster(tlsOptions={"enabled": True}), "spec.tlsOptions.enabled"),
    (
        "two heads",
        cluster(gcsFaultToleranceOptions={"backend": "rocksdb", "enableActivePassiveHead": True}),
        "enableActivePassiveHead",
    ),
]


@pytest.mark.parametrize(
    ("manifest", "words"), [case[1:] for case in REJECTED], ids=[case[0] for case in REJECTED]
)
def test_a_spec_that_makes_no_sense(stage: Stage, manifest: Raw, words: str) -> None:
    """A newer API server refuses some of them itself."""
    body = {"apiVersion": "ray.io/v1", "kind": "RayCluster", **manifest}
    code, answer = stage.plane.request("POST", RAYCLUSTERS.path(stage.namespace), body)
    if code == 422:
        assert stage.plane.version >= (1, 25), answer
        return
    assert code == 201, answer
    about = "Metadata" if "53" in words else "Spec"
    assert words in stage.until_event(f"InvalidRayCluster{about}")
    until("the status says it", lambda: words in str(stage.status(name_of(manifest)).get("reason")))
    assert stage.list(PODS) == []
    assert stage.status(name_of(manifest)).get("state") in (None, "")
    assert stage.cluster(name_of(manifest))["metadata"].get("finalizers") is None


def test_what_makes_sense_after_all(stage: Stage) -> None:
    """Options without anything in them, and Redis without an address: as KubeRay, on purpose."""
    for name, options in {"empty": {}, "nowhere": {"backend": "redis"}}.items():
        stage.apply(cluster(name, gcsFaultToleranceOptions=options))
        stage.until_state(name=name)
        variables_ = stage.head(name)["spec"]["containers"][0]["env"]
        (address,) = [item for item in variables_ if item["name"] == "RAY_REDIS_ADDRESS"]
        assert address.get("value", "") == ""


def test_a_running_cluster_keeps_running(stage: Stage) -> None:
    """Its Pods stay while its spec is wrong, others work on, and it comes right when the spec does."""
    stage.apply(cluster())
    stage.until_state()
    before = {uid(pod) for pod in stage.pods()}
    stage.change({"headGroupSpec": {"rayStartParams": {"redis-username": "nobody"}}})
    stage.until_event("InvalidRayClusterSpec", "redis-username")
    until("the status says it", lambda: "redis-username" in str(stage.status().get("reason")))
    stage.apply(cluster("other"))
    stage.until_state(name="other")
    assert {uid(pod) for pod in stage.pods()} == before
    stage.change({"headGroupSpec": {"rayStartParams": {"redis-username": None}}})
    stage.until_state()
    until("no reason any more", lambda: not stage.status().get("reason"))
    assert {uid(pod) for pod in stage.pods()} == before


def test_its_status_stays_true_while_it_is_wrong(stage: Stage) -> None:
    stage.apply(cluster())
    stage.until_state()
    stage.change({"headGroupSpec": {"rayStartParams": {"redis-username": "nobody"}}})
    stage.until_event("InvalidRayClusterSpec")
    stage.delete(PODS, name_of(stage.head()))
    until(
        "it says that there is no head",
        lambda: stage.condition("HeadPodReady") == ("False", "HeadPodNotFound"),
    )
    assert stage.status().get("state", "") == ""


def test_a_field_that_nobody_knows(stage: Stage) -> None:
    """An older definition has dropped it before anybody could see; one that keeps it hears of it."""
    manifest = cluster()
    manifest["spec"]["notThere"] = {"a": 1}
    manifest["spec"]["headGroupSpec"]["template"]["spec"]["notThereEither"] = [1]
    body = {"apiVersion": "ray.io/v1", "kind": "RayCluster", **manifest}
    code, answer = stage.plane.request("POST", RAYCLUSTERS.path(stage.namespace), body)
    assert code == 201, answer
    stage.until_state()
    if "notThere" in answer["spec"]:
        stage.until_event("UnsupportedField", "notThere")


def test_a_field_that_nobody_acts_on(stage: Stage) -> None:
    stage.apply(cluster(historyServerOptions={"collectorOptions": {"image": IMAGE}}))
    stage.until_state()
    assert "has no effect" in stage.until_event("UnsupportedField", "spec.historyServerOptions")
    stage.scale(2)
    stage.until_state()


def test_no_secret_is_told(stage: Stage, operator: Any) -> None:
    password = "5241590000000000"
    options = {
        "redisAddress": f"redis://:{password}@redis.example:6379",
        "redisPassword": {"value": password},
    }
    stage.apply(cluster(annotations={"ray.io/ft-enabled": "true"}, gcsFaultToleranceOptions=options))
    stage.until_event("InvalidRayClusterSpec")
    stage.apply(cluster("two", gcsFaultToleranceOptions=options))
    stage.until_state(name="two")
    stage.delete(RAYCLUSTERS, "two")
    stage.until_gone("two")
    assert [said for said in stage.events() if password in said] == []
    assert password not in operator.log.read_text()

"""Rejections, numbered as in KubeRay's list for GCS fault tolerance, and the other contradictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rayward.api.problems import ManifestError
from rayward.api.raycluster import parse_ray_cluster
from rayward.api.validation import validate

Raw = dict[str, Any]
Change = Callable[[Raw], object]


def env(*names: str) -> list[Raw]:
    return [{"name": name, "value": "x"} for name in names]


def head(raw: Raw) -> Raw:
    found: Raw = raw["spec"]["headGroupSpec"]
    return found


def container(raw: Raw) -> Raw:
    found: Raw = head(raw)["template"]["spec"]["containers"][0]
    return found


def worker(raw: Raw) -> Raw:
    found: Raw = raw["spec"]["workerGroupSpecs"][0]
    return found


def options(raw: Raw, **fields: Any) -> None:
    raw["spec"]["gcsFaultToleranceOptions"] = fields


def found(raw: Raw) -> list[str]:
    return [f"{problem.path}: {problem.message}" for problem in validate(parse_ray_cluster(raw))]


def annotate(raw: Raw, key: str, value: str) -> None:
    raw["metadata"]["annotations"][key] = value


def mount(raw: Raw, path: str, volume: str, name: str) -> None:
    head(raw)["template"]["spec"]["volumes"] = [{"name": volume, "emptyDir": {}}]
    container(raw)["volumeMounts"] = [{"name": name, "mountPath": path}]


def all_of(*changes: Change) -> Change:
    def apply(raw: Raw) -> None:
        for change in changes:
            change(raw)

    return apply


def rocks(**fields: Any) -> Change:
    return lambda raw: options(raw, backend="rocksdb", **fields)


EMPTY: Change = options
V2 = {"enableInTreeAutoscaling": True, "autoscalerOptions": {"version": "v2"}}
OPTIONS = "spec.gcsFaultToleranceOptions"
HEAD_ENV = "spec.headGroupSpec.template.spec.containers[0].env"
STANDBY = "rayward.dev/standby-heads"
ANNOTATED_STANDBY = f"metadata.annotations['{STANDBY}']"

REJECTED: list[tuple[str, Change, str]] = [
    (
        "1",
        all_of(EMPTY, lambda r: annotate(r, "ray.io/ft-enabled", "false")),
        "metadata.annotations['ray.io/ft-enab",
    ),
    ("2", lambda r: container(r).update(env=env("RAY_REDIS_ADDRESS")), HEAD_ENV),
    (
        "3",
        all_of(EMPTY, lambda r: head(r).update(rayStartParams={"redis-password": "x"})),
        "spec.headGroupSpec.ray",
    ),
    ("4", all_of(EMPTY, lambda r: container(r).update(env=env("REDIS_PASSWORD"))), HEAD_ENV),
    ("5", all_of(EMPTY, lambda r: container(r).update(env=env("RAY_REDIS_ADDRESS"))), HEAD_ENV),
    (
        "6",
        all_of(EMPTY, lambda r: annotate(r, "ray.io/external-storage-namespace", "n")),
        "metadata.annotations[",
    ),
    (
        "7a",
        lambda r: head(r).update(rayStartParams={"redis-username": "x"}),
        "spec.headGroupSpec.rayStartParams.redis-u",
    ),
    ("7b", lambda r: container(r).update(env=env("REDIS_USERNAME")), HEAD_ENV),
    ("9", rocks(redisAddress="redis:6379"), f"{OPTIONS}.redisAddress"),
    ("10", rocks(redisUsername={"value": "u"}), f"{OPTIONS}.redisUsername"),
    ("11", rocks(redisPassword={"value": "p"}), f"{OPTIONS}.redisPassword"),
    ("12", rocks(externalStorageNamespace="n"), f"{OPTIONS}.externalStorageNamespace"),
    ("13a", rocks(storage={"claimName": "c", "size": "1Gi"}), f"{OPTIONS}.storage.size"),
    (
        "13b",
        rocks(storage={"claimName": "c", "storageClassName": "s"}),
        f"{OPTIONS}.storage.storageClassName",
    ),
    (
        "13c",
        rocks(storage={"claimName": "c", "accessModes": ["ReadWriteOnce"]}),
        f"{OPTIONS}.storage.accessModes",
    ),
    ("14a", all_of(rocks(), lambda r: container(r).update(env=env("RAY_gcs_storage"))), HEAD_ENV),
    ("14b", all_of(rocks(), lambda r: container(r).update(env=env("RAY_gcs_storage_path"))), HEAD_ENV),
    (
        "15",
        all_of(rocks(), lambda r: mount(r, "/data/gcs", "v", "v")),
        "spec.headGroupSpec.template.spec.containers[0].vol",
    ),
    ("17a", lambda r: options(r, storage={"size": "1Gi"}), f"{OPTIONS}.storage"),
    ("17b", lambda r: options(r, backend="redis", storage={}), f"{OPTIONS}.storage"),
    ("standby on rocksdb", rocks(enableActivePassiveHead=True), f"{OPTIONS}.enableActivePassiveHead"),
    ("annotated standby on rocksdb", all_of(rocks(), lambda r: annotate(r, STANDBY, "1")), ANNOTATED_STANDBY),
    ("standby without a store", lambda r: annotate(r, STANDBY, "1"), ANNOTATED_STANDBY),
    ("standby count", all_of(EMPTY, lambda r: annotate(r, STANDBY, "3")), ANNOTATED_STANDBY),
    ("standby word", all_of(EMPTY, lambda r: annotate(r, STANDBY, "yes")), ANNOTATED_STANDBY),
    (
        "standby asked for and not",
        lambda r: (options(r, enableActivePassiveHead=True), annotate(r, STANDBY, "0")),
        ANNOTATED_STANDBY,
    ),
    (
        "standby without the agent",
        lambda r: (options(r, enableActivePassiveHead=True), annotate(r, "rayward.dev/agent", "disabled")),
        f"{OPTIONS}.enableActivePassiveHead",
    ),
    (
        "standby with a ray start of one's own",
        lambda r: (
            options(r, enableActivePassiveHead=True),
            container(r).update(command=["bash", "-c", "ray start --head --block"]),
        ),
        f"{OPTIONS}.enableActivePassiveHead",
    ),
    (
        "two sources",
        lambda r: options(r, redisPassword={"value": "p", "valueFrom": {}}),
        f"{OPTIONS}.redisPassword",
    ),
    ("long name", lambda r: r["metadata"].update(name="a" * 54), "metadata.name"),
    ("DNS name", lambda r: r["metadata"].update(name="1abc"), "metadata.name"),
    (
        "resources twice",
        lambda r: worker(r).update(resources={"CPU": "1"}, rayStartParams={"num-cpus": "1"}),
        "spec.workerGroupSpecs[0].rayStartParams.num-cpus",
    ),
    ("resources", lambda r: head(r).update(resources={"CPU": "x"}), "spec.headGroupSpec.resources.CPU"),
    (
        "labels",
        lambda r: head(r).update(rayStartParams={"labels": "a=b"}),
        "spec.headGroupSpec.rayStartParams.labels",
    ),
    ("label value", lambda r: worker(r).update(labels={"a": "b c"}), "spec.workerGroupSpecs[0].labels.a"),
    (
        "port",
        lambda r: head(r).update(rayStartParams={"port": "$P"}),
        "spec.headGroupSpec.rayStartParams.port",
    ),
    (
        "min > max",
        lambda r: worker(r).update(minReplicas=3, maxReplicas=2),
        "spec.workerGroupSpecs[0].minReplicas",
    ),
    (
        "negative max",
        lambda r: worker(r).update(minReplicas=-2, maxReplicas=-1),
        "spec.workerGroupSpecs[0].minRepl",
    ),
    ("idle", lambda r: worker(r).update(idleTimeoutSeconds=5), "spec.workerGroupSpecs[0].idleTimeoutSeconds"),
    ("priority", lambda r: worker(r).update(priority=1), "spec.workerGroupSpecs[0].priority"),
    (
        "suspend and autoscaler",
        all_of(
            lambda r: worker(r).update(suspend=True), lambda r: r["spec"].update(enableInTreeAutoscaling=True)
        ),
        "spec.workerGroupSpecs[0].suspend",
    ),
    (
        "v2 without autoscaler",
        lambda r: container(r).update(env=[{"name": "RAY_enable_autoscaler_v2", "value": "1"}]),
        HEAD_ENV,
    ),
    (
        "v2 restart policy",
        all_of(
            lambda r: r["spec"].update(V2),
            lambda r: head(r)["template"]["spec"].update(restartPolicy="Always"),
        ),
        "spec.headGroupSpec.template.spec.restartPolicy",
    ),
    (
        "same group twice",
        lambda r: r["spec"].update(workerGroupSpecs=[worker(r), worker(r)]),
        "spec.workerGroupSpecs[1].groupName",
    ),
    ("managedBy", lambda r: r["spec"].update(managedBy="me"), "spec.managedBy"),
    ("upgrade", lambda r: r["spec"].update(upgradeStrategy={"type": "Rolling"}), "spec.upgradeStrategy.type"),
    (
        "token version",
        lambda r: r["spec"].update(authOptions={"mode": "token"}, rayVersion="2.51.0"),
        "spec.authOptions.mode",
    ),
    *(
        (
            f"{name} twice",
            lambda r, name=name: head(r).update(resources={"CPU": "1"}, rayStartParams={name: "1"}),
            f"spec.headGroupSpec.rayStartParams.{name}",
        )
        for name in ("num-cpus", "num-gpus", "memory", "resources")
    ),
    ("label name", lambda r: head(r).update(labels={"-a": "b"}), "spec.headGroupSpec.labels.-a"),
    ("negative hosts", lambda r: worker(r).update(numOfHosts=-1), "spec.workerGroupSpecs[0].numOfHosts"),
    (
        "negative idle time",
        all_of(lambda r: r["spec"].update(V2), lambda r: worker(r).update(idleTimeoutSeconds=-1)),
        "spec.workerGroupSpecs[0].idleTimeoutSeconds",
    ),
    (
        "idle time with the old autoscaler",
        all_of(
            lambda r: r["spec"].update(enableInTreeAutoscaling=True, autoscalerOptions={"version": "v1"}),
            lambda r: worker(r).update(idleTimeoutSeconds=1),
        ),
        "spec.workerGroupSpecs[0].idleTimeoutSeconds",
    ),
    (
        "priority with an old Ray",
        all_of(lambda r: r["spec"].update(V2, rayVersion="2.55.1"), lambda r: worker(r).update(priority=1)),
        "spec.workerGroupSpecs[0].priority",
    ),
    (
        "priority with no version",
        all_of(lambda r: r["spec"].update(V2, rayVersion=""), lambda r: worker(r).update(priority=1)),
        "spec.workerGroupSpecs[0].priority",
    ),
    (
        "v2 said twice",
        all_of(
            lambda r: r["spec"].update(V2),
            lambda r: container(r).update(env=[{"name": "RAY_enable_autoscaler_v2", "value": "false"}]),
        ),
        HEAD_ENV,
    ),
    (
        "v2 restart policy of a worker",
        all_of(
            lambda r: r["spec"].update(V2),
            lambda r: worker(r)["template"]["spec"].update(restartPolicy="OnFailure"),
        ),
        "spec.workerGroupSpecs[0].template.spec.restartPolicy",
    ),
    (
        "autoscaler idle time",
        lambda r: r["spec"].update(autoscalerOptions={"idleTimeoutSeconds": -1}),
        "spec.autoscalerOptions.idleTimeoutSeconds",
    ),
    *(
        (
            f"upgrade strategy of a {owner}'s cluster",
            lambda r, owner=owner: (
                r["metadata"].update(labels={"ray.io/originated-from-crd": owner}),
                r["spec"].update(upgradeStrategy={"type": "Recreate"}),
            ),
            "spec.upgradeStrategy.type",
        )
        for owner in ("RayJob", "RayService")
    ),
    (
        "token without a version",
        lambda r: r["spec"].update(authOptions={"mode": "token"}, rayVersion=""),
        "spec.authOptions.mode",
    ),
    (
        "Kubernetes' tokens with an old Ray",
        lambda r: r["spec"].update(
            authOptions={"mode": "token", "enableK8sTokenAuth": True}, rayVersion="2.54.0"
        ),
        "spec.authOptions.enableK8sTokenAuth",
    ),
    (
        "Kubernetes' tokens without mode token",
        lambda r: r["spec"].update(authOptions={"enableK8sTokenAuth": True}),
        "spec.authOptions.enableK8sTokenAuth",
    ),
    ("tls", lambda r: r["spec"].update(tlsOptions={"enabled": True}), "spec.tlsOptions.enabled"),
    (
        "autoscaler env",
        lambda r: r["spec"].update(autoscalerOptions={"env": env("KUBERAY_GEN_AUTOSCALER_START_CMD")}),
        "spec.autoscalerOptions.env",
    ),
    (
        "both suspend conditions",
        lambda r: r.update(
            status={
                "conditions": [
                    {"type": f"RayCluster{t}", "status": "True"} for t in ("Suspending", "Suspended")
                ]
            }
        ),
        "status.conditions",
    ),
]


@pytest.mark.parametrize(
    ("change", "path"), [case[1:] for case in REJECTED], ids=[case[0] for case in REJECTED]
)
def test_rejected(raw: Raw, change: Change, path: str) -> None:
    assert found(raw) == []
    change(raw)
    problems = found(raw)
    assert problems
    assert problems[0].startswith(path)
    if not path.endswith("minRepl"):
        assert len(problems) == 1


def test_16_a_volume_of_the_reserved_name(raw: Raw) -> None:
    rocks()(raw)
    mount(raw, "/elsewhere", "gcs-storage", "gcs-storage")
    assert [problem.split(": ")[0] for problem in found(raw)] == [
        "spec.headGroupSpec.template.spec.containers[0].volumeMounts[0]",
        "spec.headGroupSpec.template.spec.volumes[0].name",
    ]


@pytest.mark.parametrize("group", ["head", "worker"])
@pytest.mark.parametrize("containers", [None, [], [{}]], ids=["none", "empty", "nameless"])
def test_a_group_without_a_container(raw: Raw, group: str, containers: Any) -> None:
    template = (head if group == "head" else worker)(raw)["template"]
    template["spec"]["containers"] = containers
    with pytest.raises(ManifestError, match=r"template\.spec\.containers"):
        parse_ray_cluster(raw)


def test_7_holds_with_the_options_too(raw: Raw) -> None:
    options(raw)
    head(raw)["rayStartParams"] = {"redis-username": "x"}
    container(raw)["env"] = env("REDIS_USERNAME")
    assert len(found(raw)) == 2


@pytest.mark.parametrize(
    "change",
    [
        EMPTY,
        # 8: what KubeRay has behind a gate is open here.
        rocks(),
        rocks(storage={"claimName": "c", "subPath": "p", "deletionPolicy": "Retain"}),
        lambda r: options(r, backend="redis"),
        lambda r: options(r, redisAddress="redis://redis:6379", enableActivePassiveHead=True),
        all_of(EMPTY, lambda r: annotate(r, STANDBY, "1")),
        all_of(EMPTY, lambda r: annotate(r, STANDBY, "0")),
        lambda r: (options(r, enableActivePassiveHead=True), annotate(r, STANDBY, "2")),
        all_of(
            lambda r: annotate(r, "ray.io/ft-enabled", "TRUE"),
            lambda r: container(r).update(env=env("RAY_REDIS_ADDRESS", "REDIS_PASSWORD")),
        ),
        lambda r: r["spec"].update(V2),
        lambda r: r["metadata"].update(name="a" * 53),
        # The definition's defaults, 0 and the largest number, count where no API server put them in.
        lambda r: (worker(r).pop("minReplicas", None), worker(r).pop("maxReplicas", None)),
        all_of(
            lambda r: r["spec"].update(V2, rayVersion="2.56.0"),
            lambda r: worker(r).update(priority=1, idleTimeoutSeconds=0),
        ),
        lambda r: r["spec"].update(authOptions={"mode": "token"}, rayVersion="2.52.0"),
        lambda r: r["spec"].update(
            authOptions={"mode": "token", "enableK8sTokenAuth": True}, rayVersion="2.55.0"
        ),
        lambda r: r["spec"].update(tlsOptions={"enabled": False}, networkPolicy={"mode": "DenyAll"}),
        lambda r: r["spec"].update(managedBy="ray.io/kuberay-operator", upgradeStrategy={"type": "None"}),
        lambda r: worker(r).update(suspend=True),
        lambda r: head(r).update(rayStartParams=None),
    ],
)
def test_accepted(raw: Raw, change: Change) -> None:
    change(raw)
    assert found(raw) == []

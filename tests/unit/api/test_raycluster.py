"""The typed reader: paths and sentences of its problems, and what passes untouched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rayward.api.problems import ManifestError
from rayward.api.raycluster import parse_ray_cluster

Raw = dict[str, Any]
Change = Callable[[Raw, Raw, Raw], object]


def problems(raw: Raw) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        parse_ray_cluster(raw, "file.yaml")
    return [f"{problem.path}: {problem.message}" for problem in caught.value.problems]


WORKER = "spec.workerGroupSpecs[0]"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda s, h, w: w.update(maxReplicas="five"),
            f'{WORKER}.maxReplicas: expected an integer, got "five"',
        ),
        (lambda s, h, w: w.update(maxReplicas=True), f"{WORKER}.maxReplicas: expected an integer, got true"),
        (
            lambda s, h, w: w.update(maxReplicas=2**40),
            f"{WORKER}.maxReplicas: must fit 32 bits, got 1099511627776",
        ),
        (
            lambda s, h, w: w.update(maxReplica=5),
            f"{WORKER}: unknown field `maxReplica`; did you mean `maxReplicas`?",
        ),
        (lambda s, h, w: w.pop("groupName"), f"{WORKER}.groupName: is missing"),
        (lambda s, h, w: w.pop("template"), f"{WORKER}.template: is missing"),
        (
            lambda s, h, w: w.update(rayStartParams={"num-cpus": 1}),
            f"{WORKER}.rayStartParams.num-cpus: must be a string; write it in quotes",
        ),
        (lambda s, h, w: w.update(suspend="yes"), f'{WORKER}.suspend: expected true or false, got "yes"'),
        (lambda s, h, w: s.update(rayVersion=2.6), "spec.rayVersion: must be a string; write it in quotes"),
        (lambda s, h, w: s.update(headGroupSpec=[]), "spec.headGroupSpec: expected a mapping, got a list"),
        (lambda s, h, w: s.pop("headGroupSpec"), "spec.headGroupSpec: is missing"),
        (
            lambda s, h, w: s.update(workerGroupSpecs={}),
            "spec.workerGroupSpecs: expected a list, got a mapping",
        ),
        (
            lambda s, h, w: s.update(gcsFaultToleranceOptions={"backend": "etcd"}),
            'spec.gcsFaultToleranceOptions.backend: must be one of , redis, rocksdb; got "etcd"',
        ),
        (
            lambda s, h, w: s.update(gcsFaultToleranceOptions={"storage": {"size": "big"}}),
            'spec.gcsFaultToleranceOptions.storage.size: "big" is not a quantity such as 500m, 2 or 1.5Gi',
        ),
        (
            lambda s, h, w: h["template"]["spec"].update(containers=[]),
            "spec.headGroupSpec.template.spec.containers: must be a list with at least one container",
        ),
        (
            lambda s, h, w: h["template"]["spec"]["containers"][0].update(
                resources={"limits": {"cpu": "lots"}}
            ),
            "spec.headGroupSpec.template.spec.containers[0].resources.limits.cpu: "
            '"lots" is not a quantity such as 500m, 2 or 1.5Gi',
        ),
        (
            lambda s, h, w: h["template"].update(metadata={"labels": {"a": 1}}),
            "spec.headGroupSpec.template.metadata.labels.a: must be a string; write it in quotes",
        ),
    ],
)
def test_each_problem_has_its_path_and_sentence(raw: Raw, change: Change, expected: str) -> None:
    spec = raw["spec"]
    change(spec, spec["headGroupSpec"], spec["workerGroupSpecs"][0])
    assert problems(raw) == [expected]


def test_all_problems_are_reported_at_once_with_the_object_named(raw: Raw) -> None:
    raw["spec"]["workerGroupSpecs"][0]["replicas"] = "x"
    raw["spec"]["headGroupSpec"]["rayStartParams"] = {"num-cpus": 0}
    raw["spec"]["suspnd"] = True
    assert len(problems(raw)) == 3
    with pytest.raises(ManifestError, match=r"file\.yaml: 3 problems\n  RayCluster/demo: spec"):
        parse_ray_cluster(raw, "file.yaml")


def test_null_counts_as_not_written(raw: Raw) -> None:
    raw["spec"]["workerGroupSpecs"][0].update(maxReplicas=None, rayStartParams=None)
    raw["spec"]["gcsFaultToleranceOptions"] = {"redisPassword": None}
    cluster = parse_ray_cluster(raw)
    assert cluster.workers[0].maximum == 2**31 - 1
    assert cluster.spec.gcs_fault_tolerance_options is not None


def test_unknown_fields_of_pod_templates_and_metadata_pass(raw: Raw) -> None:
    raw["spec"]["headGroupSpec"]["template"]["spec"]["somethingNew"] = {"a": [1]}
    raw["metadata"]["managedFields"] = [{}]
    assert parse_ray_cluster(raw).head.template["spec"]["somethingNew"] == {"a": [1]}


def test_the_old_api_version_and_every_documented_field_are_read(raw: Raw) -> None:
    raw["apiVersion"] = "ray.io/v1alpha1"
    raw["spec"].update(
        authOptions={"mode": "token", "secretName": "s", "enableK8sTokenAuth": True},
        autoscalerOptions={
            "version": "v2",
            "upscalingMode": "Default",
            "idleTimeoutSeconds": 60,
            "envFrom": [],
        },
        gcsFaultToleranceOptions={
            "backend": "redis",
            "redisAddress": "redis:6379",
            "redisUsername": {"value": "u"},
            "redisPassword": {"valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            "externalStorageNamespace": "ns",
            "enableActivePassiveHead": True,
        },
        headServiceAnnotations={"a": "b"},
        networkPolicy={"mode": "DenyAll"},
        historyServerOptions={},
        tlsOptions={"enabled": False},
        upgradeStrategy={"type": "Recreate"},
        managedBy="ray.io/kuberay-operator",
        suspend=False,
    )
    raw["spec"]["headGroupSpec"].update(
        headService={}, enableIngress=True, ingressOptions={}, resources={}, labels={}, serviceType="NodePort"
    )
    raw["spec"]["workerGroupSpecs"][0].update(
        numOfHosts=2, idleTimeoutSeconds=1, priority=1, scaleStrategy={"workersToDelete": ["a"]}
    )
    cluster = parse_ray_cluster(raw)
    assert cluster.spec.auth_options is not None
    assert cluster.spec.auth_options.enable_k8s_token_auth is True
    assert cluster.workers[0].scale_strategy.workers_to_delete == ("a",)


@pytest.mark.parametrize(
    ("replicas", "minimum", "maximum", "expected"),
    [(None, None, None, 0), (None, 2, None, 2), (3, 0, 2, 2), (1, 2, 5, 2), (4, 0, 9, 4)],
)
def test_replicas_are_held_between_the_bounds(
    raw: Raw, replicas: int | None, minimum: int | None, maximum: int | None, expected: int
) -> None:
    raw["spec"]["workerGroupSpecs"][0].update(replicas=replicas, minReplicas=minimum, maxReplicas=maximum)
    assert parse_ray_cluster(raw).workers[0].desired_replicas == expected


def test_a_password_does_not_show_in_the_value_read(raw: Raw) -> None:
    raw["spec"]["gcsFaultToleranceOptions"] = {"redisPassword": {"value": "hunter2"}}
    assert "hunter2" not in repr(parse_ray_cluster(raw))

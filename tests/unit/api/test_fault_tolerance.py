"""However fault tolerance is asked for, one value comes out."""

from __future__ import annotations

from typing import Any

import pytest

from rayward.api.fault_tolerance import Backend, Origin, fault_tolerance
from rayward.api.raycluster import parse_ray_cluster

Raw = dict[str, Any]
SECRET = {"secretKeyRef": {"name": "s", "key": "k"}}


def head_container(raw: Raw) -> Raw:
    found: Raw = raw["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    return found


def test_nothing_asked_means_memory(raw: Raw) -> None:
    answer = fault_tolerance(parse_ray_cluster(raw))
    assert (answer.backend, answer.origin, answer.enabled) == (Backend.MEMORY, Origin.NONE, False)


@pytest.mark.parametrize("value", ["false", "", "yes", "1"])
def test_only_true_in_any_case_switches_the_annotation_on(raw: Raw, value: str) -> None:
    raw["metadata"]["annotations"]["ray.io/ft-enabled"] = value
    assert not fault_tolerance(parse_ray_cluster(raw)).enabled
    raw["metadata"]["annotations"]["ray.io/ft-enabled"] = "True"
    assert fault_tolerance(parse_ray_cluster(raw)).backend is Backend.REDIS


def test_empty_options_mean_redis_with_the_uid_as_namespace(raw: Raw) -> None:
    raw["spec"]["gcsFaultToleranceOptions"] = {}
    answer = fault_tolerance(parse_ray_cluster(raw))
    assert (answer.backend, answer.origin, answer.redis_address) == (Backend.REDIS, Origin.OPTIONS, "")
    assert answer.storage_namespace == "uid-1"


@pytest.mark.parametrize(
    ("field", "annotation", "heads"),
    [
        (None, None, 1),
        (False, None, 1),
        (True, None, 2),
        (None, "0", 1),
        (None, "1", 2),
        (None, " 2 ", 3),
        (True, "2", 3),
        (None, "yes", 1),
        (None, "999", 3),
    ],
)
@pytest.mark.parametrize("asked_by", ["options", "annotation"])
def test_how_many_heads(
    raw: Raw, field: bool | None, annotation: str | None, heads: int, asked_by: str
) -> None:
    if asked_by == "options":
        raw["spec"]["gcsFaultToleranceOptions"] = {"enableActivePassiveHead": field}
    else:
        raw["metadata"]["annotations"]["ray.io/ft-enabled"] = "true"
    if annotation is not None:
        raw["metadata"]["annotations"]["rayward.dev/standby-heads"] = annotation
    elif asked_by == "annotation":
        heads = 1
    assert fault_tolerance(parse_ray_cluster(raw)).heads == heads


def test_namespace_precedence_is_uid_annotation_option_and_env_beats_all_in_use(raw: Raw) -> None:
    raw["metadata"]["annotations"]["ray.io/ft-enabled"] = "true"
    assert fault_tolerance(parse_ray_cluster(raw)).storage_namespace == "uid-1"
    raw["metadata"]["annotations"]["ray.io/external-storage-namespace"] = "annotated"
    assert fault_tolerance(parse_ray_cluster(raw)).storage_namespace == "annotated"
    raw["spec"]["gcsFaultToleranceOptions"] = {"externalStorageNamespace": "option"}
    assert fault_tolerance(parse_ray_cluster(raw)).storage_namespace == "option"
    head_container(raw)["env"] = [{"name": "RAY_external_storage_namespace", "value": "mine"}]
    answer = fault_tolerance(parse_ray_cluster(raw))
    assert (answer.storage_namespace, answer.namespace_in_use) == ("option", "mine")


def test_credentials_of_the_options(raw: Raw) -> None:
    raw["spec"]["gcsFaultToleranceOptions"] = {
        "redisUsername": {"value": "user"},
        "redisPassword": {"valueFrom": SECRET},
    }
    answer = fault_tolerance(parse_ray_cluster(raw))
    assert answer.username is not None
    assert answer.password is not None
    assert (answer.username.env_name, answer.username.value) == ("REDIS_USERNAME", "user")
    assert (answer.password.env_name, answer.password.value_from) == ("REDIS_PASSWORD", SECRET)


@pytest.mark.parametrize(
    ("env", "param", "expected"),
    [
        ([], "", None),
        ([], "literal", ("literal", None, False)),
        ([], "$REDIS_PASSWORD", None),
        ([{"name": "REDIS_PASSWORD", "value": "e"}], "$REDIS_PASSWORD", ("e", None, True)),
        ([{"name": "REDIS_PASSWORD", "valueFrom": SECRET}], "", (None, SECRET, True)),
    ],
)
def test_legacy_password(raw: Raw, env: list[Raw], param: str, expected: tuple[Any, ...] | None) -> None:
    raw["metadata"]["annotations"]["ray.io/ft-enabled"] = "true"
    head_container(raw)["env"] = [{"name": "RAY_REDIS_ADDRESS", "value": "redis:6379"}, *env]
    raw["spec"]["headGroupSpec"]["rayStartParams"] = {"redis-password": param} if param else {}
    answer = fault_tolerance(parse_ray_cluster(raw))
    password = answer.password
    seen = None if password is None else (password.value, password.value_from, password.in_template)
    assert seen == expected
    assert answer.redis_address == "redis:6379"


def test_rocksdb_storage_and_its_defaults(raw: Raw) -> None:
    raw["spec"]["gcsFaultToleranceOptions"] = {"backend": "rocksdb"}
    storage = fault_tolerance(parse_ray_cluster(raw)).storage
    assert storage is not None
    assert (storage.claim_name, storage.size, storage.access_modes, storage.retain) == (
        None,
        "1Gi",
        ("ReadWriteOnce",),
        False,
    )
    raw["spec"]["gcsFaultToleranceOptions"]["storage"] = {"claimName": "c", "deletionPolicy": "Retain"}
    storage = fault_tolerance(parse_ray_cluster(raw)).storage
    assert storage is not None
    assert (storage.claim_name, storage.retain) == ("c", True)


def test_a_password_does_not_show_in_the_value(raw: Raw) -> None:
    raw["spec"]["gcsFaultToleranceOptions"] = {"redisPassword": {"value": "hunter2"}}
    assert "hunter2" not in repr(fault_tolerance(parse_ray_cluster(raw)))

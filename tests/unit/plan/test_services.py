"""Head Service, claim and cleanup Job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rayward.api.raycluster import RayCluster
from rayward.plan.cleanup import cleanup_job
from rayward.plan.pvc import gcs_pvc
from rayward.plan.services import head_agents_service, head_service
from rayward.plan.settings import Settings

Raw = dict[str, Any]
Parsed = Callable[[], RayCluster]


def ports(service: Raw) -> dict[str, int]:
    return {port["name"]: port["port"] for port in service["spec"]["ports"]}


def test_headless_with_the_usual_ports(parsed: Parsed, settings: Settings) -> None:
    service = head_service(parsed(), settings)
    assert service["metadata"]["name"] == "raycluster-external-redis-head-svc"
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert list(ports(service).items()) == [
        ("client", 10001),
        ("dashboard", 8265),
        ("gcs-server", 6379),
        ("metrics", 8080),
        ("serve", 8000),
    ]
    assert service["spec"]["selector"] == {
        "ray.io/cluster": "raycluster-external-redis",
        "ray.io/node-type": "head",
        "ray.io/identifier": "raycluster-external-redis-head",
        "app.kubernetes.io/name": "kuberay",
        "app.kubernetes.io/created-by": "kuberay-operator",
    }
    assert service["metadata"]["labels"] == service["spec"]["selector"]


def test_own_ports_replace_the_usual_ones_and_metrics_stays(
    raw: Raw, parsed: Parsed, settings: Settings
) -> None:
    container = raw["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    container["ports"] = [{"containerPort": 6379, "name": "redis"}, {"containerPort": 99}]
    assert ports(head_service(parsed(), settings)) == {"99-port": 99, "metrics": 8080, "redis": 6379}


@pytest.mark.parametrize("kind", ["NodePort", "LoadBalancer"])
def test_another_type_is_not_headless(raw: Raw, parsed: Parsed, settings: Settings, kind: str) -> None:
    raw["spec"]["headGroupSpec"]["serviceType"] = kind
    spec = head_service(parsed(), settings)["spec"]
    assert spec["type"] == kind
    assert "clusterIP" not in spec


def test_a_standby_hides_heads_that_are_not_ready(raw: Raw, parsed: Parsed, settings: Settings) -> None:
    raw["spec"]["gcsFaultToleranceOptions"]["enableActivePassiveHead"] = True
    assert head_service(parsed(), settings)["spec"]["publishNotReadyAddresses"] is False


def test_the_annotation_asks_for_a_standby_too(raw: Raw, parsed: Parsed, settings: Settings) -> None:
    raw["metadata"]["annotations"]["rayward.dev/standby-heads"] = "1"
    assert head_service(parsed(), settings)["spec"]["publishNotReadyAddresses"] is False


def test_the_agents_of_all_heads_have_a_service(parsed: Parsed) -> None:
    service = head_agents_service(parsed(), Settings(agent_port=9009))
    assert service is not None
    assert service["metadata"]["name"] == "raycluster-external-redis-head-agents"
    assert service["metadata"]["ownerReferences"][0]["uid"] == "66a4e2af"
    spec = service["spec"]
    assert (spec["clusterIP"], spec["publishNotReadyAddresses"]) == ("None", True)
    assert spec["selector"] == head_service(parsed(), Settings())["spec"]["selector"]
    assert [(port["name"], port["port"], port["targetPort"]) for port in spec["ports"]] == [
        ("agent", 9009, 9009)
    ]


@pytest.mark.parametrize("why", ["no store", "no agent"])
def test_nobody_needs_that_service_without(raw: Raw, parsed: Parsed, settings: Settings, why: str) -> None:
    if why == "no store":
        del raw["spec"]["gcsFaultToleranceOptions"]
    else:
        raw["metadata"]["annotations"]["rayward.dev/agent"] = "disabled"
    assert head_agents_service(parsed(), settings) is None


def test_a_custom_service_keeps_its_own_and_gets_the_selector(
    raw: Raw, parsed: Parsed, settings: Settings
) -> None:
    raw["spec"]["headGroupSpec"]["headService"] = {
        "metadata": {"name": "mine", "annotations": {"a": "1", "b": "1"}},
        "spec": {
            "selector": {"x": "y"},
            "ports": [{"name": "extra", "port": 1}, {"name": "client", "port": 2}],
        },
    }
    raw["spec"]["headServiceAnnotations"] = {"b": "2"}
    service = head_service(parsed(), settings)
    assert service["metadata"]["name"] == "mine"
    assert service["metadata"]["annotations"] == {"a": "1", "b": "2"}
    assert "x" not in service["spec"]["selector"]
    assert "clusterIP" not in service["spec"]
    assert ports(service)["client"] == 2
    assert {"extra", "dashboard", "gcs-server"} <= ports(service).keys()


def test_claim(raw: Raw, parsed: Parsed) -> None:
    assert gcs_pvc(parsed()) is None
    options = raw["spec"]["gcsFaultToleranceOptions"] = {"backend": "rocksdb"}
    claim = gcs_pvc(parsed())
    assert claim is not None
    assert claim["metadata"]["name"] == "raycluster-external-redis-gcs-pvc"
    assert claim["metadata"]["ownerReferences"][0]["uid"] == "66a4e2af"
    assert claim["spec"] == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    options["storage"] = {"deletionPolicy": "Retain", "size": "5Gi", "storageClassName": "fast"}
    claim = gcs_pvc(parsed())
    assert claim is not None
    assert "ownerReferences" not in claim["metadata"]
    assert claim["spec"]["storageClassName"] == "fast"
    options["storage"] = {"claimName": "mine"}
    assert gcs_pvc(parsed()) is None


@pytest.mark.parametrize("agent", ["enabled", "disabled"])
def test_cleanup_job(raw: Raw, parsed: Parsed, settings: Settings, agent: str) -> None:
    raw["metadata"]["annotations"]["rayward.dev/agent"] = agent
    raw["spec"]["gcsFaultToleranceOptions"]["enableActivePassiveHead"] = agent == "enabled"
    template = raw["spec"]["headGroupSpec"]["template"]["spec"]
    template["containers"].append({"name": "sidecar", "image": "x"})
    template["nodeSelector"] = {"a": "b"}
    job = cleanup_job(parsed(), settings)
    assert job["metadata"]["name"] == "raycluster-external-redis-redis-cleanup"
    assert job["metadata"]["labels"]["ray.io/node-type"] == "redis-cleanup"
    assert job["metadata"]["ownerReferences"][0]["controller"] is True
    assert (job["spec"]["backoffLimit"], job["spec"]["activeDeadlineSeconds"]) == (0, 300)
    spec = job["spec"]["template"]["spec"]
    assert (spec["restartPolicy"], spec["nodeSelector"]) == ("Never", {"a": "b"})
    (container,) = spec["containers"]
    assert container["command"] == ["python3", "/opt/rayward/agent.zip", "store-cleanup"]
    assert not {"args", "livenessProbe", "readinessProbe"} & container.keys()
    assert "rayward.dev/head-index" not in job["metadata"]["labels"]
    assert container["resources"]["limits"] == {"cpu": "200m", "memory": "256Mi"}
    env = {item["name"]: item for item in container["env"]}
    assert {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "RAY_external_storage_namespace"} <= env.keys()
    assert [mount["name"] for mount in container["volumeMounts"]].count("rayward-agent") == 1
    assert [volume["name"] for volume in spec["volumes"]].count("rayward-agent") == 1

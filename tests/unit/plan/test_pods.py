"""Head and worker Pods against the published guide and the tables of the operator they stand in for."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from rayward.api.raycluster import RayCluster
from rayward.plan.cleanup import cleanup_job
from rayward.plan.pods import head_pod, worker_pod
from rayward.plan.settings import ReconnectSettings, Settings

Raw = dict[str, Any]
Parsed = Callable[[], RayCluster]

GUIDE_HEAD = [
    "RAY_external_storage_namespace",
    "RAY_REDIS_ADDRESS",
    "REDIS_PASSWORD",
    "RAY_CLUSTER_NAME",
    "RAY_CLOUD_INSTANCE_ID",
    "RAY_NODE_TYPE_NAME",
    "KUBERAY_GEN_RAY_START_CMD",
    "RAY_PORT",
    "RAY_ADDRESS",
    "RAY_USAGE_STATS_KUBERAY_IN_USE",
    "RAY_USAGE_STATS_EXTRA_TAGS",
    "RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE",
]
GUIDE_WORKER = [
    "RAY_gcs_rpc_server_reconnect_timeout_s",
    "FQ_RAY_IP",
    "RAY_IP",
    "RAY_CLUSTER_NAME",
    "RAY_CLOUD_INSTANCE_ID",
    "RAY_NODE_TYPE_NAME",
    "KUBERAY_GEN_RAY_START_CMD",
    "RAY_PORT",
    "RAY_ADDRESS",
    "RAY_USAGE_STATS_KUBERAY_IN_USE",
    "RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE",
]
ADDED_SINCE_THE_GUIDE = "RAY_CLUSTER_NAMESPACE"
HEAD_START = (
    "ray start --head  --block  --dashboard-agent-listen-port=52365  --dashboard-host=0.0.0.0  "
    "--metrics-export-port=8080  --num-cpus=0  --redis-password=$REDIS_PASSWORD "
)
HEAD_NAME = "raycluster-external-redis-head-svc.default.svc.cluster.local"
WORKER_START = (
    f"ray start  --address={HEAD_NAME}:6379  --block  --dashboard-agent-listen-port=52365  "
    "--metrics-export-port=8080  --num-cpus=1 "
)


def ray(pod: Raw) -> Raw:
    found: Raw = pod["spec"]["containers"][0]
    return found


def env(pod: Raw) -> dict[str, Any]:
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in ray(pod)["env"]}


def head(parsed: Parsed, settings: Settings) -> Raw:
    return head_pod(parsed(), settings)


def worker(parsed: Parsed, settings: Settings) -> Raw:
    cluster = parsed()
    return worker_pod(cluster, cluster.workers[0], settings, replica_index=0)


@pytest.mark.parametrize(("build", "guide"), [(head, GUIDE_HEAD), (worker, GUIDE_WORKER)])
def test_environment_is_the_guides_in_the_guides_order_with_additions_behind(
    parsed: Parsed, settings: Settings, build: Callable[..., Raw], guide: list[str]
) -> None:
    names = [item["name"] for item in ray(build(parsed, settings))["env"]]
    assert [name for name in names if name in guide] == guide
    added = [name for name in names if name not in guide and name != ADDED_SINCE_THE_GUIDE]
    assert names[-len(added) :] == added
    assert added[:4] == list(ReconnectSettings().environment())


def test_values_of_the_guide(parsed: Parsed, settings: Settings) -> None:
    of_head, of_worker = env(head(parsed, settings)), env(worker(parsed, settings))
    assert of_head["RAY_external_storage_namespace"] == "66a4e2af"
    assert of_head["RAY_REDIS_ADDRESS"] == "redis:6379"
    assert of_head["REDIS_PASSWORD"] == {"secretKeyRef": {"name": "redis-password-secret", "key": "password"}}
    assert of_head["KUBERAY_GEN_RAY_START_CMD"] == HEAD_START
    assert (of_head["RAY_PORT"], of_head["RAY_ADDRESS"]) == ("6379", "127.0.0.1:6379")
    label = {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.labels['ray.io/cluster']"}}
    assert of_head["RAY_CLUSTER_NAME"] == label
    assert of_worker["KUBERAY_GEN_RAY_START_CMD"] == WORKER_START
    assert of_worker["RAY_gcs_rpc_server_reconnect_timeout_s"] == "600"
    assert (of_worker["FQ_RAY_IP"], of_worker["RAY_IP"]) == (HEAD_NAME, "raycluster-external-redis-head-svc")
    assert of_worker["RAY_ADDRESS"] == "127.0.0.1:6379"


AGENTS = "raycluster-external-redis-head-agents.default.svc.cluster.local:8008"


@pytest.mark.parametrize("build", [head, worker])
@pytest.mark.parametrize("options", [{"redisAddress": "redis:6379"}, {"backend": "rocksdb"}])
def test_with_a_store_every_agent_knows_its_cluster_and_whom_to_ask_who_leads(
    raw: Raw, parsed: Parsed, settings: Settings, build: Callable[..., Raw], options: Raw
) -> None:
    raw["spec"]["gcsFaultToleranceOptions"] = options
    found = env(build(parsed, settings))
    assert found["RAYWARD_CLUSTER"] == "raycluster-external-redis"
    assert found["RAYWARD_CLUSTER_UID"] == "66a4e2af"
    assert found["RAYWARD_POD"] == {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}
    assert found["RAYWARD_HEADS"] == AGENTS


def test_workers_reach_the_gcs_through_their_own_forwarder(
    raw: Raw, parsed: Parsed, settings: Settings
) -> None:
    raw["spec"]["headGroupSpec"]["rayStartParams"]["port"] = "7000"
    found = env(worker(parsed, settings))
    assert (found["RAYWARD_FORWARD"], found["RAY_ADDRESS"]) == ("on", "127.0.0.1:7000")
    assert f"--address={HEAD_NAME}:7000 " in found["KUBERAY_GEN_RAY_START_CMD"]
    assert "RAYWARD_FORWARD" not in env(head(parsed, settings))


@pytest.mark.parametrize("why", ["switched off", "the head starts Ray itself", "the worker does"])
def test_without_a_forwarder_workers_go_to_the_head_service(raw: Raw, parsed: Parsed, why: str) -> None:
    groups = {
        "the head starts Ray itself": raw["spec"]["headGroupSpec"],
        "the worker does": raw["spec"]["workerGroupSpecs"][0],
    }
    if why in groups:
        groups[why]["template"]["spec"]["containers"][0]["command"] = ["ray start --block"]
    found = env(worker(parsed, Settings(forward=why != "switched off")))
    assert found["RAY_ADDRESS"] == f"{HEAD_NAME}:6379"
    assert found.get("RAYWARD_FORWARD") == (None if why == "the worker does" else "off")


@pytest.mark.parametrize("build", [head, worker])
def test_without_a_store_no_agent_asks_who_leads(
    raw: Raw, parsed: Parsed, settings: Settings, build: Callable[..., Raw]
) -> None:
    del raw["spec"]["gcsFaultToleranceOptions"]
    found = env(build(parsed, settings))
    assert not {"RAYWARD_CLUSTER_UID", "RAYWARD_HEADS", "RAYWARD_FORWARD"} & found.keys()
    assert {"RAYWARD_CLUSTER", "RAYWARD_POD", "RAYWARD_AGENT_PORT"} <= found.keys()
    assert found["RAY_ADDRESS"] == ("127.0.0.1:6379" if build is head else f"{HEAD_NAME}:6379")


OWN = {
    "RAYWARD_CLUSTER": "c",
    "RAYWARD_CLUSTER_UID": "u",
    "RAYWARD_POD": "p",
    "RAYWARD_HEADS": "h:1",
    "RAYWARD_FORWARD": "off",
    "RAYWARD_LEASE_TTL": "9",
    "RAY_ADDRESS": "elsewhere:1",
}


@pytest.mark.parametrize("build", [head, worker])
def test_what_the_template_says_to_the_agent_counts(
    raw: Raw, parsed: Parsed, settings: Settings, build: Callable[..., Raw]
) -> None:
    for group in (raw["spec"]["headGroupSpec"], raw["spec"]["workerGroupSpecs"][0]):
        group["template"]["spec"]["containers"][0]["env"] = [{"name": k, "value": v} for k, v in OWN.items()]
    pod = build(parsed, settings)
    names = [item["name"] for item in ray(pod)["env"]]
    assert {name: names.count(name) for name in OWN} == dict.fromkeys(OWN, 1)
    assert {name: value for name, value in env(pod).items() if name in OWN} == OWN


def test_heads_of_one_template_are_numbered_and_kept_apart(
    raw: Raw, parsed: Parsed, settings: Settings
) -> None:
    own = {
        "nodeAffinity": {"x": 1},
        "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []},
    }
    raw["spec"]["headGroupSpec"]["template"]["spec"]["affinity"] = own
    raw["spec"]["gcsFaultToleranceOptions"]["enableActivePassiveHead"] = True
    first, second = (head_pod(parsed(), settings, index=index) for index in (0, 1))
    assert [pod["metadata"]["labels"].pop("rayward.dev/head-index") for pod in (first, second)] == ["0", "1"]
    assert first == second
    affinity = first["spec"]["affinity"]
    (term,) = affinity["podAntiAffinity"].pop("preferredDuringSchedulingIgnoredDuringExecution")
    assert affinity == own
    assert term["podAffinityTerm"] == {
        "labelSelector": {
            "matchLabels": {"ray.io/cluster": "raycluster-external-redis", "ray.io/node-type": "head"}
        },
        "topologyKey": "kubernetes.io/hostname",
    }


def test_a_head_alone_has_no_number_and_no_affinity(parsed: Parsed, settings: Settings) -> None:
    pod = head(parsed, settings)
    assert "rayward.dev/head-index" not in pod["metadata"]["labels"]
    assert "affinity" not in pod["spec"]


def test_only_workers_get_the_long_timeout_and_none_gets_redis_secrets(
    parsed: Parsed, settings: Settings
) -> None:
    assert "RAY_gcs_rpc_server_reconnect_timeout_s" not in env(head(parsed, settings))
    assert not {"REDIS_PASSWORD", "RAY_REDIS_ADDRESS"} & env(worker(parsed, settings)).keys()


def test_the_users_own_values_win_where_they_may(raw: Raw, parsed: Parsed, settings: Settings) -> None:
    own = {
        "RAY_PORT": "1",
        "RAY_gcs_grpc_min_reconnect_backoff_ms": "9",
        "RAY_external_storage_namespace": "mine",
    }
    for group in (raw["spec"]["headGroupSpec"], raw["spec"]["workerGroupSpecs"][0]):
        group["template"]["spec"]["containers"][0]["env"] = [{"name": k, "value": v} for k, v in own.items()]
    for pod in (head(parsed, settings), worker(parsed, settings)):
        names = [item["name"] for item in ray(pod)["env"]]
        assert names[:3] == list(own)
        assert {name: names.count(name) for name in own} == dict.fromkeys(own, 1)
    assert (
        head(parsed, settings)["metadata"]["annotations"]["ray.io/external-storage-namespace"] == "66a4e2af"
    )


def test_labels_names_owner_and_annotations(parsed: Parsed, settings: Settings) -> None:
    made = head(parsed, settings)["metadata"]
    assert made["generateName"] == "raycluster-external-redis-head-"
    assert made["labels"] == {
        "ray.io/is-ray-node": "yes",
        "ray.io/cluster": "raycluster-external-redis",
        "ray.io/node-type": "head",
        "ray.io/group": "headgroup",
        "ray.io/identifier": "raycluster-external-redis-head",
        "app.kubernetes.io/name": "kuberay",
        "app.kubernetes.io/created-by": "kuberay-operator",
    }
    assert made["annotations"]["ray.io/ft-enabled"] == "true"
    owner = made["ownerReferences"][0]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("RayCluster", "66a4e2af", True)
    other = worker(parsed, settings)["metadata"]
    assert other["generateName"] == "raycluster-external-redis-small-group-worker-"
    assert (other["labels"]["ray.io/node-type"], other["labels"]["ray.io/group"]) == ("worker", "small-group")
    assert other["labels"]["ray.io/worker-group-replica-index"] == "0"


def test_templates_may_override_app_labels_only(raw: Raw, parsed: Parsed, settings: Settings) -> None:
    labels = {"app.kubernetes.io/name": "mine", "ray.io/cluster": "x", "ray.io/node-type": "x", "team": "t"}
    raw["spec"]["headGroupSpec"]["template"]["metadata"] = {"labels": labels}
    made = head(parsed, settings)["metadata"]["labels"]
    assert (made["app.kubernetes.io/name"], made["team"]) == ("mine", "t")
    assert (made["ray.io/cluster"], made["ray.io/node-type"]) == ("raycluster-external-redis", "head")


def test_the_agent_starts_ray_and_is_mounted(parsed: Parsed, settings: Settings) -> None:
    for build, role, start in ((head, "head", HEAD_START), (worker, "worker", WORKER_START)):
        pod = build(parsed, settings)
        assert ray(pod)["command"] == ["/bin/bash", "-c", "--"]
        line = f"ulimit -n 65536; exec python3 /opt/rayward/agent.zip {role} -- {start}"
        assert ray(pod)["args"] == [line]
        mount = {"name": "rayward-agent", "mountPath": "/opt/rayward", "readOnly": True}
        assert mount in ray(pod)["volumeMounts"]
        assert {"name": "rayward-agent", "configMap": {"name": "rayward-agent"}} in pod["spec"]["volumes"]
        assert "initContainers" not in pod["spec"]
        assert env(pod)["RAYWARD_AGENT_PORT"] == "8008"
        live, ready = ray(pod)["livenessProbe"], ray(pod)["readinessProbe"]
        assert live["httpGet"] == {"path": "/livez", "port": 8008}
        assert ready["httpGet"] == {"path": "/readyz", "port": 8008}
        timing = ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "failureThreshold")
        assert [live[key] for key in timing] == [5, 2, 5, 12]
        assert [ready[key] for key in timing] == [0, 2, 1, 2]


@pytest.mark.parametrize(
    ("options", "store"),
    [({"redisAddress": "r:1"}, "redis"), ({"backend": "rocksdb"}, "rocksdb"), (None, "memory")],
)
def test_the_agent_on_the_head_knows_the_kind_of_store(
    raw: Raw, parsed: Parsed, settings: Settings, options: Raw | None, store: str
) -> None:
    raw["spec"]["gcsFaultToleranceOptions"] = options
    assert env(head(parsed, settings))["RAYWARD_STORE"] == store
    assert "RAYWARD_STORE" not in env(worker(parsed, settings))
    assert ("RAY_gcs_rpc_server_reconnect_timeout_s" in env(worker(parsed, settings))) == (store != "memory")


def test_without_the_agent_it_is_plain(raw: Raw, parsed: Parsed, settings: Settings) -> None:
    raw["metadata"]["annotations"]["rayward.dev/agent"] = "disabled"
    pod, other = head(parsed, settings), worker(parsed, settings)
    assert ray(pod)["args"] == [f"ulimit -n 65536; {HEAD_START}"]
    assert "rayward-agent" not in json.dumps([pod, other])
    assert "RAYWARD_CLUSTER" not in env(pod)
    assert ray(pod)["livenessProbe"]["httpGet"] == {"path": "/api/healthz", "port": 52365}
    waiter = other["spec"]["initContainers"][0]
    assert waiter["name"] == "wait-gcs-ready"
    assert f"ray health-check --address {HEAD_NAME}:6379" in waiter["args"][0]
    assert [item["name"] for item in waiter["env"]] == ["FQ_RAY_IP", "RAY_IP"]


@pytest.mark.parametrize("version", ["2.52.0", "", "nightly"])
def test_plain_probes_of_older_ray_use_wget(
    raw: Raw, parsed: Parsed, settings: Settings, version: str
) -> None:
    raw["metadata"]["annotations"]["rayward.dev/agent"] = "disabled"
    raw["spec"]["rayVersion"] = version
    text = ray(head(parsed, settings))["livenessProbe"]["exec"]["command"][-1]
    assert ":52365/api/local_raylet_healthz" in text
    assert ":8265/api/gcs_healthz" in text
    assert "gcs_healthz" not in ray(worker(parsed, settings))["livenessProbe"]["exec"]["command"][-1]


@pytest.mark.parametrize("how", ["annotation", "text"])
def test_a_user_who_starts_ray_is_left_alone(raw: Raw, parsed: Parsed, settings: Settings, how: str) -> None:
    container = raw["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    container.update(command=["sh", "-c"], args=["ray start --head --block" if how == "text" else "my-start"])
    if how == "annotation":
        raw["metadata"]["annotations"]["ray.io/overwrite-container-cmd"] = "true"
    made = ray(head(parsed, settings))
    assert (made["command"], made["args"]) == (container["command"], container["args"])
    assert made["livenessProbe"]["httpGet"]["path"] == "/api/healthz"
    assert env(head(parsed, settings))["KUBERAY_GEN_RAY_START_CMD"] == HEAD_START


def test_a_users_own_command_runs_first_and_probes_are_kept(
    raw: Raw, parsed: Parsed, settings: Settings
) -> None:
    container = raw["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    container.update(command=["echo"], args=["hi"], livenessProbe={"tcpSocket": {"port": 1}})
    made = ray(head(parsed, settings))
    assert made["args"][0].startswith("echo hi && ulimit -n 65536; exec python3 ")
    assert made["livenessProbe"] == {"tcpSocket": {"port": 1}}
    assert made["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_rocksdb_has_its_environment_and_volume(raw: Raw, parsed: Parsed, settings: Settings) -> None:
    raw["spec"]["gcsFaultToleranceOptions"] = {"backend": "rocksdb", "storage": {"subPath": "sub"}}
    pod = head(parsed, settings)
    seen = env(pod)
    assert (seen["RAY_gcs_storage"], seen["RAY_gcs_storage_path"]) == ("rocksdb", "/data/gcs")
    assert "RAY_REDIS_ADDRESS" not in seen
    assert {"name": "gcs-storage", "mountPath": "/data/gcs", "subPath": "sub"} in ray(pod)["volumeMounts"]
    claim = {"claimName": "raycluster-external-redis-gcs-pvc"}
    assert {"name": "gcs-storage", "persistentVolumeClaim": claim} in pod["spec"]["volumes"]
    assert "ray.io/external-storage-namespace" not in pod["metadata"]["annotations"]
    raw["spec"]["gcsFaultToleranceOptions"]["storage"] = {"claimName": "mine"}
    volumes = {volume["name"]: volume for volume in head(parsed, settings)["spec"]["volumes"]}
    assert volumes["gcs-storage"]["persistentVolumeClaim"] == {"claimName": "mine"}


@pytest.mark.parametrize("address", ["", "redis:6379"])
def test_an_empty_address_is_still_injected(
    raw: Raw, parsed: Parsed, settings: Settings, address: str
) -> None:
    raw["spec"]["gcsFaultToleranceOptions"] = {"redisAddress": address} if address else {}
    assert env(head(parsed, settings))["RAY_REDIS_ADDRESS"] == address


def test_legacy_literal_password_becomes_a_variable(raw: Raw, parsed: Parsed, settings: Settings) -> None:
    del raw["spec"]["gcsFaultToleranceOptions"]
    raw["metadata"]["annotations"]["ray.io/ft-enabled"] = "true"
    raw["spec"]["headGroupSpec"]["rayStartParams"]["redis-password"] = "literal"
    raw["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["env"] = [
        {"name": "RAY_REDIS_ADDRESS", "value": "redis:6379"}
    ]
    pod = head(parsed, settings)
    assert env(pod)["REDIS_PASSWORD"] == "literal"
    assert [item["name"] for item in ray(pod)["env"]].count("RAY_REDIS_ADDRESS") == 1


def test_a_legacy_password_of_the_template_is_not_repeated(
    raw: Raw, parsed: Parsed, settings: Settings
) -> None:
    del raw["spec"]["gcsFaultToleranceOptions"]
    raw["metadata"]["annotations"]["ray.io/ft-enabled"] = "true"
    raw["spec"]["headGroupSpec"]["rayStartParams"]["redis-password"] = "$REDIS_PASSWORD"
    written = [{"name": "RAY_REDIS_ADDRESS", "value": "r:1"}, {"name": "REDIS_PASSWORD", "value": "p"}]
    raw["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["env"] = written
    names = [item["name"] for item in ray(head(parsed, settings))["env"]]
    assert names.count("REDIS_PASSWORD") == 1
    assert "--redis-password=$REDIS_PASSWORD " in env(head(parsed, settings))["KUBERAY_GEN_RAY_START_CMD"]


def test_shared_memory_is_sized_like_the_container(raw: Raw, parsed: Parsed, settings: Settings) -> None:
    container = raw["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    container["resources"] = {"limits": {"memory": "2Gi"}}
    volumes = head(parsed, settings)["spec"]["volumes"]
    assert {"name": "shared-mem", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}} in volumes
    raw["spec"]["headGroupSpec"]["rayStartParams"]["plasma-directory"] = "/x"
    assert "shared-mem" not in json.dumps(head(parsed, settings))


def test_building_a_pod_changes_nothing_it_was_given(raw: Raw, parsed: Parsed, settings: Settings) -> None:
    cluster = parsed()
    before = json.dumps(raw, sort_keys=True)
    assert head_pod(cluster, settings) == head_pod(cluster, settings)
    worker_pod(cluster, cluster.workers[0], settings, replica_index=0)
    assert json.dumps(raw, sort_keys=True) == before


def test_autoscaling_adds_the_sidecar(raw: Raw, parsed: Parsed, settings: Settings) -> None:
    raw["spec"].update(enableInTreeAutoscaling=True, autoscalerOptions={"version": "v2"})
    pod = head(parsed, settings)
    sidecar = pod["spec"]["containers"][1]
    assert (sidecar["name"], sidecar["image"]) == ("autoscaler", "rayproject/ray:2.60.0")
    assert " --no-monitor " in env(pod)["KUBERAY_GEN_RAY_START_CMD"]
    assert env(pod)["RAY_enable_autoscaler_v2"] == "true"
    assert pod["spec"]["restartPolicy"] == "Never"
    assert worker(parsed, settings)["spec"]["restartPolicy"] == "Never"


def test_the_agent_comes_from_the_config_map_that_the_shell_names(raw: Raw, parsed: Parsed) -> None:
    cluster, settings = parsed(), Settings(agent_config_map="rayward-agent-0123abcd")
    made = [
        head_pod(cluster, settings)["spec"],
        worker_pod(cluster, cluster.workers[0], settings, replica_index=0)["spec"],
        cleanup_job(cluster, settings)["spec"]["template"]["spec"],
    ]
    for spec in made:
        (volume,) = [found for found in spec["volumes"] if found["name"] == "rayward-agent"]
        assert volume["configMap"] == {"name": "rayward-agent-0123abcd"}

"""The agent that the operator brings into Pods: its ConfigMap, what its silence means, and without it."""

from __future__ import annotations

import base64
from typing import Any

from clusters import REDIS, Raw, Stage, cluster, env, name_of, uid
from control_plane import until

from rayward.kube.kinds import CONFIGMAPS, RAYCLUSTERS
from rayward.plan import names


def config_map(stage: Stage) -> Raw:
    """The agent's ConfigMap, once it is there."""

    def found() -> Raw | None:
        return next((item for item in stage.list(CONFIGMAPS, "rayward.dev/agent-bundle=true")), None)

    return until("the agent's ConfigMap is there", found)


def test_the_agents_config_map_comes_back(stage: Stage) -> None:
    stage.apply(cluster())
    stage.until_state()
    before = config_map(stage)
    assert before["immutable"] is True
    assert base64.b64decode(before["binaryData"]["agent.zip"]).startswith(b"PK")
    volumes = {item["name"]: item for item in stage.head()["spec"]["volumes"]}
    assert volumes["rayward-agent"]["configMap"]["name"] == name_of(before)
    stage.delete(CONFIGMAPS, name_of(before))
    after = until("it is back", lambda: stage.get(CONFIGMAPS, name_of(before)))
    assert uid(after) != uid(before)
    assert after["binaryData"] == before["binaryData"]


def test_a_foreign_config_map_of_that_name(stage: Stage, control_plane: Any) -> None:
    """Found where the name comes from: another namespace."""
    stage.apply(cluster())
    stage.until_state()
    name = name_of(config_map(stage))
    other = Stage(control_plane, f"{stage.namespace}-other")
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other.namespace}}
    assert control_plane.request("POST", "/api/v1/namespaces", body)[0] == 201
    try:
        until("Pods can be made", lambda: control_plane.account_exists(other.namespace))
        other.create(CONFIGMAPS, {"metadata": {"name": name}, "data": {"agent.zip": "x"}})
        other.apply(cluster())
        said = other.until_event("FailedToCreateConfigMap", f"{other.namespace}/{name}")
        assert "is not the agent of this rayward" in said
        until("its condition says it", lambda: other.condition("ReplicaFailure")[0] == "True")
        other.delete(CONFIGMAPS, name)
        until("ours is there", lambda: "binaryData" in (other.get(CONFIGMAPS, name) or {}))
        other.until_state()
        until("the condition goes", lambda: other.condition("ReplicaFailure") == ("", ""))
    finally:
        control_plane.request("DELETE", f"/api/v1/namespaces/{other.namespace}")


def test_without_the_agent_it_is_as_kuberay_makes_it(stage: Stage) -> None:
    own = {"rayVersion": "2.52.0", "gcsFaultToleranceOptions": REDIS}
    stage.apply(cluster(annotations={names.AGENT: "disabled"}, **own))
    stage.until_state()
    head, (worker,) = stage.head(), stage.workers()
    for pod, start in ((head, "ray start --head "), (worker, "ray start ")):
        container = pod["spec"]["containers"][0]
        assert container["command"] == ["/bin/bash", "-c", "--"]
        (line,) = container["args"]
        assert line.startswith(f"ulimit -n 65536; {start}")
        assert "agent" not in line.replace("dashboard-agent-listen-port", "")
        assert [name for name in env(pod) if name.startswith("RAYWARD_")] == []
        assert "wget" in container["livenessProbe"]["exec"]["command"][-1]
        assert "rayward-agent" not in [volume["name"] for volume in pod["spec"]["volumes"]]
    probe = head["spec"]["containers"][0]["readinessProbe"]
    assert (probe["initialDelaySeconds"], probe["periodSeconds"], probe["failureThreshold"]) == (10, 5, 10)
    assert [item["name"] for item in worker["spec"]["initContainers"]] == ["wait-gcs-ready"]
    assert env(worker)["RAY_ADDRESS"].startswith("one-head-svc.")
    assert stage.list(CONFIGMAPS, "rayward.dev/agent-bundle=true") == []
    assert stage.condition("LeaderElected") == ("", "")
    # Its keys are cleaned up all the same, by a Job that brings the agent's code along.
    stage.delete(RAYCLUSTERS, "one")
    stage.until_gone()
    stage.until_event("RedisCleanupDone")
    config_map(stage)


def test_silent_agents_are_reported_as_such(stage: Stage) -> None:
    """Hollow nodes run none: what is not known is not claimed."""
    stage.apply(cluster(gcsFaultToleranceOptions=REDIS))
    stage.until_state()
    for kind in ("LeaderElected", "WritesFenced", "StoreHealthy"):
        until(f"{kind} is unknown", lambda kind=kind: stage.condition(kind) == ("Unknown", "AgentSilent"))

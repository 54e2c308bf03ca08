"""``rayward store orphans`` asks a real API server which namespaces belong to its RayClusters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from control_plane import ControlPlane
from redis_server import Server, running

from rayward.cli.store import store

LONG_AGO_S = 86_400


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with running(tmp_path_factory.mktemp("redis")) as found:
        yield found


def orphans(server: Server, kubeconfig: Path, *words: str) -> dict[str, tuple[str, str]]:
    command = [
        "orphans",
        "--redis",
        server.address.hostport,
        "--kubeconfig",
        str(kubeconfig),
        "--json",
        *words,
    ]
    result = CliRunner().invoke(store, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["namespaces"]
    return {item["namespace"]: (item["verdict"], item["reason"]) for item in found}


def test_its_clusters_own_their_namespaces(
    crds: ControlPlane, namespace: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that is suspended: nothing else speaks for its data."""
    monkeypatch.setenv("RAYWARD_HOME", str(tmp_path))
    template = {"spec": {"containers": [{"name": "ray", "image": "rayproject/ray:2.60.0"}]}}
    for name, options in {"by-uid": {}, "by-name": {"externalStorageNamespace": "chosen"}}.items():
        manifest = {
            "apiVersion": "ray.io/v1",
            "kind": "RayCluster",
            "metadata": {"name": name},
            "spec": {
                "suspend": True,
                "gcsFaultToleranceOptions": {"redisAddress": "redis:6379", **options},
                "headGroupSpec": {"template": template},
            },
        }
        crds.kubectl("--namespace", namespace, "apply", "--filename=-", input=yaml.safe_dump(manifest))
    get = ("get", "raycluster", "by-uid", "--output=jsonpath={.metadata.uid}")
    uid = crds.kubectl("--namespace", namespace, *get).stdout
    client = server.client()
    for owned in (uid, "chosen", "forgotten"):
        client.hset(f"RAY{owned}@KV", "field", "value")
        dump = client.dump(f"RAY{owned}@KV")
        client.execute_command("RESTORE", f"RAY{owned}@KV", 0, dump, "REPLACE", "IDLETIME", LONG_AGO_S)
    found = orphans(server, crds.kubeconfig)
    assert {name: verdict for name, (verdict, _) in found.items()} == {
        uid: "live",
        "chosen": "live",
        "forgotten": "orphan",
    }
    assert found[uid][1] == f"belongs to RayCluster {namespace}/by-uid in Kubernetes"
    assert "forgotten" in found
    orphans(server, crds.kubeconfig, "--clean-all", "--yes")
    assert sorted(orphans(server, crds.kubeconfig)) == sorted([uid, "chosen"])

    # Who may not see RayClusters learns nothing, and so nothing is certain.
    nobody = crds.kubeconfig_as(namespace, "default")
    client.hset("RAYforgotten@KV", "field", "value")
    verdict, reason = orphans(server, nobody, "--quiet-for", "0")["forgotten"]
    assert verdict == "unclear"
    assert "Kubernetes could not be asked" in reason
    assert "rayclusters" in reason
    client.close()

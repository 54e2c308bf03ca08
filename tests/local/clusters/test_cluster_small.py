"""Clusters without Ray: everything that local does, on Pods that start in a moment."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import yaml
from command_line import EXAMPLES, CommandLine, eventually

ECHO = """
import http.server, socket
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(socket.gethostname().encode())
    def log_message(self, *args): print("asked", flush=True)
http.server.HTTPServer(("", 8000), Handler).serve_forever()
"""
ASK = "import urllib.request; print(urllib.request.urlopen('http://web:8000', timeout=5).read().decode())"

WEB = f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: web
          image: python:3
          command: ["python3", "-c", {json.dumps(ECHO)}]
          ports: [{{containerPort: 8000}}]
          readinessProbe: {{httpGet: {{port: 8000}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: web}}, ports: [{{port: 8000}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: client}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{{name: main, image: busybox, command: ["sleep", "1000"]}}]
"""


def pod(name: str, image: str = "busybox", command: str = '["sleep", "1000"]', extra: str = "") -> str:
    """A manifest of one Pod."""
    return (
        f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n"
        f"  containers:\n    - {{name: main, image: {image!r}, command: {command}{extra}}}\n"
    )


def write(cli: CommandLine, text: str) -> str:
    """A manifest file in the command line's home."""
    path = cli.home / "manifest.yaml"
    path.write_text(text)
    return str(path)


def test_pods_find_services_and_a_deleted_pod_is_replaced(rayward: CommandLine) -> None:
    rayward("up", "-f", write(rayward, WEB), "--name", "tweb")
    first = rayward.pods("app=web")
    assert len(first) == 1
    assert rayward.out("exec", "client", "--", "python3", "-c", ASK) == first[0]
    rayward("delete", "pod", first[0])
    second = rayward.pods("app=web")
    assert first != second

    def answered_by_the_new_one() -> bool:
        asked = rayward.popen("exec", "client", "--", "python3", "-c", ASK)
        answer, _ = asked.communicate(timeout=30)
        return answer.strip() in rayward.pods("app=web")

    eventually(answered_by_the_new_one)
    rayward("down", "tweb")


def test_the_cluster_outlives_a_killed_node_process_and_down_leaves_nothing(rayward: CommandLine) -> None:
    rayward("up", "-f", write(rayward, WEB), "--name", "tkill")
    before = rayward.pods()
    node = json.loads((rayward.home / "clusters/tkill/node.json").read_text())
    os.kill(node["pid"], signal.SIGKILL)
    assert rayward.pods() == before
    assert "not running" in rayward.out("status")
    assert rayward.out("exec", "client", "--", "python3", "-c", ASK) in before
    # Its successor adopts the Pods instead of starting others.
    rayward("delete", "service", "web")
    assert rayward.pods() == before
    successor = json.loads((rayward.home / "clusters/tkill/node.json").read_text())
    os.kill(successor["pid"], signal.SIGKILL)
    one = json.loads((rayward.home / f"clusters/tkill/pods/{before[0]}/process.json").read_text())
    os.kill(one["pid"], signal.SIGKILL)
    rayward("down", "tkill")


def test_force_down_needs_no_node_process(rayward: CommandLine) -> None:
    rayward("up", "-f", write(rayward, WEB), "--name", "tforce")
    node = json.loads((rayward.home / "clusters/tforce/node.json").read_text())
    os.kill(node["pid"], signal.SIGKILL)
    rayward("down", "tforce", "--force")


def test_an_interrupted_up_takes_back_what_it_did(rayward: CommandLine) -> None:
    never_ready = pod("p", extra=', readinessProbe: {exec: {command: ["false"]}}')
    started = rayward.popen("up", "-f", write(rayward, never_ready), "--name", "tint")
    eventually((rayward.home / "clusters/tint/pods/p/status.json").exists)
    os.kill(started.pid, signal.SIGINT)
    _, errors = started.communicate(timeout=60)
    assert started.returncode == 130, errors
    assert "interrupted: removing cluster tint" in errors
    assert not (rayward.home / "clusters/tint").exists()


def test_a_second_up_of_the_same_name_is_refused_and_harms_nothing(rayward: CommandLine) -> None:
    manifest = write(rayward, pod("p"))
    rayward("up", "-f", manifest, "--name", "ttwice")
    refused = rayward("up", "-f", manifest, "--name", "ttwice", code=1)
    assert "cluster 'ttwice' is up already" in refused.stderr
    assert "rayward down ttwice" in refused.stderr
    assert rayward.out("exec", "p", "--", "echo", "alive") == "alive"
    rayward("down", "ttwice")


def test_two_clusters_stand_side_by_side_with_networks_of_their_own(rayward: CommandLine) -> None:
    rayward("up", "-f", write(rayward, pod("p")), "--name", "tone")
    rayward("up", "-f", write(rayward, pod("p")), "--name", "ttwo")
    addresses = {
        name: json.loads(rayward.out("get", "pod", "p", "--cluster", name, "-o", "json"))["status"]["podIP"]
        for name in ("tone", "ttwo")
    }
    assert addresses["tone"].rpartition(".")[0] != addresses["ttwo"].rpartition(".")[0]
    refused = rayward("exec", "p", "--", "true", code=1)
    assert "more than one cluster is up" in refused.stderr
    rayward("down", "--all")


def test_a_network_that_another_cluster_holds_is_not_taken(rayward: CommandLine) -> None:
    rayward("up", "-f", write(rayward, pod("p")), "--name", "tsame")
    other = CommandLine(rayward.home / "other")
    other.home.mkdir()
    refused = other("up", "-f", write(rayward, pod("p")), "--name", "tsame", code=1)
    assert "network namespace rayward-tsame is there already" in refused.stderr
    assert not list((other.home / "clusters").iterdir())
    assert rayward.out("exec", "p", "--", "echo", "alive") == "alive"
    rayward("down", "tsame")


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (pod("p", image="example/app:1", command='["no-such-program"]'), "no-such-program"),
        (
            pod("p", extra=", env: [{name: A, valueFrom: {secretKeyRef: {name: keys, key: absent}}}]")
            + "---\napiVersion: v1\nkind: Secret\nmetadata: {name: keys}\nstringData: {present: x}\n",
            "absent",
        ),
        # Never ready: between two crashes it runs for a moment, which would do for a Pod without a probe.
        (
            pod(
                "p",
                command='["sh", "-c", "echo the disk is gone; exit 3"]',
                extra=", readinessProbe: {exec: {command: ['false']}}",
            ),
            "the disk is gone",
        ),
    ],
    ids=["unknown image and program", "missing secret key", "crash loop"],
)
def test_up_says_why_a_pod_cannot_run(rayward: CommandLine, manifest: str, message: str) -> None:
    failed = rayward("up", "-f", write(rayward, manifest), "--name", "tbad", "--timeout", "30", code=1)
    assert message in failed.stderr.rpartition("error:")[2]
    assert "rayward down tbad" in failed.stderr
    rayward("down", "tbad")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: [", "did not find expected"),
        ("a: b\n", "kind"),
        ("apiVersion: v1\nkind: Ghost\nmetadata: {name: x}\n", "Ghost"),
        ("", "holds no object"),
    ],
    ids=["broken YAML", "no kind", "unknown kind", "empty file"],
)
def test_up_refuses_files_that_make_no_sense(rayward: CommandLine, text: str, message: str) -> None:
    refused = rayward("up", "-f", write(rayward, text), code=1)
    assert message in refused.stderr
    assert "manifest.yaml" in refused.stderr


def test_up_names_every_conflict_of_fault_tolerance_settings(rayward: CommandLine) -> None:
    documents = list(yaml.safe_load_all((EXAMPLES / "ray-cluster.external-redis.yaml").read_text()))
    cluster = next(item for item in documents if item["kind"] == "RayCluster")
    cluster["metadata"]["annotations"] = {"ray.io/ft-enabled": "true"}
    cluster["spec"]["workerGroupSpecs"][0]["maxReplicas"] = "five"
    refused = rayward("up", "-f", write(rayward, yaml.safe_dump_all(documents)), code=1)
    assert "spec.workerGroupSpecs[0].maxReplicas" in refused.stderr
    cluster["spec"]["workerGroupSpecs"][0]["maxReplicas"] = 5
    refused = rayward("up", "-f", write(rayward, yaml.safe_dump_all(documents)), code=1)
    assert "ray.io/ft-enabled" in refused.stderr
    assert not (rayward.home / "clusters").exists()


def test_looking_at_things(rayward: CommandLine) -> None:
    rayward("up", "-f", write(rayward, WEB), "--name", "tlook")
    assert json.loads(rayward.out("get", "pods", "-o", "json"))["kind"] == "List"
    client = yaml.safe_load(rayward.out("get", "po", "client", "-o", "yaml"))
    assert client["status"]["phase"] == "Running"
    assert rayward.out("get", "pods").splitlines()[0].split() == [
        "NAME",
        "READY",
        "STATUS",
        "RESTARTS",
        "AGE",
    ]
    assert "127." not in rayward.out("get", "svc")
    assert client["status"]["podIP"] in rayward.out("get", "pods", "-o", "wide")
    web = rayward.pods("app=web")[0]
    rayward("exec", "client", "--", "python3", "-c", ASK)
    assert "asked" in rayward.out("logs", web)
    assert rayward.out("logs", web, "--tail", "1") == "asked"
    assert "Deployment" in rayward.out("describe", "deploy", "web")
    rayward("exec", "client", "--", "sh", "-c", "exit 7", code=7)
    missing = rayward("logs", "nobody", code=1)
    assert "client" in missing.stderr
    rayward("get", "ghosts", code=1)
    following = rayward.popen("logs", "-f", web)
    rayward("exec", "client", "--", "python3", "-c", ASK)
    rayward("down", "tlook")
    out, _ = following.communicate(timeout=20)
    assert out.count("asked") >= 2


def test_secrets_are_not_described(rayward: CommandLine) -> None:
    secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {password: hunter2}\n---\n"
    rayward("up", "-f", write(rayward, secret + pod("p")), "--name", "tsecret")
    assert "hunter2" not in rayward.out("describe", "secret", "s")
    assert Path(rayward.home / "clusters/tsecret").stat().st_mode & 0o077 == 0
    rayward("down", "tsecret")

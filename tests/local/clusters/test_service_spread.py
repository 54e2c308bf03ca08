"""A Service for Ray Serve on one machine: an address of its own, and connections over its ready endpoints,
whoever is killed meanwhile. Plain Pods, no Ray."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from command_line import CommandLine, eventually

from rayward.local import linux

# Answers with its host's name; asked to end, it goes on for a moment as a server that drains does.
SERVER = """
import http.server, os, signal, socket, threading
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        name = socket.gethostname().encode()
        self.send_response(200); self.send_header("Content-Length", str(len(name))); self.end_headers()
        self.wfile.write(name)
    def log_message(self, *args): pass
signal.signal(signal.SIGTERM, lambda *_: threading.Timer(1.0, os._exit, (0,)).start())
http.server.ThreadingHTTPServer(("", 9000), Handler).serve_forever()
"""
# Asks until /tmp/stop is there: over one connection while that lasts, and over new ones. As HTTP clients do,
# it looks whether a kept connection has ended before it uses it again. Prints every answer.
CLIENT = """
import http.client, os, select, time
def ask(connection):
    if connection.sock and select.select([connection.sock], [], [], 0)[0]: connection.close()
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode()
    except (http.client.HTTPException, OSError) as error:
        connection.close()
        return f"failed {error!r}"
kept = http.client.HTTPConnection("serve", timeout=5)
while not os.path.exists("/tmp/stop"):
    print("kept", ask(kept), flush=True)
    new = http.client.HTTPConnection("serve", timeout=5)
    print("new", ask(new), flush=True)
    new.close()
    time.sleep(0.01)  # leaves the machine something for the others
"""
ASK = """
import sys, urllib.request
for _ in range(int(sys.argv[2])): print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())
"""
WHERE = "import socket, sys; print(*sorted({found[4][0] for found in socket.getaddrinfo(sys.argv[1], 80)}))"

MANIFEST = f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: server}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: server}}}}
  template:
    metadata: {{labels: {{app: server}}}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
        - name: main
          image: python:3
          command: ["python3", "-c", {json.dumps(SERVER)}]
          ports: [{{name: answers, containerPort: 9000}}]
          readinessProbe: {{httpGet: {{port: 9000}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: serve, labels: {{ray.io/serve: serve}}}}
spec: {{selector: {{app: server}}, ports: [{{port: 80, targetPort: answers}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: plain}}
spec: {{selector: {{app: server}}, ports: [{{port: 9000}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: client}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{{name: main, image: busybox, command: ["sleep", "1000"]}}]
"""


def up(cli: CommandLine, name: str) -> Path:
    """A cluster from the manifest; its folder."""
    manifest = cli.home / "manifest.yaml"
    manifest.write_text(MANIFEST)
    cli("up", "-f", str(manifest), "--name", name)
    return cli.home / "clusters" / name


def identity(folder: Path, file: str) -> dict[str, int]:
    found: dict[str, int] = json.loads((folder / file).read_text())
    return found


def proxy(folder: Path) -> int:
    """The pid of the proxy, which runs."""
    found = identity(folder, "service-proxy.json")
    assert linux.process_start_time(found["pid"]) == found["start_time"]
    return found["pid"]


def answers(cli: CommandLine, count: int = 6, url: str = "http://serve") -> Counter[str]:
    """Who answers the client's Pod, on connections of their own."""
    return Counter(cli.out("exec", "client", "--", "python3", "-c", ASK, url, str(count)).split())


def table(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "services.json").read_text())
    return found


def ready(folder: Path) -> set[str]:
    """The uids of the Pods that new connections go to."""
    return {uid for _, _, uid in table(folder)["services"][0]["ready"]}


def test_connections_are_spread_and_none_fails_whoever_goes(rayward: CommandLine) -> None:
    folder = up(rayward, "tspread")
    pods = {name: rayward.get("pod", name) for name in rayward.pods("app=server")}
    uids = {name: pod["metadata"]["uid"] for name, pod in pods.items()}
    one, two = pods
    address = rayward.get("service", "serve")["spec"]["clusterIP"]
    assert answers(rayward) == {one: 3, two: 3}
    # Pods reach it by name, the host by its address.
    assert rayward.out("exec", "client", "--", "python3", "-c", WHERE, "serve") == address
    with urllib.request.urlopen(f"http://{address}", timeout=5) as answer:
        assert answer.read().decode() in pods
    # Any other Service leads straight to a Pod.
    addresses = [pod["status"]["podIP"] for pod in pods.values()]
    assert rayward.out("exec", "client", "--", "python3", "-c", WHERE, "plain") in addresses
    assert "clusterIP" not in rayward.get("service", "plain")["spec"]

    asking = rayward.popen("exec", "client", "--", "python3", "-u", "-c", CLIENT)
    assert asking.stdout is not None
    lines = [asking.stdout.readline()]
    rayward("delete", "pod", one)
    assert one not in answers(rayward)
    eventually(lambda: len(ready(folder) - {uids[one]}) == 2)
    # The node process is killed: what is there goes on, and the next one takes it over.
    keeps = proxy(folder)
    os.kill(identity(folder, "node.json")["pid"], signal.SIGKILL)
    assert len(answers(rayward)) == 2
    rayward("delete", "pod", two)
    eventually(lambda: len(ready(folder) - set(uids.values())) == 2)
    assert len(set(answers(rayward)) - set(pods)) == 2
    assert proxy(folder) == keeps
    rayward("exec", "client", "--", "touch", "/tmp/stop")
    said, errors = asking.communicate(timeout=30)
    told = [line.split(maxsplit=1) for line in (*lines, *said.splitlines())]
    assert not [line for line in told if line[1].startswith("failed")], errors
    assert len({name.strip() for kind, name in told if kind == "new"}) == 4
    assert len({name.strip() for kind, name in told if kind == "kept"}) >= 2
    rayward("down", "tspread")


def test_a_proxy_that_was_killed_comes_back_and_goes_with_its_services(rayward: CommandLine) -> None:
    folder = up(rayward, "tproxy")
    address = rayward.get("service", "serve")["spec"]["clusterIP"]
    old = proxy(folder)
    os.kill(old, signal.SIGKILL)
    eventually(lambda: identity(folder, "service-proxy.json")["pid"] != old)
    eventually(lambda: len(answers(rayward)) == 2)
    assert rayward.get("service", "serve")["spec"]["clusterIP"] == address
    last = identity(folder, "service-proxy.json")
    rayward("delete", "service", "serve")
    eventually(lambda: linux.process_start_time(last["pid"]) != last["start_time"])
    assert table(folder)["services"] == []
    rayward("down", "tproxy")


def test_down_by_force_ends_the_proxy_too(rayward: CommandLine) -> None:
    folder = up(rayward, "tproxyf")
    os.kill(identity(folder, "node.json")["pid"], signal.SIGKILL)
    proxy(folder)
    rayward("down", "tproxyf", "--force")


@pytest.mark.parametrize("lost", ["ready", "killed"])
def test_an_endpoint_is_avoided_as_soon_as_it_is_known_to_be_lost(rayward: CommandLine, lost: str) -> None:
    folder = up(rayward, "tlost")
    first = rayward.pods("app=server")
    if lost == "killed":
        os.kill(identity(folder / "pods" / first[0], "process.json")["pid"], signal.SIGKILL)
    else:
        # Its server stands still: the probe says so.
        below = rayward.get("pod", first[0])["status"]["rayward"]["containers"]["main"]["pid"]
        os.kill(below, signal.SIGSTOP)
    eventually(lambda: len(ready(folder)) == 1)
    assert first[0] not in answers(rayward)
    if lost != "killed":
        os.kill(below, signal.SIGCONT)
    rayward("down", "tlost")

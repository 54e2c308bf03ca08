"""The control plane that the other tests stand on: its controllers work, and nothing of it stays."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import control_plane as planes
import pytest
from binaries import Binaries
from control_plane import ControlPlane, until

from rayward.kube.client import ApiError, KubeClient
from rayward.kube.kinds import CONFIGMAPS, PODS
from rayward.local import linux

BOX = {"name": "box", "image": "none", "command": ["true"]}


def create(plane: ControlPlane, path: str, kind: str, name: str, **fields: Any) -> dict[str, Any]:
    """Makes an object of a core kind, or of `batch/v1` for a Job."""
    metadata = {"name": name, **fields.pop("metadata", {})}
    version = "batch/v1" if kind == "Job" else "v1"
    body = {"apiVersion": version, "kind": kind, "metadata": metadata, **fields}
    status, answer = plane.request("POST", path, body)
    assert status == 201, answer
    return answer


def test_every_program_says_the_same_version(control_plane: ControlPlane) -> None:
    said = control_plane.kubectl("version", "--output=json").stdout
    status, version = control_plane.request("GET", "/version")
    assert status == 200
    assert (int(version["major"]), int(version["minor"].rstrip("+"))) == control_plane.version
    assert version["gitVersion"].startswith("v{}.{}.".format(*control_plane.version))
    assert f'"gitVersion": "{version["gitVersion"]}"' in said


def test_the_job_controller_makes_a_pod(controllers: ControlPlane, namespace: str) -> None:
    template = {"spec": {"restartPolicy": "Never", "containers": [BOX]}}
    create(
        controllers, f"/apis/batch/v1/namespaces/{namespace}/jobs", "Job", "once", spec={"template": template}
    )

    def pods() -> list[dict[str, Any]]:
        return controllers.request("GET", f"/api/v1/namespaces/{namespace}/pods")[1]["items"]

    (pod,) = until("the Job has a Pod", pods)
    (owner,) = pod["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("Job", "once")


def test_the_garbage_collector_takes_along_what_is_owned(controllers: ControlPlane, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    owner = create(controllers, path, "ConfigMap", "owner")
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    create(controllers, path, "ConfigMap", "owned", metadata={"ownerReferences": [reference]})
    create(controllers, path, "ConfigMap", "free")
    assert controllers.request("DELETE", f"{path}/owner")[0] == 200
    until("the owned one is gone", lambda: controllers.request("GET", f"{path}/owned")[0] == 404)
    assert controllers.request("GET", f"{path}/free")[0] == 200


KIND = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "boxes.control-plane.test"},
    "spec": {
        "group": "control-plane.test",
        "scope": "Namespaced",
        "names": {"kind": "Box", "plural": "boxes"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "text": {"type": "string"},
                            "list": {"type": "array", "items": {"type": "string"}},
                        },
                    }
                },
            }
        ],
    },
}


def test_objects_of_a_new_kind_are_checked_and_kept(control_plane: ControlPlane, namespace: str) -> None:
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    status, answer = control_plane.request("POST", definitions, KIND)
    assert status == 201, answer
    try:
        boxes = f"/apis/control-plane.test/v1/namespaces/{namespace}/boxes"
        until("the kind is served", lambda: control_plane.request("GET", boxes)[0] == 200)
        box = {
            "apiVersion": "control-plane.test/v1",
            "kind": "Box",
            "metadata": {"name": "box", "namespace": namespace},
        }
        # A made API server once took an empty text for none, and once died here.
        status, kept = control_plane.request("POST", boxes, {**box, "text": "", "list": [""]})
        assert (status, kept.get("text"), kept.get("list")) == (201, "", [""])
        for wrong in ({"text": 1}, {"list": ""}):
            status, answer = control_plane.request(
                "POST", boxes, {**box, "metadata": {"name": "no"}, **wrong}
            )
            assert status == 422, answer
        applied = json.dumps({**box, "text": "new"})
        control_plane.kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", input=applied)
        assert control_plane.request("GET", f"{boxes}/box")[1]["text"] == "new"
    finally:
        control_plane.request("DELETE", f"{definitions}/boxes.control-plane.test")


class Kubelet(http.server.BaseHTTPRequestHandler):
    """Answers for the logs of any container."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"asked for {self.path}\n".encode())

    def log_message(self, *_: object) -> None:
        """Nothing: the test's output is its own."""


@pytest.fixture
def node(control_plane: ControlPlane) -> Iterator[str]:
    """A ready Node with a kubelet on loopback that knows nothing but logs."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Kubelet)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(control_plane.folder / "server.crt", control_plane.folder / "server.key")
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=[0.05])
    thread.start()
    name = "node-of-a-test"
    try:
        create(control_plane, "/api/v1/nodes", "Node", name)
        room = {"cpu": "4", "memory": "4Gi", "pods": "10"}
        status = {
            "capacity": room,
            "allocatable": room,
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": server.server_port}},
            "conditions": [{"type": "Ready", "status": "True", "reason": "Test"}],
        }
        merge = "application/merge-patch+json"
        path = f"/api/v1/nodes/{name}/status"
        code, answer = control_plane.request("PATCH", path, {"status": status}, content_type=merge)
        assert code == 200, answer
        yield name
        control_plane.request("DELETE", f"/api/v1/nodes/{name}")
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def test_the_scheduler_finds_a_node_and_the_api_server_its_kubelet(
    controllers: ControlPlane, namespace: str, node: str
) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods"
    create(controllers, path, "Pod", "lone", spec={"containers": [BOX]})
    found = until(
        "the Pod has a Node",
        lambda: controllers.request("GET", f"{path}/lone")[1]["spec"].get("nodeName"),
    )
    assert found == node
    assert controllers.kubectl("logs", "--namespace", namespace, "lone").stdout == (
        f"asked for /containerLogs/{namespace}/lone/box\n"
    )
    controllers.request("DELETE", f"{path}/lone?gracePeriodSeconds=0")


def test_an_account_may_do_what_a_role_says_and_nothing_else(
    control_plane: ControlPlane, namespace: str
) -> None:
    if not control_plane.controllers:
        create(control_plane, f"/api/v1/namespaces/{namespace}/serviceaccounts", "ServiceAccount", "default")
    refused = control_plane.request("GET", f"/api/v1/namespaces/{namespace}/pods", token="nobody's")
    assert refused[0] == 401
    account = control_plane.kubeconfig_as(namespace, "default")
    words = control_plane.kubectl("get", "pods", "--namespace", namespace, kubeconfig=account, check=False)
    assert words.returncode != 0
    assert f"system:serviceaccount:{namespace}:default" in words.stderr
    control_plane.kubectl(
        "create", "role", "look", "--verb=list", "--resource=pods", "--namespace", namespace
    )
    control_plane.kubectl(
        *("create", "rolebinding", "look", "--role=look", "--namespace", namespace),
        f"--serviceaccount={namespace}:default",
    )

    async def look() -> None:
        async with contextlib.AsyncExitStack() as closing:
            client: KubeClient = control_plane.client_as(namespace, "default")
            closing.push_async_callback(client.close)
            assert (await client.list(PODS, namespace)).items == ()
            with pytest.raises(ApiError) as denied:
                await client.list(CONFIGMAPS, namespace)
            assert denied.value.status == 403

    asyncio.run(look())


def in_a_thread(*calls: Any) -> None:
    """Runs calls in a thread that ends after them."""

    def run() -> None:
        for call in calls:
            call()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def test_what_was_written_outlives_the_api_server(control_plane: ControlPlane, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    create(control_plane, path, "ConfigMap", "kept", data={"key": "value"})
    before = control_plane.pids()
    in_a_thread(control_plane.stop_api_server)
    try:
        with pytest.raises(OSError, match="refused"):
            control_plane.request("GET", path)
        assert set(before) - set(control_plane.pids()) == {"kube-apiserver"}
    finally:
        # Not by the thread that will be asking: what the thread started must live on after it.
        in_a_thread(control_plane.start_api_server)
    assert control_plane.request("GET", f"{path}/kept")[1]["data"] == {"key": "value"}
    after = control_plane.pids()
    assert after.pop("kube-apiserver") != before.pop("kube-apiserver")
    assert after == before


def test_a_frozen_api_server_is_silent_and_goes_on_afterwards(control_plane: ControlPlane) -> None:
    control_plane.freeze_api_server()
    try:
        with pytest.raises(TimeoutError):
            control_plane.request("GET", "/version", bound_s=0.5)
    finally:
        control_plane.thaw_api_server()
    assert control_plane.request("GET", "/version")[0] == 200


STARTS_ONE = """
import pathlib, sys
import binaries, control_plane
programs = binaries.Binaries(pathlib.Path(sys.argv[1]), controllers=sys.argv[2] == "True")
with control_plane.running(programs) as plane:
    print(plane.folder, *plane.pids().values(), flush=True)
    sys.stdin.readline()
print("stopped", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["in order", "killed"])
def test_nothing_of_it_outlives_its_test(binaries: Binaries, end: str, tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(planes.__file__).parent)}
    with subprocess.Popen(
        [sys.executable, "-c", STARTS_ONE, str(binaries.folder), str(binaries.controllers)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as test:
        assert test.stdin is not None
        assert test.stdout is not None
        folder_name, *pids = test.stdout.readline().split()
        folder = Path(folder_name)
        started = {int(pid): linux.process_start_time(int(pid)) for pid in pids}
        assert len(started) == (4 if binaries.controllers else 2)
        assert None not in started.values()

        def left() -> list[int]:
            return [pid for pid, since in started.items() if linux.process_start_time(pid) == since]

        if end == "killed":
            test.send_signal(signal.SIGKILL)
            until("every process has ended", lambda: not left(), 20)
        else:
            test.stdin.write("\n")
            test.stdin.flush()
            assert test.stdout.readline() == "stopped\n"
            assert left() == []
    assert folder.exists() is (end == "killed")


def test_the_folder_of_a_killed_test_is_removed_by_the_next_and_that_of_a_living_one_is_not(
    control_plane: ControlPlane,
) -> None:
    folder = Path(tempfile.mkdtemp(prefix="rayward-control-plane-"))
    (folder / "lock").touch()
    planes.remove_abandoned()
    assert folder.exists(), "it could be one whose lock is about to be taken"
    for old in (folder, control_plane.folder):
        os.utime(old, (1, 1))
    planes.remove_abandoned()
    assert not folder.exists()
    assert (control_plane.folder / "lock").exists()

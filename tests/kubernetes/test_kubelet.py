"""The tests' own kubelet against a real API server: Pods live and die as on a node of Kubernetes."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from control_plane import ControlPlane, until
from kubelet_bench import LIVE, STUBBORN, Bench, program
from kubelet_fixture import NodeProcess, ready, real_node

from rayward.local.service_keeper import proxy_identity, proxy_runs

pytestmark = pytest.mark.namespaces


@pytest.fixture(scope="module")
def node(controllers: ControlPlane) -> Iterator[NodeProcess]:
    with real_node(controllers) as found:
        yield found


@pytest.fixture
def bench(controllers: ControlPlane, node: NodeProcess, namespace: str) -> Bench:
    return Bench(controllers, node, namespace)


def test_a_scheduled_pod_runs_and_its_status_says_so(bench: Bench) -> None:
    bench.pod("one", nodeName=None)  # the scheduler finds the node
    status = bench.until_ready("one")
    pod = bench.get("pod", "one")
    node = bench.get("node", bench.node.names[0])
    assert pod["spec"]["nodeName"] == bench.node.names[0]
    assert status["phase"] == "Running"
    assert status["hostIP"] == node["status"]["addresses"][0]["address"]
    assert status["podIPs"] == [{"ip": status["podIP"]}]
    assert status["startTime"]
    assert {entry["type"]: entry["status"] for entry in status["conditions"]} == dict.fromkeys(
        ("PodScheduled", "Initialized", "ContainersReady", "Ready"), "True"
    )
    (container,) = status["containerStatuses"]
    assert (container["restartCount"], container["ready"], list(container["state"])) == (0, True, ["running"])
    assert bench.kubectl("get", "pod", "one", "--no-headers").split()[1:4] == ["1/1", "Running", "0"]
    assert "Started container main" in bench.kubectl("get", "events")
    lease = bench.plane.request(
        "GET", f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{bench.node.names[0]}"
    )[1]
    assert lease["spec"]["holderIdentity"] == bench.node.names[0]


def test_a_pods_status_is_not_written_when_nothing_changed(bench: Bench) -> None:
    bench.pod("one")
    bench.until_ready("one")
    version = bench.get("pod", "one")["metadata"]["resourceVersion"]
    # Two more Pods come to be ready: the first one was looked at many times meanwhile.
    for name in ("two", "three"):
        bench.pod(name)
        bench.until_ready(name)
    assert bench.get("pod", "one")["metadata"]["resourceVersion"] == version


def test_a_container_that_fails_starts_again_and_backs_off(bench: Bench) -> None:
    bench.pod("one", program("print('try', flush=True); raise SystemExit(3)"), restartPolicy="Always")

    def backs_off() -> dict[str, Any]:
        (entry,) = bench.status("one").get("containerStatuses") or ({"state": {}},)
        waiting = entry["state"].get("waiting") or {}
        return entry if waiting.get("reason") == "CrashLoopBackOff" else {}

    entry = bench.until("it backs off", backs_off)
    assert entry["restartCount"] == 1
    assert entry["lastState"]["terminated"]["exitCode"] == 3
    assert "CrashLoopBackOff" in bench.kubectl("get", "pod", "one")
    assert bench.logs("one", "--previous") == "try\n"


@pytest.mark.parametrize(("code", "phase"), [(0, "Succeeded"), (4, "Failed")])
def test_a_container_that_is_never_restarted_ends_the_pod(bench: Bench, code: int, phase: str) -> None:
    bench.pod("one", program(f"raise SystemExit({code})"), restartPolicy="Never")
    (entry,) = bench.until_phase("one", phase)["containerStatuses"]
    assert (entry["state"]["terminated"]["exitCode"], entry["restartCount"]) == (code, 0)


def test_a_job_is_done_when_its_pod_is(bench: Bench) -> None:
    template = {"spec": {"restartPolicy": "Never", "containers": [program("print('done')")]}}
    bench.apply("Job", "one", version="batch/v1", spec={"template": template})
    bench.kubectl("wait", "--for=condition=Complete", "job/one", "--timeout=60s", timeout_s=70)


def test_a_readiness_probe_that_fails_makes_the_pod_unready(bench: Bench) -> None:
    probe = {"exec": {"command": ["test", "-e", "/tmp/well"]}, "periodSeconds": 1, "failureThreshold": 1}
    code = f"open('/tmp/well', 'w').close(); {LIVE}"
    bench.pod("one", program(code, readinessProbe=probe))
    bench.until_ready("one")
    assert bench.execute("one", "rm", "/tmp/well").returncode == 0
    bench.until("it is unready", lambda: not ready(bench.status("one")["conditions"]))
    status = bench.status("one")
    assert (status["phase"], status["containerStatuses"][0]["restartCount"]) == ("Running", 0)
    assert bench.execute("one", "touch", "/tmp/well").returncode == 0
    bench.until_ready("one")


def test_a_liveness_probe_that_fails_restarts_the_container(bench: Bench) -> None:
    probe = {"exec": {"command": ["test", "-e", "/tmp/well"]}, "periodSeconds": 1, "failureThreshold": 3}
    bench.pod("one", program(f"open('/tmp/well', 'w').close(); {LIVE}", livenessProbe=probe))
    bench.until_ready("one")
    bench.execute("one", "rm", "/tmp/well")
    restarted = "it was started again"
    bench.until(restarted, lambda: bench.status("one")["containerStatuses"][0]["restartCount"] == 1)
    bench.until_ready("one")


def test_a_deleted_pod_is_asked_to_end_and_goes(bench: Bench) -> None:
    bench.pod("one", program(STUBBORN.format(then="sys.exit(0)")), terminationGracePeriodSeconds=60)
    bench.until_ready("one")
    bench.logged("one", "here")
    follower = bench.plane.binaries.path("kubectl")
    with subprocess.Popen(
        [follower, f"--kubeconfig={bench.plane.kubeconfig}", "-n", bench.namespace, "logs", "-f", "one"],
        stdout=subprocess.PIPE,
        text=True,
    ) as logs:
        assert logs.stdout is not None
        assert logs.stdout.readline() == "here\n"
        bench.kubectl("delete", "pod", "one", "--wait=false")
        assert logs.stdout.read() == "asked to end\n", "kubectl logs --follow ends with the container"
    bench.until("the Pod is gone", lambda: bench.gone("one"))


def test_a_pod_that_does_not_end_is_killed_after_its_grace(bench: Bench) -> None:
    bench.pod("one", program(STUBBORN.format(then="pass")), terminationGracePeriodSeconds=2)
    bench.until_ready("one")
    bench.logged("one", "here")
    begun = time.monotonic()
    bench.kubectl("delete", "pod", "one", "--wait=false")
    bench.until("it is not ready any more", lambda: not ready(bench.status("one").get("conditions") or ()))
    bench.until("the Pod is gone", lambda: bench.gone("one"))
    assert time.monotonic() - begun >= 2


def test_a_pod_deleted_by_force_leaves_no_process(bench: Bench) -> None:
    bench.pod("one", program(STUBBORN.format(then="pass")), terminationGracePeriodSeconds=600)
    bench.until_ready("one")
    uid = bench.get("pod", "one")["metadata"]["uid"]
    process = bench.node.ground.process(uid)
    bench.kubectl("delete", "pod", "one", "--wait=false")
    bench.until("it is ending", lambda: not ready(bench.status("one").get("conditions") or ()))
    bench.kubectl("delete", "pod", "one", "--force", "--grace-period=0")
    bench.until("its process is gone", lambda: not process.alive() and not process.folder.exists())


def test_a_pod_that_comes_again_under_its_name_is_another_one(bench: Bench) -> None:
    bench.pod("one")
    first = bench.until_ready("one")
    bench.kubectl("delete", "pod", "one", timeout_s=60)
    bench.pod("one")
    second = bench.until_ready("one")
    assert first["podIP"] != second["podIP"]


def test_a_pod_whose_process_was_killed_has_failed(bench: Bench) -> None:
    bench.pod("one")
    bench.until_ready("one")
    bench.node.ground.process(bench.get("pod", "one")["metadata"]["uid"]).kill()
    status = bench.until_phase("one", "Failed")
    assert status["reason"] == "PodProcessDied"
    assert status["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 137
    assert not ready(status["conditions"])


# -- what Pods refer to ------------------------------------------------------------------------------------


def test_config_maps_secrets_and_fields_reach_the_pod(bench: Bench) -> None:
    raw = base64.b64encode(bytes(range(256))).decode()
    bench.apply("ConfigMap", "settings", data={"greeting": "good day"}, binaryData={"raw": raw})
    bench.apply("Secret", "password", stringData={"word": "s3cret"})
    reference = {"secretKeyRef": {"name": "password", "key": "word"}}
    env = [
        {"name": "WORD", "valueFrom": reference},
        {"name": "ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
    ]
    code = (
        "import os; print(os.environ['WORD'], os.environ['ADDRESS'], open('/etc/settings/greeting').read());"
    )
    code += "print(open('/etc/settings/raw', 'rb').read() == bytes(range(256)))"
    mounts = [{"name": "settings", "mountPath": "/etc/settings"}, {"name": "room", "mountPath": "/room"}]
    volumes = [{"name": "settings", "configMap": {"name": "settings"}}, {"name": "room", "emptyDir": {}}]
    bench.pod("one", program(code, env=env, volumeMounts=mounts), volumes=volumes, restartPolicy="Never")
    status = bench.until_phase("one", "Succeeded")
    assert bench.logs("one") == f"s3cret {status['podIP']} good day\nTrue\n"


def test_a_pod_waits_for_a_secret_that_comes_later(bench: Bench) -> None:
    env = [{"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "late", "key": "word"}}}]
    bench.pod("one", program("import os; print(os.environ['WORD'])", env=env), restartPolicy="Never")

    def waits() -> bool:
        (entry,) = bench.status("one").get("containerStatuses") or ({"state": {}},)
        return (entry["state"].get("waiting") or {}).get("reason") == "CreateContainerConfigError"

    bench.until("it waits for its Secret", waits)
    assert 'Secret "late" is not there' in bench.kubectl("get", "events")
    assert "is waiting to start: CreateContainerConfigError" in bench.logs("one")
    bench.apply("Secret", "late", stringData={"word": "at last"})
    bench.until_phase("one", "Succeeded")
    assert bench.logs("one") == "at last\n"


def test_a_claim_keeps_what_was_written_and_its_volume_goes_with_it(bench: Bench) -> None:
    resources = {"requests": {"storage": "1Gi"}}
    bench.apply(
        "PersistentVolumeClaim", "disk", spec={"accessModes": ["ReadWriteOnce"], "resources": resources}
    )
    mount = {"volumeMounts": [{"name": "disk", "mountPath": "/disk"}]}
    volumes = [{"name": "disk", "persistentVolumeClaim": {"claimName": "disk"}}]
    for name, code in (
        ("one", "open('/disk/a', 'w').write('kept')"),
        ("two", "print(open('/disk/a').read())"),
    ):
        # By the scheduler, which waits until the claim is bound.
        bench.pod(name, program(code, **mount), volumes=volumes, restartPolicy="Never", nodeName=None)
        bench.until_phase(name, "Succeeded")
    assert bench.logs("two") == "kept\n"
    volume = bench.get("pvc", "disk")["spec"]["volumeName"]
    path = Path(bench.get("pv", volume)["spec"]["hostPath"]["path"])
    assert (path / "a").exists()
    bench.kubectl("delete", "pod", "one", "two")
    bench.kubectl("delete", "pvc", "disk")
    until(
        "the volume is gone",
        lambda: bench.plane.request("GET", f"/api/v1/persistentvolumes/{volume}")[0] == 404,
    )
    assert not path.exists()


ASK = """
import socket, sys
for name in sys.argv[1:]:
    try: found = sorted({entry[4][0] for entry in socket.getaddrinfo(name, 80, socket.AF_INET)})
    except OSError: found = ["unknown"]
    print(name, *found)
"""


def test_services_are_known_by_name_in_their_namespace_and_beyond(bench: Bench) -> None:
    here, other = bench.namespace, f"{bench.namespace}-b"
    bench.plane.kubectl("create", "namespace", other)
    away = Bench(bench.plane, bench.node, other)
    try:
        bench.until("there is an account", lambda: bench.plane.account_exists(other))
        for name in ("one", "two"):
            bench.pod(name, labels={"app": "web"})
        away.pod("one", labels={"app": "web"})
        own = [bench.until_ready(name)["podIP"] for name in ("one", "two")]
        theirs = away.until_ready("one")["podIP"]
        port = [{"port": 80, "targetPort": 80}]
        bench.apply("Service", "many", spec={"clusterIP": "None", "selector": {"app": "web"}, "ports": port})
        bench.apply("Service", "first", spec={"selector": {"app": "web"}, "ports": port})
        away.apply("Service", "first", spec={"selector": {"app": "web"}, "ports": port})
        away.apply("Service", "only", spec={"selector": {"app": "web"}, "ports": port})
        names = ["many", f"many.{here}.svc.cluster.local", "first", f"first.{here}", f"first.{here}.svc"]
        names += [f"first.{other}.svc.cluster.local", f"only.{other}", "only"]
        both = " ".join(sorted(own))
        first = sorted(own)[0]
        found = [both, both, first, first, first, theirs, theirs, "unknown"]
        expected = "".join(f"{name} {address}\n" for name, address in zip(names, found, strict=True))
        until(
            "the names lead there",
            lambda: bench.execute("one", "python3", "-c", ASK, *names).stdout == expected,
            30,
        )
        bench.kubectl("delete", "pod", "two")
        until(
            "the name follows its Pods",
            lambda: bench.execute("one", "python3", "-c", ASK, "many").stdout == f"many {own[0]}\n",
            30,
        )
    finally:
        bench.plane.kubectl("delete", "namespace", other, "--wait=false")


ANSWER = """
import http.server, socket
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(socket.gethostname().encode())
http.server.HTTPServer(("", 8000), Handler).serve_forever()
"""
ASK_OFTEN = """
import urllib.request
for _ in range(6): print(urllib.request.urlopen("http://serve", timeout=5).read().decode())
"""


def test_connections_to_a_service_for_serve_are_spread_over_its_ready_pods(bench: Bench) -> None:
    probe = {"httpGet": {"port": 8000}, "periodSeconds": 1}
    ports = [{"name": "answers", "containerPort": 8000}]
    for name in ("one", "two"):
        bench.pod(name, program(ANSWER, readinessProbe=probe, ports=ports), labels={"app": "web"})
    bench.pod("client")
    port = [{"name": "serve", "port": 80, "targetPort": "answers"}]
    spec = {"selector": {"app": "web"}, "ports": port}
    bench.apply("Service", "serve", labels={"ray.io/serve": "serve"}, spec=spec)
    for name in ("one", "two", "client"):
        bench.until_ready(name)

    def answers() -> list[str]:
        return sorted(bench.execute("client", "python3", "-c", ASK_OFTEN).stdout.split())

    bench.until("both answer alike", lambda: answers() == ["one"] * 3 + ["two"] * 3)
    bench.kubectl("delete", "pod", "one")
    assert answers() == ["two"] * 6
    # The proxy outlives the node's process, and comes again if it does not.
    proxy = proxy_identity(bench.node.ground.folder)
    bench.node.kill()
    bench.node.start()
    bench.until("the node takes orders", lambda: bench.execute("client", "true").returncode == 0)
    assert answers() == ["two"] * 6
    assert proxy_identity(bench.node.ground.folder) == proxy
    assert proxy is not None
    os.kill(proxy[0], signal.SIGKILL)
    bench.until("it is back", lambda: answers() == ["two"] * 6)
    bench.kubectl("delete", "service", "serve")
    bench.until("without Services there is none", lambda: not proxy_runs(bench.node.ground.folder))


ASK_API = """
import json, os, ssl, urllib.request
folder = "/var/run/secrets/kubernetes.io/serviceaccount/"
url = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}/version"
request = urllib.request.Request(url, headers={"Authorization": "Bearer " + open(folder + "token").read()})
context = ssl.create_default_context(cafile=folder + "ca.crt")
print(json.load(urllib.request.urlopen(request, context=context, timeout=10))["major"])
"""


def test_a_pod_reaches_the_api_server_with_its_account(bench: Bench) -> None:
    bench.pod("one", program(ASK_API), restartPolicy="Never")
    bench.until_phase("one", "Succeeded")
    assert bench.logs("one") == "1\n"


def test_a_projected_token_is_the_accounts(bench: Bench) -> None:
    token = {"serviceAccountToken": {"path": "here", "expirationSeconds": 3600}}
    mounts = {"volumeMounts": [{"name": "token", "mountPath": "/token"}]}
    code = "print(open('/token/here').read(), end='')"
    volumes = [{"name": "token", "projected": {"sources": [token]}}]
    bench.pod("one", program(code, **mounts), volumes=volumes, restartPolicy="Never")
    bench.until_phase("one", "Succeeded")
    review = {"spec": {"token": bench.logs("one")}}
    answer = bench.plane.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review)[1]
    assert answer["status"]["user"]["username"] == f"system:serviceaccount:{bench.namespace}:default"

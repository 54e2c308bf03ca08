"""The tests' own kubelet as a process: killed, lost, cut off, ended; and its hollow nodes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from control_plane import ControlPlane, until
from kubelet_bench import LIVE, STUBBORN, Bench, program
from kubelet_fixture import NodeProcess, hollow_nodes, ready, real_node

from rayward.local import linux

pytestmark = pytest.mark.namespaces


@pytest.fixture(scope="module")
def node(controllers: ControlPlane) -> Iterator[NodeProcess]:
    with real_node(controllers) as found:
        yield found


@pytest.fixture
def bench(controllers: ControlPlane, node: NodeProcess, namespace: str) -> Bench:
    return Bench(controllers, node, namespace)


def test_pods_go_on_without_the_kubelet_and_are_found_again(
    controllers: ControlPlane, namespace: str
) -> None:
    with real_node(controllers) as node:
        bench = Bench(controllers, node, namespace)
        for name in ("stays", "goes", "forced"):
            bench.pod(name)
        before = {name: bench.until_ready(name) for name in ("stays", "goes", "forced")}
        uid = {name: bench.get("pod", name)["metadata"]["uid"] for name in before}
        pids = {name: node.ground.process(uid[name]).identity() for name in before}
        node.kill()
        bench.kubectl("delete", "pod", "goes", "--wait=false")
        bench.kubectl("delete", "pod", "forced", "--force", "--grace-period=0")
        bench.pod("new")
        assert all(node.ground.process(one).alive() for one in uid.values())
        node.start()
        bench.until("what was deleted meanwhile is gone", lambda: bench.gone("goes"))
        bench.until("its process too", lambda: not node.ground.process(uid["forced"]).folder.exists())
        bench.until_ready("new")
        assert node.ground.process(uid["stays"]).identity() == pids["stays"]
        after = bench.status("stays")
        assert (after["podIP"], after["startTime"]) == (
            before["stays"]["podIP"],
            before["stays"]["startTime"],
        )
        assert after["containerStatuses"] == before["stays"]["containerStatuses"]
        assert bench.execute("stays", "echo", "well").stdout == "well\n"


def test_a_lost_node_says_nothing_until_it_is_back(controllers: ControlPlane, namespace: str) -> None:
    with real_node(controllers, nodes=2) as node:
        bench = Bench(controllers, node, namespace)
        for index, name in enumerate(("kept", "lost")):
            bench.pod(name, nodeName=node.names[index])
        before = {name: bench.until_ready(name) for name in ("kept", "lost")}
        process = node.ground.process(bench.get("pod", "lost")["metadata"]["uid"])
        node.lose(node.names[1])
        until("its Pod's process is gone", lambda: not process.alive(), 10)
        bench.kubectl("delete", "pod", "lost", "--wait=false")
        bench.pod("later", nodeName=node.names[0])
        bench.until_ready("later")  # the other node works meanwhile
        assert bench.status("lost") == before["lost"]
        assert bench.execute("lost", "true").returncode != 0
        node.find(node.names[1])
        bench.until("the Pod is gone now", lambda: bench.gone("lost"))
        assert bench.status("kept") == before["kept"]


def test_pods_go_on_while_the_api_server_is_away(
    controllers: ControlPlane, node: NodeProcess, namespace: str
) -> None:
    bench = Bench(controllers, node, namespace)
    probe = {"exec": {"command": ["test", "-e", "/tmp/well"]}, "periodSeconds": 1, "failureThreshold": 1}
    bench.pod("one", program(f"open('/tmp/well', 'w').close(); {LIVE}", readinessProbe=probe))
    status = bench.until_ready("one")
    process = node.ground.process(bench.get("pod", "one")["metadata"]["uid"])
    pid = next(iter(process.status()["rayward"]["containers"].values()))["pid"]
    controllers.stop_api_server()
    try:
        Path("/proc", str(pid), "root", "tmp", "well").unlink()
        bench.until("the Pod is unready for itself", lambda: not ready(process.status()["conditions"]))
    finally:
        controllers.start_api_server()
    bench.until("and says so", lambda: not ready(bench.status("one").get("conditions") or ()))
    after = bench.status("one")
    assert (after["podIP"], after["containerStatuses"][0]["restartCount"]) == (status["podIP"], 0)
    assert linux.process_start_time(pid) is not None


def test_a_clean_end_leaves_nothing(controllers: ControlPlane, namespace: str) -> None:
    with real_node(controllers) as node:
        bench = Bench(controllers, node, namespace)
        bench.pod("one", program(STUBBORN.format(then="pass")), terminationGracePeriodSeconds=600)
        bench.until_ready("one")
        assert node.ground.fabric.exists()
        node.stop()
        assert node.process is not None
        assert node.process.returncode == 0, node.log.read_text()
        assert node.left() == []
        assert bench.gone("one")
        assert controllers.request("GET", f"/api/v1/nodes/{node.names[0]}")[0] == 404
        leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        assert controllers.request("GET", f"{leases}/{node.names[0]}")[0] == 404


# -- hollow nodes ------------------------------------------------------------------------------------------


def test_hollow_nodes_make_pods_ready_and_jobs_done(controllers: ControlPlane, namespace: str) -> None:
    with hollow_nodes(controllers, nodes=4) as node:
        bench = Bench(controllers, node, namespace)
        selector = {"matchLabels": {"app": "many"}}
        containers = [{"name": "main", "image": "none"}]
        template = {"metadata": {"labels": {"app": "many"}}, "spec": {"containers": containers}}
        template["spec"]["nodeSelector"] = {"hollow": "yes"}
        for name in node.names:
            bench.kubectl("label", "node", name, "hollow=yes")
        bench.apply(
            "Deployment",
            "many",
            version="apps/v1",
            spec={"replicas": 200, "selector": selector, "template": template},
        )
        bench.kubectl("rollout", "status", "deployment/many", "--timeout=60s", timeout_s=70)
        pods = json.loads(bench.kubectl("get", "pods", "--output=json"))["items"]
        assert {pod["spec"]["nodeName"] for pod in pods} == set(node.names)
        assert len({pod["status"]["podIP"] for pod in pods}) == len(pods) == 200
        job = {"spec": {**template["spec"], "restartPolicy": "Never"}}
        bench.apply("Job", "one", version="batch/v1", spec={"template": job})
        bench.kubectl("wait", "--for=condition=Complete", "job/one", "--timeout=60s", timeout_s=70)
        bench.kubectl("delete", "deployment", "many")
        bench.kubectl("delete", "pod", "--all", "--wait=false")
        until("all Pods are gone", lambda: bench.kubectl("get", "pods", "--output=name") == "", 60)


def test_hollow_nodes_bind_pods_where_no_scheduler_does(controllers: ControlPlane, namespace: str) -> None:
    with hollow_nodes(controllers, nodes=2, options=("--bind",)) as node:
        bench = Bench(controllers, node, namespace)
        for name in ("one", "two"):
            # The scheduler leaves Pods alone that another one is to bind.
            bench.pod(name, nodeName=None, schedulerName="none")
        nodes = {
            name: bench.until_ready(name) and bench.get("pod", name)["spec"]["nodeName"]
            for name in ("one", "two")
        }
        assert set(nodes.values()) == set(node.names)

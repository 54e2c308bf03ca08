"""A cluster with two heads, on Pods that start in a moment: who is found under which name, and what is left
when a head is deleted, killed, frozen, cut off or no longer wanted."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import EXAMPLES, CommandLine, eventually
from pyroute2 import IPRoute

from rayward.errors import RaywardError
from rayward.local import disrupt, state
from rayward.local.agent_status import tell_agent
from rayward.local.cluster import LocalCluster
from rayward.local.pod_process import package_environment
from rayward.local.state import ClusterFolder

Raw = dict[str, Any]
NAME = "ttwoheads"
STAND_IN = Path(__file__).with_name("stand_in_head.py").read_text()
HEAD_NAME = f"{NAME}-head-svc.default.svc.cluster.local"
AGENTS_NAME = f"{NAME}-head-agents.default.svc.cluster.local"


def manifest(shared: Path) -> str:
    """The example, with the stand-in where Ray and the agent would be and two workers fewer."""
    documents = list(yaml.safe_load_all((EXAMPLES / "ray-cluster.ha.yaml").read_text()))
    cluster = next(item for item in documents if item["kind"] == "RayCluster")
    group = cluster["spec"]["workerGroupSpecs"][0]
    group["replicas"] = 1
    for template in (cluster["spec"]["headGroupSpec"]["template"], group["template"]):
        spec, container = template["spec"], template["spec"]["containers"][0]
        spec["terminationGracePeriodSeconds"] = 1
        spec["volumes"] = [
            {"name": "stand-in", "configMap": {"name": "stand-in"}},
            {"name": "shared", "hostPath": {"path": str(shared)}},
        ]
        container["volumeMounts"] = [
            {"name": "stand-in", "mountPath": "/stand-in"},
            {"name": "shared", "mountPath": "/shared"},
        ]
        container["env"] = [{"name": "RAYWARD_AGENT_TOKEN", "value": "let-me"}]
        container["command"] = ["exec", "python3", "/stand-in/stand_in_head.py"]
    data = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "stand-in"}}
    documents.append({**data, "data": {"stand_in_head.py": STAND_IN}})
    return yaml.safe_dump_all(documents)


@pytest.fixture(scope="module")
def ha(shared: CommandLine) -> Iterator[LocalCluster]:
    """The cluster, up; the standby says only then that it is warm when the file is there."""
    folder = shared.home / "shared"
    folder.mkdir()
    path = shared.home / "manifest.yaml"
    path.write_text(manifest(folder))
    starting = shared.popen("up", "-f", str(path), "--name", NAME, "--timeout", "90")
    cluster = LocalCluster(ClusterFolder(shared.home / "clusters" / NAME))
    try:
        eventually(lambda: cluster.folder.exists and cluster_state(cluster) == "ready", timeout=60)
        waiting = cluster.progress()
        assert [entry.role for entry in waiting.pods if not entry.is_ready] == ["standby"]
        assert not waiting.ready
        assert starting.poll() is None, "up did not wait for the standby to be warm"
        (folder / "warm").touch()
        out, errors = starting.communicate(timeout=60)
        assert starting.returncode == 0, errors
        assert "is ready" in out
        yield cluster
    finally:
        if starting.poll() is None:
            starting.kill()
        shared("down", NAME)


def cluster_state(cluster: LocalCluster) -> str:
    found = cluster.folder.get("RayCluster", NAME) or {}
    return str((found.get("status") or {}).get("state", ""))


def settled(cluster: LocalCluster) -> tuple[Raw, Raw]:
    """The leader and the standby, once everything is as it should be."""
    eventually(lambda: cluster.progress().ready, timeout=40, why=cluster.progress)
    leader = cluster.leader()
    assert leader is not None
    (standby,) = [pod for pod in cluster.heads() if name_of(pod) != name_of(leader)]
    return leader, standby


def name_of(pod: Raw) -> str:
    return str(pod["metadata"]["name"])


def index_of(pod: Raw) -> str:
    return str(pod["metadata"]["labels"]["rayward.dev/head-index"])


def address_of(pod: Raw) -> str:
    return str(pod["status"]["podIP"])


def restarts_of(pod: Raw) -> int:
    return int(pod["status"]["containerStatuses"][0]["restartCount"])


def found_in(cluster: LocalCluster, pod: Raw, name: str) -> set[str]:
    """The addresses of a name, in the words of a Pod's hosts file."""
    lines = (cluster.pod_folder(name_of(pod)) / "hosts").read_text().splitlines()
    return {line.split()[0] for line in lines if name in line.split()}


def leads_everywhere(cluster: LocalCluster, pod: Raw) -> Callable[[], bool]:
    return lambda: all(
        found_in(cluster, other, HEAD_NAME) == {address_of(pod)} for other in cluster.pods() if running(other)
    )


def running(pod: Raw) -> bool:
    return pod["status"].get("phase") == "Running" and not pod["metadata"].get("deletionTimestamp")


def test_one_head_leads_and_the_other_counts_as_ready(ha: LocalCluster) -> None:
    leader, standby = settled(ha)
    states = {entry.name: entry for entry in ha.progress().pods}
    assert (states[name_of(leader)].ready, states[name_of(leader)].role) == (1, "leader")
    assert (states[name_of(standby)].ready, states[name_of(standby)].role) == (0, "standby")
    assert states[name_of(standby)].is_ready
    status = (ha.folder.get("RayCluster", NAME) or {})["status"]
    assert status["head"]["podName"] == name_of(leader)
    conditions = {item["type"]: item["status"] for item in status["conditions"]}
    assert (conditions["HeadPodReady"], conditions["StandbyHeadReady"]) == ("True", "True")


def test_the_head_service_leads_to_the_leader_and_the_agents_service_to_both(ha: LocalCluster) -> None:
    leader, standby = settled(ha)
    eventually(leads_everywhere(ha, leader), timeout=30)
    (worker,) = ha.pods(ray_io_node_type="worker")
    ask = (
        "import socket, sys; print(sorted({found[4][0] for found in socket.getaddrinfo(sys.argv[1], 8008)}))"
    )
    both = sorted([address_of(leader), address_of(standby)])
    for name, expected in ((AGENTS_NAME, both), (HEAD_NAME, [address_of(leader)])):
        asked = ha.run(name_of(worker), ["python3", "-c", ask, name])
        assert asked.stdout.strip() == str(expected), asked.stderr


def test_a_deleted_leader_is_followed_at_once_and_replaced_at_its_address(ha: LocalCluster) -> None:
    leader, standby = settled(ha)
    (worker,) = ha.pods(ray_io_node_type="worker")
    addresses = {index_of(pod): address_of(pod) for pod in ha.heads()}
    ha.delete("Pod", name_of(leader))
    eventually(lambda: (found := ha.leader()) is not None and name_of(found) == name_of(standby))
    eventually(leads_everywhere(ha, standby), timeout=30)
    now_leads, new = settled(ha)
    assert (name_of(now_leads), index_of(new)) == (name_of(standby), index_of(leader))
    assert name_of(new) != name_of(leader)
    assert restarts_of(ha.pod(name_of(worker))) == 0
    # Its address is its number's own, unless its predecessor still had it; then it is that of nobody else.
    assert address_of(new) == addresses[index_of(new)] or address_of(new) not in addresses.values()


def test_names_follow_a_new_leader_whatever_the_nodes_pace(ha: LocalCluster) -> None:
    leader, standby = settled(ha)
    node = state.read_json(ha.folder.path / "node.json")
    os.kill(node["pid"], signal.SIGKILL)
    eventually(lambda: not ha.folder.node_runs(), timeout=30)
    slow = "from rayward.local import node; node._QUIET_PAUSE = node._BUSY_PAUSE = 600.0; node.main()"
    successor = subprocess.Popen([sys.executable, "-c", slow, str(ha.folder.path)], env=package_environment())
    try:
        eventually(lambda: (state.read_json(ha.folder.path / "node.json") or {})["pid"] == successor.pid)
        ha.kill_pod_processes(leader)
        eventually(leads_everywhere(ha, standby), timeout=20)
    finally:
        successor.kill()
        successor.wait()
        ha.ensure_node()
    settled(ha)


def test_a_lost_host_is_followed_and_the_restarted_head_stands_by(ha: LocalCluster) -> None:
    leader, standby = settled(ha)
    before = disrupt.processes_of(leader, host_mode=False)
    assert len(before) >= 2, "the stand-in and its child"
    ha.kill_pod_processes(leader)
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before), timeout=30)
    eventually(lambda: (found := ha.leader()) is not None and name_of(found) == name_of(standby))
    now_leads, now_waits = settled(ha)
    assert (name_of(now_leads), name_of(now_waits)) == (name_of(standby), name_of(leader))
    assert restarts_of(now_waits) == restarts_of(leader) + 1
    assert address_of(now_waits) == address_of(leader)


def states(pids: list[int]) -> set[str]:
    return {Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in pids}


def test_a_frozen_head_stands_still_as_a_whole_and_goes_on_where_it_was(ha: LocalCluster) -> None:
    leader, _ = settled(ha)
    ha.freeze(leader)
    try:
        frozen = disrupt.processes_of(ha.pod(name_of(leader)), host_mode=False)
        assert len(frozen) >= 2
        assert states(frozen) == {"T"}
        assert ha.agent_status(leader, timeout=0.5) is None
        assert ha.leader() is None
    finally:
        ha.thaw(leader)
    eventually(lambda: "T" not in states(frozen), timeout=30)
    assert disrupt.processes_of(ha.pod(name_of(leader)), host_mode=False) == frozen
    eventually(lambda: (found := ha.leader()) is not None and name_of(found) == name_of(leader))
    settled(ha)


def test_work_can_be_done_in_a_pods_network(ha: LocalCluster) -> None:
    leader, standby = settled(ha)

    def addresses() -> set[str]:
        with IPRoute() as route:
            return {dict(entry["attrs"])["IFA_ADDRESS"] for entry in route.get_addr(family=socket.AF_INET)}

    def switch(to: str) -> None:
        with IPRoute() as route:
            route.link("set", index=route.link_lookup(ifname="eth0")[0], state=to)

    assert ha.in_pod_network(standby, addresses) == {"127.0.0.1", address_of(standby)}
    assert address_of(standby) not in addresses()
    ha.in_pod_network(standby, lambda: switch("down"))
    assert ha.agent_status(standby, timeout=1) is None
    assert ha.agent_status(leader) is not None
    ha.in_pod_network(standby, lambda: switch("up"))
    eventually(lambda: ha.agent_status(standby, timeout=1))
    with pytest.raises(ZeroDivisionError):
        ha.in_pod_network(standby, lambda: 1 // 0)


def test_agents_are_told_with_their_token_and_refusals_are_said(ha: LocalCluster) -> None:
    leader, standby = settled(ha)
    agreed = ha.agent_post(leader, "/switchover", {"to": name_of(standby)})
    assert agreed == {"ok": True, "message": f"/switchover {{'to': '{name_of(standby)}'}}"}
    with pytest.raises(RaywardError, match="leads already") as refused:
        ha.agent_post(leader, "/switchover", {"to": name_of(leader)})
    assert "name another one" in str(refused.value)
    with pytest.raises(RaywardError, match="does not answer"):
        tell_agent("127.0.0.1", 9, "/pause", {}, None, 2.0)


def test_two_heads_outlive_the_node_process(ha: LocalCluster) -> None:
    leader, standby = settled(ha)
    pods = {name_of(pod) for pod in ha.pods()}
    os.kill(state.read_json(ha.folder.path / "node.json")["pid"], signal.SIGKILL)
    eventually(lambda: not ha.folder.node_runs(), timeout=30)
    ha.kill_pod_processes(leader)
    eventually(lambda: (found := ha.leader()) is not None and name_of(found) == name_of(standby))
    ha.ensure_node()
    eventually(leads_everywhere(ha, standby), timeout=30)
    assert name_of(settled(ha)[0]) == name_of(standby)
    assert {name_of(pod) for pod in ha.pods()} == pods


def want_standby(cluster: LocalCluster, wanted: bool) -> None:
    with cluster.folder.locked():
        found = cluster.folder.get("RayCluster", NAME)
        assert found is not None
        found["spec"]["gcsFaultToleranceOptions"]["enableActivePassiveHead"] = wanted
        cluster.folder.put(found)


def test_a_standby_that_is_no_longer_wanted_goes_and_comes_again(ha: LocalCluster) -> None:
    leader, standby = settled(ha)
    want_standby(ha, False)
    eventually(lambda: [name_of(pod) for pod in ha.heads()] == [name_of(leader)])
    service = ha.folder.get("Service", f"{NAME}-head-svc") or {}
    assert service["spec"]["publishNotReadyAddresses"] is True
    eventually(lambda: cluster_state(ha) == "ready")
    want_standby(ha, True)
    eventually(lambda: len(ha.heads()) == 2)
    now_leads, new = settled(ha)
    assert name_of(now_leads) == name_of(leader)
    assert (index_of(new), address_of(new)) == (index_of(standby), address_of(standby))
    eventually(leads_everywhere(ha, leader), timeout=30)


def test_down_takes_both_heads_and_cleans_the_store_after_them(ha: LocalCluster, shared: CommandLine) -> None:
    settled(ha)
    shared("delete", "raycluster", NAME)
    assert ha.heads() == []
    events = state.read_json(ha.folder.path / "events.json")
    reasons = [event["reason"] for event in events if event["name"] == NAME]
    assert "RedisCleanupDone" in reasons


def test_two_heads_are_refused_on_the_hosts_network_before_anything_is_made(tmp_path: Path) -> None:
    cli = CommandLine(tmp_path, {"RAYWARD_LOCAL_MODE": "host"})
    refused = cli("up", "-f", str(EXAMPLES / "ray-cluster.ha.yaml"), code=1)
    assert "2 heads need a network of their own each" in refused.stderr
    assert "enableActivePassiveHead" in refused.stderr
    assert not (tmp_path / "clusters").exists()

"""What local decides without touching the machine: addresses, ports, names, progress."""

from __future__ import annotations

import itertools
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from command_line import eventually

from rayward.errors import RaywardError
from rayward.local import linux, names
from rayward.local.addresses import host_place, loopback_subnet, pick_address
from rayward.local.hosts import AddressBook
from rayward.local.intake import read_manifests, refuse_what_host_mode_cannot
from rayward.local.lead import Lead, lead_of
from rayward.local.progress import assess, pod_state
from rayward.local.state import ClusterFolder, check_name, is_alive
from rayward.local.wake import StatusWatch


def test_addresses_start_after_the_hosts_and_fill_gaps() -> None:
    assert pick_address("10.90.3.0/24", ()) == "10.90.3.2"
    assert pick_address("10.90.3.0/24", ("10.90.3.2", "10.90.3.4")) == "10.90.3.3"


def test_a_head_gets_its_predecessors_address_when_it_is_free() -> None:
    assert pick_address("10.90.3.0/24", ("10.90.3.2",), before="10.90.3.9") == "10.90.3.9"
    assert pick_address("10.90.3.0/24", ("10.90.3.9",), before="10.90.3.9") == "10.90.3.2"


def test_a_full_subnet_is_an_error() -> None:
    with pytest.raises(ValueError, match="no free address"):
        pick_address("10.90.3.0/30", ("10.90.3.2",))


def test_loopback_subnets_differ_and_avoid_the_common_ones() -> None:
    first = loopback_subnet("a", ())
    second = loopback_subnet("a", (first,))
    assert first != second
    assert all(64 <= int(subnet.split(".")[1]) < 184 for subnet in (first, second))


def place(kind: str | None, index: int = 0) -> Any:
    """A place with ports counted up from 20000."""
    ports = itertools.count(20000)
    return host_place("127.70.0.2", [6379], kind, index, "/tmp/r", lambda: next(ports))


def test_on_the_hosts_network_no_two_ports_of_a_head_are_the_same() -> None:
    head = place("head")
    options = dict(word.removeprefix("--").split("=") for word in head.ray_start_args)
    ports = [value for name, value in options.items() if name.endswith("port") and "worker" not in name]
    assert len(set(ports)) == len(ports)
    assert options["port"] == str(head.ports["6379"])
    assert options["node-ip-address"] == "127.70.0.2"
    assert options["temp-dir"] == "/tmp/r"


def test_worker_ports_of_two_nodes_do_not_overlap() -> None:
    def worker_ports(index: int) -> set[int]:
        words = dict(word.removeprefix("--").split("=") for word in place("worker", index).ray_start_args)
        return set(range(int(words["min-worker-port"]), int(words["max-worker-port"]) + 1))

    assert not worker_ports(0) & worker_ports(1)


def test_a_pod_that_is_no_ray_node_gets_ports_only() -> None:
    assert place(None).ray_start_args == ()


SERVICE = {
    "metadata": {"name": "redis"},
    "spec": {"ports": [{"port": 6379, "targetPort": 7000}, {"port": 80}]},
}


def test_a_hosts_file_names_the_pod_and_every_service_with_an_endpoint() -> None:
    text = names.hosts_file(
        "p", "10.90.0.5", [(SERVICE, ("10.90.0.2", "10.90.0.3")), (SERVICE, ())], "default"
    )
    assert "10.90.0.3" not in text
    assert "10.90.0.5\tp\n" in text
    assert "10.90.0.2\tredis redis.default redis.default.svc redis.default.svc.cluster.local\n" in text
    assert text.count("redis.default.svc.cluster.local") == 1


def test_a_headless_service_leads_to_all_of_its_endpoints() -> None:
    headless = {"metadata": {"name": "agents"}, "spec": {"clusterIP": "None", "ports": []}}
    text = names.hosts_file("p", "10.90.0.5", [(headless, ("10.90.0.2", "10.90.0.3"))], "default")
    lines = [line.split() for line in text.splitlines() if "agents.default.svc" in line]
    assert [line[0] for line in lines] == ["10.90.0.2", "10.90.0.3"]
    assert all(line[1:] == list(names.service_names(headless, "default")) for line in lines)


def test_substitutions_follow_target_ports_to_host_ports() -> None:
    found = names.substitutions([(SERVICE, ("127.70.0.3", {"7000": 24000}))], "default")
    assert found["redis:6379"] == "127.70.0.3:24000"
    assert found["redis.default.svc.cluster.local:80"] == "127.70.0.3:80"
    assert names.substitutions([(SERVICE, None)], "default") == {}


def pod(ready: bool = True, phase: str = "Running", **state: Any) -> dict[str, Any]:
    """A Pod with one container."""
    entry = {"name": "c", "ready": ready, "restartCount": 2, "state": state or {"running": {}}}
    return {
        "metadata": {"name": "p"},
        "spec": {"containers": [{}]},
        "status": {"phase": phase, "containerStatuses": [entry]},
    }


def test_a_pods_line_reads_as_kubectls() -> None:
    seen = pod_state(pod())
    assert (seen.status, seen.ready, seen.containers, seen.restarts, seen.is_ready) == (
        "Running",
        1,
        1,
        2,
        True,
    )
    assert pod_state(pod(phase="Succeeded")).status == "Completed"
    gone = pod()
    gone["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert pod_state(gone).status == "Terminating"


def test_a_crash_loop_shows_the_containers_last_words() -> None:
    crashing = pod(False, waiting={"reason": "CrashLoopBackOff", "message": "back-off 10s"})
    crashing["status"]["containerStatuses"][0]["lastState"] = {
        "terminated": {"message": "no disk\n  try: buy one"}
    }
    assert assess([crashing], [], [], {}).stuck == "p: CrashLoopBackOff: no disk\n  try: buy one"
    crashing["status"]["containerStatuses"][0]["lastState"] = {"terminated": {"message": "a\nb\nc\nd\nlast"}}
    assert assess([crashing], [], [], {}).stuck == "p: CrashLoopBackOff: last"


@pytest.mark.parametrize(
    ("pods", "state", "replicas", "ready"),
    [
        ([pod()], "ready", 1, True),
        ([pod(False)], "ready", 1, False),
        ([pod()], "", 1, False),
        ([pod()], "ready", 2, False),
    ],
)
def test_ready_means_every_pod_and_every_ray_cluster(
    pods: list[dict[str, Any]], state: str, replicas: int, ready: bool
) -> None:
    progress = assess(pods, [{"status": {"state": state}}], [{"spec": {"replicas": replicas}}], {})
    assert progress.ready is ready
    assert progress.stuck == ""


@pytest.mark.parametrize(
    ("said", "ready"),
    [
        (None, False),
        ({"role": "standby", "state": "warm"}, True),
        ({"role": "standby", "state": "starting"}, False),
        ({"role": "leader", "state": "warm"}, False),
    ],
)
def test_a_head_that_stands_by_warm_counts_as_ready(said: dict[str, Any] | None, ready: bool) -> None:
    lead = lead_of({"lead": said})
    progress = assess([pod(False)], [{"status": {"state": "ready"}}], [], {"p": lead} if lead else {})
    assert progress.ready is ready
    (state,) = progress.pods
    assert (state.ready, state.status, state.role) == (0, "Running", said["role"] if said else "")
    assert not assess([pod(False, phase="Pending")], [], [], {"p": lead} if lead else {}).ready


def test_what_an_agent_says_of_leading() -> None:
    said = {
        "role": "leader",
        "state": "serving",
        "epoch": 7,
        "member": "a",
        "leader": "a",
        "reason": "it leads",
    }
    lead = lead_of({"phase": "running", "lead": said})
    assert lead == Lead("leader", "serving", 7, "a", "a", "it leads")
    assert lead.leads
    assert not lead.stands_by
    for nothing in (None, {}, {"lead": None}, {"lead": {}}, {"lead": "leader"}):
        assert lead_of(nothing) is None


def head(name: str, index: str | None = None) -> dict[str, Any]:
    """A head Pod as it is stored."""
    labels = {"ray.io/node-type": "head", "ray.io/cluster": "c"}
    if index is not None:
        labels["rayward.dev/head-index"] = index
    return {"kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": {"containers": []}}


@pytest.fixture
def book(tmp_path: Path) -> tuple[ClusterFolder, AddressBook]:
    folder = ClusterFolder(tmp_path / "c")
    folder.create()
    folder.set(subnet="10.90.3.0/24")
    return folder, AddressBook(folder)


def test_each_head_keeps_an_address_that_no_other_pod_gets(book: tuple[ClusterFolder, AddressBook]) -> None:
    folder, addresses = book
    pods = [head("h0", "0"), head("h1", "1"), {"kind": "Pod", "metadata": {"name": "w"}, "spec": {}}]
    for item in pods:
        folder.put(item)
    assert [addresses.address(item) for item in pods] == ["10.90.3.2", "10.90.3.3", "10.90.3.4"]
    folder.drop("Pod", "h1")
    other = {"kind": "Pod", "metadata": {"name": "w2"}, "spec": {}}
    folder.put(other)
    assert addresses.address(other) == "10.90.3.5"
    again = head("h1b", "1")
    folder.put(again)
    assert addresses.address(again) == "10.90.3.3"


def test_a_head_whose_predecessor_still_lives_goes_elsewhere_and_the_next_one_home(
    book: tuple[ClusterFolder, AddressBook],
) -> None:
    folder, addresses = book
    old, new, newest = head("old"), head("new", "0"), head("newest", "0")
    folder.put(old)
    assert addresses.address(old) == "10.90.3.2"
    folder.put(new)
    assert addresses.address(new) == "10.90.3.3"
    for gone in ("old", "new"):
        folder.drop("Pod", gone)
    folder.put(newest)
    assert addresses.address(newest) == "10.90.3.2"


def test_a_watch_wakes_for_a_new_status_and_nothing_else(tmp_path: Path) -> None:
    watch, folder = StatusWatch(), tmp_path / "pod"
    watch.add(folder)
    folder.mkdir()
    watch.add(folder)

    def write(name: str) -> None:
        (folder / "new").write_text("{}")
        (folder / "new").rename(folder / name)

    write("process.json")
    assert not watch.wait(0)
    write("status.json")
    write("status.json")
    assert watch.wait(10)
    assert not watch.wait(0)
    shutil.rmtree(folder)
    watch.wait(0)
    folder.mkdir()
    watch.add(folder)
    write("status.json")
    assert watch.wait(10)


def test_several_heads_are_refused_where_pods_share_the_hosts_network() -> None:
    path = Path(__file__).resolve().parents[3] / "examples" / "ray-cluster.ha.yaml"
    _, manifests = read_manifests(path, None)
    with pytest.raises(RaywardError, match="2 heads need a network of their own each"):
        refuse_what_host_mode_cannot(manifests)
    cluster = next(item for item in manifests if item["kind"] == "RayCluster")
    cluster["spec"]["gcsFaultToleranceOptions"]["enableActivePassiveHead"] = False
    refuse_what_host_mode_cannot(manifests)


@pytest.mark.parametrize("name", ["A", "a_b", "-a", "a" * 54, "", "a/b", ".."])
def test_names_that_cannot_be_used(name: str) -> None:
    with pytest.raises(RaywardError, match="cannot be a cluster's name"):
        check_name(name)


def test_a_folder_is_made_once(tmp_path: Path) -> None:
    folder = ClusterFolder(tmp_path / "c")
    folder.create()
    with pytest.raises(RaywardError, match="is up already"):
        folder.create()


def test_who_asks_whether_a_node_runs_keeps_none_from_starting(tmp_path: Path) -> None:
    folder = ClusterFolder(tmp_path / "c")
    folder.create()
    ended = threading.Event()
    seen: list[bool] = []

    def ask() -> None:
        while not ended.is_set():
            seen.append(folder.node_runs())

    with ThreadPoolExecutor(4) as askers:
        for _ in range(4):
            askers.submit(ask)
        try:
            eventually(lambda: len(seen) > 2000)
            assert not any(seen), "askers take each other for a node"
            for _ in range(20):
                with folder.node_lock() as mine:
                    assert mine
                    assert folder.node_runs()
            with folder.node_lock(), folder.node_lock() as another:
                assert not another
        finally:
            ended.set()
    assert not folder.node_runs()


def test_objects_are_kept_by_kind_and_name(tmp_path: Path) -> None:
    folder = ClusterFolder(tmp_path / "c")
    folder.create()
    with folder.locked():
        folder.put({"kind": "Pod", "metadata": {"name": "b"}})
        folder.put({"kind": "Pod", "metadata": {"name": "a"}})
    assert [item["metadata"]["name"] for item in folder.list("Pod")] == ["a", "b"]
    folder.drop("Pod", "a")
    folder.drop("Pod", "a")
    assert folder.get("Pod", "a") is None
    assert folder.kinds() == ("Pod",)


def test_a_process_is_known_by_pid_and_start_time() -> None:
    pid = int(Path("/proc/self").resolve().name)
    started = linux.process_start_time(pid)
    assert started is not None
    assert is_alive(pid, started)
    assert not is_alive(pid, started + 1)

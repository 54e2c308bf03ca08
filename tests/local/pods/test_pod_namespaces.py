"""What only a Pod with namespaces has: address, name, private files, and nothing left on the host."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute

from rayward.errors import RaywardError
from rayward.local import linux
from rayward.local.network import Fabric, hardware_address

FOREVER = "trap 'exit 0' TERM; while :; do sleep 0.05; done"


def _host_traces(fabric: Fabric, *words: str) -> list[str]:
    """What is on the host of a cluster's network, or of mounts whose line holds one of these words."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found = [line for line in mounts if any(word in line for word in (fabric.namespace, *words))]
    found += [link for link in os.listdir("/sys/class/net") if link == fabric.host_interface]
    return found + [str(path) for path in (fabric.path,) if path.exists()]


def _links_inside(fabric: Fabric) -> set[str]:
    """The links in the network namespace of a cluster."""
    with IPRoute(netns=str(fabric.path)) as inside:
        return {link.get_attr("IFLA_IFNAME") for link in inside.get_links()}


def _namespace(pid: int, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def test_address_and_host_name_are_the_pods_own(machine: Any) -> None:
    machine.hosts.write_text(f"127.0.0.1 localhost\n{machine.address(2)} web.default web\n")
    script = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('192.0.2.99', 9));"
        "print(socket.gethostname(), socket.gethostbyname('web'), s.getsockname()[0])"
    )
    main = {"name": "main", "image": "python", "command": ["python", "-c", script]}
    pod = machine.pod({"restartPolicy": "Never", "containers": [main]})
    status = pod.until_phase("Succeeded")
    assert pod.log() == f"web {machine.address(2)} {machine.address(2)}\n"
    assert status["podIP"] == machine.address(2)
    assert socket.gethostname() != "web"


def test_an_unknown_name_fails_at_once(machine: Any) -> None:
    script = (
        "import socket\n"
        "try: socket.gethostbyname('no.such.host')\n"
        "except OSError: print('unknown')\n"
        "print(open('/etc/resolv.conf').read())"
    )
    pod = machine.pod(
        {
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": "py", "command": ["python", "-c", script]}],
        }
    )
    pod.until_phase("Succeeded")
    # Nothing listens there, so an answer comes at once: no waiting for a DNS server that cannot be reached.
    assert pod.log().split()[:3] == ["unknown", "nameserver", "127.0.0.1"]


def test_pods_and_host_reach_each_other(machine: Any) -> None:
    serve = (
        "import socket; s = socket.create_server(('0.0.0.0', 7000)); print('up', flush=True)\n"
        "while True:\n c, a = s.accept(); c.sendall(a[0].encode()); c.close()"
    )
    server = machine.pod(
        {"containers": [{"name": "main", "image": "py", "command": ["python", "-c", serve]}]}
    )
    server.until("server up", lambda: "up" in server.log())
    ask = (
        f"import socket; print(socket.create_connection(('{machine.address(2)}', 7000), 5).recv(99).decode())"
    )
    client = machine.pod(
        {
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": "py", "command": ["python", "-c", ask]}],
        },
        name="client",
    )
    client.until_phase("Succeeded")
    assert client.log() == machine.address(3) + "\n"
    with socket.create_connection((machine.address(2), 7000), 5) as connection:
        assert connection.recv(99).decode() == machine.fabric.gateway


def test_a_new_pod_at_an_old_address_is_found_at_once(machine: Any) -> None:
    serve = (
        "import socket; s = socket.create_server(('0.0.0.0', 7000)); print('up', flush=True)\n"
        "while True: s.accept()"
    )
    spec = {"containers": [{"name": "main", "image": "py", "command": ["python", "-c", serve]}]}
    old = machine.pod(spec)
    old.until("up", lambda: "up" in old.log())
    socket.create_connection((machine.address(2), 7000), 5).close()
    assert f"{machine.address(2)} " in _neighbours()
    assert hardware_address(machine.address(2)) in _neighbours()
    old.end()
    new = machine.pods.pop()
    new.start(machine.fabric, machine.address(2))
    machine.pods.append(new)
    new.until("new process", lambda: new.status()["rayward"]["pid"] == new.pid)
    new.until_running()
    new.until("up", lambda: "up" in new.log())
    socket.create_connection((machine.address(2), 7000), 5).close()


def _neighbours() -> str:
    return Path("/proc/net/arp").read_text()


def test_a_restart_keeps_address_and_volumes_but_not_the_root_layer(machine: Any) -> None:
    mounts = [{"name": "v", "mountPath": "/keep"}]
    script = f"ls /layer-file /keep/file 2>/dev/null; touch /layer-file /keep/file; hostname -I; {FOREVER}"
    script = script.replace("hostname -I", "cat /proc/net/fib_trie | grep -c 10.90")
    pod = machine.pod(
        {"volumes": [{"name": "v", "emptyDir": {}}], "containers": [machine.sh(script, volumeMounts=mounts)]}
    )
    first = pod.until_running()
    pod.until("counted", lambda: pod.log().strip())
    network = _namespace(first, "net")
    os.kill(first, signal.SIGKILL)
    second = pod.until_running(restarts=1)
    pod.until("counted", lambda: len(pod.log().splitlines()) == 2)
    assert _namespace(second, "net") == network
    assert _namespace(second, "pid") != _namespace(os.getpid(), "pid")
    assert pod.log().splitlines()[0] == "/keep/file"
    assert not Path("/layer-file").exists()


def test_writes_stay_in_the_container(machine: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("host")
    script = (
        f"echo container > {tmp_path}/mine; echo x > /etc/made; mkdir /tmp/made; cat {tmp_path}/mine; id -u"
    )
    pod = machine.pod({"restartPolicy": "Never", "containers": [machine.sh(script)]})
    pod.until_phase("Succeeded")
    assert pod.log() == "container\n0\n"
    assert (tmp_path / "mine").read_text() == "host"
    assert not Path("/etc/made").exists()
    assert not Path("/tmp/made").exists()


def test_a_read_only_mount_refuses_writes(machine: Any) -> None:
    script = "touch /ro/x 2>&1; touch /rw/x && echo written; cat /proc/1/comm"
    mounts = [{"name": "v", "mountPath": "/ro", "readOnly": True}, {"name": "v", "mountPath": "/rw"}]
    spec = {
        "restartPolicy": "Never",
        "volumes": [{"name": "v", "emptyDir": {}}],
        "containers": [machine.sh(script, volumeMounts=mounts)],
    }
    pod = machine.pod(spec)
    pod.until_phase("Succeeded")
    assert "Read-only file system" in pod.log()
    assert pod.log().endswith("written\nsh\n")


def test_a_memory_volume_has_its_limit_and_is_not_on_the_host(machine: Any) -> None:
    script = "df -k --output=size /mem | tail -1; touch /mem/x; grep -c ' /dev/shm tmpfs' /proc/mounts"
    spec = {
        "restartPolicy": "Never",
        "volumes": [{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "2Mi"}}],
        "containers": [machine.sh(script, volumeMounts=[{"name": "v", "mountPath": "/mem"}])],
    }
    pod = machine.pod(spec)
    pod.until_phase("Succeeded")
    assert pod.log().split() == ["2048", "1"]
    assert not (pod.folder / "volumes" / "v" / "x").exists()


def test_containers_of_a_pod_share_localhost_and_shared_memory(machine: Any) -> None:
    serve = (
        "import socket; open('/dev/shm/note', 'w').write('by shm');"
        "s = socket.create_server(('127.0.0.1', 7000));"
        "c, a = s.accept(); c.sendall(b'by tcp'); c.close()"
    )
    ask = (
        "import socket, time\n"
        "for _ in range(500):\n"
        "  try: print(socket.create_connection(('127.0.0.1', 7000), 5).recv(99).decode()); break\n"
        "  except ConnectionRefusedError: time.sleep(0.01)\n"
        "print(open('/dev/shm/note').read())"
    )
    spec = {
        "restartPolicy": "Never",
        "containers": [
            {"name": "server", "image": "py", "command": ["python", "-c", serve]},
            {"name": "main", "image": "py", "command": ["python", "-c", ask]},
        ],
    }
    pod = machine.pod(spec)
    pod.until_phase("Succeeded")
    assert pod.log() == "by tcp\nby shm\n"
    assert not Path("/dev/shm/note").exists()


def test_ray_image_has_its_commands_and_an_empty_folder(machine: Any) -> None:
    script = "pwd; ls -A /tmp/ray | wc -l; echo $HOME; ray --version"
    main = {
        "name": "main",
        "image": "rayproject/ray:2.9.0",
        "command": ["/bin/bash", "-c", "--"],
        "args": [script],
    }
    pod = machine.pod({"restartPolicy": "Never", "containers": [main]})
    pod.until_phase("Succeeded")
    assert pod.log().splitlines()[:3] == ["/home/ray", "0", "/home/ray"]
    assert "ray, version 2" in pod.log()
    assert "this machine runs its installed Ray" in (pod.folder / "pod.log").read_text()


def test_redis_image_has_its_server_and_folder(machine: Any) -> None:
    main = {
        "name": "main",
        "image": "redis:7.4",
        "args": ["--port", "6379", "--bind", "0.0.0.0", "--protected-mode", "no"],
    }
    pod = machine.pod({"containers": [main]})
    pod.until_running()
    pod.until("redis answers", lambda: "Ready to accept" in pod.log() or "ready to accept" in pod.log())
    assert pod.execute("redis-cli", "config", "get", "dir").split() == ["dir", "/data"]


def test_exec_enters_the_container(machine: Any) -> None:
    main = machine.sh(
        f"echo x > /only-here; {FOREVER}", env=[{"name": "A", "value": "b"}], workingDir="/var/empty/w"
    )
    pod = machine.pod({"containers": [main, machine.sh(FOREVER, name="side")]})
    pod.until_running()
    pod.until_running("side")
    pod.until("file", lambda: "x" in pod.execute("sh", "-c", "cat /only-here || true"))
    assert pod.execute("sh", "-c", "hostname; pwd; echo $A; cat /proc/1/comm") == "web\n/var/empty/w\nb\nsh\n"
    assert pod.execute("sh", "-c", "ls /only-here 2>/dev/null || echo no", container="side") == "no\n"


def test_killed_pod_leaves_the_host_as_it_was(tmp_path: Path, machine: Any) -> None:
    before = _host_traces(machine.fabric, str(tmp_path))
    links = _links_inside(machine.fabric)
    spec = {
        "volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}],
        "containers": [
            machine.sh("sleep 1000 & sleep 1001", volumeMounts=[{"name": "v", "mountPath": "/mem"}])
        ],
    }
    pod = machine.pod(spec)
    pod.until_running()
    assert _host_traces(machine.fabric, str(tmp_path)) == before
    assert len(_links_inside(machine.fabric)) == len(links) + 1
    os.kill(pod.pid, signal.SIGKILL)
    pod.until_gone()
    assert _host_traces(machine.fabric, str(tmp_path)) == before
    pod.until("the Pod's link is gone", lambda: _links_inside(machine.fabric) == links)
    assert list((pod.folder / "volumes" / "v").iterdir()) == []


def test_a_pod_outlives_its_starter(machine: Any, tmp_path: Path) -> None:
    pod = machine.pod(
        {"containers": [machine.sh("trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done")]}
    )
    pid = pod.until_running()
    pod.end()
    starter = (
        "import subprocess, sys\n"
        "p = subprocess.Popen([sys.executable, '-m', 'rayward.local.pod', sys.argv[1]],"
        " stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)\n"
        "p.stdout.readline(); print(p.pid, flush=True); sys.stdin.readline()\n"
        "p.stdin.write('go\\n'); p.stdin.flush(); sys.stdin.readline()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", starter, str(pod.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    pod_pid = int(process.stdout.readline())
    machine.fabric.attach(pod_pid, machine.address(2))
    process.stdin.write("\n")
    process.stdin.flush()
    pod.until("running again", lambda: pod.status()["rayward"]["pid"] == pod_pid and pod.container()["ready"])
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    first = int(pod.status()["rayward"]["containers"]["main"]["pid"])
    assert first != pid
    os.kill(first, signal.SIGKILL)
    pod.until_running(restarts=1)
    pod.until("the trap is set", pod.log)
    os.kill(pod_pid, signal.SIGTERM)
    pod.until("gone", lambda: linux.process_start_time(pod_pid) is None)
    assert pod.status()["phase"] == "Succeeded"


def test_a_pod_whose_starter_dies_before_the_network_gives_up(machine: Any) -> None:
    pod = machine.pod({"containers": [machine.sh(FOREVER)]})
    pod.end()
    process = subprocess.Popen(
        [sys.executable, "-m", "rayward.local.pod", str(pod.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, err = process.communicate("", timeout=20)
    assert (out, process.returncode) == ("netns-ready\n", 1)
    assert "before it had given it a network" in err


def test_a_fabric_comes_and_goes_whole(namespaces: None) -> None:
    fabric = Fabric(f"whole-{os.getpid()}", "10.90.99.0/24")
    try:
        assert not fabric.exists()
        assert _host_traces(fabric) == []
        fabric.create()
        assert fabric.exists()
        # A second `create` replaces what is there instead of adding to it.
        fabric.create()
        assert len(_host_traces(fabric)) == 3
        assert _links_inside(fabric) == {"lo", "br0", "host0"}
        with pytest.raises(RaywardError, match="outside of the cluster's subnet"):
            fabric.attach(os.getpid(), "10.91.0.4")
    finally:
        fabric.remove()
    fabric.remove()
    assert not fabric.exists()
    assert _host_traces(fabric) == []


def _in_private_mounts(script: str, folder: Path, command: str) -> dict[str, Any]:
    """Run a Pod in a mount namespace that ``script`` prepared; its status and log, as one JSON object."""
    pod = {"metadata": {"name": "web", "uid": "u"}, "spec": {"restartPolicy": "Never"}}
    container = {"name": "main", "image": "busybox", "command": ["sh", "-c", command]}
    pod["spec"]["containers"] = [container]  # type: ignore[index]
    (folder / "config.json").write_text(json.dumps({"mode": "namespaces", "pod": pod}))
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", script, "sh", sys.executable, str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert done.returncode == 0, done.stderr
    status, log = done.stdout.split("=====")
    return {"state": json.loads(status)["containerStatuses"][0]["state"], "log": log}


def test_a_root_that_is_an_overlay_gets_its_layer_in_memory(namespaces: None, tmp_path: Path) -> None:
    script = """
        mkdir $2/try; mount -t tmpfs tmpfs $2/try; cd $2/try; mkdir u w r
        mount -t overlay overlay -o lowerdir=/,upperdir=u,workdir=w r
        for part in proc dev sys; do mount --rbind /$part r/$part; done
        mkdir -p r/var/tmp/pod; cp $2/config.json r/var/tmp/pod/pod.json
        chroot r $1 -m rayward.local.pod /var/tmp/pod
        cat r/var/tmp/pod/status.json; echo =====; cat r/var/tmp/pod/logs/main.log; ls r
    """
    found = _in_private_mounts(script, tmp_path, "touch /made-inside; ls -d /made-inside")
    assert found["state"]["terminated"]["exitCode"] == 0
    assert found["log"].split()[0] == "/made-inside"
    assert "made-inside" not in found["log"].split()[1:]


def test_other_file_systems_are_seen_and_kept_from_writes(namespaces: None, tmp_path: Path) -> None:
    script = """
        mkdir $2/disk; mount -t tmpfs tmpfs $2/disk; echo host > $2/disk/file; mkdir $2/disk/pod
        cp $2/config.json $2/disk/pod/pod.json
        $1 -m rayward.local.pod $2/disk/pod
        cat $2/disk/pod/status.json; echo =====; cat $2/disk/pod/logs/main.log $2/disk/file; ls $2/disk
    """
    command = f"cat {tmp_path}/disk/file; echo mine > {tmp_path}/disk/file; touch {tmp_path}/disk/new"
    found = _in_private_mounts(script, tmp_path, command)
    assert found["state"]["terminated"]["exitCode"] == 0
    assert found["log"].split() == ["host", "host", "file", "pod"]

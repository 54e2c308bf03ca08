"""What is particular to Pods without namespaces: names and paths replaced, no clash, nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from typing import Any

import pytest

FOREVER = "trap 'exit 0' TERM; while :; do sleep 0.05; done"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_redis_gets_an_address_a_port_and_a_folder_of_its_own(host: Any) -> None:
    ports = [_free_port(), _free_port()]
    host.add_object("ConfigMap", "redis", data={"redis.conf": "port 6379\nbind 0.0.0.0\nrequirepass word\n"})
    spec = {
        "volumes": [{"name": "config", "configMap": {"name": "redis"}}],
        "containers": [
            {
                "name": "main",
                "image": "redis:7.4",
                "command": ["sh", "-c", "redis-server /usr/local/etc/redis/redis.conf"],
                "volumeMounts": [{"name": "config", "mountPath": "/usr/local/etc/redis"}],
            }
        ],
    }
    pods = [
        host.pod(spec, host={"address": host.address(2), "ports": {"redis": ports[0]}}),
        host.pod(spec, host={"address": host.address(3), "ports": {"redis": ports[1]}}),
    ]
    for pod, address, port in zip(pods, (host.address(2), host.address(3)), ports, strict=True):
        pod.until_running()
        pod.until("redis answers", lambda pod=pod: "eady to accept connections" in pod.log())
        with socket.create_connection((address, port), 5) as connection:
            connection.sendall(b"AUTH word\r\nCONFIG GET dir\r\n")
            pod.until("answer", lambda c=connection, pod=pod: str(pod.folder).encode() in c.recv(4096))


def test_service_names_and_mount_paths_are_replaced(host: Any) -> None:
    host.add_object("ConfigMap", "files", data={"a": "content"})
    main = host.sh(
        'echo "$ADDRESS"; cat /etc/app/a; cat "$FILE"; echo redis:63790',
        env=[{"name": "ADDRESS", "value": "redis:6379"}, {"name": "FILE", "value": "/etc/app/a"}],
        volumeMounts=[{"name": "files", "mountPath": "/etc/app"}],
    )
    spec = {
        "volumes": [{"name": "files", "configMap": {"name": "files"}}],
        "containers": [{**main, "command": [*main["command"][:2], main["command"][2] + "; " + FOREVER]}],
    }
    pod = host.pod(spec, substitutions={"redis:6379": "127.0.4.4:43211", "redis": "127.0.4.4"})
    pod.until_running()
    pod.until("log", lambda: pod.log().count("\n") >= 2)
    assert pod.log() == "127.0.4.4:43211\ncontentcontent127.0.4.4:63790\n"
    assert pod.execute("cat", "/etc/app/a") == "content"


def test_a_ray_container_is_told_its_ports(host: Any) -> None:
    main = {
        "name": "main",
        "image": "rayproject/ray:2.60.0",
        "command": [
            "sh",
            "-c",
            'echo "$RAYWARD_RAY_START_ARGS"; echo "$RAYWARD_AGENT_HOST:$RAYWARD_AGENT_PORT"; '
            "pwd; command -v ray",
        ],
    }
    facts = {
        "address": host.address(2),
        "ray_start_args": ["--port=1", "--temp-dir=/x"],
        "ports": {"agent": 7700},
    }
    pod = host.pod({"restartPolicy": "Never", "containers": [main]}, host=facts)
    pod.until_phase("Succeeded")
    lines = pod.log().splitlines()
    assert json.loads(lines[0]) == ["--port=1", "--temp-dir=/x"]
    assert lines[1] == f"{host.address(2)}:7700"
    assert lines[2].startswith(str(pod.folder))
    assert lines[3].endswith("/ray")


def test_daemons_of_a_container_end_with_it(host: Any) -> None:
    pod = host.pod(
        {"restartPolicy": "Never", "containers": [host.sh("(setsid sh -c 'sleep 1000; true' &); sleep 0.1")]}
    )
    pod.until_phase("Succeeded")
    pod.until_gone()


def test_a_restart_begins_without_the_daemons_of_the_run_before(host: Any) -> None:
    pod = host.pod({"containers": [host.sh("(setsid sleep 1000 &); echo $$; sleep 1001")]})
    first = pod.until_running()
    daemon = pod.until("daemon", lambda: [pid for pid in processes_of(pod) if pid_runs(pid, "1000")])[0]
    os.kill(first, signal.SIGKILL)
    pod.until_running(restarts=1)
    assert not pid_runs(daemon, "1000")


def processes_of(pod: Any) -> list[int]:
    """Every process that carries the Pod's uid."""
    mark = f"RAYWARD_POD_UID={pod.uid}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/environ", "rb") as environ:
                if mark in environ.read().split(b"\0"):
                    found.append(int(entry))
    return found


def pid_runs(pid: int, argument: str) -> bool:
    """Whether this process is a `sleep` of so many seconds."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
            return cmdline.read().split(b"\0")[:2] == [b"sleep", argument.encode()]
    except OSError:
        return False


def test_killed_shim_takes_its_container_along(host: Any) -> None:
    pod = host.pod({"restartPolicy": "Never", "containers": [host.sh("(setsid sleep 1000 &); sleep 1001")]})
    main = pod.until_running()
    with open(f"/proc/{main}/stat") as stat:
        shim = int(stat.read().rpartition(")")[2].split()[1])
    os.kill(shim, signal.SIGKILL)
    pod.until_phase("Failed")
    pod.until_gone()


def test_no_rights_are_needed(host: Any) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip(
            "dropping rights needs root and setpriv; without root every other test here shows the same"
        )
    host.prefix = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    script = "grep CapEff /proc/self/status; ls /vol-dir"
    spec = {
        "restartPolicy": "Never",
        "volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}],
        "containers": [host.sh(script, volumeMounts=[{"name": "v", "mountPath": "/vol-dir"}])],
    }
    pod = host.pod(spec)
    pod.until_phase("Succeeded")
    assert pod.log().split()[1] == "0000000000000000"


def test_missing_rights_for_namespaces_are_put_into_words() -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("dropping rights needs root and setpriv")
    command = [
        "setpriv",
        "--bounding-set=-all",
        "--inh-caps=-all",
        sys.executable,
        "-m",
        "rayward.local.linux",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert done.stdout == "no right to make namespaces (CAP_SYS_ADMIN is missing)\n"

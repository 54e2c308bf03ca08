"""The life of a Pod, the same in both modes: environment, volumes, order, restarts, probes, end."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from rayward.errors import RaywardError
from rayward.local.execute import exec_command

FOREVER = "trap 'exit 0' TERM; while :; do sleep 0.05; done"


def test_environment_comes_from_values_secrets_config_maps_and_fields(either: Any) -> None:
    either.add_object("Secret", "login", stringData={"word": "s3same"})
    either.add_object("ConfigMap", "settings", data={"colour": "green"})
    env = [
        {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "login", "key": "word"}}},
        {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}}},
        {"name": "GONE", "valueFrom": {"secretKeyRef": {"name": "login", "key": "x", "optional": True}}},
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "TIER", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['ray.io/group']"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "BOTH", "value": "$(POD)-$(COLOUR)-$$(COLOUR)"},
    ]
    script = 'echo "$WORD|$COLOUR|${GONE-unset}|$POD|$TIER|$IP|$BOTH|$0|$RAYWARD_POD_UID"'
    main = either.sh(script, env=env)
    main["args"] = ["$(COLOUR)"]
    pod = either.pod({"restartPolicy": "Never", "containers": [main]}, labels={"ray.io/group": "small"})
    pod.until_phase("Succeeded")
    address = either.address(2)
    expected = f"s3same|green|unset|web|small|{address}|web-green-$(COLOUR)|green|{pod.uid}\n"
    assert pod.log() == expected
    assert stat.S_IMODE((pod.folder / "containers" / "main.json").stat().st_mode) == 0o600
    assert "s3same" not in json.dumps(pod.status())


def test_volumes_are_at_their_paths(either: Any) -> None:
    either.add_object("ConfigMap", "files", data={"a.txt": "A", "b.txt": "B"})
    (either.folder / "claims" / "data").mkdir(parents=True)
    spec = {
        "restartPolicy": "Never",
        "volumes": [
            {
                "name": "files",
                "configMap": {"name": "files", "items": [{"key": "a.txt", "path": "deep/a.txt"}]},
            },
            {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        ],
        "containers": [
            either.sh(
                "cat /in/files/deep/a.txt && echo kept >/in/data/note && echo s >/in/scratch/x; ls /in/data",
                volumeMounts=[
                    {"name": "files", "mountPath": "/in/files"},
                    {"name": "data", "mountPath": "/in/data", "subPath": "part/one"},
                    {"name": "scratch", "mountPath": "/in/scratch"},
                ],
            )
        ],
    }
    pod = either.pod(spec)
    pod.until_phase("Succeeded")
    assert pod.log() == "Anote\n"
    assert (either.folder / "claims/data/part/one/note").read_text() == "kept\n"
    assert not Path("/in").exists()


def test_init_containers_run_one_by_one_before_the_others(either: Any) -> None:
    mounts = [{"name": "shared", "mountPath": "/shared-order"}]
    spec = {
        "restartPolicy": "Never",
        "volumes": [{"name": "shared", "emptyDir": {}}],
        "initContainers": [
            either.sh("sleep 0.2; echo one >> /shared-order/list", name="first", volumeMounts=mounts),
            either.sh("echo two >> /shared-order/list", name="second", volumeMounts=mounts),
        ],
        "containers": [either.sh("cat /shared-order/list", volumeMounts=mounts)],
    }
    pod = either.pod(spec)
    status = pod.until_phase("Succeeded")
    assert pod.log() == "one\ntwo\n"
    assert [entry["name"] for entry in status["initContainerStatuses"]] == ["first", "second"]
    assert {entry["type"]: entry["status"] for entry in status["conditions"]}["Initialized"] == "True"


def test_a_failed_init_container_fails_a_pod_that_never_restarts(either: Any) -> None:
    spec = {
        "restartPolicy": "Never",
        "initContainers": [either.sh("exit 3", name="first")],
        "containers": [either.sh("echo must not run")],
    }
    pod = either.pod(spec)
    pod.until_phase("Failed")
    assert pod.container("first")["state"]["terminated"]["exitCode"] == 3
    assert pod.log() == ""


def test_a_container_that_ends_is_restarted_with_its_log_kept(either: Any) -> None:
    pod = either.pod({"containers": [either.sh(f"echo run $$ $(date +%s%N); {FOREVER}")]})
    first = pod.until_running()
    pod.until("the first log", pod.log)
    os.kill(first, signal.SIGKILL)
    second = pod.until_running(restarts=1)
    pod.until("the second log", pod.log)
    entry = pod.container()
    assert second != first
    assert entry["lastState"]["terminated"]["signal"] == signal.SIGKILL
    assert entry["lastState"]["terminated"]["exitCode"] == 137
    assert pod.log(previous=True).startswith("run ")
    assert pod.log(previous=True) != pod.log()
    # The second end in a row is answered by a back-off of ten seconds.
    os.kill(second, signal.SIGKILL)
    reason, message = pod.until_waiting()
    assert (reason, "back-off 10s" in message) == ("CrashLoopBackOff", True)
    assert pod.status()["phase"] == "Running"


def test_on_failure_restarts_only_a_failure(either: Any) -> None:
    mounts = [{"name": "shared", "mountPath": "/shared-once"}]
    script = "test -e /shared-once/seen && exit 0; touch /shared-once/seen; echo broken; exit 4"
    spec = {
        "restartPolicy": "OnFailure",
        "volumes": [{"name": "shared", "emptyDir": {}}],
        "containers": [either.sh(script, volumeMounts=mounts)],
    }
    pod = either.pod(spec)
    pod.until_phase("Succeeded")
    entry = pod.container()
    assert entry["restartCount"] == 1
    assert entry["lastState"]["terminated"]["exitCode"] == 4
    assert entry["lastState"]["terminated"]["message"] == "broken"
    pod.until_gone()


def test_the_termination_log_is_the_message(either: Any) -> None:
    spec = {
        "restartPolicy": "Never",
        "containers": [either.sh("echo noise; echo why > /dev/termination-log; exit 1")],
    }
    pod = either.pod(spec)
    pod.until_phase("Failed")
    assert pod.container()["state"]["terminated"]["message"] == "why\n"
    assert pod.container()["state"]["terminated"]["reason"] == "Error"


def test_a_failing_liveness_probe_restarts_the_container(either: Any) -> None:
    probe = {
        "exec": {"command": ["test", "!", "-e", "/probe-dir/ill"]},
        "periodSeconds": 1,
        "failureThreshold": 1,
    }
    spec = {
        "volumes": [{"name": "v", "emptyDir": {}}],
        "containers": [
            either.sh(FOREVER, livenessProbe=probe, volumeMounts=[{"name": "v", "mountPath": "/probe-dir"}])
        ],
    }
    pod = either.pod(spec)
    pod.until_running()
    pod.execute("touch", "/probe-dir/ill")
    pod.until_running(restarts=1)


def test_readiness_follows_an_http_probe_without_a_restart(either: Any, tmp_path: Path) -> None:
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        port = probe_socket.getsockname()[1]
    server = (
        "import http.server, os, sys\n"
        "class Handler(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(500 if os.path.exists('/flag-dir/ill') else 200); self.end_headers()\n"
        "    def log_message(self, *a): pass\n"
        f"http.server.HTTPServer((os.environ['IP'], {port}), Handler).serve_forever()\n"
    )
    server = server.replace("'/flag-dir/ill'", "os.environ['FLAG']")
    main = {
        "name": "main",
        "image": "python:3",
        "command": ["python", "-c", server],
        "env": [
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "FLAG", "value": "/flag-dir/ill"},
        ],
        "ports": [{"name": "web", "containerPort": port}],
        "readinessProbe": {
            "httpGet": {"path": "/", "port": "web"},
            "periodSeconds": 1,
            "failureThreshold": 1,
        },
        "volumeMounts": [{"name": "v", "mountPath": "/flag-dir"}],
    }
    pod = either.pod({"volumes": [{"name": "v", "emptyDir": {}}], "containers": [main]})
    pod.until_running()

    pod.until("ready", lambda: pod.container()["ready"])
    pod.execute("touch", "/flag-dir/ill")
    pod.until("not ready", lambda: not pod.container()["ready"])
    ready = {entry["type"]: entry for entry in pod.status()["conditions"]}["Ready"]
    assert (ready["status"], ready["reason"]) == ("False", "ContainersNotReady")
    pod.execute("rm", "/flag-dir/ill")
    pod.until("ready again", lambda: pod.container()["ready"])
    assert pod.container()["restartCount"] == 0


def test_a_graceful_end_is_waited_for(either: Any) -> None:
    script = "trap 'echo said goodbye; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    pod = either.pod({"containers": [either.sh(script)]})
    # A first process without a handler of its own is deaf to SIGTERM, so let the shell come to its trap.
    pod.until("the trap is set", pod.log)
    pod.terminate()
    pod.until_gone()
    assert pod.log() == "up\nsaid goodbye\n"
    assert pod.status()["phase"] == "Succeeded"


def test_a_deaf_container_is_killed_when_its_grace_is_over(either: Any) -> None:
    pod = either.pod({"containers": [either.sh("trap '' TERM; echo deaf; while :; do sleep 0.05; done")]})
    pod.until("the trap is set", pod.log)
    (pod.folder / "grace").write_text("0.3")
    pod.terminate()
    pod.until_gone()
    assert pod.status()["phase"] == "Failed"
    assert pod.container()["state"]["terminated"]["signal"] == signal.SIGKILL


def test_the_pre_stop_hook_runs_first(either: Any) -> None:
    main = either.sh(
        "trap 'cat /hook-dir/note; exit 0' TERM; echo up; while :; do sleep 0.05; done",
        lifecycle={"preStop": {"exec": {"command": ["/bin/sh", "-c", "echo hook ran > /hook-dir/note"]}}},
        volumeMounts=[{"name": "v", "mountPath": "/hook-dir"}],
    )
    pod = either.pod({"volumes": [{"name": "v", "emptyDir": {}}], "containers": [main]})
    pod.until("the trap is set", pod.log)
    pod.until_running()
    pod.terminate()
    pod.until_gone()
    assert pod.log() == "up\nhook ran\n"


def test_a_missing_secret_key_is_named_and_then_found(either: Any) -> None:
    either.add_object("Secret", "login", stringData={"other": "x"})
    env = [{"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "login", "key": "word"}}}]
    pod = either.pod({"containers": [either.sh(f"echo got $WORD; {FOREVER}", env=env)]})
    reason, message = pod.until_waiting()
    assert reason == "CreateContainerConfigError"
    assert 'Secret "login" has no key "word"' in message
    assert "Pod web" in message
    assert pod.status()["phase"] == "Pending"
    either.add_object("Secret", "login", stringData={"word": "there"})
    pod.until_running()

    pod.until("log", lambda: pod.log() == "got there\n")
    assert pod.container()["restartCount"] == 0


def test_a_missing_claim_is_named_and_then_found(either: Any) -> None:
    spec = {
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "redis-data"}}],
        "containers": [either.sh(FOREVER)],
    }
    pod = either.pod(spec)
    reason, message = pod.until_waiting()
    assert (reason, 'PersistentVolumeClaim "redis-data"' in message) == ("ContainerCreating", True)
    (either.folder / "claims" / "redis-data").mkdir(parents=True)
    pod.until_running()


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        (
            {"image": "ghcr.io/acme/tool:1"},
            ("CreateContainerError", "image ghcr.io/acme/tool:1", "no command"),
        ),
        (
            {"image": "acme", "command": ["acme-tool"]},
            ("CreateContainerError", "image acme", "'acme-tool' is not on this machine"),
        ),
        (
            {"image": "acme", "command": ["/opt/acme/no-such-tool"]},
            ("RunContainerError", "Pod web, container main", "'/opt/acme/no-such-tool' is not there"),
        ),
    ],
)
def test_what_cannot_be_run_is_said(
    either: Any, container: dict[str, Any], expected: tuple[str, ...]
) -> None:
    pod = either.pod({"containers": [{"name": "main", **container}]})
    reason, message = pod.until_waiting()
    assert reason == expected[0]
    for part in expected[1:]:
        assert part in message
    assert "try: " in message


def test_exec_refuses_a_container_that_does_not_run(either: Any) -> None:
    pod = either.pod({"restartPolicy": "Never", "containers": [either.sh("exit 0")]})
    pod.until_phase("Succeeded")
    with pytest.raises(RaywardError, match=r"not running \(terminated: Completed\)"):
        exec_command(pod.folder, None, ["true"])
    with pytest.raises(RaywardError, match="no such container"):
        exec_command(pod.folder, "other", ["true"])


def test_killed_pod_takes_everything_with_it(either: Any) -> None:
    pod = either.pod({"containers": [either.sh("(setsid sleep 1000 &) ; sleep 1000 & sleep 1001")]})
    pod.until_running()
    os.kill(pod.pid, signal.SIGKILL)
    pod.until_gone()


def test_status_changes_wake_the_listener(either: Any, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "wake"))
        listener.settimeout(20)
        pod = either.pod(
            {"restartPolicy": "Never", "containers": [either.sh("exit 0")]}, wake=str(tmp_path / "wake")
        )
        while pod.status().get("phase") != "Succeeded":
            assert listener.recv(100) == b"web"

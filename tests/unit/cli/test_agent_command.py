"""``rayward agent``: what it says of a config file, and what it becomes when it runs one."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from rayward.cli.look import _lead_words, _word

Run = Callable[..., "subprocess.CompletedProcess[str]"]
HEAD = """role: head
cluster: prod
heads: [127.0.0.1]
redis: {address: "redis://127.0.0.1:1", password: hunter2}
"""


def written(folder: Path, text: str) -> str:
    path = folder / "rayward.yaml"
    path.write_text(f"{text}stateDir: {folder}/state\n")
    path.chmod(0o600)
    return str(path)


def test_check_says_that_a_file_can_be_used(cli: Run, tmp_path: Path) -> None:
    done = cli("agent", "run", "--check", "--config", written(tmp_path, HEAD))
    assert (done.returncode, "can be used: head of cluster prod" in done.stdout) == (0, True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD.replace("role: head", "role: haed"), "role: must be one of head, worker"),
        (HEAD + "lease: {ttl: 1}\n", "lease.ttl: lease ttl 1 s is too short"),
        (HEAD.replace("127.0.0.1:1", "127.0.0.1:none"), "redis.address: "),
        ("role: head\nheads: [", "is the file whole?"),
    ],
)
@pytest.mark.parametrize("words", [["--check"], []], ids=["check", "run"])
def test_a_file_that_cannot_be_used_is_exit_code_2_and_starts_nothing(
    cli: Run, tmp_path: Path, text: str, message: str, words: list[str]
) -> None:
    path = written(tmp_path, text)
    done = cli("agent", "run", *words, "--config", path)
    assert done.returncode == 2
    assert message in done.stderr
    assert path in done.stderr
    assert "hunter2" not in done.stderr


def test_print_shows_what_the_agent_is_told_but_no_secret(cli: Run, tmp_path: Path) -> None:
    done = cli("agent", "run", "--print", "--config", written(tmp_path, HEAD))
    assert done.returncode == 0
    assert "REDIS_PASSWORD=***" in done.stdout.splitlines()
    assert "RAYWARD_HEADS=127.0.0.1:8008" in done.stdout.splitlines()
    assert "--head --node-ip-address=127.0.0.1 --port=6379" in done.stdout.splitlines()[-1]
    assert "hunter2" not in done.stdout + done.stderr


def test_running_a_file_becomes_the_agent_under_the_same_pid(cli: Run, tmp_path: Path) -> None:
    """Nothing is started: the worker waits for a head that is not there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    agent = f"agent: {{port: {port}, host: 127.0.0.1}}\nray: {{port: 16379}}\n"
    path = written(tmp_path, f"role: worker\ncluster: prod\nheads: [127.0.0.1]\nname: w\n{agent}")
    with (tmp_path / "log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "rayward", "agent", "run", "--config", path],
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).resolve().parents[3])},
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        deadline, found = time.monotonic() + 30, {}
        while not found:
            assert child.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=2) as answer:
                    found = json.load(answer)
            except OSError:
                time.sleep(0.05)
        assert (found["role"], found["cluster"], found["pod"]) == ("worker", "prod", "w")
        assert found["agent"]["pid"] == child.pid
        words = Path(f"/proc/{child.pid}/cmdline").read_bytes().split(b"\0")
        assert b"rayward.agent" in words
        environ = Path(f"/proc/{child.pid}/environ").read_bytes().split(b"\0")
        assert b"RAY_gcs_rpc_server_reconnect_timeout_s=600" in environ
    finally:
        child.terminate()
        assert child.wait(20) == 0


def test_the_words_of_a_command_line_still_reach_the_agent(cli: Run) -> None:
    done = cli("agent", "head", "--", "ray", "stop")
    assert (done.returncode, "expected the ray start command after --" in done.stderr) == (2, True)
    done = cli("agent", "worker", "--", "ray", "start", "--head")
    assert (done.returncode, "does not belong to a worker" in done.stderr) == (2, True)
    nothing = cli("agent")
    assert (nothing.returncode, "say run, head or worker" in nothing.stderr) == (1, True)


def test_the_zip_is_still_built(cli: Run, tmp_path: Path) -> None:
    done = cli("agent", "--build-zip", str(tmp_path / "agent.zip"))
    assert done.returncode == 0, done.stderr
    assert str((tmp_path / "agent.zip").stat().st_size) in done.stdout


def test_a_nodes_part_in_the_election_is_shown_in_a_few_words() -> None:
    assert _lead_words({"role": "leader", "epoch": 4}) == "leader, epoch 4"
    assert _lead_words({"role": "standby", "epoch": 4}) == "standby"
    assert _lead_words({}) == "-"
    assert (
        _word({"state": "away", "fault": "Redis at r:1 refused", "address": "r:1"})
        == "away: Redis at r:1 refused"
    )
    assert _word({"state": "good", "fault": ""}) == "good"
    assert (_word("text"), _word(None)) == ("text", "")

"""An agent that is told of a Serve proxy, with a little server in the proxy's place.

There is no Ray: ``ray start`` is a script that leaves two processes called as Ray's are.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from agent_node import AgentNode, free_ports, run_agent, until
from stand_in_proxy import DRAINING, StandInProxy

RAY_START = f"""#!{sys.executable}
import subprocess, sys
for name in ("gcs_server", "raylet"):
    log = open(f"{{sys.path[0]}}/{{name}}.out", "ab")
    subprocess.Popen([name, "600"], executable="/bin/sleep", stdout=log, stderr=log, start_new_session=True)
"""


@contextmanager
def serving_head(agent_zip: Path, directory: Path, port: int, **environ: str) -> Iterator[AgentNode]:
    """A head whose agent asks ``port``; its "GCS" never serves, which a proxy can do without."""
    command = directory / "ray"
    command.write_text(RAY_START)
    command.chmod(0o755)
    gcs_port, agent_port = free_ports(2)
    arguments = ["head", "--", str(command), "start", "--head", f"--port={gcs_port}"]
    settings = {
        "RAYWARD_SERVE_PORT": str(port), "RAYWARD_AGENT_PORT": str(agent_port), "TMPDIR": str(directory),
        **environ,
    }  # fmt: skip
    with run_agent(agent_zip, directory, arguments, settings) as node:
        yield node


@pytest.fixture
def node(agent_zip: Path, directory: Path) -> Iterator[tuple[AgentNode, StandInProxy]]:
    proxy = StandInProxy()
    with serving_head(agent_zip, directory, proxy.port) as node:
        node.wait(lambda seen: servez(node)[0] == 200, 20, "servez")
        assert list(directory.glob("rayward-serve-*"))
        yield node, proxy
        node.stop()
        node.assert_nothing_left()
        assert not list(directory.glob("rayward-serve-*"))
    proxy.end()


def servez(node: AgentNode) -> tuple[int, dict[str, Any]]:
    code, body = node.get("/servez")
    return code, json.loads(body)


def test_truth_follows_the_proxy_and_the_raylet(node: tuple[AgentNode, StandInProxy]) -> None:
    agent, proxy = node
    assert servez(agent)[1] == {"answers": True, "routes": 1, "reason": "the Serve proxy answers"}
    assert agent.get("/readyz")[0] == 503, "its GCS serves nothing: of that a proxy is independent"
    seen = agent.status()["serve"]
    assert (seen["port"], seen["healthy"], seen["routes"], seen["leaving"]) == (proxy.port, True, 1, False)

    proxy.code, proxy.message = 503, DRAINING
    until(lambda: servez(agent)[0] == 503, 30, "withdrawn")
    assert DRAINING in servez(agent)[1]["reason"]
    proxy.code, proxy.message = 200, "success"
    until(lambda: servez(agent)[0] == 200, 30, "offered again")

    proxy.end()
    until(lambda: servez(agent)[0] == 503, 30, "nobody listens")
    again = StandInProxy(proxy.port)
    until(lambda: servez(agent)[0] == 200, 30, "another proxy")
    os.kill(agent.pid_of("raylet"), signal.SIGKILL)
    until(lambda: servez(agent)[0] == 503 or agent.starts("raylet") > 1, 30, "no raylet, or another one")
    again.end()
    reasons = [event["reason"] for event in agent.status()["events"] if event["reason"].startswith("Serve")]
    assert reasons[:5] == ["ServeAnswers", "ServeSilent", "ServeAnswers", "ServeSilent", "ServeAnswers"]


def test_a_proxy_whose_process_is_killed_is_withdrawn_within_a_second(
    agent_zip: Path, directory: Path
) -> None:
    (port,) = free_ports(1)
    script = str(Path(__file__).with_name("stand_in_proxy.py"))
    proxy = subprocess.Popen([sys.executable, script, str(port)])
    try:
        with serving_head(agent_zip, directory, port) as agent:
            agent.wait(lambda seen: servez(agent)[0] == 200, 20, "servez")
            proxy.kill()
            proxy.wait(10)
            until(lambda: servez(agent)[0] == 503, 1, "withdrawn")
            agent.stop()
    finally:
        proxy.kill()
        proxy.wait(10)


def test_a_node_that_leaves_says_so_and_goes_on_answering(
    agent_zip: Path, node: tuple[AgentNode, StandInProxy]
) -> None:
    agent, proxy = node
    leave = subprocess.Popen(
        [sys.executable, str(agent_zip), "leave", "--least=1", "--most=5"],
        env=agent.environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    until(lambda: agent.status()["serve"]["leaving"], 30, "leaving")
    assert servez(agent)[0] == 200
    words, _ = leave.communicate(timeout=20)
    assert (leave.returncode, "nobody is connected any more" in words) == (0, True), words
    assert proxy.code == 200


def test_without_a_place_for_the_middleware_the_node_works(agent_zip: Path, directory: Path) -> None:
    proxy = StandInProxy()
    with serving_head(agent_zip, directory, proxy.port, TMPDIR=str(directory / "none")) as agent:
        agent.wait(lambda seen: servez(agent)[0] == 200, 20, "servez")
        assert "cannot write Serve's middleware" in agent.events("ServeMiddlewareMissing")[0]["message"]
        assert agent.status()["serve"]["leaving"] is False
        agent.stop()
    proxy.end()

"""Facts about Ray Serve's own proxy that the agent counts on.

It answers without a GCS, the agent sees it, and while a node is leaving each answer ends its connection.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_node import AgentNode, free_ports, head, short_directory, store_of, until

APPLICATION = """
import sys
import ray
from ray import serve

@serve.deployment(ray_actor_options={"num_cpus": 0})
class Echo:
    async def __call__(self, request):
        return {"got": await request.json()}

ray.init(address=sys.argv[1], log_to_driver=False)
serve.start(http_options={"host": "0.0.0.0", "port": int(sys.argv[2])})
serve.run(Echo.bind(), name="echo", route_prefix="/echo")
"""


@pytest.fixture(scope="module")
def node(agent_zip: Path) -> Iterator[tuple[AgentNode, int]]:
    """A head on which an application serves, and the port of its proxy."""
    with short_directory() as directory:
        (port,) = free_ports(20)[-1:]
        settings = {**store_of(directory), "RAYWARD_SERVE_PORT": str(port), "TMPDIR": str(directory)}
        with head(agent_zip, directory, settings) as node:
            node.wait_ready()
            assert node.get("/servez")[0] == 503, "no proxy yet"
            deploy = [sys.executable, "-c", APPLICATION, node.address, str(port)]
            subprocess.run(deploy, env=node.environment, check=True, capture_output=True, timeout=120)
            until(lambda: node.get("/servez")[0] == 200, 60, "the proxy answers")
            yield node, port
            node.stop()
            node.assert_nothing_left()


def post(connection: http.client.HTTPConnection, fruit: object) -> tuple[object, str | None]:
    """The answer to a request with a body, and what it says of its connection."""
    connection.request("POST", "/echo", json.dumps(fruit))
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == 200, body
    return json.loads(body)["got"], answer.headers["Connection"]


def test_requests_are_answered_while_the_gcs_is_away(node: tuple[AgentNode, int]) -> None:
    agent, port = node
    serve = agent.status()["serve"]
    assert (serve["healthy"], serve["routes"], serve["reason"]) == (True, 1, "the Serve proxy answers")
    kept = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    assert post(kept, "quiet") == ("quiet", None)
    old = agent.pid_of("gcs_server")
    # Stopped, not killed: so it stays away for the second that the agent gives it.
    os.kill(old, signal.SIGSTOP)
    count = 0
    while agent.pid_of("gcs_server") == old or not agent.status()["ready"]:
        count += 1
        fresh = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        assert post(kept, ["PEAR", count]) == (["PEAR", count], None)
        assert post(fresh, ["MANGO", count]) == (["MANGO", count], None)
        fresh.close()
        assert agent.get("/servez")[0] == 200
    assert count > 5
    kept.close()


def test_a_leaving_node_ends_each_connection_with_an_answer(
    agent_zip: Path, node: tuple[AgentNode, int]
) -> None:
    agent, port = node
    kept = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    assert post(kept, 1) == (1, None)
    leave = subprocess.Popen(
        [sys.executable, str(agent_zip), "leave", "--least=1", "--most=6"],
        env=agent.environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    until(lambda: agent.status()["serve"]["leaving"], 30, "leaving")
    assert post(kept, 2) == (2, "close")
    assert post(kept, 3) == (3, "close"), "it goes on answering whoever comes"
    words, _ = leave.communicate(timeout=20)
    assert (leave.returncode, "nobody is connected any more" in words) == (0, True), words
    assert agent.get("/servez")[0] == 200

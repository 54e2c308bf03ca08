"""examples/ray-service.high-availability.yaml holds together, and what it carries does what it says."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayward.api.fault_tolerance import Backend, fault_tolerance
from rayward.api.rayservice import inner_cluster, parse_ray_service, validate_service
from rayward.api.serve_config import ServeConfig, read_serve_config
from rayward.plan import names

Raw = dict[str, Any]
EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "ray-service.high-availability.yaml"
OBJECTS: dict[tuple[str, str], Raw] = {
    (found["kind"], found["metadata"]["name"]): found for found in yaml.safe_load_all(EXAMPLE.read_text())
}
RAW = OBJECTS["RayService", "rayservice-ha"]
SERVE = yaml.safe_load(RAW["spec"]["serveConfigV2"])
(APPLICATION,) = SERVE["applications"]
BOUND_S = 30.0


def ray_pods() -> Iterator[tuple[Raw, Raw]]:
    """The Pod spec of the head and of the workers, each with its Ray container."""
    config = RAW["spec"]["rayClusterConfig"]
    for group in (config["headGroupSpec"], *config["workerGroupSpecs"]):
        spec = group["template"]["spec"]
        yield spec, spec["containers"][0]


def test_it_is_valid_and_has_three_nodes_with_a_store() -> None:
    RAW["metadata"]["uid"] = "uid"
    service = parse_ray_service(RAW)
    assert validate_service(service) == ()
    cluster = inner_cluster(service)
    tolerance = fault_tolerance(cluster)
    assert (tolerance.backend, tolerance.redis_address) == (Backend.REDIS, "redis:6379")
    assert cluster.head.ray_start_params["num-cpus"] == "0"
    (group,) = cluster.workers
    assert (group.desired_replicas, group.minimum, group.maximum) == (2, 1, 5)
    assert not any("ports" in container for _, container in ray_pods())


def test_what_stands_in_comments_may_be_switched_on() -> None:
    text = EXAMPLE.read_text()
    for line in ("enableActivePassiveHead: true", "excludeHeadPodFromServeSvc: true"):
        assert f"# {line}\n" in text
        text = text.replace(f"# {line}\n", f"{line}\n")
    (raw,) = [found for found in yaml.safe_load_all(text) if found["kind"] == "RayService"]
    service = parse_ray_service(raw)
    assert service.spec.exclude_head_pod_from_serve_svc is True
    assert fault_tolerance(inner_cluster(service)).heads == 2
    assert [problem.message for problem in validate_service(service)] == []


def test_a_worker_has_room_for_one_replica_of_each_deployment() -> None:
    parts = APPLICATION["deployments"]
    assert {part["name"] for part in parts} == {"MangoStand", "OrangeStand", "PearStand", "FruitMarket"}
    assert {(part["num_replicas"], part["max_replicas_per_node"]) for part in parts} == {(2, 1)}
    assert {part["max_ongoing_requests"] for part in parts} == {100}, "Ray's 5 make a queue of any pause"
    asked = sum(part["ray_actor_options"]["num_cpus"] for part in parts)
    (group,) = RAW["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert asked <= float(group["rayStartParams"]["num-cpus"])


def test_the_application_is_found_on_every_node() -> None:
    module, _, variable = APPLICATION["import_path"].partition(".")
    for spec, container in ray_pods():
        (path,) = [item["value"] for item in container["env"] if item["name"] == "PYTHONPATH"]
        (mount,) = [item for item in container["volumeMounts"] if item["mountPath"] == path]
        (volume,) = [item for item in spec["volumes"] if item["name"] == mount["name"]]
        code = OBJECTS["ConfigMap", volume["configMap"]["name"]]["data"]
        assert f"\n{variable} = " in code[f"{module}.py"]


def test_redis_and_ray_have_the_same_password() -> None:
    conf = OBJECTS["ConfigMap", "redis-config"]["data"]["redis.conf"].splitlines()
    password = OBJECTS["Secret", "redis-password-secret"]["stringData"]["password"]
    assert f"requirepass {password}" in conf


def test_the_client_asks_the_serve_service() -> None:
    config = read_serve_config(RAW["spec"]["serveConfigV2"])
    assert isinstance(config, ServeConfig)
    (container,) = OBJECTS["Pod", "ray-pod"]["spec"]["containers"]
    (variable,) = container["env"]
    name = names.serve_service_name("rayservice-ha")
    assert variable["value"] == f"http://{name}:{config.port}{APPLICATION['route_prefix']}/"
    assert f'"{variable["value"]}"' in OBJECTS["ConfigMap", "query-script"]["data"]["query.py"]


# --- the application, run in one process by Ray Serve itself

ASKED = """
import json, sys, time
import fruit
from ray import serve
from starlette.requests import Request

prices = {part["name"]: part.get("user_config") for part in json.loads(sys.argv[1])}
stands = {
    name: deployment.options(user_config=prices[deployment.name]).bind()
    for name, deployment in
    (("MANGO", fruit.MangoStand), ("ORANGE", fruit.OrangeStand), ("PEAR", fruit.PearStand))
}

def ask(handle, body):
    async def receive():
        return {"type": "http.request", "body": body.encode(), "more_body": False}
    scope = {"type": "http", "method": "POST", "headers": []}
    answer = handle.remote(Request(scope, receive)).result()
    code = getattr(answer, "status_code", 200)
    return [code, answer if type(answer) is int else answer.body.decode()]

# Once with its prices, once as it is written.
for market, priced in ((fruit.FruitMarket.bind(stands), True), (fruit.market, False)):
    handle = serve.run(market, _local_testing_mode=True)
    give_up = time.monotonic() + float(sys.argv[3])
    # In this mode Ray Serve starts reconfigure() of a replica and does not wait for its end.
    while priced and any(ask(handle, f'["{fruit}", 1]') == [200, 0] for fruit in stands):
        assert time.monotonic() < give_up, "a stand never had its price"
        time.sleep(0.01)
    for body in json.loads(sys.argv[2]):
        print(json.dumps(ask(handle, body)))
"""


def test_the_market_answers_with_prices_or_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "fruit.py").write_text(OBJECTS["ConfigMap", "fruit-app"]["data"]["fruit.py"])
    wanted = {
        '["PEAR", 12]': [200, 12],
        '["ORANGE", 12]': [200, 24],
        '["MANGO", 0]': [200, 0],
        '["MANGO", 2]': [200, 6],
        '["FIG", 2]': [404, "404: nobody sells 'FIG'; there are MANGO, ORANGE, PEAR\n"],
        '["PEAR", "2"]': [400, "400: '2' is no number of fruits\n"],
        '["PEAR", true]': [400, "400: True is no number of fruits\n"],
        '["PEAR", -1]': [400, "400: -1 is no number of fruits\n"],
        "pears": [400, '400: send a fruit and how many, such as ["PEAR", 12]\n'],
        "7": [400, '400: send a fruit and how many, such as ["PEAR", 12]\n'],
    }
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            ASKED,
            json.dumps(APPLICATION["deployments"]),
            json.dumps(list(wanted)),
            str(BOUND_S),
        ],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=BOUND_S * 4,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers[: len(wanted)] == list(wanted.values())
    # Without user_config nothing has a price.
    assert answers[len(wanted) :] == [[code, 0 if code == 200 else said] for code, said in wanted.values()]


# --- the client


class Market(ThreadingHTTPServer):
    """Answers ``code``; ``hold`` keeps requests waiting until it is set."""

    daemon_threads = True

    def __init__(self) -> None:
        self.code, self.bodies = 200, list[bytes]()
        self.asked, self.hold = threading.Event(), threading.Event()
        self.hold.set()
        market = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                market.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                market.asked.set()
                market.hold.wait(BOUND_S)
                self.send_response(market.code)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"12")

            def log_message(self, format: str, *args: Any) -> None:
                """Requests are not news."""

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def market() -> Iterator[Market]:
    with Market() as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.hold.set()
        found.shutdown()


@contextlib.contextmanager
def query(port: int, *words: str) -> Iterator[subprocess.Popen[str]]:
    """The client as the Pod runs it, against a server on ``port``."""
    code = OBJECTS["ConfigMap", "query-script"]["data"]["query.py"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "FRUIT_URL": f"http://127.0.0.1:{port}/fruit/"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_client_prints_what_the_guide_shows(market: Market) -> None:
    with query(market.server_port, "--requests", "2") as client:
        said, error = client.communicate(timeout=BOUND_S)
    assert said == "req_index : 1, num_fail: 0\nresponse: 12\nreq_index : 2, num_fail: 0\nresponse: 12\n"
    assert (client.returncode, error) == (0, "")
    assert market.bodies == [b'["PEAR", 12]'] * 2


def test_the_client_counts_failures_and_goes_on(market: Market) -> None:
    market.code = 503
    with query(market.server_port, "--requests", "2") as client:
        said, _ = client.communicate(timeout=BOUND_S)
    assert (said.splitlines()[-2:], client.returncode) == (
        ["req_index : 2, num_fail: 2", "response: 503 12"],
        1,
    )


def test_the_client_does_not_count_a_refused_connection_thousands_of_times() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with query(port, "--seconds", "0.3") as client:
        said, _ = client.communicate(timeout=BOUND_S)
    assert "response: none: " in said
    assert 1 <= len(said.splitlines()) / 2 <= 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_client_ends_when_it_is_told_after_the_answer(market: Market, number: signal.Signals) -> None:
    market.hold.clear()
    with query(market.server_port) as client:
        assert market.asked.wait(BOUND_S)
        client.send_signal(number)
        market.hold.set()
        said, error = client.communicate(timeout=BOUND_S)
    assert (said, error) == ("req_index : 1, num_fail: 0\nresponse: 12\n", "")
    assert client.returncode == 0

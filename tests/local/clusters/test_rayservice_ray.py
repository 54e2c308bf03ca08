"""The guide to RayService on one machine: the example, real Ray Serve, real Redis, `query.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import EXAMPLES, CommandLine, eventually

pytestmark = [pytest.mark.ray, pytest.mark.namespaces, pytest.mark.timeout(900)]
NAME = "tserve"
EXAMPLE = EXAMPLES / "ray-service.high-availability.yaml"
HEAD, WORKERS = "ray.io/node-type=head", "ray.io/node-type=worker"


@pytest.fixture(scope="module")
def guide(shared: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guide]:
    """Step 3: the service is up. Its name is changed in the Service's name of the client, too."""
    path = tmp_path_factory.mktemp("service") / "service.yaml"
    path.write_text(EXAMPLE.read_text().replace("rayservice-ha", NAME))
    shared("up", "-f", str(path), "--name", NAME, "--timeout", "300", timeout=330)
    yield Guide(shared, path)
    shared("down", NAME)


class Guide:
    """The service as a user of the command line sees it."""

    def __init__(self, cli: CommandLine, path: Path) -> None:
        self.cli, self.path = cli, path

    def status(self) -> dict[str, Any]:
        (found,) = json.loads(self.cli.out("status", NAME, "--json"))[0]["services"]
        return dict(found)

    def addresses(self, selector: str) -> set[str]:
        pods = json.loads(self.cli.out("get", "pods", "-l", selector, "-o", "json"))["items"]
        return {pod["status"].get("podIP") for pod in pods}

    def ask(self, fruit: str, amount: int) -> str:
        script = (
            "import json, os, urllib.request as u; "
            f"body = json.dumps([{fruit!r}, {amount}]).encode(); "
            "print(u.urlopen(u.Request(os.environ['FRUIT_URL'], body), timeout=10).read().decode())"
        )
        return self.cli.out("exec", "ray-pod", "--", "python3", "-c", script)

    def change(self, old: str, new: str) -> str:
        """Apply the manifest with one text in it replaced."""
        text = self.path.read_text()
        assert old in text
        self.path.write_text(text.replace(old, new))
        return self.cli.out("apply", "-f", str(self.path), "--cluster", NAME)


def test_the_guide(guide: Guide) -> None:
    """The steps in their order, for each needs the one before."""
    steps_4_and_5(guide)
    steps_6_and_7(guide)
    another_text(guide)
    what_does_not_fit(guide)


def steps_4_and_5(guide: Guide) -> None:
    status = guide.status()
    assert (status["status"], status["endpoints"]) == ("Running", 3)
    workers = guide.cli.pods(WORKERS)
    (application,) = status["applications"]
    assert {found["deployment"] for found in application["deployments"]} == {
        "FruitMarket",
        "MangoStand",
        "OrangeStand",
        "PearStand",
    }
    for found in application["deployments"]:
        assert set(found["says"].split(", ")) == {f"1 on {worker}" for worker in workers}
    services = guide.cli.out("get", "services")
    line = next(line for line in services.splitlines() if line.startswith(f"{NAME}-serve-svc"))
    assert set(line.split()[2].split(",")) == guide.addresses("ray.io/is-ray-node=yes")


def steps_6_and_7(guide: Guide) -> None:
    old, workers = guide.cli.head(), set(guide.cli.pods(WORKERS))
    asking = guide.cli.popen("exec", "ray-pod", "--", "python3", "samples/query.py", "--seconds", "60")
    guide.cli("delete", "pod", old)
    eventually(lambda: (heads := guide.cli.pods(HEAD)) and old not in heads, timeout=120)
    eventually(lambda: guide.status()["endpoints"] == 3, timeout=240, why=guide.status)
    out, _ = asking.communicate(timeout=240)
    answers = [line for line in out.splitlines() if line.startswith("response: ")]
    assert set(answers) == {"response: 12"}
    assert len(answers) > 60
    assert asking.returncode == 0
    assert set(guide.cli.pods(WORKERS)) == workers


def another_text(guide: Guide) -> None:
    before = guide.status()["active"]
    assert guide.ask("ORANGE", 3) == "6"
    said = guide.change("price: 2", "price: 5")
    assert f"rayservices/{NAME} configured" in said
    assert "configmaps/fruit-app unchanged" in said
    eventually(lambda: guide.ask("ORANGE", 3) == "15", timeout=120)
    assert guide.status()["active"] == before


def what_does_not_fit(guide: Guide) -> None:
    text = guide.path.read_text()
    guide.path.write_text(text.replace("route_prefix: /fruit", "route_prefix: fruit"))
    refused = guide.cli("apply", "-f", str(guide.path), "--cluster", NAME, code=1)
    assert "must start with /" in refused.stderr
    guide.path.write_text(text)
    guide.change("fruit.market", "nowhere.market")
    eventually(lambda: "nowhere" in guide.status()["says"], timeout=120, why=guide.status)
    assert guide.ask("ORANGE", 3) == "15", "what ran goes on"
    guide.change("nowhere.market", "fruit.market")
    eventually(lambda: guide.status()["says"].startswith("1 on"), timeout=120, why=guide.status)

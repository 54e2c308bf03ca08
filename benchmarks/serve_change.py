"""From another price in the `serveConfigV2` of a RayService that serves to the first answer with it."""

from __future__ import annotations

import copy
import http.client
import time
from urllib.parse import urlsplit

import click
import yaml

from benchmarks import common
from benchmarks.serve_requests import MANIFEST
from rayward.drill.machine import cluster_facts
from rayward.drill.serve_load import BODY, EXPECT, PATH
from rayward.drill.serve_look import service_of, url_of
from rayward.drill.serve_session import require_whole
from rayward.drill.statistics import spread
from rayward.drill.table import seconds
from rayward.drill.temporary import temporary_cluster
from rayward.local import cluster as local
from rayward.local.cluster import LocalCluster

_LIMIT_S, _POLL_S = 60.0, 0.02


@click.command(epilog="example: python -m benchmarks.serve_change -n 3")
@click.option("-n", "runs", default=20, show_default=True, help="Changes.")
def main(runs: int) -> None:
    """Measure, print the table, write serve_change.json."""
    with temporary_cluster(local.read_manifests(MANIFEST, None)[1], "bench", common.tell) as cluster:
        require_whole(cluster)
        took, wrong = [], 0
        for number in range(1, runs + 1):
            passed, others = _change(cluster, number + 1)
            took.append(passed)
            wrong += others
            common.tell(f"change {number} of {runs}: {passed:.2f} s")
        facts = cluster_facts(cluster)
    found = spread(took)
    result = {"n": runs, "figures": {"new_answer_s": found}, "all_s": took, "wrong": wrong, "machine": facts}
    row = [runs, *(seconds(found[name]) for name in ("p50", "p99", "max")), wrong]
    common.write("serve_change", result, ("n", "p50", "p99", "max", "failed or wrong answers"), [row])


def _change(cluster: LocalCluster, price: int) -> tuple[float, int]:
    """Have a pear cost ``price`` instead of one less; seconds until two answers in a row have it (there are
    two replicas), and how many answers meanwhile were neither the old nor the new one."""
    service = copy.deepcopy(service_of(cluster))
    service.pop("status", None)
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    (pears,) = (found for found in config["applications"][0]["deployments"] if found["name"] == "PearStand")
    pears["user_config"]["price"] = price
    service["spec"]["serveConfigV2"] = yaml.safe_dump(config)
    old, new = (str(int(EXPECT) * each) for each in (price - 1, price))
    url, others, first = url_of(cluster), 0, None
    began = time.monotonic()
    cluster.apply([service])
    while (now := time.monotonic()) < began + _LIMIT_S:
        answer = _ask(url)
        others += answer not in (old, new)
        if answer != new:
            first = None
        elif first is None:
            first = time.monotonic() - began
        else:
            return first, others
        time.sleep(max(0.0, now + _POLL_S - time.monotonic()))
    raise click.ClickException(f"no answer with the new price within {_LIMIT_S:g} s; the last one: {answer}")


def _ask(url: str) -> str:
    where = urlsplit(url)
    connection = http.client.HTTPConnection(str(where.hostname), where.port, timeout=10)
    try:
        connection.request("POST", PATH, BODY, {"Content-Type": "application/json"})
        return connection.getresponse().read().decode(errors="replace")
    except OSError as error:
        return f"none: {error}"
    finally:
        connection.close()


if __name__ == "__main__":
    main()

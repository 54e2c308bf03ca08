"""How recovery grows with what the store holds: 100, 1,000 and 10,000 actors, gcs_server's own part apart.

The actors are finished ones: the entry of a real actor that has ended, copied in Redis under new ids. Their
metadata is what a GCS reads when it starts; running ones would add their processes, not more reading.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from benchmarks import common
from rayward.drill import heads
from rayward.drill.census import worker_pods
from rayward.drill.drill import DrillPlan, run_drill
from rayward.drill.faults import find_fault
from rayward.drill.result import result_json
from rayward.drill.table import seconds
from rayward.drill.temporary import temporary_cluster
from rayward.errors import RaywardError
from rayward.local.cluster import LocalCluster
from rayward.store import schema

COLUMNS = (
    "actors in the store",
    "fault",
    "n",
    "gcs_server's own start p50",
    "GCS serves p50",
    "rayward's share",
    "new actor p50",
    "held",
)
_ID_LENGTH = 16
_AT_ONCE = 500
# Leaves one actor that has ended in the store, and prints its id.
_ONE_ACTOR = """
import ray
ray.init(logging_level="ERROR")
@ray.remote(num_cpus=0)
class Model:
    def answer(self): return 1
actor = Model.remote()
ray.get(actor.answer.remote())
print("id", actor._actor_id.hex())
ray.kill(actor)
"""


@click.command(epilog="example: python -m benchmarks.load_size -n 1 --sizes 100")
@click.option("-n", "runs", default=5, show_default=True, help="Injections of each kind at each size.")
@click.option("--sizes", default="100,1000,10000", show_default=True, help="Numbers of actors.")
@click.option("--seed", default=1, show_default=True, help="Seed of the moments of injection.")
def main(runs: int, sizes: str, seed: int) -> None:
    """Measure, print the table, write load_size.json."""
    parts: dict[str, Any] = {}
    with temporary_cluster(common.two_heads(), "bench", common.tell) as cluster:
        model = _model(cluster)
        held = 0
        for size in (int(text) for text in sizes.split(",")):
            common.tell(f"{size:,} actors")
            _fill(cluster, model, size - held)
            held = size
            for fault in ("gcs-kill", "host-loss"):
                plan = DrillPlan(find_fault(fault), runs, seed, quiet_actors=2)
                outcome = run_drill(cluster, plan, common.tell)
                parts[f"{size}, {fault}"] = common.thinned(result_json(outcome))
    rows = [_row(name, part) for name, part in parts.items()]
    common.write("load_size", {"parts": parts}, COLUMNS, rows)
    sys.exit(0 if all(part["ok"] for part in parts.values()) else 1)


def _model(cluster: LocalCluster) -> bytes:
    """The id of an actor that has ended, from a worker."""
    pod = worker_pods(cluster)[0]["metadata"]["name"]
    done = cluster.run(pod, ["python3", "-c", _ONE_ACTOR])
    words = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("id ")]
    if not words:
        raise RaywardError(f"no actor could be made: {done.stderr.strip()[-300:]}", where=f"Pod {pod}")
    return bytes.fromhex(words[0])


def _fill(cluster: LocalCluster, model: bytes, count: int) -> None:
    """Copy the model's entry ``count`` times, each under an id of its own."""
    with heads.redis_of(cluster) as (client, namespace):
        key = schema.table_key(namespace, "ACTOR")
        value: Any = client.hget(key, model)  # type: ignore[arg-type]
        if value is None:
            raise RaywardError("the actor that has ended is not in the store", where=key)
        for begin in range(0, count, _AT_ONCE):
            ids = [os.urandom(_ID_LENGTH) for _ in range(min(_AT_ONCE, count - begin))]
            client.hset(key, mapping={identity: value.replace(model, identity) for identity in ids})


def _row(name: str, part: dict[str, Any]) -> list[str]:
    size, fault = name.split(", ")
    figures = part["figures"]
    own, serves = figures["floor"]["gcs_start_s"], figures["gcs_ready_s"]["p50"]
    share = seconds(serves - own) if own is not None and serves is not None else ""
    return [
        f"{int(size):,}",
        fault,
        str(part["n"]),
        seconds(own, ""),
        seconds(serves),
        share,
        seconds(figures["new_actor_s"]["p50"]),
        f"{sum(run['held'] for run in part['runs'])} of {part['n']}",
    ]


if __name__ == "__main__":
    main()

"""What the agent of a head and of a worker costs while nothing happens: memory, and its share of one core."""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks import common
from rayward.drill import census
from rayward.local.pod_process import processes_of_pods
from rayward.local.state import Manifest

COLUMNS = ("agent of", "resident memory", "share of one core")


@click.command(epilog="example: python -m benchmarks.agent_idle --seconds 10")
@click.option("--seconds", default=60.0, show_default=True, help="How long to watch.")
@click.option("--settle", default=15.0, show_default=True, help="Seconds of quiet before.")
def main(seconds: float, settle: float) -> None:
    """Measure, print the table, write agent_idle.json."""
    with common.cluster("redis") as cluster:
        pods = {"head": census.head_pod(cluster), "worker": census.worker_pods(cluster)[0]}
        pids = {name: _agent(pod) for name, pod in pods.items()}
        common.tell(f"settling for {settle:g} s, then watching for {seconds:g} s")
        common.processor_shares(pids, settle)
        shares = common.processor_shares(pids, seconds)
        found = {
            name: {"resident_bytes": common.resident_bytes(pid), "cpu_share": shares[name]}
            for name, pid in pids.items()
        }
    rows = [
        (name, f"{each['resident_bytes'] / 2**20:.1f} MB", common.percent(each["cpu_share"]))
        for name, each in found.items()
    ]
    common.write("agent_idle", {"seconds": seconds, "agents": found}, COLUMNS, rows)


def _agent(pod: Manifest) -> int:
    """The agent's pid: the process in the Pod that runs the zip and was started first."""
    pids = []
    for pid in processes_of_pods({str(pod["metadata"]["uid"])}):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if any(word.endswith(b"agent.zip") for word in words[:3]):
            pids.append(pid)
    if not pids:
        raise click.ClickException(f"no agent runs in Pod {pod['metadata']['name']}")
    return min(pids)


if __name__ == "__main__":
    main()

"""What rayward costs on each node while nothing happens: memory, and the share of one core.

A head of a Redis cluster runs the agent, its store gateway and its fence; a worker the agent alone.
"""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks import common
from rayward.drill.temporary import temporary_cluster
from rayward.local.pod_process import processes_of_pods
from rayward.local.state import Manifest

COLUMNS = ("node", "process", "resident memory", "its share (PSS)", "share of one core")
_PARTS = ("gateway", "fence")


@click.command(epilog="example: python -m benchmarks.agent_idle --seconds 10")
@click.option("--seconds", default=60.0, show_default=True, help="How long to watch.")
@click.option("--settle", default=15.0, show_default=True, help="Seconds of quiet before.")
def main(seconds: float, settle: float) -> None:
    """Measure, print the table, write agent_idle.json."""
    with temporary_cluster(common.two_heads(), "bench", common.tell) as cluster:
        leader = cluster.leader()
        if leader is None:
            raise click.ClickException("no head leads")
        standby = next(pod for pod in cluster.heads() if pod["metadata"]["uid"] != leader["metadata"]["uid"])
        worker = cluster.pods(ray_io_node_type="worker")[0]
        nodes = {"leading head": leader, "standby head": standby, "worker": worker}
        pids = {f"{name}/{part}": pid for name, pod in nodes.items() for part, pid in _parts(pod).items()}
        common.tell(f"settling for {settle:g} s, then watching for {seconds:g} s")
        common.processor_shares(pids, settle)
        shares = common.processor_shares(pids, seconds)
        found = {
            name: {
                "resident_bytes": common.resident_bytes(pid),
                "proportional_bytes": _proportional_bytes(pid),
                "cpu_share": shares[name],
            }
            for name, pid in pids.items()
        }
    for node in nodes:
        mine = [each for name, each in found.items() if name.startswith(f"{node}/")]
        found[f"{node}/all"] = {key: sum(each[key] for each in mine) for key in mine[0]}
    rows = [
        (
            *name.split("/"),
            f"{each['resident_bytes'] / 2**20:.1f} MB",
            f"{each['proportional_bytes'] / 2**20:.1f} MB",
            common.percent(each["cpu_share"]),
        )
        for name, each in sorted(found.items())
    ]
    common.write("agent_idle", {"seconds": seconds, "agents": found}, COLUMNS, rows)


def _parts(pod: Manifest) -> dict[str, int]:
    """rayward's processes in a Pod: those that run the zip. The agent is the one that was started first."""
    found: dict[str, int] = {}
    for pid in sorted(processes_of_pods({str(pod["metadata"]["uid"])})):
        words = [word.decode() for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
        if any(word.endswith("agent.zip") for word in words[:3]):
            found.setdefault(next((part for part in _PARTS if part in words), "agent"), pid)
    if "agent" not in found:
        raise click.ClickException(f"no agent runs in Pod {pod['metadata']['name']}")
    return found


def _proportional_bytes(pid: int) -> int:
    """Memory with shared pages divided among those that share them."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    main()

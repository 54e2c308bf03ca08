"""``rayward up`` to ready, against the bare ``ray start`` calls of the same nodes one after the other.

The bare calls run in Pods of the same kind that do nothing else, so both sides have the same namespaces.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import click

from benchmarks import common
from rayward.drill.statistics import median
from rayward.drill.temporary import temporary_cluster
from rayward.local.pod_process import package_environment

COLUMNS = ("", "median", "fastest", "slowest", "n")
_NAME = "bench-up"
_NODES = ("bare-head", "bare-worker-1", "bare-worker-2")


@click.command(epilog="example: python -m benchmarks.up_time -n 1")
@click.option("-n", "times", default=5, show_default=True, help="How often each.")
def main(times: int) -> None:
    """Measure, print the table, write up_time.json."""
    up, bare = [], []
    for number in range(times):
        common.tell(f"{number + 1} of {times}")
        bare.append(_bare())
        up.append(_up())
    rows = [_row("rayward up, to ready", up), _row("bare ray start, head and two workers in turn", bare)]
    difference = median(up) - median(bare)
    rows.append(("rayward up takes longer by", f"{difference:+.2f} s", "", "", ""))
    common.write("up_time", {"up_s": up, "bare_s": bare, "difference_s": difference}, COLUMNS, rows)


def _row(name: str, values: list[float]) -> tuple[str, ...]:
    return (name, common.middle(values), f"{min(values):.2f} s", f"{max(values):.2f} s", str(len(values)))


def _up() -> float:
    """One head and two workers: what `rayward up` runs without a file."""
    started = time.monotonic()
    _rayward("up", "--name", _NAME)
    taken = time.monotonic() - started
    _rayward("down", _NAME)
    return taken


def _rayward(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rayward", *words],
        env=package_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise click.ClickException(f"rayward {' '.join(words)}: {done.stderr.strip()}")


def _bare() -> float:
    with temporary_cluster([_sleeping_pod(name) for name in _NODES], f"{_NAME}-bare", common.tell) as cluster:
        head = cluster.pod(_NODES[0])["status"]["podIP"]
        started = time.monotonic()
        for name in _NODES:
            role = ["--head", "--num-cpus=0", "--dashboard-host=0.0.0.0"]
            words = role if name == _NODES[0] else [f"--address={head}:6379", "--num-cpus=1"]
            done = cluster.run(name, ["ray", "start", *words, "--disable-usage-stats"])
            if done.returncode:
                raise click.ClickException(f"ray start in {name}: {done.stderr.strip()}")
        return time.monotonic() - started


def _sleeping_pod(name: str) -> dict[str, Any]:
    container = {"name": "ray", "image": "rayproject/ray:2.60.0", "command": ["sleep", "infinity"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
    }


if __name__ == "__main__":
    main()

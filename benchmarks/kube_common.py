"""What the benchmarks on Kubernetes share: a control plane, nodes, the operator, and what they cost.

All that plays Kubernetes here is what the tests use: the real API server, etcd, controllers and scheduler,
and the tests' own kubelet. It is no part of the package, so it is found the way pytest finds it.
"""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import click

from benchmarks import common

sys.path.insert(0, str(common.ROOT / "tests" / "kubernetes"))

import control_plane as planes
from binaries import Binaries, Unavailable, obtain
from control_plane import ControlPlane, Options, until
from kubelet.api_access import ApiServer
from kubelet_fixture import NodeProcess, hollow_nodes, real_node
from operator_process import OperatorProcess, operator_process

__all__ = [
    "ApiServer",
    "ControlPlane",
    "NodeProcess",
    "OperatorProcess",
    "control_plane",
    "cost",
    "counted",
    "hollow_nodes",
    "kubernetes_version",
    "make_namespaces",
    "memory",
    "operator_process",
    "processor",
    "real_node",
    "requests",
    "until",
    "wait_quiet",
]

CRDS = common.ROOT / "deploy" / "crds"
SERVED = ("/apis/ray.io/v1/rayclusters", "/apis/ray.io/v1/rayservices")
# Thousands of Pods in several versions each until the next compaction; etcd's own bound is 2 GB.
_ETCD_BYTES = 6 << 30
_REQUESTS = "rest_client_requests_total{"
_SETTLE_S = 90.0


@cache
def _binaries() -> Binaries:
    try:
        return obtain(common.tell)
    except Unavailable as problem:
        raise click.ClickException(f"no Kubernetes: {problem}") from problem


def kubernetes_version() -> str:
    """The API server's: `1.20`."""
    return ".".join(map(str, _binaries().version()))


@contextmanager
def control_plane(added: Mapping[str, Sequence[str]] | None = None) -> Iterator[ControlPlane]:
    """A control plane that knows RayClusters and RayServices, for the time of the context; ``added`` are
    flags of its programs, by program."""
    # An end from outside must not leave an operator or a kubelet behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    binaries = _binaries()
    flags = {"etcd": [f"--quota-backend-bytes={_ETCD_BYTES}"], **(added or {})}
    with planes.running(binaries, Options(flags=flags)) as plane:
        if not plane.controllers:
            raise click.ClickException(f"{binaries.folder} has no kube-controller-manager, kube-scheduler")
        # Client-side apply would copy all of it into an annotation, which has less room.
        plane.kubectl(
            "create", "--validate=false", *(f"--filename={file}" for file in sorted(CRDS.glob("*.yaml")))
        )
        until(
            "the API server serves both kinds",
            lambda: all(plane.request("GET", f"{path}?limit=1")[0] == 200 for path in SERVED),
        )
        yield plane


def make_namespaces(plane: ControlPlane, names: Sequence[str]) -> None:
    """Namespaces in which Pods can be made."""
    for name in names:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        code, answer = plane.request("POST", "/api/v1/namespaces", body)
        if code != 201:
            raise click.ClickException(f"namespace {name}: {answer}")
    due = set(names)

    def all_there() -> bool:
        due.difference_update([name for name in due if plane.account_exists(name)])
        return not due

    until("every namespace has its account", all_there, _SETTLE_S)


# -- what processes cost -------------------------------------------------------------------------------


def processor(pids: Mapping[str, int]) -> dict[str, float]:
    """Processor seconds that each process has used so far, and when (``at``, monotonic)."""
    return {**{name: common.processor_seconds(pid) for name, pid in pids.items()}, "at": time.monotonic()}


def cost(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Processor seconds between two looks by process, and the seconds that passed (``passed_s``)."""
    found = {name: round(after[name] - used, 2) for name, used in before.items() if name != "at"}
    return {**found, "passed_s": round(after["at"] - before["at"], 2)}


def memory(pid: int) -> dict[str, int]:
    """Resident bytes of a process: now, and the most it ever had."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {"now": int(fields["VmRSS"].split()[0]) * 1024, "most": int(fields["VmHWM"].split()[0]) * 1024}


# -- what the operator counts --------------------------------------------------------------------------


def requests(operator: OperatorProcess) -> Counter[tuple[str, str]]:
    """Requests that the operator has made so far, by verb (`create`) and kind (`pods`)."""
    found: Counter[tuple[str, str]] = Counter()
    for line in _metrics(operator):
        if line.startswith(_REQUESTS):
            inside, _, value = line.removeprefix(_REQUESTS).partition("} ")
            labels = dict(part.split("=", 1) for part in inside.replace('"', "").split(","))
            found[labels["method"].lower(), labels["resource"]] += int(float(value))
    return found


def counted(operator: OperatorProcess, name: str) -> float:
    """The sum of one of the operator's counters or gauges over all of its labels."""
    lines = [line for line in _metrics(operator) if line.startswith((f"{name} ", f"{name}{{"))]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def _metrics(operator: OperatorProcess) -> list[str]:
    code, text = operator.get("/metrics", operator.metrics_port)
    if code != 200:
        raise click.ClickException(f"the operator's metrics cannot be read: {code} {text[:200]}")
    return text.splitlines()


def wait_quiet(look: Callable[[], Counter[tuple[str, str]]], quiet_s: float, bound_s: float) -> bool:
    """Wait until ``look`` has counted nothing new for ``quiet_s`` seconds; False when it does not come to
    that within ``bound_s``, and what was counted last is told."""
    started = since = time.monotonic()
    said = look()
    while time.monotonic() - since < quiet_s:
        time.sleep(1.0)
        now = look()
        if now != said:
            since, news, said = time.monotonic(), now - said, now
            if since - started > bound_s:
                common.tell(f"still not quiet after {bound_s:.0f} s; in the last second: {dict(news)}")
                return False
    return True

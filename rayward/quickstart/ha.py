"""The last step: a cluster with two heads loses the host of the one that leads."""

from __future__ import annotations

import json
from pathlib import Path

import rayward as package
from rayward.errors import RaywardError
from rayward.local import state
from rayward.local.cluster import LocalCluster
from rayward.quickstart.command import rayward, show
from rayward.quickstart.leftovers import count_leftovers, note_traces
from rayward.quickstart.steps import Check
from rayward.quickstart.story import Scene

NAME = "quickstart-ha"
EXAMPLE = Path("examples/ray-cluster.ha.yaml")
NEW_ACTOR_LIMIT = 30.0


def lose_a_head_host(scene: Scene) -> list[Check]:
    """Two heads, three workers, Redis; every process of the leading head is killed at once, under load."""
    if scene.mode == "host":
        # Two heads want one port each on an address of their own.
        return [
            Check("two heads (needs network namespaces)", "left out: no rights for namespaces here", True)
        ]
    path = Path(package.__file__).resolve().parent.parent / EXAMPLE
    if not path.is_file():
        raise RaywardError(
            "the example is missing", where=str(path), todo="run it from a checkout of rayward"
        )
    rayward("up", "-f", str(_shown(path)), "--name", NAME)
    cluster = LocalCluster(state.cluster(NAME))
    traces = note_traces(cluster, None)
    result = scene.out / "host-loss.json"
    result.unlink(missing_ok=True)
    show("  # every process of the head that leads is killed at once; only the other head acts")
    rayward(
        *("drill", "run", "host-loss", "-n", "1", "--pause", "1"),
        *("--cluster", NAME, "--json", str(result)),
        may_fail=True,
    )
    scene.host_loss = json.loads(result.read_text(encoding="utf-8")) if result.exists() else {}
    rayward("list", "--cluster", NAME)
    traces = note_traces(cluster, traces)
    rayward("down", NAME)
    left = {what: count for what, count in count_leftovers(traces).items() if count}
    figures = scene.host_loss.get("figures", {})
    new_actor = (figures.get("new_actor_s") or {}).get("p50")
    return [
        Check(
            "the drill holds: no call fails, no worker restarts, nothing is lost",
            f"{figures.get('calls_failed', '?')} of {figures.get('calls', '?')} calls failed, "
            f"{figures.get('worker_restarts', '?')} workers restarted, {figures.get('state_lost', '?')} lost",
            bool(scene.host_loss.get("ok")),
        ),
        Check(
            "the other head leads by itself",
            f"a new actor {new_actor:.2f} s after the loss" if new_actor is not None else "no new actor",
            new_actor is not None and new_actor < NEW_ACTOR_LIMIT,
        ),
        Check(
            "nothing left of it",
            ", ".join(f"{n} {what}" for what, n in left.items()) or "nothing left",
            not left,
        ),
    ]


def _shown(path: Path) -> Path:
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path

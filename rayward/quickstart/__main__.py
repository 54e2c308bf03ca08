"""``python -m rayward.quickstart [--keep] [--out DIR]``: plays the story and says whether every step held."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from rayward.cli import output
from rayward.errors import RaywardError
from rayward.local import cluster as local
from rayward.local import state
from rayward.local.cluster import LocalCluster
from rayward.quickstart import ha, outcome, story
from rayward.quickstart.command import rayward, show
from rayward.quickstart.steps import Check, StepResult, all_held, result_rows
from rayward.quickstart.story import Scene

NAME = "quickstart"
_OUT_HELP = "Where result.json and report.html go."
Step = tuple[str, str, Callable[[Scene], list[Check]]]
_STEPS: tuple[Step, ...] = (
    ("bring a cluster up", "1-3", story.bring_up),
    ("use it", "4-5", story.use_it),
    ("look into Redis", "6", story.look_into_redis),
    ("kill the GCS", "7", story.kill_the_gcs),
    ("use it again", "8", story.use_it_again),
    ("delete it", "9", story.remove_it),
    ("lose a head's host", "", ha.lose_a_head_host),
)
_OWN = "beyond the guide"


@click.command(epilog="example: python -m rayward.quickstart --out /tmp/quickstart")
@click.option("--keep", is_flag=True, help="Leave the cluster up (leaves the last two steps out).")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("out/quickstart"),
    show_default=True,
    help=_OUT_HELP,
)
def quickstart(keep: bool, out: Path) -> None:
    """Play KubeRay's guide to GCS fault tolerance on this machine, and check every step.

    Exit status 0 only if every step held. Ctrl-C takes the cluster down.
    """
    out.mkdir(parents=True, exist_ok=True)
    mode, reason = local.choose_mode(os.environ)
    show("rayward: KubeRay's guide to GCS fault tolerance, on this machine")
    if mode == "host":
        show(f"  on the host's network, without namespaces: {reason}")
    scene = Scene(NAME, out.absolute(), mode=mode)
    for name in (NAME, ha.NAME):
        _remove_earlier(name)
    steps = _STEPS[:-2] if keep else _STEPS
    started = time.monotonic()
    done: list[StepResult] = []
    try:
        for number, step in enumerate(steps, 1):
            done.append(_play(number, step, scene))
            if not done[-1].held:
                break
    finally:
        if not keep or sys.exc_info()[0] is not None:
            for name in (NAME, ha.NAME):
                _take_down(name)
    seconds = time.monotonic() - started
    held = all_held(done, len(steps))
    outcome.write(out, done, held, seconds, mode, (scene.drill, scene.host_loss))
    _tell(out, done, held, seconds, scene, keep)
    sys.exit(0 if held else 1)


def _play(number: int, step: Step, scene: Scene) -> StepResult:
    title, guide, act = step
    show(f"\n{number}. {title} ({f'step {guide} of the guide' if guide else _OWN})")
    started = time.monotonic()
    try:
        checks = act(scene)
    except RaywardError as problem:
        checks = [Check("the command does its work", str(problem), False)]
    result = StepResult(number, title, guide, tuple(checks), time.monotonic() - started)
    for check in result.checks:
        show(f"  [{'ok' if check.held else 'NOT OK'}] {check.expected} -> {check.seen}")
    return result


def _remove_earlier(name: str) -> None:
    if name in (folder.name for folder in state.clusters()):
        show(f"  cluster {name} is left from an earlier run: taking it down first")
        rayward("down", name, quiet=True)


def _take_down(name: str) -> None:
    """Remove the cluster if it is still there: a step failed, or the run was interrupted."""
    cluster = LocalCluster(state.cluster(name))
    if cluster.folder.exists:
        show(f"\ntaking cluster {name} down")
        with contextlib.suppress(RaywardError):
            cluster.down(timeout=30)


def _tell(out: Path, done: list[StepResult], held: bool, seconds: float, scene: Scene, keep: bool) -> None:
    show("")
    output.table(["step", "expected", "seen", "seconds", ""], result_rows(done))
    new_actor = scene.drill.get("figures", {}).get("new_actor_s", {}).get("p50")
    if new_actor is not None:
        show(
            f"\nAfter the GCS was killed the first new actor answered in {new_actor:.2f} s. "
            f"Stock Ray's head notices a `pkill` after {story.STOCK_SECONDS:.0f} s, and then starts again."
        )
    lost = (scene.host_loss.get("figures", {}).get("new_actor_s") or {}).get("p50")
    if lost is not None:
        show(f"After the leading head's host was lost the first new actor answered in {lost:.2f} s.")
    show(f"\n{'every step held' if held else 'NOT every step held'}, {seconds:.0f} s")
    show(f"report: {out / 'report.html'}  result: {out / 'result.json'}")
    if keep:
        show(f"the cluster is still up: rayward get pods; rayward down {scene.cluster}")


def main() -> None:
    """Entry point; an interruption ends with 130, an error with a sentence and 1."""
    try:
        quickstart(standalone_mode=False)
    except RaywardError as problem:
        output.error(problem)
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except click.ClickException as problem:
        problem.show()
        sys.exit(problem.exit_code)


if __name__ == "__main__":
    main()

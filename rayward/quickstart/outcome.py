"""The story's result as files: result.json for programs, report.html for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rayward.drill.machine import host_facts
from rayward.drill.report import story_report
from rayward.quickstart.steps import StepResult, result_rows
from rayward.quickstart.story import STOCK_SECONDS


def write(
    out: Path,
    steps: Sequence[StepResult],
    held: bool,
    seconds: float,
    mode: str,
    drills: tuple[Mapping[str, Any], Mapping[str, Any]],
) -> None:
    """Write both files into ``out``; ``drills``: the results of gcs-kill and host-loss, empty without one."""
    drill, host_loss = drills
    result = {
        "ok": held,
        "seconds": seconds,
        "mode": mode,
        "steps": [{**asdict(step), "held": step.held} for step in steps],
        "new_actor_s": drill.get("figures", {}).get("new_actor_s", {}).get("p50"),
        "stock_gives_up_after_s": STOCK_SECONDS,
        "drill": dict(drill),
        "host_loss": dict(host_loss),
        "host_loss_new_actor_s": (host_loss.get("figures", {}).get("new_actor_s") or {}).get("p50"),
        "machine": drill.get("machine") or {**host_facts(), "mode": mode},
    }
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (out / "report.html").write_text(story_report(result, result_rows(steps)), encoding="utf-8")

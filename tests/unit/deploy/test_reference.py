"""docs/operator-reference.md names every flag, variable, metric, event and condition that the code has."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from rayward.cli.operator import operator
from rayward.kube.metrics import Metrics

ROOT = Path(__file__).resolve().parents[3]
REFERENCE = (ROOT / "docs" / "operator-reference.md").read_text()
SOURCES = [*(ROOT / "rayward" / "plan").glob("*.py"), *(ROOT / "rayward" / "kube").glob("*.py")]


def calls() -> Iterator[tuple[str, list[str | None]]]:
    """Every call in the planner and the operator: its name, and its arguments where they are plain text."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = (
                    node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                )
                yield (
                    name,
                    [
                        item.value if isinstance(item, ast.Constant) and isinstance(item.value, str) else None
                        for item in node.args
                    ],
                )


def event_reasons() -> set[str]:
    found = set()
    for name, words in calls():
        if name == "Event" and len(words) > 1 and words[0] in ("Normal", "Warning"):
            found.add(words[1])
        elif name in ("say", "_say", "warn", "_abandon") and words:
            found.add(words[0])
    return {reason for reason in found if reason}


def condition_words() -> set[str]:
    found = set()
    for name, words in calls():
        if name == "set" and len(words) > 2 and words[1] in ("True", "False", "Unknown"):
            found |= {words[0], words[2]}
    return {word for word in found if word}


def named(word: str) -> bool:
    return re.search(rf"(?<![A-Za-z_]){re.escape(word)}(?![A-Za-z_])", REFERENCE) is not None


def test_the_code_was_read() -> None:
    """The tests below would say nothing about an empty list."""
    assert {"CreatedRedisCleanupJob", "TooManyHeadPods", "FailoverCompleted"} <= event_reasons()
    assert {"HeadPodReady", "HeadLeads", "StandbyHeadMissing"} <= condition_words()


def test_every_event() -> None:
    assert not {reason for reason in event_reasons() if not named(reason)}


def test_every_condition_and_reason() -> None:
    assert not {word for word in condition_words() if not named(word)}


def test_every_flag_and_its_default() -> None:
    for option in operator.params:
        assert isinstance(option, click.Option)
        for flag in (*option.opts, *option.secondary_opts):
            (row,) = [line for line in REFERENCE.splitlines() if line.startswith("|") and f"`{flag}" in line]
        if isinstance(option.default, int | float) and not isinstance(option.default, bool):
            assert f"{option.default:g}" in row, row
        elif option.default and isinstance(option.default, str):
            assert f"`{option.default}`" in row, row


@pytest.mark.parametrize("path", ["kube/settings.py", "kube/client.py", "cli/operator.py"])
def test_every_variable(path: str) -> None:
    text = (ROOT / "rayward" / path).read_text()
    found = set(re.findall(r"[\"']([A-Z][A-Z0-9]*_[A-Z0-9_]+|KUBECONFIG)[\"']", text))
    assert not {name for name in found if not named(name) and not name.startswith(("SO_", "TCP_"))}


def test_every_metric() -> None:
    metrics = Metrics()
    metrics.watch_queues({"raycluster": lambda: 0})
    families = {family.name for family in metrics.registry.collect()}
    assert "kuberay_cluster_info" in families
    text = REFERENCE.replace("`_", "`controller_runtime_reconcile_")
    missing = {name for name in families if f"`{name}" not in text}
    assert not missing

"""What a step of the story is: what was expected, what was seen, how long it took. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One thing that a step promises: ``expected`` in words, ``seen`` in words, and whether they agree."""

    expected: str
    seen: str
    held: bool


@dataclass(frozen=True)
class StepResult:
    """One step of the story, done. ``guide`` names the step of KubeRay's guide that it plays."""

    number: int
    title: str
    guide: str
    checks: tuple[Check, ...]
    seconds: float

    @property
    def held(self) -> bool:
        """Whether everything that the step promises was seen."""
        return bool(self.checks) and all(check.held for check in self.checks)


def equal(expected: object, seen: object, what: str = "") -> Check:
    """A check that two values are the same; ``what`` says what they are."""
    return Check(f"{what} {expected}".strip(), str(seen), expected == seen)


def result_rows(steps: Sequence[StepResult]) -> list[list[str]]:
    """One row for each check: step, expected, seen, seconds (on a step's first row), verdict."""
    rows = []
    for step in steps:
        for index, check in enumerate(step.checks):
            first = index == 0
            rows.append(
                [
                    f"{step.number} {step.title}" if first else "",
                    check.expected,
                    check.seen,
                    f"{step.seconds:.1f}" if first else "",
                    "ok" if check.held else "NOT OK",
                ]
            )
    return rows


def all_held(steps: Sequence[StepResult], wanted: int) -> bool:
    """Whether every one of ``wanted`` steps took place and held."""
    return len(steps) == wanted and all(step.held for step in steps)

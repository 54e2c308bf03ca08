"""Who was asked what and when, and how late that was: what a stand-in for Ray's heads notes. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

APPLICATIONS, SUBMIT, HEALTH, ROUTES = "applications", "submit", "health", "routes"
"""The questions: of the dashboard its applications and to take a configuration, of the proxy its two."""
SILENT = "silent"
"""No question: from then on the address answers none."""


@dataclass(frozen=True)
class Asked:
    """One question: its arrival on CLOCK_MONOTONIC, and the address that was asked."""

    at: float
    address: str
    question: str


def line_of(asked: Asked) -> bytes:
    """A question as one line of text."""
    return f"{asked.at:.6f} {asked.address} {asked.question}\n".encode()


def read_line(line: bytes) -> Asked:
    """What `line_of` wrote. Raises ValueError for anything else."""
    at, address, question = line.decode().split()
    return Asked(float(at), address, question)


def lateness(asked: Iterable[Asked], question: str, due_s: float, since: float, until: float) -> list[float]:
    """How many seconds later than ``due_s`` after the one before each question to an address came, of those
    between the two moments; below zero: earlier. An address that is overdue at the end counts with what it is
    overdue so far. ``asked`` is in order of time and reaches back before ``since``."""
    before: dict[str, float] = {}
    found: list[float] = []
    for item in asked:
        if item.question != question or item.at >= until:
            continue
        if item.at >= since and item.address in before:
            found.append(item.at - before[item.address] - due_s)
        before[item.address] = item.at
    return found + [until - at - due_s for at in before.values() if until - at > due_s]

"""A drill on Ray Serve as figures and JSON: what became of the requests, run by run and in all. Pure.

The outer names are those of the other drills. These names are a promise: later ones add, none is renamed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayward.drill.serve_requests import Request, latency_ms, per_second
from rayward.drill.statistics import ratio, spread

P99_RATIO = 2.0
"""What is promised: p99 while a fault is there is at most this many times the p99 while none is."""
_SHOWN_FAILURES = 100


@dataclass(frozen=True)
class ServeRun:
    """One injection. Moments are seconds of CLOCK_MONOTONIC: the load's quiet time began at ``begun``, the
    fault came at ``injected``, and the run was over at ``ended``; ``whole_at`` None: the service never was as
    before. ``requests`` were due from ``begun`` to ``ended``. ``problem`` says what was wrong beside them."""

    number: int
    target: str
    begun: float
    injected: float
    ended: float
    whole_at: float | None
    requests: tuple[Request, ...]
    loses_in_flight: bool = False
    timeline: tuple[tuple[float, str], ...] = ()
    problem: str = ""

    @property
    def during(self) -> tuple[Request, ...]:
        """The requests that the fault may have touched: not over yet when it came, or due later."""
        return tuple(request for request in self.requests if request.ended >= self.injected)

    @property
    def quiet(self) -> tuple[Request, ...]:
        """The requests that were over before."""
        return tuple(request for request in self.requests if request.ended < self.injected)

    def in_flight_lost(self) -> tuple[Request, ...]:
        """Failed requests that were under way on what was lost, where that is allowed."""
        return tuple(found for found in self._failed() if self._allowed(found))

    def failed(self) -> tuple[Request, ...]:
        """All other failed requests."""
        return tuple(found for found in self._failed() if not self._allowed(found))

    def failures(self) -> list[str]:
        """Why this run did not hold, as sentences; empty when it held."""
        found = [self.problem] if self.problem else []
        if self.failed():
            first = self.failed()[0]
            at = first.scheduled - self.injected
            found.append(
                f"{len(self.failed())} of {len(self.requests)} requests failed, the first due at {at:+.3f} s"
                f": {first.words}"
            )
        return found

    def _failed(self) -> tuple[Request, ...]:
        return tuple(request for request in self.requests if not request.ok)

    def _allowed(self, request: Request) -> bool:
        return self.loses_in_flight and self.was_in_flight(request)

    def was_in_flight(self, request: Request) -> bool:
        """Whether a request was under way when the fault came."""
        return request.sent <= self.injected <= request.ended


@dataclass(frozen=True)
class ServeOutcome:
    """Everything that one drill measured. ``rate`` requests per second were due; ``capacity`` is what was
    answered per second at the most, None when it was not measured."""

    fault: str
    asked: int
    seed: int
    limit: float
    quiet_seconds: float
    pause: float
    rate: float
    capacity: float | None
    new_connections: bool
    service: str
    url: str
    runs: tuple[ServeRun, ...]
    machine: Mapping[str, Any]
    ended_early: str = ""

    @property
    def ok(self) -> bool:
        """Whether every run that was asked for took place and held."""
        held = all(not run.failures() for run in self.runs)
        return held and len(self.runs) == self.asked and not self.ended_early


def serve_figures(runs: Sequence[ServeRun]) -> dict[str, Any]:
    """Counts and latencies over all runs; ``latency_ms`` is that while faults were there."""
    during = [request for run in runs for request in run.during]
    quiet = [request for run in runs for request in run.quiet]
    found: dict[str, Any] = {
        "requests": sum(len(run.requests) for run in runs),
        "failed": sum(len(run.failed()) for run in runs),
        "in_flight_lost": sum(len(run.in_flight_lost()) for run in runs),
        "fault_requests": len(during),
        "latency_ms": latency_ms(during),
        "quiet_requests": len(quiet),
        "quiet_latency_ms": latency_ms(quiet),
        "whole_s": spread(None if run.whole_at is None else run.whole_at - run.injected for run in runs),
        "late_ms_max": max((request.late_ms for run in runs for request in run.requests), default=None),
    }
    found["p99_ratio"] = ratio(found["quiet_latency_ms"]["p99"], found["latency_ms"]["p99"])
    return found


def serve_run_json(run: ServeRun) -> dict[str, Any]:
    """One run, with its verdict; moments are seconds from the injection."""
    why = run.failures()
    failed = [request for request in run.requests if not request.ok]
    allowed = set(run.in_flight_lost())
    return {
        "run": run.number,
        "target": run.target,
        "held": not why,
        "failures": why,
        **{key: value for key, value in serve_figures([run]).items() if key != "whole_s"},
        "whole_s": None if run.whole_at is None else run.whole_at - run.injected,
        "began_s": run.begun - run.injected,
        "ended_s": run.ended - run.injected,
        "timeline": [{"at": at - run.injected, "says": says} for at, says in run.timeline],
        "failed_requests": [
            {
                "due": request.scheduled - run.injected,
                "sent": request.sent - run.injected,
                "ended": request.ended - run.injected,
                "in_flight": run.was_in_flight(request),
                "in_flight_lost": request in allowed,
                "says": request.words,
            }
            for request in failed[:_SHOWN_FAILURES]
        ],
        "seconds": per_second(run.requests, run.injected),
    }


def serve_result_json(outcome: ServeOutcome, stock: ServeOutcome | None = None) -> dict[str, Any]:
    """The whole result; with ``stock``, that of plain Ray beside it."""
    found = serve_figures(outcome.runs)
    reached = found["p99_ratio"]
    beside = {} if stock is None else {"stock": serve_result_json(stock)}
    return {
        "fault": outcome.fault,
        "n": len(outcome.runs),
        "ok": outcome.ok,
        "figures": found,
        "runs": [serve_run_json(run) for run in outcome.runs],
        "machine": dict(outcome.machine),
        "asked": outcome.asked,
        "seed": outcome.seed,
        "pause_s": outcome.pause,
        "quiet_s": outcome.quiet_seconds,
        "limit_s": outcome.limit,
        "ended_early": outcome.ended_early,
        "load": {
            "rate": outcome.rate,
            "capacity": outcome.capacity,
            "connections": "new" if outcome.new_connections else "kept",
            "service": outcome.service,
            "url": outcome.url,
        },
        "promise": {
            "p99_ratio": P99_RATIO,
            "reached": reached,
            "kept": reached is not None and reached <= P99_RATIO,
        },
        **beside,
    }

"""Phases and conditions, as a table."""

from __future__ import annotations

import pytest

from rayward.local.pod_status import ContainerView, phase, pod_status, terminated, waiting

RUNS = {"running": {"startedAt": "t"}}


def done(code: int) -> dict[str, object]:
    return terminated(code, 0, "", ("a", "b"))


def view(state: object, *, final: bool = False, last: object = None, ready: bool = False) -> ContainerView:
    return ContainerView("c", "i", state, last or {}, ready=ready, final=final)  # type: ignore[arg-type]


WAITS, UP = view(waiting("ContainerCreating")), view(RUNS, ready=True)
GOOD, BAD = view(done(0), final=True), view(done(2), final=True)


@pytest.mark.parametrize(
    ("containers", "init", "expected"),
    [
        ([WAITS], [], "Pending"),
        ([UP], [], "Running"),
        ([UP, WAITS], [], "Running"),
        ([GOOD], [], "Succeeded"),
        ([GOOD, BAD], [], "Failed"),
        ([GOOD, UP], [], "Running"),
        ([view(done(0))], [], "Running"),
        ([view(waiting("CrashLoopBackOff"), last=done(1))], [], "Running"),
        ([WAITS], [UP], "Pending"),
        ([WAITS], [view(done(1))], "Pending"),
        ([WAITS], [BAD], "Failed"),
        ([UP], [GOOD], "Running"),
    ],
)
def test_phase(containers: list[ContainerView], init: list[ContainerView], expected: str) -> None:
    assert phase(containers, init) == expected


def test_conditions_keep_their_time_until_they_change() -> None:
    first = pod_status([WAITS], [], {"podIP": "1"}, {}, "t1")
    second = pod_status([UP], [], {"podIP": "1"}, first, "t2")
    times = {entry["type"]: (entry["status"], entry["lastTransitionTime"]) for entry in second["conditions"]}
    assert times == {
        "PodScheduled": ("True", "t1"),
        "Initialized": ("True", "t1"),
        "ContainersReady": ("True", "t2"),
        "Ready": ("True", "t2"),
    }
    assert second["podIP"] == "1"


@pytest.mark.parametrize(
    ("code", "starved", "reason"), [(0, False, "Completed"), (1, False, "Error"), (137, True, "OOMKilled")]
)
def test_reasons_of_an_end(code: int, starved: bool, reason: str) -> None:
    state = terminated(code, 9 if code == 137 else 0, "m", ("a", "b"), out_of_memory=starved)
    assert state["terminated"]["reason"] == reason
    assert ("signal" in state["terminated"]) is (code == 137)

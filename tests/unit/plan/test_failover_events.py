"""One event for each failover, and none for what is no failover."""

from __future__ import annotations

from typing import Any

import pytest

from rayward.plan.outcome import Plan
from rayward.plan.pod_state import timestamp

Raw = dict[str, Any]
NOW = 1_700_000_000.0


def told(plan: Plan) -> list[tuple[str, str]]:
    kinds = ("LeaderChanged", "FailoverCompleted")
    return [(event.reason, event.message) for event in plan.events if event.reason in kinds]


def ready(pod: Raw, is_ready: bool) -> None:
    pod["status"]["conditions"] = [{"type": "Ready", "status": "True" if is_ready else "False"}]


def lead(role: str, epoch: int) -> Raw:
    return {"fence": "on", "lead": {"role": role, "epoch": epoch, "store": {"state": "good"}}}


@pytest.fixture
def two(standing: Any) -> Any:
    standing.raw["spec"]["gcsFaultToleranceOptions"]["enableActivePassiveHead"] = True
    standing.build()
    standing.seen["agents"] = {"head-a": lead("leader", 7), "head-b": lead("standby", 7)}
    assert told(standing.settle()) == []
    return standing


def test_a_standby_takes_over(two: Any) -> None:
    ready(two.pod("head-a"), False)
    two.seen["agents"] = {"head-b": lead("standby", 7)}
    assert told(two.settle(NOW + 1)) == []
    two.seen["agents"] = {"head-b": lead("leader", 8)}
    assert told(two.settle(NOW + 2)) == [
        ("LeaderChanged", "head-b leads in epoch 8 (head-a in epoch 7 before)")
    ]
    ready(two.pod("head-b"), True)
    assert told(two.settle(NOW + 4)) == [
        ("FailoverCompleted", "head-b is the head now, 3 s after the last one was lost")
    ]
    assert told(two.settle(NOW + 5)) == []


def test_all_of_it_between_two_looks_is_one_event(two: Any) -> None:
    ready(two.pod("head-a"), False)
    ready(two.pod("head-b"), True)
    two.seen["agents"] = {"head-a": lead("standby", 8), "head-b": lead("leader", 8)}
    assert told(two.settle(NOW + 1)) == [
        (
            "FailoverCompleted",
            "head-b is the head now, head-a was before; head-b leads in epoch 8 (head-a in epoch 7 before)",
        )
    ]
    assert told(two.settle(NOW + 2)) == []


def test_the_leaders_pod_may_be_gone_by_then(two: Any) -> None:
    two.seen["agents"] = None
    two.pods.remove(two.pod("head-a"))
    plan = two.settle(NOW + 1)
    assert plan.status["head"]["podName"] == "", "the standby does not lead yet"
    ready(two.pod("head-b"), True)
    assert told(two.settle(NOW + 3)) == [
        ("FailoverCompleted", "head-b is the head now, 2 s after the last one was lost")
    ]


def test_the_same_head_in_a_later_epoch(two: Any) -> None:
    two.seen["agents"] = {"head-a": lead("leader", 9), "head-b": lead("standby", 9)}
    assert told(two.settle(NOW + 1)) == [
        ("LeaderChanged", "head-a leads in epoch 9 (head-a in epoch 7 before)")
    ]
    assert told(two.settle(NOW + 2)) == []


def test_a_single_head_that_was_replaced(standing: Any) -> None:
    old = standing.pod("head-a")
    standing.pods.remove(old)
    made = standing.settle(NOW + 1).create[0]
    new = standing.born(made, "head-z", created=timestamp(NOW + 1), ready=False)
    standing.pods.append(new)
    assert told(standing.settle(NOW + 2)) == []
    ready(new, True)
    assert told(standing.settle(NOW + 11)) == [
        ("FailoverCompleted", "head-z is the head now, 10 s after the last one was lost")
    ]
    assert told(standing.settle(NOW + 12)) == []


def test_a_head_that_was_not_ready_for_a_while_is_no_failover(standing: Any) -> None:
    ready(standing.pod("head-a"), False)
    standing.settle(NOW + 1)
    ready(standing.pod("head-a"), True)
    assert told(standing.settle(NOW + 5)) == []


def test_neither_is_the_first_start_nor_a_resume(standing: Any) -> None:
    standing.raw["status"] = {}
    pods, standing.pods = standing.pods, []
    assert told(standing.settle()) == []
    standing.pods = pods
    assert told(standing.settle(NOW + 5)) == []
    standing.raw["spec"]["suspend"], standing.pods = True, []
    standing.settle(NOW + 6)
    standing.raw["spec"]["suspend"] = False
    standing.settle(NOW + 7)
    standing.pods = pods
    assert told(standing.settle(NOW + 8)) == []

"""Which changes of a status are written, which at once, and what a failed create adds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from rayward.plan.conditions import as_reason, find
from rayward.plan.pod_state import timestamp
from rayward.plan.status_writes import (
    is_urgent,
    status_differs,
    with_replica_failure,
    without_replica_failure,
    written,
)

Raw = dict[str, Any]
NOW = 1_700_000_000.0


def condition(kind: str, status: str = "True", reason: str = "R", message: str = "m") -> Raw:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": timestamp(NOW),
    }


@pytest.fixture
def old() -> Raw:
    return {
        "state": "ready",
        "head": {"podName": "head-a", "podIP": "10.0.0.1", "serviceIP": "", "serviceName": "s"},
        "endpoints": {"client": "10001"},
        "readyWorkerReplicas": 1,
        "desiredGPU": "0",
        "conditions": [condition("RayClusterProvisioned"), condition("HeadPodReady")],
        "observedGeneration": 3,
        "lastUpdateTime": timestamp(NOW),
    }


def bent(old: Raw, change: Callable[[Raw], object]) -> Raw:
    new = copy.deepcopy(old)
    change(new)
    return new


SAME: dict[str, Callable[[Raw], object]] = {
    "the time of the last update": lambda new: new.update(lastUpdateTime=timestamp(NOW + 5)),
    "an empty value for an absent one": lambda new: new.update(reason="", minWorkerReplicas=0, extra={}),
    "an absent value for an empty one": lambda new: new["head"].pop("serviceIP"),
    "the order of conditions": lambda new: new["conditions"].reverse(),
}


@pytest.mark.parametrize("what", SAME)
def test_no_difference(old: Raw, what: str) -> None:
    assert not status_differs(old, bent(old, SAME[what]))
    assert not is_urgent(old, bent(old, SAME[what]))


COUNTS: dict[str, Callable[[Raw], object]] = {
    "ready workers": lambda new: new.update(readyWorkerReplicas=2),
    "the generation": lambda new: new.update(observedGeneration=4),
    "a message": lambda new: new["conditions"][0].update(message="x"),
    "a reason": lambda new: new["conditions"][0].update(reason="x"),
    "an endpoint": lambda new: new["endpoints"].update(client="1"),
}
URGENT: dict[str, Callable[[Raw], object]] = {
    "the state": lambda new: new.update(state=""),
    "the head": lambda new: new["head"].update(podName="head-b"),
    "its address": lambda new: new["head"].update(podIP="10.0.0.2"),
    "a condition": lambda new: new["conditions"][1].update(status="False"),
    "a new condition": lambda new: new["conditions"].append(condition("LeaderElected")),
    "a condition that went": lambda new: new["conditions"].pop(),
}


@pytest.mark.parametrize("what", COUNTS)
def test_what_may_wait(old: Raw, what: str) -> None:
    new = bent(old, COUNTS[what])
    assert status_differs(old, new)
    assert not is_urgent(old, new)


@pytest.mark.parametrize("what", URGENT)
def test_what_may_not(old: Raw, what: str) -> None:
    new = bent(old, URGENT[what])
    assert status_differs(old, new)
    assert is_urgent(old, new)


def test_while_a_cluster_comes_up_only_its_state_and_failures_hurry(old: Raw) -> None:
    old["conditions"][0]["status"] = "False"
    old["state"] = ""
    assert status_differs(old, bent(old, URGENT["the head"]))
    assert not is_urgent(old, bent(old, URGENT["the head"]))
    assert not is_urgent({}, old)
    assert status_differs(None, old)
    assert is_urgent(old, bent(old, lambda new: new.update(state="ready")))
    failing = with_replica_failure(old, "FailedCreateHeadPod", "quota", NOW)
    assert is_urgent(old, failing)
    assert is_urgent(failing, old)


def test_replica_failure_comes_stays_calm_and_goes(old: Raw) -> None:
    text = 'pods "demo-head-x2x4x" is forbidden: exceeded quota: used: pods=3, limited: pods=3'
    failing = with_replica_failure(old, "FailedCreateHeadPod", text, NOW)
    assert find(failing, "ReplicaFailure") == {
        "type": "ReplicaFailure",
        "status": "True",
        "reason": "FailedCreateHeadPod",
        "message": text,
        "lastTransitionTime": timestamp(NOW),
    }
    assert "ReplicaFailure" not in str(old)
    again = text.replace("x2x4x", "zzzzz").replace("pods=3", "pods=4")
    assert with_replica_failure(failing, "FailedCreateHeadPod", again, NOW + 9) == failing
    other = with_replica_failure(failing, "FailedCreateWorkerPod", "rbac", NOW + 9)
    assert find(other, "ReplicaFailure")["message"] == "rbac"
    assert find(other, "ReplicaFailure")["lastTransitionTime"] == timestamp(NOW)
    assert not status_differs(without_replica_failure(other), old)
    assert without_replica_failure(old) == old
    assert without_replica_failure({}) == {}


def test_a_pass_keeps_the_condition_for_the_shell_to_judge(standing: Any) -> None:
    failing = with_replica_failure(standing.raw["status"], "FailedCreateHeadPod", "quota", NOW)
    standing.raw["status"] = failing
    assert find(standing.run(NOW + 5).status, "ReplicaFailure") == find(failing, "ReplicaFailure")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("CrashLoopBackOff", "CrashLoopBackOff"),
        ("", "Unknown"),
        ("a b", "ab"),
        ("3x", "Reason3x"),
        ("a:", "a"),
    ],
)
def test_reasons_are_ones_that_the_api_server_takes(text: str, reason: str) -> None:
    assert as_reason(text) == reason


def test_the_order_of_fields_and_conditions_is_nothing_new() -> None:
    one = {"type": "A", "status": "True", "reason": "z", "lastTransitionTime": "2026-01-02T00:00:00Z"}
    other = {"type": "B", "status": "True", "reason": "y", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    stored = [dict(sorted(item.items())) for item in (other, one)]
    assert not status_differs({"conditions": stored}, {"conditions": [one, other]})
    assert status_differs({"conditions": stored}, {"conditions": [one]})


def test_what_is_written_holds_no_empty_text_and_a_message_in_each_condition() -> None:
    status = {"state": "", "head": {"podIP": "", "podName": "a"}, "endpoints": {}, "readyWorkerReplicas": 0}
    condition = {"type": "A", "status": "True", "reason": "Because", "message": ""}
    assert written({**status, "conditions": [condition]}) == {
        "head": {"podName": "a"},
        "readyWorkerReplicas": 0,
        "conditions": [{**condition, "message": "Because"}],
    }

"""Leader, fence and store as status shows them, and what it makes of silence."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from rayward.plan.conditions import find
from rayward.plan.outcome import Plan

Raw = dict[str, Any]
NOW = 1_700_000_000.0
FENCED = "the store refuses writes of every epoch but 7; a timer ends the GCS 2.5 s after the last renewal"


@pytest.fixture
def two(standing: Any) -> Any:
    """Two heads, head-a of which leads in epoch 7, and both agents answer."""
    standing.raw["spec"]["gcsFaultToleranceOptions"]["enableActivePassiveHead"] = True
    standing.build()
    standing.seen["agents"] = {"head-a": answer("leader", 7), "head-b": answer("standby", 7)}
    standing.settle()
    return standing


def answer(role: str, epoch: int, store: str = "good", fault: str = "", fence: str = FENCED) -> Raw:
    """What an agent says of itself, as far as anybody here reads it."""
    look = {"state": store, "fault": fault, "address": "redis:6379", "namespace": "66a4e2af"}
    lead = {"role": role, "epoch": epoch, "member": "m", "lease_left_s": 2.9, "store": look}
    return {"version": "1", "role": "head", "fence": fence, "lead": lead, "gateway": {"counters": {}}}


def said(plan: Plan) -> dict[str, tuple[str, str]]:
    kinds = ("LeaderElected", "WritesFenced", "StoreHealthy")
    found = {kind: find(plan.status, kind) for kind in kinds}
    return {kind: (item["status"], item["reason"]) for kind, item in found.items() if item}


def message(plan: Plan, kind: str) -> str:
    return str(find(plan.status, kind)["message"])


GOOD = {
    "LeaderElected": ("True", "HeadLeads"),
    "WritesFenced": ("True", "Fenced"),
    "StoreHealthy": ("True", "StoreAnswers"),
}


def test_a_healthy_cluster(two: Any) -> None:
    plan = two.run()
    assert said(plan) == GOOD
    assert message(plan, "LeaderElected") == "head-a leads in epoch 7"
    assert plan.status["state"] == "ready"
    assert plan.events == ()


def test_nothing_is_written_when_only_numbers_change(two: Any) -> None:
    agents = two.seen["agents"]
    agents["head-a"]["lead"]["lease_left_s"] = 0.1
    agents["head-a"]["fence"] = FENCED.replace("2.5", "2.6")
    assert two.run(NOW + 60).status == two.raw["status"]


@pytest.mark.parametrize("why", ["no fault tolerance", "rocksdb", "no agent", "suspended"])
def test_they_are_dropped_where_nobody_could_know(standing: Any, why: str) -> None:
    standing.seen["agents"] = {"head-a": answer("leader", 7)}
    assert len(said(standing.settle())) == 3
    if why == "no agent":
        standing.raw["metadata"]["annotations"]["rayward.dev/agent"] = "disabled"
    elif why == "suspended":
        standing.raw["spec"]["suspend"] = True
    elif why == "rocksdb":
        standing.raw["spec"]["gcsFaultToleranceOptions"] = {"backend": "rocksdb"}
    else:
        del standing.raw["spec"]["gcsFaultToleranceOptions"]
    assert said(standing.run()) == {}


def test_before_anybody_asked_they_stay_as_they_were(two: Any) -> None:
    two.seen["agents"] = None
    assert two.run(NOW + 5).status == two.raw["status"]
    two.raw["status"] = {}
    assert said(two.run()) == {}


def test_no_leader(two: Any) -> None:
    two.seen["agents"] = {"head-a": answer("standby", 7), "head-b": answer("standby", 7)}
    plan = two.settle(NOW + 5)
    assert said(plan)["LeaderElected"] == ("False", "NoLeader")
    assert message(plan, "LeaderElected") == "No head leads; head-a led last in epoch 7"
    assert said(plan)["WritesFenced"] == ("True", "Fenced")
    assert two.settle(NOW + 6).status == plan.status


def test_of_two_that_say_they_lead_the_newer_epoch_counts(two: Any) -> None:
    two.seen["agents"]["head-b"] = answer("leader", 8)
    assert message(two.run(), "LeaderElected") == "head-b leads in epoch 8"


def test_a_head_that_is_gone_or_leaving_has_no_say(two: Any) -> None:
    two.pods.remove(two.pod("head-a"))
    assert said(two.run())["LeaderElected"] == ("False", "NoLeader")


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("away", "StoreAway"),
        ("refused", "StoreRefuses"),
        ("empty", "StoreEmpty"),
        ("older", "StoreOlder"),
        ("foreign", "StoreForeign"),
    ],
)
def test_the_stores_faults(two: Any, state: str, reason: str) -> None:
    two.seen["agents"]["head-a"] = answer("leader", 7, state, "redis:6379 gave no answer in 1.03 s")
    plan = two.settle(NOW + 5)
    assert said(plan) == {**GOOD, "StoreHealthy": ("False", reason)}
    assert "head-a: redis:6379 gave no answer" in message(plan, "StoreHealthy")
    two.seen["agents"]["head-a"] = answer("leader", 7, state, "redis:6379 gave no answer in 9.99 s")
    assert two.run(NOW + 6).status == plan.status
    two.seen["agents"]["head-a"] = answer("leader", 7, state, "redis:6379 refuses connections")
    assert "refuses" in message(two.run(NOW + 7), "StoreHealthy")


def test_without_a_leader_one_head_that_can_use_the_store_is_enough(two: Any) -> None:
    two.seen["agents"] = {"head-a": answer("standby", 7, "older"), "head-b": answer("standby", 7)}
    assert said(two.run())["StoreHealthy"] == ("True", "StoreAnswers")
    two.seen["agents"].pop("head-b")
    assert said(two.run())["StoreHealthy"] == ("False", "StoreOlder")
    two.seen["agents"] = {"head-a": answer("standby", 0, "not asked yet")}
    assert said(two.run())["StoreHealthy"] == ("Unknown", "NotAskedYet")


@pytest.mark.parametrize(
    "words", ["off: the gateway passes every write (RAYWARD_FENCE=off)", "none: one head"]
)
def test_a_head_without_a_fence_is_named(two: Any, words: str) -> None:
    two.seen["agents"]["head-b"] = answer("standby", 7, fence=words)
    plan = two.run()
    assert said(plan)["WritesFenced"] == ("False", "FenceOff")
    assert "head-b" in message(plan, "WritesFenced")


def test_silence_while_the_leader_is_ready_changes_nothing(two: Any) -> None:
    two.seen["agents"] = {}
    assert two.run(NOW + 60).status == two.raw["status"]


def test_silence_with_nobody_ready_is_said(two: Any) -> None:
    two.seen["agents"] = {}
    two.pod("head-a")["status"]["conditions"][0]["status"] = "False"
    plan = two.run(NOW + 60)
    assert said(plan) == dict.fromkeys(GOOD, ("Unknown", "AgentSilent"))
    assert message(plan, "LeaderElected") == "No agent of a head answers; head-a led last in epoch 7"


def test_heads_that_do_not_run_do_not_lead(two: Any) -> None:
    two.seen["agents"] = {}
    for name in ("head-a", "head-b"):
        two.pod(name)["status"]["containerStatuses"][0]["state"] = {"waiting": {"reason": "CrashLoopBackOff"}}
    two.pod("head-a")["status"]["conditions"][0]["status"] = "False"
    assert said(two.run())["LeaderElected"] == ("False", "NoLeader")


@pytest.mark.parametrize("junk", [{}, {"lead": None}, {"lead": {"role": 7, "epoch": "x", "store": None}}])
def test_answers_that_make_no_sense_are_no_leaders(two: Any, junk: Raw) -> None:
    two.seen["agents"] = {"head-a": copy.deepcopy(junk), "head-b": answer("standby", 7)}
    assert said(two.run())["LeaderElected"] == ("False", "NoLeader")

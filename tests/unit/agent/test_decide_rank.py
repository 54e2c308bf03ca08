"""What a head does because of its rank: every branch, told by the sentence that an operator would read."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from rayward.agent.decide import Action, Kind, Observation, Phase, Step, StoreView
from rayward.agent.decide_rank import Sight, decide_rank, with_lead
from rayward.agent.lead import StoreStanding
from rayward.agent.standing import Rank, Standing
from rayward.agent.timing import Timing

T = Timing()
LEADS = Standing(rank=Rank.LEADING, epoch=5, known_epoch=5, reason="leads with epoch 5")
FOLLOWS = Standing(known_epoch=5, reason="follows head-a, epoch 5", leader="head-a",
                   leader_serves=True, stored_before=True, store=StoreStanding.GOOD)  # fmt: skip
GIVES = dataclasses.replace(LEADS, rank=Rank.HANDING_OVER, reason="switchover to head-b")


def follows(**changes: Any) -> Standing:
    return dataclasses.replace(FOLLOWS, **changes)


def ask(phase: Phase, sight: Sight, **changes: Any) -> Action | None:
    return decide_rank(Observation(Kind.HEAD, phase, **changes), sight, T)


AWAY = {"store": StoreStanding.AWAY, "store_fault": "Redis at r:6379 refuses connections"}


@pytest.mark.parametrize(
    ("standing", "changes", "step", "sentence"),
    [
        (LEADS, {}, Step.START_NODE, "leads with epoch 5"),
        (LEADS, {"failed_starts": 1}, Step.START_NODE, "the head starts again"),
        (LEADS, {"failed_starts": 4, "since_failed_start": 0.9, "start_failure": "exit code 1"},
         Step.WAIT, "exit code 1; next try 1 s after the last"),
        (LEADS, {"failed_starts": 4, "since_failed_start": 1.0, "start_failure": "exit code 1"},
         Step.START_NODE, "exit code 1"),
        (LEADS, {"failed_starts": 8, "start_failure": "exit code 1"},
         Step.FAIL, "gave up after 8 tries: exit code 1"),
        (follows(store=StoreStanding.REFUSED, store_fault="wrong password", store_todo="set it"),
         {}, Step.FAIL, "wrong password\n  try: set it"),
        (follows(store=StoreStanding.FOREIGN, store_fault="it belongs to cluster 'x'"),
         {}, Step.FAIL, "it belongs to cluster 'x'"),
        # What an operator can mend at this agent is waited for.
        (follows(store=StoreStanding.EMPTY, reason="it lost its data", leader_serves=False),
         {}, Step.WAIT, "it lost its data"),
        (follows(store=StoreStanding.OLDER, reason="it went back", leader_serves=False),
         {}, Step.WAIT, "it went back"),
        (follows(**AWAY, known_epoch=0), {}, Step.WAIT,
         "waiting for the store: Redis at r:6379 refuses connections"),
        # A head that knows of a leader does not give up: the other may live on.
        (follows(**AWAY, reason="away", leader_serves=False), {}, Step.WAIT, "away"),
        (follows(leader_serves=False), {}, Step.WAIT, "follows head-a, epoch 5"),
        (follows(stored_before=False), {}, Step.WAIT, "follows head-a, epoch 5"),
        (FOLLOWS, {}, Step.PREPARE, "follows head-a, epoch 5"),
        # What it could not prepare costs it neither the lead nor its own tries.
        (FOLLOWS, {"failed_starts": 8, "start_failure": "exit code 1"},
         Step.PREPARE, "follows head-a, epoch 5"),
    ],
)  # fmt: skip
def test_a_head_that_runs_nothing(
    standing: Standing, changes: dict[str, Any], step: Step, sentence: str
) -> None:
    assert ask(Phase.WAITING_FOR_STORE, Sight(standing), **changes) == Action(step, sentence)


@pytest.mark.parametrize(
    ("failed", "since", "step"),
    [
        (1, 0.0, Step.PREPARE), (2, 0.09, Step.WAIT), (2, 0.1, Step.PREPARE), (4, 0.99, Step.WAIT),
        (4, 1.0, Step.PREPARE), (7, 7.9, Step.WAIT), (7, 8.0, Step.PREPARE), (500, 7.9, Step.WAIT),
        (500, 8.0, Step.PREPARE),
    ],
)  # fmt: skip
def test_a_standby_never_gives_up_to_prepare(failed: int, since: float, step: Step) -> None:
    sight = Sight(FOLLOWS, failed_prepares=failed, since_failed_prepare=since)
    more = "; could not prepare a GCS yet" if step is Step.WAIT else ""
    assert ask(Phase.WAITING_FOR_STORE, sight) == Action(step, f"follows head-a, epoch 5{more}")
    leads = dataclasses.replace(sight, standing=LEADS)
    assert ask(Phase.WAITING_FOR_STORE, leads) == Action(Step.START_NODE, "leads with epoch 5")


@pytest.mark.parametrize(("waited", "step"), [(59.9, Step.WAIT), (60.0, Step.FAIL)])
def test_a_store_that_was_never_there_is_given_up(waited: float, step: Step) -> None:
    found = ask(Phase.WAITING_FOR_STORE, Sight(follows(**AWAY, known_epoch=0), waited=waited))
    assert found is not None
    assert found.step is step
    if step is Step.FAIL:
        assert found.reason == "Redis at r:6379 refuses connections (waited 60 s for it)"


def seen(standing: Standing = FOLLOWS, **changes: Any) -> Sight:
    return dataclasses.replace(Sight(standing, gcs_alive=True), **changes)


PREPARING, PREPARED = Phase.PREPARING, Phase.PREPARED


@pytest.mark.parametrize(
    ("phase", "sight", "changes", "step", "sentence"),
    [
        (PREPARING, seen(), {}, Step.WAIT, "prepares a GCS; follows head-a, epoch 5"),
        (PREPARING, seen(gcs_alive=False), {}, Step.WAIT, "prepares a GCS; follows head-a, epoch 5"),
        (PREPARING, seen(parked=True), {}, Step.HOLD, "a GCS is prepared and waits at the gateway"),
        (PREPARING, seen(), {"start_runs_for": 119.9}, Step.WAIT, "prepares a GCS; follows head-a, epoch 5"),
        (PREPARING, seen(), {"start_runs_for": 120.0}, Step.DISCARD, "no GCS was prepared within 120 s"),
        (PREPARING, seen(LEADS), {}, Step.GO, "leads with epoch 5"),
        (PREPARED, seen(LEADS), {}, Step.GO, "leads with epoch 5"),
        (PREPARED, seen(), {}, Step.WAIT, "follows head-a, epoch 5"),
        # What is held may have waited for days.
        (PREPARED, seen(), {"start_runs_for": 1e6}, Step.WAIT, "follows head-a, epoch 5"),
        (PREPARED, seen(gcs_alive=False), {}, Step.DISCARD, "the prepared gcs_server is gone"),
        (PREPARED, seen(LEADS, gcs_alive=False), {}, Step.DISCARD, "the prepared gcs_server is gone"),
        (PREPARED, seen(LEADS, stale=True), {}, Step.DISCARD,
         "the store is another one since this GCS was prepared"),
        (PREPARING, seen(stale=True), {}, Step.DISCARD,
         "the store is another one since this GCS was prepared"),
        (PREPARED, seen(LEADS, gateway_died=True), {}, Step.DISCARD,
         "the store gateway died and with it what was prepared"),
        (PREPARING, seen(gateway_died=True, parked=True), {}, Step.DISCARD,
         "the store gateway died and with it what was prepared"),
        (PREPARING, seen(LEADS), {"start_exit_code": 1}, Step.DISCARD,
         "ray start ended while it was prepared (code 1)"),
        (PREPARED, seen(), {"start_exit_code": 0}, Step.DISCARD,
         "ray start ended while it was prepared (code 0)"),
    ],
)  # fmt: skip
def test_a_head_that_prepares(
    phase: Phase, sight: Sight, changes: dict[str, Any], step: Step, sentence: str
) -> None:
    assert ask(phase, sight, **changes) == Action(step, sentence)


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.RUNNING])
@pytest.mark.parametrize(
    ("sight", "expected"),
    [
        (seen(LEADS), None),
        (seen(LEADS, gcs_alive=False), None),
        (seen(LEADS, gateway_died=True),
         Action(Step.KILL_GCS, "its store gateway died, and a GCS does not connect again")),
        # A dead one is started again by `decide`, and connects to the gateway that is there then.
        (seen(LEADS, gateway_died=True, gcs_alive=False), None),
        (seen(GIVES), Action(Step.KILL_GCS, "hands over: switchover to head-b")),
        (seen(GIVES, gcs_alive=False), Action(Step.WAIT, "hands over: switchover to head-b")),
        (seen(), Action(Step.STAND_BY, "follows head-a, epoch 5")),
        (seen(gateway_died=True), Action(Step.STAND_BY, "follows head-a, epoch 5")),
    ],
)  # fmt: skip
def test_a_head_that_runs(phase: Phase, sight: Sight, expected: Action | None) -> None:
    assert ask(phase, sight) == expected


@pytest.mark.parametrize("phase", [Phase.WAITING_FOR_GCS, Phase.STOPPING, Phase.FAILED])
@pytest.mark.parametrize("standing", [LEADS, FOLLOWS, GIVES])
def test_rank_has_nothing_to_say_of_other_phases(phase: Phase, standing: Standing) -> None:
    assert ask(phase, seen(standing)) is None


def test_decide_sees_a_store_that_was_asked_already() -> None:
    before = Observation(Kind.HEAD, Phase.RUNNING, store=StoreView(checked=False, fault="x"), failed_starts=2)
    after = with_lead(before, dataclasses.replace(LEADS, can_hand_over=True))
    assert after == dataclasses.replace(before, store=StoreView(checked=True), can_hand_over=True)
    assert not with_lead(before, LEADS).can_hand_over

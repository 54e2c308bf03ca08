"""Every branch of who may lead: the step, and the sentence that a person reads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rayward.agent.lead import (
    LeaderLink,
    LeadStep,
    LeadView,
    RecordView,
    StoreStanding,
    WordView,
    decide_lead,
    give_word,
)
from rayward.agent.timing import LeaseTiming

T = LeaseTiming()
LEADER = LeadView(epoch=7, since_renewal=0.4, since_attempt=0.4)
AWAY = replace(LEADER, store=StoreStanding.AWAY, store_fault="10.0.0.5:6379 does not answer", since_renewal=2)
HELD = RecordView(holder="head-a", epoch=7, listed=True)
FREE = replace(HELD, released=True)
STANDBY = LeadView(record=HELD)


def leader(**facts: object) -> LeadView:
    return replace(LEADER, **facts)  # type: ignore[arg-type]


def away(**facts: object) -> LeadView:
    return replace(AWAY, **facts)  # type: ignore[arg-type]


def standby(record: RecordView | None = HELD, **facts: object) -> LeadView:
    return replace(STANDBY, record=record, **facts)  # type: ignore[arg-type]


def held(**facts: object) -> RecordView:
    return replace(HELD, **facts)  # type: ignore[arg-type]


def free(**facts: object) -> RecordView:
    return replace(FREE, **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seen", "step", "sentence"),
    [
        (leader(), LeadStep.WAIT, "leads with epoch 7"),
        (leader(since_attempt=0.99), LeadStep.WAIT, "leads with epoch 7"),
        (leader(since_attempt=1.0), LeadStep.RENEW, "leads with epoch 7"),
        (leader(paused=True), LeadStep.WAIT, "leads with epoch 7; paused: no failover by itself"),
        # What ends a lead, the weightiest first.
        (leader(lost_to="head-b holds epoch 8", stopping=True), LeadStep.STEP_DOWN,
         "epoch 7 is over: head-b holds epoch 8"),
        (leader(fence_fired="not armed in time"), LeadStep.STEP_DOWN, "the fence fired: not armed in time"),
        (leader(fence_ready=False), LeadStep.STEP_DOWN,
         "the fence process is gone: nobody would stop this GCS in time"),
        (leader(since_renewal=2.49, since_attempt=0.1), LeadStep.WAIT, "leads with epoch 7"),
        (leader(since_renewal=2.5), LeadStep.STEP_DOWN,
         "neither renewed nor vouched for by the other heads for 2.5 s"),
        (leader(since_renewal=9.0, since_word=2.49, since_attempt=0.1), LeadStep.WAIT, "leads with epoch 7"),
        (leader(since_renewal=9.0, since_word=2.5), LeadStep.STEP_DOWN,
         "neither renewed nor vouched for by the other heads for 2.5 s"),
        (leader(since_renewal=2.49, since_word=9.0, since_attempt=0.1), LeadStep.WAIT, "leads with epoch 7"),
        (leader(stopping=True), LeadStep.HAND_OVER, "this head stops"),
        (away(stopping=True), LeadStep.HAND_OVER, "this head stops"),
        (leader(asked_to_hand_over="head-b"), LeadStep.HAND_OVER, "switchover to head-b"),
        (leader(asked_to_hand_over=""), LeadStep.HAND_OVER, "switchover to another head"),
        # A release that cannot be written would cost the GCS and help nobody.
        (away(asked_to_hand_over="head-b", since_question=0.1, since_attempt=0.1), LeadStep.WAIT,
         "leads with epoch 7; 10.0.0.5:6379 does not answer: writes wait"),
        (leader(gave_up="gcs_server crashes", others_prepared=("head-b",)), LeadStep.HAND_OVER,
         "gcs_server crashes; head-b is prepared"),
        (leader(gave_up="gcs_server crashes"), LeadStep.WAIT, "leads with epoch 7"),
        (leader(others_prepared=("head-b",)), LeadStep.WAIT, "leads with epoch 7"),
        (leader(gave_up="gcs_server crashes", others_prepared=("head-b",), paused=True), LeadStep.WAIT,
         "leads with epoch 7; paused: no failover by itself"),
        # The store is away: the heads first, again soon while one has not given its word.
        (away(since_attempt=5.0), LeadStep.ASK_HEADS, "cannot renew: 10.0.0.5:6379 does not answer"),
        (away(store_fault="", since_attempt=5.0), LeadStep.ASK_HEADS, "cannot renew: the store is away"),
        (away(since_question=0.24), LeadStep.WAIT,
         "leads with epoch 7; 10.0.0.5:6379 does not answer: writes wait"),
        (away(since_question=0.25), LeadStep.ASK_HEADS, "cannot renew: 10.0.0.5:6379 does not answer"),
        (away(since_question=0.25, since_word=1.5), LeadStep.ASK_HEADS,
         "cannot renew: 10.0.0.5:6379 does not answer"),
        (away(since_question=0.9, since_word=0.9), LeadStep.WAIT,
         "leads with epoch 7; 10.0.0.5:6379 does not answer: writes wait"),
        (away(since_question=1.0, since_word=1.0), LeadStep.ASK_HEADS,
         "cannot renew: 10.0.0.5:6379 does not answer"),
        (away(since_question=0.2, since_attempt=1.0), LeadStep.RENEW,
         "leads with epoch 7; 10.0.0.5:6379 does not answer: writes wait"),
        (leader(store_reset=True), LeadStep.ASK_HEADS, "cannot renew: the store is good"),
        (leader(store_reset=True, since_question=0.1, since_attempt=1.0), LeadStep.RENEW,
         "leads with epoch 7; the store lost its data: writes wait (`rayward store adopt` starts afresh)"),
    ],
)  # fmt: skip
def test_a_leader(seen: LeadView, step: LeadStep, sentence: str) -> None:
    action = decide_lead(seen, T)
    assert (action.step, action.reason) == (step, sentence)


PROMISED = "gave its word not to lead for another 1.5 s (head-a holds the lease)"


@pytest.mark.parametrize(
    ("seen", "step", "sentence"),
    [
        # What forbids it whatever the lease says, also when an operator insists.
        (standby(stopping=True, forced=True), LeadStep.WAIT, "this head stops"),
        (standby(namesake="10.0.0.9:8008", forced=True), LeadStep.WAIT,
         "another agent with this name runs at 10.0.0.9:8008: give each head a name of its own"),
        (standby(store=StoreStanding.UNASKED), LeadStep.WAIT, "the store is not asked yet"),
        (standby(store=StoreStanding.EMPTY, forced=True), LeadStep.WAIT, "the store is empty"),
        (standby(store=StoreStanding.REFUSED, store_fault="wrong password"), LeadStep.WAIT, "wrong password"),
        (standby(fence_ready=False, forced=True), LeadStep.WAIT,
         "the fence process is not there: a GCS could not be stopped in time"),
        (standby(gave_up="gcs_server crashes", forced=True), LeadStep.WAIT,
         "stands aside: gcs_server crashes"),
        (standby(gcs_running=True, forced=True), LeadStep.WAIT,
         "the GCS of an earlier epoch still runs here"),
        # Paused: only the own lease, and what an operator asks for.
        (standby(held(unchanged_for=99.0), paused=True, link=LeaderLink.GONE), LeadStep.WAIT,
         "paused: head-a keeps the lease whatever happens to it"),
        (standby(held(ours=True, unchanged_for=99.0), paused=True), LeadStep.WAIT,
         "paused: head-a keeps the lease whatever happens to it"),
        (standby(held(ours=True, same_place=True), paused=True), LeadStep.ACQUIRE,
         "this member's own earlier process held the lease"),
        (standby(paused=True, forced=True), LeadStep.ACQUIRE, "failover asked for by an operator"),
        (standby(None, paused=True), LeadStep.ACQUIRE, "nobody has led yet"),
        (standby(forced=True), LeadStep.ACQUIRE, "failover asked for by an operator"),
        # Nobody has led: a prepared head first, but not for ever.
        (standby(None), LeadStep.ACQUIRE, "nobody has led yet"),
        (standby(None, others_prepared=("head-b",), none_for=0.49), LeadStep.WAIT,
         "nobody has led yet; head-b is prepared and goes first"),
        (standby(None, others_prepared=("head-b",), none_for=0.5), LeadStep.ACQUIRE, "nobody has led yet"),
        (standby(None, others_prepared=("head-b",), prepared=True), LeadStep.ACQUIRE, "nobody has led yet"),
        # A released lease.
        (standby(FREE), LeadStep.ACQUIRE, "head-a released the lease"),
        (standby(FREE, others_prepared=("head-b",)), LeadStep.WAIT,
         "head-a released the lease; head-b is prepared and goes first"),
        (standby(free(unchanged_for=0.5), others_prepared=("head-b",)), LeadStep.ACQUIRE,
         "head-a released the lease"),
        (standby(FREE, paused=True), LeadStep.WAIT, "paused: a released lease stays free"),
        (standby(free(for_us=True, successor="me"), paused=True), LeadStep.ACQUIRE,
         "head-a handed the lease over to this head"),
        (standby(free(successor="head-b", unchanged_for=2.99)), LeadStep.WAIT,
         "the lease was released for head-b"),
        (standby(free(successor="head-b", unchanged_for=3.0)), LeadStep.ACQUIRE,
         "head-b did not take the lease released for it"),
        (standby(free(for_us=True, successor="me"), promise_left=1.5), LeadStep.WAIT, PROMISED),
        (standby(free(adopted=True, unchanged_for=2.99)), LeadStep.WAIT,
         "the store was adopted: a GCS from before ends within one ttl"),
        (standby(free(adopted=True, unchanged_for=3.0)), LeadStep.ACQUIRE, "head-a released the lease"),
        # A held lease.
        (standby(), LeadStep.WAIT, "follows head-a, epoch 7"),
        (standby(held(ours=True)), LeadStep.WAIT, "follows head-a, epoch 7"),
        (standby(held(ours=True, same_place=True)), LeadStep.ACQUIRE,
         "this member's own earlier process held the lease"),
        (standby(held(ours=True, same_place=True), promise_left=1.5), LeadStep.WAIT,
         "follows head-a, epoch 7"),
        (standby(link=LeaderLink.GONE), LeadStep.ACQUIRE,
         "the agent of head-a is gone: its host refuses connections"),
        (standby(link=LeaderLink.GONE, promise_left=1.5), LeadStep.ACQUIRE,
         "the agent of head-a is gone: its host refuses connections"),
        (standby(held(unchanged_for=2.99), link=LeaderLink.SILENT), LeadStep.WAIT, "follows head-a, epoch 7"),
        (standby(held(unchanged_for=3.0), link=LeaderLink.CONNECTED), LeadStep.ACQUIRE,
         "head-a has not renewed its lease for 3.0 s"),
        (standby(held(unchanged_for=3.0), promise_left=1.5), LeadStep.WAIT, PROMISED),
        (standby(held(unchanged_for=11.99, listed=False)), LeadStep.WAIT,
         "follows head-a, epoch 7 (not in its record yet)"),
        (standby(held(unchanged_for=12.0, listed=False)), LeadStep.ACQUIRE,
         "head-a has not renewed its lease for 12.0 s"),
    ],
)  # fmt: skip
def test_a_standby(seen: LeadView, step: LeadStep, sentence: str) -> None:
    action = decide_lead(seen, T)
    assert (action.step, action.reason) == (step, sentence)


ASKED = WordView(
    asked_epoch=7, own_epoch=0, acquiring=False, known_epoch=7, trouble_for=0.6, good_look_ago=0.61
)


@pytest.mark.parametrize(
    ("seen", "given", "sentence"),
    [
        (ASKED, True, "the store is away from here as well, or was not asked since"),
        (replace(ASKED, good_look_ago=None), True,
         "the store is away from here as well, or was not asked since"),
        (replace(ASKED, known_epoch=0), True, "the store is away from here as well, or was not asked since"),
        (replace(ASKED, own_epoch=8), False, "this head leads with epoch 8"),
        (replace(ASKED, acquiring=True), False, "this head is taking the lease"),
        (replace(ASKED, known_epoch=8), False, "epoch 7 is over, 8 is known here"),
        (replace(ASKED, good_look_ago=0.6), False,
         "the store answers here: the asking head is what is cut off"),
    ],
)  # fmt: skip
def test_a_word(seen: WordView, given: bool, sentence: str) -> None:
    assert give_word(seen) == (given, sentence)

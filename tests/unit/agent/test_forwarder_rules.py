"""Where a worker's connections to the GCS go: the rules."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rayward.agent.forwarder_rules import Target, choose_course, usable
from rayward.agent.heads import Choice, HeadView, Link

HERE = "10.0.0.9:6379"
LEADER = HeadView("10.0.0.1:8008", Link.CONNECTED, True, 5, True, "10.0.0.1:6379", "head-a")
OLD = Target(4, "10.0.0.2:6379")


def test_connections_go_to_the_leader_that_serves() -> None:
    course = choose_course(None, Choice(LEADER, "head-a leads with epoch 5"), HERE)
    assert (course.target, course.open) == (Target(5, "10.0.0.1:6379"), True)
    assert course.reason == "head-a leads with epoch 5"


def test_a_new_leader_takes_the_old_ones_place_before_its_gcs_serves() -> None:
    course = choose_course(OLD, Choice(replace(LEADER, serving=False), "head-a leads with epoch 5"), HERE)
    assert (course.target, course.open) == (Target(5, "10.0.0.1:6379"), False)
    assert course.reason == "head-a leads with epoch 5, its GCS does not serve yet"


def test_while_nobody_leads_old_connections_stay_and_new_ones_wait() -> None:
    course = choose_course(OLD, Choice(None, "no head is known yet"), HERE)
    assert (course.target, course.open, course.reason) == (OLD, False, "no head is known yet")


def test_the_same_gcs_with_another_epoch_is_another_target() -> None:
    same = choose_course(Target(5, LEADER.gcs), Choice(LEADER, ""), HERE)
    assert same.target == Target(5, LEADER.gcs)
    assert choose_course(Target(4, LEADER.gcs), Choice(LEADER, ""), HERE).target != Target(4, LEADER.gcs)


@pytest.mark.parametrize(
    "gcs", ["", "head-a:6379", "10.0.0.1", "10.0.0.1:0", "10.0.0.1:x", "fd00::1", "\0:1"]
)
def test_a_leader_without_a_usable_address_changes_nothing(gcs: str) -> None:
    course = choose_course(OLD, Choice(replace(LEADER, gcs=gcs), ""), HERE)
    assert (course.target, course.open) == (OLD, False)
    assert course.reason == f"head-a leads but gives no GCS address, {gcs!r}"


def test_a_leader_whose_gcs_is_the_forwarder_itself_is_no_loop() -> None:
    course = choose_course(None, Choice(replace(LEADER, gcs=HERE), ""), HERE)
    assert (course.target, course.open) == (None, False)
    assert course.reason == f"head-a gives {HERE} as its GCS, where this forwarder listens"


def test_places() -> None:
    assert usable("[fd00::1]:6379")
    assert Target(1, "[fd00::1]:6379").place == ("fd00::1", 6379)
    assert Target(1, "10.0.0.1:6379").place == ("10.0.0.1", 6379)

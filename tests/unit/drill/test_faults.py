"""The list of faults: complete, each with somebody who injects it, each expectation with a bound."""

from __future__ import annotations

from pathlib import Path

import pytest

import rayward
from rayward.drill.faults import FAULTS, GROUPS, SIGNALS, Expectation, Failover, find_fault, known_fault
from rayward.drill.session import INJECTORS
from rayward.errors import RaywardError

WANTED = [
    "gcs-kill",
    "gcs-term",
    "gcs-freeze",
    "head-process-kill",
    "host-loss",
    "host-loss-silent",
    "host-freeze",
    "partition-store",
    "partition-workers",
    "partition-standby",
    "partition-one-way",
    "partition-all",
    "redis-restart",
    "redis-failover",
    "redis-slow",
    "redis-reset",
    "redis-wiped",
    "both-heads-lost",
    "standby-loss",
    "second-failure-during-promotion",
    "agent-kill",
    "gateway-kill",
    "switchover",
    "back-to-back",
]


def test_every_fault_is_there_once_and_can_be_injected() -> None:
    names = [fault.name for fault in FAULTS]
    assert sorted(names) == sorted(WANTED)
    assert set(names) == set(INJECTORS)
    assert {fault.group for fault in FAULTS} == set(GROUPS)
    assert set(SIGNALS) == {fault.name for fault in FAULTS if fault.group == "gcs"}


@pytest.mark.parametrize(
    "name", ["redis-restart", "redis-failover", "redis-slow", "redis-reset", "standby-loss"]
)
def test_where_the_gcs_must_stay_the_same_process(name: str) -> None:
    expects = find_fault(name).expects
    assert expects.gcs_restarts == 0
    assert expects.failover is Failover.NO


def test_silence_costs_a_lease_more_than_refusal() -> None:
    refused, silent = find_fault("host-loss").expects, find_fault("host-loss-silent").expects
    assert refused.bound_s(3.0) == 2.0
    assert silent.bound_s(3.0) == 5.0
    assert Expectation().bound_s(3.0) is None


def test_the_page_about_drills_lists_every_fault_in_its_own_words() -> None:
    page = (Path(rayward.__file__).parent.parent / "docs" / "drills.md").read_text(encoding="utf-8")
    for fault in FAULTS:
        assert f"| `{fault.name}` | {fault.does} |" in page


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(RaywardError, match="no fault 'gcs-explode'") as caught:
        find_fault("gcs-explode")
    assert "host-freeze" in str(caught.value)
    assert known_fault("suite") is None

"""The rules of the operators' lease."""

from __future__ import annotations

import re

import pytest

from rayward.kube.lead_record import Record, Sighting, Stand, Timing, judge, micro_time, released, taken

TIMING = Timing(duration=15, renew_deadline=10, retry=2)


def record(**spec: object) -> Record:
    return Record.of({"metadata": {"resourceVersion": "7"}, "spec": spec})


HELD = record(holderIdentity="b", leaseDurationSeconds=15, renewTime="2026-01-01T00:00:00.000000Z")


def test_only_a_record_that_stood_still_for_its_whole_time_is_free() -> None:
    seen = Sighting(HELD, since=100.0)
    assert judge(seen, "a", TIMING, 114.9) is Stand.TAKEN
    assert judge(seen, "a", TIMING, 115.0) is Stand.FREE
    moved = seen.then(record(holderIdentity="b", renewTime="2026-01-01T00:00:02.000000Z"), 114.0)
    assert judge(moved, "a", TIMING, 115.0) is Stand.TAKEN
    still = seen.then(HELD, 114.0)
    assert judge(still, "a", TIMING, 115.0) is Stand.FREE


@pytest.mark.parametrize("moment", ["1970-01-01T00:00:00Z", "2199-01-01T00:00:00Z", "", "yesterday"])
def test_no_date_in_it_makes_it_free_or_keeps_it_taken(moment: str) -> None:
    odd = record(holderIdentity="b", leaseDurationSeconds=15, renewTime=moment, acquireTime=moment)
    assert judge(Sighting(odd, 100.0), "a", TIMING, 101.0) is Stand.TAKEN
    assert judge(Sighting(odd, 100.0), "a", TIMING, 115.0) is Stand.FREE


def test_the_longer_of_both_durations_holds() -> None:
    patient = record(holderIdentity="b", leaseDurationSeconds=60, renewTime="x")
    assert judge(Sighting(patient, 0.0), "a", TIMING, 59.0) is Stand.TAKEN
    hasty = record(holderIdentity="b", leaseDurationSeconds=1, renewTime="x")
    assert judge(Sighting(hasty, 0.0), "a", TIMING, 14.0) is Stand.TAKEN


def test_none_and_a_released_one_are_free_at_once_and_ones_own_is_ones_own() -> None:
    assert judge(None, "a", TIMING, 0.0) is Stand.FREE
    assert judge(Sighting(record(), 0.0), "a", TIMING, 0.0) is Stand.FREE
    assert judge(Sighting(HELD, 0.0), "b", TIMING, 0.0) is Stand.MINE
    let_go = Record.of({"metadata": {}, "spec": released(HELD, 1.0)})
    assert judge(Sighting(let_go, 0.0), "a", TIMING, 0.0) is Stand.FREE


def test_a_take_over_counts_and_a_renewal_keeps_when_it_began() -> None:
    first = taken(None, "a", TIMING, 0.0)
    assert first == {
        "holderIdentity": "a",
        "leaseDurationSeconds": 15,
        "acquireTime": "1970-01-01T00:00:00.000000Z",
        "renewTime": "1970-01-01T00:00:00.000000Z",
        "leaseTransitions": 0,
    }
    mine = record(**first)
    renewed = taken(mine, "a", TIMING, 2.5)
    assert (renewed["acquireTime"], renewed["renewTime"]) == (
        first["acquireTime"],
        "1970-01-01T00:00:02.500000Z",
    )
    assert renewed["leaseTransitions"] == 0
    assert taken(mine, "b", TIMING, 3.0)["leaseTransitions"] == 1


def test_every_renewal_is_another_word() -> None:
    mine = record(**taken(None, "a", TIMING, 0.0))
    assert record(**taken(mine, "a", TIMING, 0.000001)).word != mine.word
    labelled = Record.of({"metadata": {"resourceVersion": "8"}, "spec": taken(None, "a", TIMING, 0.0)})
    assert labelled.word == mine.word


def test_timings_that_cannot_work_are_refused() -> None:
    for wrong in ((10, 10, 2), (15, 2, 2), (15, 10, 0)):
        with pytest.raises(ValueError, match="retry < renew deadline < duration"):
            Timing(*wrong)


def test_times_are_in_kubernetes_form() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", micro_time(1.7e9))

"""The verdict on a run, gaps between calls, and the line of time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rayward.drill.record import Call, Change, RunRecord, around, calls_of, failures, longest_gap, timeline

GOOD = RunRecord(
    run=1,
    gcs_dead_s=0.01,
    gcs_ready_s=0.2,
    new_actor_s=0.8,
    task_s=0.05,
    placement_group_s=0.4,
    call_gap_max_s=0.05,
    calls=300,
    tasks=20,
    gcs_restarts=1,
)


CHANGE = Change("a", 1, "b", 2)


def test_a_run_without_damage_holds() -> None:
    assert failures(GOOD, 30) == []


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        ({"new_actor_s": None}, "no new actor within 30 s"),
        ({"new_actor_s": 30.5}, "new actor took 30.5 s"),
        ({"task_s": None}, "no new task"),
        ({"placement_group_s": None}, "no new placement group"),
        ({"calls_failed": 1}, "1 of 300 calls"),
        ({"calls": 0}, "no call to the actor"),
        ({"tasks_failed": 2}, "2 of 20 tasks"),
        ({"worker_restarts": 1}, "1 restart of workers"),
        ({"head_pod_restarts": 1}, "1 restart of the head Pod"),
        ({"actors_lost": 1}, "actors lost"),
        ({"placement_groups_lost": 1}, "placement groups lost"),
        ({"kv_entries_lost": 3}, "3 key-value entries lost"),
        ({"errors": ("the probe's driver ended",)}, "driver ended"),
    ],
)
def test_each_kind_of_damage_is_one_sentence(damage: dict[str, object], word: str) -> None:
    found = failures(replace(GOOD, **damage), 30)  # type: ignore[arg-type]
    assert len(found) == 1
    assert word in found[0]


def test_state_lost_counts_every_kind() -> None:
    assert replace(GOOD, actors_lost=1, placement_groups_lost=2, kv_entries_lost=4).state_lost == 7


def test_a_restarted_gcs_is_no_failure() -> None:
    assert failures(replace(GOOD, gcs_restarts=5), 30) == []


def test_longest_gap_is_between_answers_not_starts() -> None:
    calls = [Call(-0.02, 0.01), Call(0.0, 0.30), Call(0.31, 0.01)]
    assert longest_gap(calls, 0.0, 0.4) == pytest.approx(0.30)


def test_longest_gap_reaches_to_the_end_when_the_answers_stop() -> None:
    assert longest_gap([Call(0.0, 0.01)], 0.0, 5.0) == pytest.approx(4.99)


def test_a_failed_call_does_not_end_a_gap() -> None:
    calls = [Call(0.0, 0.1), Call(0.2, 0.1, "ActorDiedError: gone"), Call(0.9, 0.1)]
    assert longest_gap(calls, 0.0, 1.0) == pytest.approx(0.9)


def test_no_answer_at_all_has_no_gap() -> None:
    assert longest_gap([Call(0.0, 1.0, "RayActorError")], 0.0, 5.0) is None


def test_calls_are_put_on_the_faults_own_clock() -> None:
    (first, second) = calls_of([(99.5, 0.25, None), (100.5, 0.5, "RayError: x")], 100.0)
    assert first == Call(-0.5, 0.25)
    assert second == Call(0.5, 0.5, "RayError: x")


def test_thinning_keeps_what_matters() -> None:
    calls = [Call(index / 1000, 0.001) for index in range(3000)]
    calls[1500] = Call(1.5, 0.9)
    calls[2000] = Call(2.0, 0.001, "failed")
    kept = around(calls, 1.0, 10.0, most=300)
    assert len(kept) <= 300
    assert calls[1500] in kept
    assert calls[2000] in kept
    assert [call.at for call in kept] == sorted(call.at for call in kept)


def test_a_window_leaves_out_what_is_far_from_the_fault() -> None:
    calls = [Call(-5.0, 0.1), Call(-0.5, 0.1), Call(0.5, 0.1), Call(9.0, 0.1)]
    assert [call.at for call in around(calls, 1.0, 6.0)] == [-0.5, 0.5]


def test_timeline_merges_agents_and_drill_in_order() -> None:
    events = {
        "head": [
            {"monotonic": 99.0, "reason": "NodeStarted", "message": "long before"},
            {
                "monotonic": 100.02,
                "reason": "ProcessDied",
                "message": "gcs_server (pid 7) died\n    | last words",
            },
            {"monotonic": 100.03, "reason": "ProcessRestarted", "message": "gcs_server runs again"},
        ]
    }
    marks = timeline(
        100.0, events, {"FaultInjected": (0.0, "sent"), "GcsServes": (0.2, "serves"), "never": (None, "")}
    )
    assert [mark.what for mark in marks] == ["FaultInjected", "ProcessDied", "ProcessRestarted", "GcsServes"]
    assert marks[1].at == pytest.approx(0.02)
    assert marks[1].says == "gcs_server (pid 7) died"
    assert marks[1].where == "head"


@pytest.mark.parametrize(
    ("fault", "damage", "word"),
    [
        ("gcs-kill", {"stale_writes": 2}, "2 writes accepted from an old epoch"),
        ("gcs-kill", {"writes": 9, "writes_lost": 1}, "1 of 9 acknowledged writes lost"),
        ("gcs-kill", {"problems": ("the thawed gcs_server still runs",)}, "thawed"),
        ("redis-restart", {"gcs_restarts": 1}, "1 restarts of gcs_server, where 0 are allowed"),
        ("redis-restart", {"gcs_restarts": 0, "failover": CHANGE}, "b took over, which this fault"),
        ("host-loss", {"failover": None}, "no other head took over"),
    ],
)
def test_expectations_are_the_faults_own(fault: str, damage: dict[str, object], word: str) -> None:
    good = replace(GOOD, fault=fault, standbys=1, epochs=(1, 2), stale_writes=0)
    good = replace(good, failover=CHANGE) if fault == "host-loss" else replace(good, gcs_restarts=0)
    assert failures(good, 30) == []
    found = failures(replace(good, **damage), 30)  # type: ignore[arg-type]
    assert len(found) == 1
    assert word in found[0]


def test_a_failover_is_not_asked_of_a_cluster_with_one_head() -> None:
    assert failures(replace(GOOD, fault="host-loss", head_pod_restarts=1, standbys=0), 30) == []
    unknown = replace(GOOD, fault="host-loss", head_pod_restarts=1, standbys=1, epochs=())
    assert failures(unknown, 30) == [], "without a lease nobody can say who led"


def test_what_lets_nothing_through_is_waited_for_from_its_end() -> None:
    late = replace(GOOD, fault="redis-restart", gcs_restarts=0, lasted_s=60.0, new_actor_s=61.0)
    assert failures(late, 30) == []
    assert failures(replace(late, new_actor_s=91.0), 30) == [
        "the first new actor took 91.0 s, the limit is 90 s"
    ]
    assert failures(replace(late, fault="host-freeze"), 30), "another head must not wait for the thaw"


def test_a_cold_start_may_take_longer() -> None:
    slow = replace(GOOD, fault="both-heads-lost", standbys=1, new_actor_s=45.0, head_pod_restarts=2)
    assert failures(slow, 30) == []
    assert failures(replace(slow, new_actor_s=61.0), 30)
    assert failures(replace(slow, fault="host-loss", standbys=0), 30) == [], "nobody stood by"
    assert failures(replace(slow, fault="host-loss", failover=CHANGE), 30), "somebody stood by"


def test_a_wiped_store_may_lose_state_and_workers_but_has_to_come_back() -> None:
    wiped = replace(GOOD, fault="redis-wiped", actors_lost=2, kv_entries_lost=20, worker_restarts=2)
    assert failures(wiped, 30) == []
    assert failures(replace(wiped, problems=("no head refused the empty store",)), 30)
    assert failures(replace(wiped, new_actor_s=None), 30) == ["no new actor within 60 s"]

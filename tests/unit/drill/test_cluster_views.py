"""What drills read of a cluster, and what they change in its manifests, on plain data."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from rayward.drill import manifests
from rayward.drill.audit import judge
from rayward.drill.collect import change_between, epochs_between
from rayward.drill.cut import Rule, alone, between, one_way
from rayward.drill.faults import FAULTS, find_fault
from rayward.drill.heads import HeadView, Lease, choose_leader, parse_lease, settled, standbys, view_of
from rayward.drill.injectors import agent_part
from rayward.drill.injectors_heads import grown
from rayward.store.audit import AuditEntry

POD = {"metadata": {"name": "h", "uid": "u"}, "status": {"podIP": "10.0.0.1"}}


def view(
    name: str,
    role: str,
    epoch: int | None = None,
    gcs: int | None = 1,
    serving: bool = True,
    warm: bool = False,
) -> HeadView:
    pod = {"metadata": {"name": name}, "status": {}}
    status = {"lead": {"role": role, "state": "warm"}} if warm else {}
    return HeadView(pod, role, epoch, (gcs, 1) if gcs else None, serving, status)


def test_the_leader_is_the_one_of_the_newest_epoch() -> None:
    old, new = view("old", "leader", 3), view("new", "leader", 4)
    assert choose_leader([old, new, view("third", "standby", 4)]) is new
    assert choose_leader([view("waits", "standby")]) is None
    assert choose_leader([view("fell", "leader", 4, gcs=None)]) is None


def test_only_heads_that_stand_by_are_standbys() -> None:
    lead = view("a", "leader", 1)
    assert [found.name for found in standbys([lead, view("b", "standby"), view("c", "unknown")], lead)] == [
        "b"
    ]


def test_settled_means_one_leader_and_all_others_waiting() -> None:
    lead, waits = view("a", "leader", 1), view("b", "standby", warm=True)
    assert settled([lead, waits], 2)
    assert settled([lead], 1)
    assert not settled([lead], 2)
    assert not settled([lead, view("b", "unknown")], 2)
    assert not settled([lead, view("b", "standby")], 2), "one that has just stepped down starts anew"
    assert not settled([lead, view("b", "leader", 2)], 2)
    assert not settled([view("a", "leader", 1, serving=False), waits], 2)
    starting = replace(lead, status={"phase": "starting"})
    assert not settled([starting, waits], 2), "the rest of its ray start is under way"
    assert settled([replace(lead, status={"phase": "running"}), waits], 2)


def test_a_head_without_a_lease_leads_when_it_runs_a_gcs() -> None:
    status: dict[str, Any] = {"gcs": {"serving": True}}
    assert view_of(POD, status, (7, 1)).role == "leader"
    assert view_of(POD, None, None).role == "unknown"
    leading = view_of(POD, {**status, "lead": {"role": "leader", "epoch": 5}}, (7, 1))
    assert (leading.role, leading.epoch, leading.address) == ("leader", 5, "10.0.0.1")
    states = ("warm", "following", "preparing")
    waiting = [view_of(POD, {"lead": {"role": "standby", "state": state}}, None) for state in states]
    assert [found.warm for found in waiting] == [True, False, False]
    assert not leading.warm


def test_the_lease_is_read_with_its_history_and_bad_lines_are_passed_over() -> None:
    lines = [json.dumps({"epoch": 1}), b'{"epoch": 2}', b"half a li", json.dumps({"member": "x"})]
    assert parse_lease({b"epoch": b"3", b"holder": b"head-1"}, lines) == Lease(3, "head-1", (1, 2, 3))
    assert parse_lease({}, []) is None
    record = b'{"address": "x", "heads": ["head-2", "head-3"]}'
    found = parse_lease({b"epoch": b"3", b"holder": b"head-1", b"record": record}, [])
    assert found == Lease(3, "head-1", (3,), ("head-2", "head-3"))
    for odd in (b"[]", b"{", b'{"heads": 3}'):
        assert parse_lease({b"epoch": b"3", b"record": odd}, []) == Lease(3, "", (3,))


def test_a_change_of_leader_is_a_change_of_epoch() -> None:
    before, after = Lease(2, "a", (1, 2)), Lease(4, "b", (1, 2, 3, 4))
    change = change_between(before, after)
    assert change is not None
    assert (change.from_member, change.to_member, change.to_epoch) == ("a", "b", 4)
    assert epochs_between(before, after) == (2, 3, 4)
    assert change_between(before, before) is None
    assert change_between(None, after) is None
    assert epochs_between(None, after) == ()


def entry(epoch: int) -> AuditEntry:
    return AuditEntry("1-1", f"{epoch}:i{epoch}", "HSET", "k", "f")


def test_a_write_of_an_old_epoch_is_counted_also_right_after_the_last_look() -> None:
    assert judge([entry(2), entry(3), entry(2), entry(3), entry(1)], 2).stale == 2
    assert judge([entry(1), entry(2)], 2).stale == 1
    assert judge([entry(2), entry(3)], 2).stale == 0
    assert judge([], 2).stale is None, "nothing written proves nothing"


def test_rules_cut_both_ways_one_way_or_all_but_the_spared() -> None:
    assert set(between(["a"], ["b", "a"])) == {Rule("a", "b"), Rule("b", "a")}
    assert one_way(["a"], ["b", "c"]) == (Rule("a", "b"), Rule("a", "c"))
    assert alone("a", ["host"]) == (
        Rule("a", "host", True),
        Rule("host", "a", True),
        Rule("a"),
        Rule("", "a"),
    )


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("python3 /rayward/agent.zip head -- ray start --head", "head"),
        ("python3 -u /opt/agent.zip gateway", "gateway"),
        ("python3 -m rayward.agent fence --x", "fence"),
        ("python3 /rayward/agent.zip", ""),
        ("ray start --head", ""),
        ("", ""),
    ],
)
def test_parts_of_the_agent_by_their_command_line(line: str, part: str) -> None:
    assert agent_part(line.split()) == part


def test_growth_is_what_exceeds_its_allowance() -> None:
    assert grown({"keys": (10.0, 12.0), "agent threads": (9.0, 9.0), "unknown": (0.0, 99.0)}) == []
    assert grown({"keys": (10.0, 13.0)}) == ["keys grew from 10 to 13"]


def heads_environment(found: list[dict[str, Any]]) -> dict[str, str]:
    cluster = next(item for item in found if item["kind"] == "RayCluster")
    container = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    return {item["name"]: item["value"] for item in container.get("env", []) if "value" in item}


@pytest.mark.parametrize("name", [manifests.HA, manifests.SENTINEL])
def test_own_clusters_are_audited_and_their_redis_survives_a_kill(name: str) -> None:
    plain = manifests.own(name)
    found = manifests.for_drill(plain)
    assert heads_environment(found) == {"RAYWARD_AUDIT": "1"}
    assert heads_environment(plain) == {}, "the given objects stay as they were"
    commands = [
        container["command"][2]
        for item in found
        if item["kind"] == "Deployment"
        for container in item["spec"]["template"]["spec"]["containers"]
    ]
    assert all("while :" in command and "redis-server" in command for command in commands)
    off = manifests.with_environment(found, {"RAYWARD_FENCE": "off"})
    assert heads_environment(off) == {"RAYWARD_AUDIT": "1", "RAYWARD_FENCE": "off"}
    forgetful = next(
        item for item in manifests.without_fault_tolerance(found) if item["kind"] == "RayCluster"
    )
    assert "gcsFaultToleranceOptions" not in forgetful["spec"]


def test_each_fault_gets_a_cluster_that_can_take_it() -> None:
    assert manifests.fitting(find_fault("gcs-kill")) is None
    assert manifests.fitting(find_fault("host-loss")) == manifests.HA
    assert manifests.fitting(find_fault("redis-restart")) == manifests.HA
    assert manifests.fitting(find_fault("redis-failover")) == manifests.SENTINEL
    for fault in FAULTS:
        assert manifests.fitting(fault) in (None, manifests.HA, manifests.SENTINEL)

"""When a worker is recycled, and how many at a time: the rules; and the reader of the node table."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ray.core.generated import gcs_pb2, gcs_service_pb2

from rayward.agent import gcs_nodes
from rayward.agent.gcs_nodes import Node, NodesAnswer, read_reply, state_of
from rayward.agent.recycle import (
    Action,
    NodeState,
    Slot,
    Slots,
    WorkerSeen,
    answer_request,
    decide_recycle,
)

LOST = WorkerSeen(raylet_up_s=500.0, leader_serves_s=100.0, node=NodeState.ABSENT, node_so_s=90.0)


def test_a_worker_that_did_not_rejoin_asks_and_is_recycled_when_allowed() -> None:
    asks = decide_recycle(LOST)
    assert asks.action is Action.ASK
    assert asks.reason == "the GCS does not know this node and the deadline of 30 s has passed"
    granted = decide_recycle(replace(LOST, slot=Slot.GRANTED))
    assert granted.action is Action.RECYCLE
    waits = decide_recycle(replace(LOST, slot=Slot.WAIT))
    assert (waits.action, waits.reason) == (
        Action.WAIT,
        "the GCS does not know this node; other workers are being recycled first",
    )


def test_a_worker_that_the_gcs_calls_dead_while_it_runs_is_recycled() -> None:
    found = decide_recycle(replace(LOST, node=NodeState.DEAD, slot=Slot.GRANTED))
    assert found.action is Action.RECYCLE
    assert found.reason == "the GCS calls this node dead, 90 s after the head began to serve"


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (
            replace(LOST, leader_serves_s=None, slot=Slot.GRANTED),
            "no head serves: a worker is never recycled because the head is away",
        ),
        (
            replace(LOST, node=NodeState.UNKNOWN, slot=Slot.GRANTED),
            "the GCS has not said what it thinks of this node",
        ),
        (replace(LOST, node=NodeState.ALIVE, slot=Slot.GRANTED), "the GCS counts this node as alive"),
        (
            replace(LOST, raylet_up_s=None, slot=Slot.GRANTED),
            "the raylet does not run: starting it is the supervisor's work",
        ),
        (
            replace(LOST, leader_serves_s=10.0, slot=Slot.GRANTED),
            "the GCS does not know this node; the raylet has 20 s left to join it again",
        ),
        (
            replace(LOST, raylet_up_s=5.0, slot=Slot.GRANTED),
            "the GCS does not know this node; the raylet has 25 s left to join it again",
        ),
        (
            replace(LOST, node_so_s=1.0, slot=Slot.GRANTED),
            "the GCS does not know this node; the raylet has 29 s left to join it again",
        ),
    ],
    ids=["head away", "no answer", "alive", "raylet down", "new head", "new raylet", "just lost"],
)
def test_nothing_else_recycles_a_worker(seen: WorkerSeen, reason: str) -> None:
    found = decide_recycle(seen)
    assert (found.action, found.reason) == (Action.WAIT, reason)


def test_slots_are_a_tenth_of_the_workers_but_one_at_least() -> None:
    for workers, most in ((0, 1), (1, 1), (19, 1), (20, 2), (100, 10)):
        slots, granted = Slots(), 0
        for number in range(30):
            answer = answer_request(slots, f"w{number}", workers, now=100.0 + number * 0.1)
            slots, granted = answer.slots, granted + answer.granted
        assert granted == most
        assert len(slots.granted) == most


def test_a_slot_is_free_again_after_the_window_and_asking_twice_costs_nothing() -> None:
    first = answer_request(Slots(), "a", 3, now=100.0)
    again = answer_request(first.slots, "a", 3, now=129.0)
    assert (again.granted, again.slots) == (True, first.slots)
    other = answer_request(first.slots, "b", 3, now=129.0)
    assert (other.granted, other.reason) == (
        False,
        "1 of at most 1 within 30 s are being recycled: a",
    )
    assert answer_request(other.slots, "b", 3, now=130.0).granted


# The node table, written by Ray's own protobuf classes.


def reply(*nodes: gcs_pb2.GcsNodeInfo, code: int = 0) -> bytes:
    status = gcs_service_pb2.GcsStatus(code=code, message="x" if code else "")
    raw: bytes = gcs_service_pb2.GetAllNodeInfoReply(
        status=status, node_info_list=nodes, total=300, num_filtered=2
    ).SerializeToString()
    return raw


def node_info(number: int, **more: object) -> gcs_pb2.GcsNodeInfo:
    return gcs_pb2.GcsNodeInfo(
        node_id=bytes([number]) * 28,
        node_manager_address="10.0.0.7",
        raylet_socket_name="/tmp/s",
        resources_total={"CPU": 2.0, "memory": 1e9},
        labels={"a": "b"},
        start_time_ms=1_700_000_000_000 + number,
        node_manager_port=65_535,
        **more,
    )


def test_rows_that_ray_wrote_are_read() -> None:
    alive, dead = read_reply(reply(node_info(1), node_info(2, state=gcs_pb2.GcsNodeInfo.DEAD)))
    assert alive == Node("01" * 28, NodeState.ALIVE, "10.0.0.7", "/tmp/s", 1_700_000_000_001)
    assert (dead.node_id, dead.state) == ("02" * 28, NodeState.DEAD)


def test_a_request_is_what_ray_reads() -> None:
    request = gcs_service_pb2.GetAllNodeInfoRequest()
    request.ParseFromString(gcs_nodes._one_node(b"\x07" * 28, 1, 1))
    assert [selector.node_id for selector in request.node_selectors] == [b"\x07" * 28]
    request.ParseFromString(gcs_nodes._one_node(b"10.0.0.7", 3, 4))
    assert [selector.node_ip_address for selector in request.node_selectors] == ["10.0.0.7"]


def test_the_raylet_started_last_counts_where_a_socket_name_came_again() -> None:
    rows = tuple(read_reply(reply(node_info(2), node_info(1, state=gcs_pb2.GcsNodeInfo.DEAD))))
    answer = NodesAnswer(rows, "answered")
    assert state_of(answer, address="10.0.0.7", raylet_socket="/tmp/s")[0] is NodeState.ALIVE
    assert state_of(answer, node_id="01" * 28)[0] is NodeState.DEAD
    assert state_of(answer, node_id="03" * 28) == (NodeState.ABSENT, "not in the node table")
    assert state_of(NodesAnswer(None, "refused"), node_id="03" * 28) == (NodeState.UNKNOWN, "refused")


def test_a_refusal_or_half_an_answer_is_no_empty_table() -> None:
    with pytest.raises(ValueError, match="status 5"):
        list(read_reply(reply(code=5)))
    whole = reply(node_info(1), node_info(2))
    for end in range(1, len(whole)):
        try:
            rows = list(read_reply(whole[:end]))
        except ValueError:
            continue
        assert len(rows) < 2 or end > len(whole) - 10
    for garbage in (
        b"\xff" * 20,
        b"\x0f",
        b"\x12\x7f\x01",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    ):
        with pytest.raises(ValueError, match=r"cut off|wire type|64 bits"):
            list(read_reply(garbage))


def test_a_gcs_that_cannot_be_asked_is_unknown() -> None:
    state, reason = gcs_nodes.ask_node("127.0.0.1", 1, "01" * 28, 1.0)
    assert (state, reason) == (NodeState.UNKNOWN, "connection refused")
    assert gcs_nodes.ask_node("127.0.0.1", 1, "no hex", 1.0)[0] is NodeState.UNKNOWN

"""Electors of real processes over a real Redis: who leads after each fault, and what the head says of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from agent_node import until
from elector_rig import BOUND, TIMING, Head, assert_one_at_a_time, boot_seconds, start_head
from redis_server import Server, free_port, running

from rayward.store import schema

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
LEASE = schema.own_key("ns", "lease")


class Cluster:
    """A Redis and the heads of one test; all of it ends with the test."""

    def __init__(self, directory: Path, resources: contextlib.ExitStack, *options: str) -> None:
        self.directory, self._resources = directory, resources
        self._options = options or DURABLE
        self.store_port = free_port()
        self.server: Server
        self.start_store()
        self.ports: dict[str, int] = {}
        self.heads: dict[str, Head] = {}

    def start_store(self) -> None:
        server = running(self.directory / "redis", *self._options, port=self.store_port)
        self.server = self._resources.enter_context(server)

    def start(self, member: str, port: int = 0, others: tuple[str, ...] = ("a", "b"), **environ: str) -> Head:
        for name in {*others, member} - set(self.ports):
            self.ports[name] = free_port()
        port = port or self.ports[member]
        addresses = [self.ports[name] for name in others]
        head = start_head(self.directory, member, port, addresses, self.store_port, **environ)
        self._resources.callback(head.end)
        self.heads[member] = head
        wait(lambda: answers(head), f"{member} answers", head)
        return head

    def client(self) -> redis.Redis:
        return self.server.client()

    def lease(self) -> dict[str, str]:
        with contextlib.closing(self.client()) as client:
            return {name.decode(): value.decode() for name, value in client.hgetall(LEASE).items()}

    def pair(self) -> tuple[Head, Head]:
        """``a`` leads and ``b`` follows it; a's record lists b, so that b's word counts."""
        a = self.start("a")
        wait(a.leads, "a leads", a)
        b = self.start("b")
        wait(lambda: follows(b, "a") and "b" in self.listed(), "b follows and is listed", a, b)
        return a, b

    def listed(self) -> list[str]:
        found: list[str] = json.loads(self.lease()["record"])["heads"]
        return found


def answers(head: Head) -> bool:
    assert head.process.poll() is None, head.log.read_text()
    with contextlib.suppress(OSError):
        return head.call("/livez")[0] in (200, 503)
    return False


def follows(head: Head, leader: str) -> bool:
    """It stands by, its store answers, and it is connected to a leader that serves."""
    seen = head.lead()
    return bool(seen["role"] == "standby" and seen["leader"] == leader and seen["leader_gcs"])


def wait(look: Any, what: str, *heads: Head, seconds: float = BOUND) -> Any:
    try:
        return until(look, seconds, what)
    except AssertionError as error:
        logs = "\n".join(f"--- {head.member}\n{head.log.read_text()[-2500:]}" for head in heads)
        raise AssertionError(f"{error}\n{logs}") from None


def leads_with(head: Head, epoch: int) -> bool:
    seen = head.lead()
    return bool(seen["role"] == "leader" and seen["epoch"] == epoch)


def took_because(head: Head, epoch: int) -> str:
    """The reason that its LeaseAcquired event gives for this epoch."""
    told = [line for line in head.reasons() if line.startswith(f"LeaseAcquired: leads with epoch {epoch}: ")]
    assert len(told) == 1, head.reasons()
    return told[0].split(": ", 2)[2]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with contextlib.ExitStack() as resources:
        yield Cluster(tmp_path, resources)


def test_of_two_heads_that_start_at_once_one_leads(cluster: Cluster) -> None:
    cluster.ports = {"a": free_port(), "b": free_port()}
    ports = list(cluster.ports.values())
    with contextlib.ExitStack() as ends:
        heads = [
            start_head(cluster.directory, member, port, ports, cluster.store_port)
            for member, port in cluster.ports.items()
        ]
        for head in heads:
            ends.callback(head.end)
        wait(lambda: all(answers(head) for head in heads), "both answer", *heads)
        wait(lambda: any(head.leads() for head in heads), "one leads", *heads)
        leader, other = sorted(heads, key=lambda head: not head.leads())
        wait(lambda: follows(other, leader.member), "the other follows", *heads)
        assert took_because(leader, 1) == "nobody has led yet"
        assert not other.leads()
        assert cluster.lease()["holder"] == leader.member
        assert not other.journal("open")
        assert_one_at_a_time(*heads)


def test_a_released_lease_is_taken_and_the_gcs_ends_first(cluster: Cluster) -> None:
    a, b = cluster.pair()
    a.stop()
    wait(lambda: leads_with(b, 2), "b leads", b)
    assert took_because(b, 2) == "a released the lease"
    (down,) = a.journal("gcs down")
    (opened,) = b.journal("open")
    assert down["at"] < opened["at"]
    assert a.journal("disarm"), "there is no GCS any more that the fence would have to end"
    history = b.call("/history")[1]["history"]
    assert [(entry["epoch"], entry["member"]) for entry in history] == [(1, "a"), (2, "b")]
    assert_one_at_a_time(a, b)


def test_a_leader_whose_process_is_gone_is_followed_before_its_lease_ends(cluster: Cluster) -> None:
    a, b = cluster.pair()
    a.kill()
    wait(lambda: leads_with(b, 2), "b leads", b)
    assert took_because(b, 2) == "the agent of a is gone: its host refuses connections"
    back = cluster.start("a")
    wait(lambda: follows(back, "b"), "a comes back as a standby", back, b)
    assert leads_with(b, 2)


def test_a_silent_leader_is_followed_after_a_ttl_and_steps_down_when_it_thaws(cluster: Cluster) -> None:
    a, b = cluster.pair()
    a.freeze()
    wait(lambda: leads_with(b, 2), "b leads", b)
    assert took_because(b, 2).startswith("a has not renewed its lease for 2.")
    a.thaw()
    wait(lambda: follows(a, "b"), "a follows", a, b)
    ended = [line for line in a.reasons() if line.startswith("SteppedDown")]
    assert len(ended) == 1, ended
    assert ended[0].startswith("SteppedDown: epoch 1 ends here: ")
    assert a.journal("close")[-1]["at"] > a.journal("open")[-1]["at"], "its gateway is closed"
    assert leads_with(b, 2)


def arms_beyond(head: Head, moment: float) -> bool:
    return any(line["deadline"] > moment for line in head.journal("arm"))


def test_a_leader_keeps_its_gcs_without_a_store_while_the_others_vouch(cluster: Cluster) -> None:
    a, b = cluster.pair()
    seq = int(cluster.lease()["seq"])
    killed = boot_seconds()
    cluster.server.stop()
    wait(lambda: a.lead()["word_from"] == ["b"], "b vouches", a, b)
    wait(lambda: arms_beyond(a, killed + 2 * TIMING.ttl), "a goes on past its lease", a, b)
    assert a.leads()
    assert a.lead()["store"]["state"] == "away"
    assert a.lead()["reason"].endswith(": writes wait") or "cannot renew" in a.lead()["reason"]
    assert not b.leads()
    cluster.start_store()
    wait(lambda: a.lead()["store"]["state"] == "good" and not a.lead()["word_from"], "a renews", a, b)
    wait(lambda: int(cluster.lease()["seq"]) > seq, "the lease is renewed", a, b)
    assert leads_with(a, 1)
    assert cluster.lease()["epoch"] == "1"
    assert not a.journal("fired")
    assert [line["epoch"] for line in a.journal("open")] == [1]
    assert not b.journal("open")


def test_a_lone_head_needs_nobodys_word(cluster: Cluster) -> None:
    a = cluster.start("a", others=())
    wait(a.leads, "a leads", a)
    killed = boot_seconds()
    cluster.server.stop()
    wait(lambda: arms_beyond(a, killed + 2 * TIMING.ttl), "a goes on past its lease", a)
    assert a.leads()
    assert not a.journal("fired")


def test_without_store_and_without_word_the_gcs_ends_before_the_lease(cluster: Cluster) -> None:
    a, b = cluster.pair()
    b.freeze()
    cluster.server.stop()
    wait(lambda: a.journal("gcs down"), "a's GCS ends", a)
    wait(lambda: not a.leads(), "a steps down", a)
    renewed = max(line["deadline"] for line in a.journal("arm")) - TIMING.fence_after
    assert a.journal("gcs down")[0]["at"] < renewed + TIMING.ttl
    (ended,) = [line for line in a.reasons() if line.startswith("SteppedDown")]
    assert "fence fired" in ended or "neither renewed nor vouched for" in ended
    assert any("a head does not vouch: b does not answer" in line for line in a.reasons())
    cluster.start_store()
    b.thaw()
    wait(lambda: a.leads() or b.leads(), "somebody leads again", a, b)
    wait(lambda: a.leads() != b.leads(), "one of them", a, b)
    assert int(cluster.lease()["epoch"]) > 1


def test_a_head_that_reaches_the_store_gives_no_word(cluster: Cluster) -> None:
    _, b = cluster.pair()
    asked = {"epoch": 1, "member": "a", "trouble_for": 5.0, "cluster": "uid-blue"}
    code, body = b.call("/failsafe", asked)
    assert (code, body["given"]) == (200, False)
    assert body["reason"] == "the store answers here: the asking head is what is cut off"
    assert b.call("/failsafe", {**asked, "cluster": "uid-green"})[0] == 400, "another cluster's leader"
    code, body = b.call("/failsafe", {**asked, "epoch": 0, "trouble_for": 0.0})
    assert body == {"given": False, "reason": "epoch 0 is over, 1 is known here"}


def test_a_switchover_goes_to_the_head_that_was_named(cluster: Cluster) -> None:
    a, b = cluster.pair()
    assert a.call("/switchover", {"to": "b"}) == (
        409, {"error": "b is not prepared to take over (prepared: none)"},
    )  # fmt: skip
    assert a.call("/switchover", {}) == (409, {"error": "no other head is prepared to take over"})
    assert b.call("/switchover", {}) == (409, {"error": "this head does not lead; a does"})
    b.tell(prepared=True)
    wait(lambda: a.call("/switchover", {"to": "x"})[1]["error"].endswith("(prepared: b)"), "b is known", a, b)
    a.tell(gcs_hangs=True)
    assert a.call("/switchover", {"to": "b"}) == (200, {"ok": True, "message": "hands over to b"})
    wait(lambda: a.lead()["role"] == "handing over", "a hands over", a)
    assert a.journal("close")[-1]["at"] > a.journal("open")[-1]["at"], "nothing is written any more"
    assert cluster.lease()["state"] == "held", "not released while its GCS runs"
    a.tell(gcs_hangs=False)
    wait(lambda: leads_with(b, 2), "b leads", a, b)
    assert took_because(b, 2) == "a handed the lease over to this head"
    assert "LeaseReleased: released epoch 1 for b" in a.reasons()
    wait(lambda: follows(a, "b"), "a follows", a, b)
    assert not a.journal("fired")
    assert_one_at_a_time(a, b)


def test_a_lease_released_for_a_head_that_died_is_taken_by_another(cluster: Cluster) -> None:
    a, b = cluster.pair()
    b.tell(prepared=True)
    wait(lambda: a.call("/switchover", {"to": "x"})[1]["error"].endswith("(prepared: b)"), "b is known", a, b)
    a.tell(gcs_hangs=True)
    assert a.call("/switchover", {"to": "b"})[0] == 200
    wait(lambda: a.lead()["role"] == "handing over", "a hands over", a)
    b.kill()
    a.tell(gcs_hangs=False)
    wait(lambda: leads_with(a, 2), "a leads again", a)
    assert took_because(a, 2) == "b did not take the lease released for it"


def test_while_paused_nobody_takes_over_until_resume(cluster: Cluster) -> None:
    a, b = cluster.pair()
    assert b.call("/pause", {}) == (200, {"ok": True, "message": "paused: no head takes over by itself"})
    wait(lambda: a.lead()["paused"] and b.lead()["paused"], "both know", a, b)
    a.kill()
    wait(lambda: unseen_for(b, "a") > 2 * TIMING.ttl, "a's lease has run out", b)
    assert b.lead()["role"] == "standby"
    assert b.lead()["reason"] == "paused: a keeps the lease whatever happens to it"
    assert b.call("/resume", {}) == (200, {"ok": True, "message": "failover by itself is on"})
    wait(lambda: leads_with(b, 2), "b leads", b)


def unseen_for(head: Head, member: str) -> float:
    rows = head.call("/members")[1]["members"]
    return max([float(row["seen_ago_s"]) for row in rows if row["member"] == member], default=0.0)


def test_a_leader_that_was_restarted_takes_its_own_lease_even_while_paused(cluster: Cluster) -> None:
    a, b = cluster.pair()
    a.call("/pause", {})
    wait(lambda: b.lead()["paused"], "b knows", b)
    a.kill()
    back = cluster.start("a")
    wait(lambda: leads_with(back, 2), "a leads again", back, b)
    assert took_because(back, 2) == "this member's own earlier process held the lease"
    assert_one_at_a_time(a, b)


def test_a_forced_failover_takes_the_lease_of_a_living_leader(cluster: Cluster) -> None:
    a, b = cluster.pair()
    assert b.call("/failover", {"to": "a"}) == (412, {"error": "this is b", "todo": "ask the agent of a"})
    assert a.call("/failover", {}) == (409, {"error": "this head leads already"})
    assert b.call("/failover", {"to": "b"}) == (200, {"ok": True, "message": "takes the lease"})
    wait(lambda: leads_with(b, 2), "b leads", a, b)
    assert took_because(b, 2) == "failover asked for by an operator"
    wait(lambda: follows(a, "b"), "a follows", a, b)
    assert "SteppedDown: epoch 1 ends here: epoch 1 is over: b holds epoch 2" in a.reasons()
    wait(lambda: a.journal("gcs down"), "a's GCS has ended", a)


def test_a_forced_failover_is_refused_while_the_store_is_away(cluster: Cluster) -> None:
    """Or it would be carried out hours later, against a leader that lives."""
    a, b = cluster.pair()
    cluster.server.stop()
    wait(lambda: b.lead()["store"]["state"] == "away", "b has seen it", b)
    code, body = b.call("/failover", {})
    assert code == 409
    assert "the store is away" in body["error"]
    cluster.start_store()
    wait(lambda: b.lead()["store"]["state"] == "good", "b sees it again", b)
    wait(lambda: a.lead()["store"]["state"] == "good", "a too", a)
    assert leads_with(a, 1)
    assert not b.journal("open")


def test_a_store_that_lost_everything_is_not_started_on_until_it_is_adopted(cluster: Cluster) -> None:
    a, b = cluster.pair()
    with contextlib.closing(cluster.client()) as client:
        client.flushall()
    wait(lambda: a.lead()["store"]["state"] == "empty", "a has seen it", a)
    wait(lambda: b.lead()["store"]["state"] == "empty", "b has seen it", b)
    wiped = boot_seconds()
    wait(lambda: arms_beyond(a, wiped + 2 * TIMING.ttl), "a's GCS is kept", a, b)
    words = "leads with epoch 1; the store lost its data: writes wait (`rayward store adopt` starts afresh)"
    wait(lambda: a.lead()["reason"] == words, "a says what to do", a)
    assert "it lost what this head knew (epoch 1)" in b.lead()["reason"]
    assert not b.leads()
    assert not cluster.lease(), "nobody has written a lease"
    assert a.call("/store/adopt", {}) == (
        200, {"ok": True, "message": "adopted: the GCS starts from what the store holds now"},
    )  # fmt: skip
    wait(lambda: any(head.leads() and head.lead()["epoch"] > 1 for head in (a, b)), "one leads anew", a, b)
    leader, other = sorted((a, b), key=lambda head: not head.leads())
    wait(lambda: follows(other, leader.member), "the other follows", a, b)
    assert int(cluster.lease()["epoch"]) == leader.lead()["epoch"]
    assert_one_at_a_time(a, b)


def test_heads_that_come_back_to_an_empty_store_remember_what_it_held(cluster: Cluster) -> None:
    a, b = cluster.pair()
    b.stop()
    a.stop()
    with contextlib.closing(cluster.client()) as client:
        client.flushall()
    a = cluster.start("a")
    wait(lambda: a.lead()["store"]["state"] == "empty", "a sees it", a)
    assert a.lead()["reason"] == (
        "the store of namespace 'ns' is empty: it lost what this head knew (epoch 1)"
    )
    assert not a.leads()
    assert a.call("/store/adopt", {})[0] == 200
    wait(a.leads, "a leads", a)
    assert a.lead()["epoch"] > 1, "an epoch of the lost store never comes again"


def test_nothing_is_adopted_that_is_ours_and_well(cluster: Cluster) -> None:
    a = cluster.start("a", others=())
    wait(a.leads, "a leads", a)
    assert a.call("/store/adopt", {}) == (409, {"error": "there is nothing to adopt: the store is good"})


def green(cluster: Cluster) -> Head:
    """The head of another cluster in the same namespace."""
    return cluster.start("g", others=(), RAYWARD_CLUSTER="green", RAYWARD_CLUSTER_UID="uid-green")


def test_the_namespace_of_another_cluster_that_runs_is_refused_with_its_name(cluster: Cluster) -> None:
    other = green(cluster)
    wait(other.leads, "green leads", other)
    a = cluster.start("a", others=())
    wait(lambda: a.lead()["store"]["state"] == "foreign", "a refuses", a)
    assert a.lead()["store"]["fault"] == (
        "namespace 'ns' belongs to cluster 'green' (uid uid-green), which runs: its head g leads"
    )
    assert not a.leads()
    assert not a.journal("open")
    assert leads_with(other, 1)


def test_the_namespace_of_another_cluster_that_was_stopped_is_taken_over(cluster: Cluster) -> None:
    other = green(cluster)
    wait(other.leads, "green leads", other)
    other.stop()
    a = cluster.start("a", others=())
    wait(a.leads, "a takes it over", a)
    assert a.lead()["epoch"] > 1
    assert cluster.lease()["holder"] == "a"


def test_a_wrong_password_is_said(tmp_path: Path) -> None:
    with contextlib.ExitStack() as resources:
        cluster = Cluster(tmp_path, resources, "--requirepass", "right")
        a = cluster.start("a", others=(), REDIS_PASSWORD="wrong")
        wait(lambda: a.lead()["store"]["state"] == "refused", "a is refused", a)
        assert not a.leads()
        assert "password" in a.lead()["store"]["fault"].lower()
        assert "wrong" not in json.dumps(a.status()).replace("wrong password", "").replace("WRONGPASS", "")
        b = cluster.start("b", others=(), REDIS_PASSWORD="right")
        wait(b.leads, "the right one is taken", b)


def test_two_agents_with_one_name_do_not_take_the_lease_from_each_other(cluster: Cluster) -> None:
    a = cluster.start("a")
    wait(a.leads, "a leads", a)
    second = cluster.start("a", port=free_port())
    words = f"another agent with this name runs at {a.address}: give each head a name of its own"
    wait(lambda: second.lead()["reason"] == words, "the second one says so", a, second)
    seq = int(cluster.lease()["seq"])
    wait(lambda: int(cluster.lease()["seq"]) > seq + 8, "longer than a TTL", a, second)
    assert leads_with(a, 1)
    assert not second.journal("open")
    a.kill()
    wait(second.leads, "the name is free now", second)


@pytest.mark.parametrize(
    "content", ['{"incarnation": "x", "epo', "", "[]", '{"incarnation": null, "epoch": null}']
)
def test_a_memory_that_is_half_written_counts_as_none(cluster: Cluster, content: str) -> None:
    state = cluster.directory / "state-a"
    state.mkdir()
    (state / "blue-a.json").write_text(content)
    a = cluster.start("a", others=())
    wait(a.leads, "a leads", a)
    assert json.loads((state / "blue-a.json").read_text())["epoch"] == 1


@pytest.mark.parametrize(
    "entry",
    [
        '{"member": [], "instance": {}}',
        '{"time": "x", "address": 5, "state": []}',
        "[1]",
        "no JSON",
        '{"member": "a"}',
    ],
)
def test_a_strange_entry_among_the_members_does_not_end_the_election(cluster: Cluster, entry: str) -> None:
    with contextlib.closing(cluster.client()) as client:
        client.hset(schema.own_key("ns", "members"), "strange", entry)
    a, b = cluster.pair()
    seq = int(cluster.lease()["seq"])
    wait(lambda: int(cluster.lease()["seq"]) > seq, "a renews", a)
    a.stop()
    wait(lambda: leads_with(b, 2), "b leads", b)


def test_a_lease_that_somebody_else_scribbled_on_is_said(cluster: Cluster) -> None:
    a, b = cluster.pair()
    with contextlib.closing(cluster.client()) as client:
        client.hset(LEASE, "epoch", "many")
    scribbled = boot_seconds()
    wait(lambda: "the lease's epoch is 'many', not a number" in b.lead()["store"]["fault"], "b says so", a, b)
    wait(lambda: arms_beyond(a, scribbled + 2 * TIMING.ttl), "a's GCS is kept by b's word", a, b)
    assert not b.leads()
    with contextlib.closing(cluster.client()) as client:
        client.hset(LEASE, "epoch", "1")
    wait(lambda: a.lead()["store"]["state"] == "good", "a renews", a, b)
    assert leads_with(a, 1)


def test_a_fence_that_is_not_there_forbids_to_lead(cluster: Cluster) -> None:
    a, b = cluster.pair()
    b.tell(fence_ready=False)
    a.kill()
    words = "the fence process is not there: a GCS could not be stopped in time"
    wait(lambda: b.lead()["reason"] == words, "b says why", b)
    assert not b.leads()
    b.tell(fence_ready=True)
    wait(lambda: leads_with(b, 2), "b leads", b)
    b.tell(fence_ready=False)
    wait(lambda: not b.leads(), "b steps down", b)
    assert any("the fence process is gone" in line for line in b.reasons())


def test_no_lease_is_taken_while_the_gcs_of_the_last_epoch_runs(cluster: Cluster) -> None:
    a = cluster.start("a", others=())
    wait(a.leads, "a leads", a)
    a.tell(gcs_hangs=True, fence_ready=False)
    wait(lambda: not a.leads(), "a steps down", a)
    a.tell(fence_ready=True)
    words = "the GCS of an earlier epoch still runs here"
    wait(lambda: a.lead()["reason"] == words, "a says why", a)
    a.tell(gcs_hangs=False)
    wait(lambda: leads_with(a, 2), "a leads again", a)
    (down,) = a.journal("gcs down")
    assert down["at"] < a.journal("open")[-1]["at"]


def test_the_fence_is_disarmed_once_the_gcs_of_a_lost_lease_has_ended(cluster: Cluster) -> None:
    """Or its old deadline would end the GCS that is prepared next."""
    a, b = cluster.pair()
    assert b.call("/failover", {})[0] == 200
    wait(lambda: follows(a, "b"), "a follows", a, b)
    wait(lambda: a.journal("disarm") or a.journal("fired"), "the fence is settled", a)
    assert not a.journal("fired")


def test_a_frozen_store_is_an_absent_store(cluster: Cluster) -> None:
    a, b = cluster.pair()
    os.kill(cluster.server.process.pid, signal.SIGSTOP)
    try:
        frozen = boot_seconds()
        wait(lambda: arms_beyond(a, frozen + 2 * TIMING.ttl), "a's GCS is kept", a, b)
        assert a.leads()
        assert not b.leads()
    finally:
        os.kill(cluster.server.process.pid, signal.SIGCONT)
    wait(lambda: a.lead()["store"]["state"] == "good" and not a.lead()["word_from"], "a renews", a, b)
    assert leads_with(a, 1)
    assert not a.journal("fired")

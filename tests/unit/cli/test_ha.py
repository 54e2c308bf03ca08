"""``rayward list`` and its companions, against agents that answer by the book and against others."""

from __future__ import annotations

import json
import os
import pty
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]
ROOT = str(Path(__file__).resolve().parents[3])


def by_agent(heads: Any, number: int = 0) -> list[str]:
    return ["--agent", heads.heads[number].place]


def refusing_place() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_list_shows_who_leads_with_which_epoch_and_how_long_the_lease_holds(heads: Any, cli: Run) -> None:
    done = cli("list", *by_agent(heads))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "cluster prod: head-1 leads with epoch 4"
    assert lines[1].split() == ["MEMBER", "ROLE", "STATE", "EPOCH", "LEASE", "SEEN", "AGO", "GCS", "ADDRESS"]
    assert lines[2].split() == [
        "head-1", "leader", "running", "4", "2.4", "s", "0.3", "s", "10.0.0.1:6379", heads.heads[0].place,
    ]  # fmt: skip
    assert lines[3].split() == [
        "head-2",
        "standby",
        "prepared",
        "-",
        "-",
        "0.3",
        "s",
        "-",
        heads.heads[1].place,
    ]


def test_list_says_when_failover_is_paused_and_when_nobody_leads(heads: Any, cli: Run) -> None:
    heads.paused, heads.leader = True, ""
    first = cli("list", *by_agent(heads)).stdout.splitlines()[0]
    assert first == "cluster prod: nobody leads; paused: no failover by itself (`rayward resume`)"


def test_the_leader_itself_is_asked_how_long_its_lease_holds(heads: Any, cli: Run, tmp_path: Path) -> None:
    heads.leader = "head-2"
    rows = heads.members()
    rows[1]["lease_left_s"] = None
    heads.heads[0].answers["/members"] = (200, {"cluster": "prod", "members": rows})
    assert "2.4 s" in cli("list", *by_agent(heads)).stdout
    rows[1]["address"] = refusing_place()
    assert "head-2 leads with epoch 4" in cli("list", *by_agent(heads)).stdout


def test_a_store_in_trouble_stands_in_the_first_line(heads: Any, cli: Run) -> None:
    heads.more["store"] = {"state": "away", "fault": "Redis at r:1 refused the connection"}
    first = cli("list", *by_agent(heads)).stdout.splitlines()[0]
    assert first == "cluster prod: head-1 leads with epoch 4; store: Redis at r:1 refused the connection"


def test_list_as_json_is_the_agents_own_answer(heads: Any, cli: Run) -> None:
    found = json.loads(cli("list", "--json", *by_agent(heads)).stdout)
    assert found == {"cluster": "prod", "paused": False, "members": heads.members()}


def test_the_heads_of_a_config_are_asked_in_turn_until_one_answers(
    heads: Any, cli: Run, tmp_path: Path
) -> None:
    config = heads.config(tmp_path)
    heads.heads[0].stop()
    done = cli("list", "--config", str(config))
    assert done.returncode == 0
    assert "head-1 leads with epoch 4" in done.stdout


def test_no_agent_that_answers_is_exit_code_3_and_each_one_is_named(cli: Run, tmp_path: Path) -> None:
    first, second = refusing_place(), refusing_place()
    config = tmp_path / "rayward.yaml"
    config.write_text(f"role: worker\ncluster: p\nheads: ['{first}', '{second}']\n")
    for words in (["list"], ["history"], ["pause"], ["switchover", "--yes"], ["failover", "--yes"],
                  ["store", "adopt", "--yes"]):  # fmt: skip
        done = cli(*words, "--config", str(config))
        assert done.returncode == 3, (words, done)
        assert f"no agent answers: {first}: connection refused; {second}: connection refused" in done.stderr
        assert str(config) in done.stderr


def test_an_agent_that_takes_the_connection_and_says_nothing_is_left_after_its_bound(cli: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = cli("list", "--agent", f"127.0.0.1:{silent.getsockname()[1]}")
    assert done.returncode == 3
    assert "no answer within 2 s" in done.stderr


def test_something_that_is_no_agent_is_said_to_be_none(cli: Run, heads: Any) -> None:
    heads.heads[0].answers["/members"] = (200, {"hello": "world"})
    done = cli("list", *by_agent(heads))
    assert (done.returncode, "holds no members" in done.stderr) == (1, True)
    heads.heads[0].answers["/members"] = (404, {"error": "unknown path"})
    done = cli("list", *by_agent(heads))
    assert (done.returncode, "it knows no /members" in done.stderr) == (1, True)


def test_two_places_at_once_or_none_at_all_are_said(cli: Run, heads: Any) -> None:
    assert cli("list", *by_agent(heads), "--cluster", "x").returncode == 2
    nowhere = cli("list", "--cluster", "x")
    assert (nowhere.returncode, "cluster 'x' is not up" in nowhere.stderr) == (1, True)


def test_switchover_tells_old_and_new_leader_epoch_and_seconds(heads: Any, cli: Run, tmp_path: Path) -> None:
    heads.heads[0].answers["/switchover"] = heads.switch
    done = cli("switchover", "--to", "head-2", "--yes", "--config", str(heads.config(tmp_path)))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("head-2 leads with epoch 5 after ")
    assert done.stdout.rstrip().endswith(" s (before: head-1, epoch 4)")
    assert heads.heads[0].posts == [("/switchover", {"to": "head-2", "epoch": 4}, "")]
    assert heads.heads[1].posts == []


def test_a_switchover_is_asked_of_the_leader_whichever_head_is_listed_first(
    heads: Any, cli: Run, tmp_path: Path
) -> None:
    heads.leader = "head-2"
    heads.heads[1].answers["/switchover"] = lambda body: heads.switch({"to": "head-1"})
    done = cli("switchover", "--yes", "--config", str(heads.config(tmp_path)))
    assert "head-1 leads with epoch 5" in done.stdout
    assert heads.heads[0].posts == []


def test_a_new_epoch_counts_only_once_its_gcs_serves(heads: Any, cli: Run, tmp_path: Path) -> None:
    def hand_over(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        heads.serving = False
        return heads.switch(body)  # type: ignore[no-any-return]

    heads.heads[0].answers["/switchover"] = hand_over
    done = cli("switchover", "--yes", "--timeout", "1", "--config", str(heads.config(tmp_path)))
    assert done.returncode == 1
    assert "not done after 1 s: head-2 leads with epoch 5 (running)" in done.stderr
    assert "hands over to head-2" in done.stderr


def test_an_old_leader_that_goes_on_serving_is_no_new_one(heads: Any, cli: Run, tmp_path: Path) -> None:
    heads.heads[0].answers["/switchover"] = (200, {"ok": True, "message": "on its way"})
    done = cli("switchover", "--yes", "--timeout", "1", "--config", str(heads.config(tmp_path)))
    assert done.returncode == 1
    assert "not done after 1 s: head-1 leads with epoch 4" in done.stderr


def test_a_refused_switchover_gives_the_agents_reason_and_todo(heads: Any, cli: Run) -> None:
    heads.heads[0].answers["/switchover"] = (409, {"error": "head-2 is not prepared", "todo": "wait for it"})
    done = cli("switchover", "--yes", *by_agent(heads))
    assert done.returncode == 1
    assert "head-2 is not prepared" in done.stderr
    assert "try: wait for it" in done.stderr


def test_another_leader_than_the_one_asked_for_is_not_done(heads: Any, cli: Run, tmp_path: Path) -> None:
    heads.heads[1].answers["/failover"] = lambda body: heads.switch({"to": "head-1"})
    done = cli("failover", "--to", "head-2", "--yes", "--config", str(heads.config(tmp_path)))
    assert done.returncode == 1
    assert "head-1 leads now (epoch 5), not head-2" in done.stderr


def test_a_member_that_is_not_there_is_refused_before_anybody_is_asked(heads: Any, cli: Run) -> None:
    done = cli("switchover", "--to", "head-9", "--yes", *by_agent(heads))
    assert done.returncode == 1
    assert "there is no member 'head-9'" in done.stderr
    assert "members: head-1, head-2" in done.stderr
    assert heads.heads[0].posts == []


def test_an_answer_that_got_lost_is_not_asked_for_twice(heads: Any, cli: Run, tmp_path: Path) -> None:
    """A leader that dies while it hands over has perhaps handed over: what the heads say then counts."""

    def die(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        heads.lead("head-2")
        return 0, {}  # the connection is closed without a word

    heads.heads[0].answers["/switchover"] = die
    heads.heads[1].answers["/switchover"] = heads.switch
    done = cli("switchover", "--yes", "--config", str(heads.config(tmp_path)))
    assert done.returncode == 0, done.stderr
    assert "head-2 leads with epoch 5" in done.stdout
    assert heads.heads[1].posts == []


def test_a_leader_that_cannot_be_reached_leaves_a_failover_to_another_head(
    heads: Any, cli: Run, tmp_path: Path
) -> None:
    heads.heads[1].answers["/failover"] = heads.take_over
    config = heads.config(tmp_path)
    heads.heads[0].stop()
    done = cli("failover", "--yes", "--config", str(config))
    assert done.returncode == 0, done.stderr
    assert "head-2 leads with epoch 5" in done.stdout
    assert heads.heads[1].posts == [("/failover", {"to": "head-2", "epoch": 4}, "")]


def test_a_failover_is_asked_of_the_head_that_should_lead(heads: Any, cli: Run, tmp_path: Path) -> None:
    for words in (["--to", "head-1"], []):
        heads.leader = "head-2"
        heads.heads[0].answers["/failover"] = heads.take_over
        done = cli("failover", "--yes", *words, "--config", str(heads.config(tmp_path)))
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("head-1 leads with epoch ")
    assert [body["to"] for _, body, _ in heads.heads[0].posts] == ["head-1", "head-1"]
    assert heads.heads[1].posts == []


def test_a_head_whose_announced_address_is_no_way_to_it_is_found_among_those_listed(
    heads: Any, cli: Run, tmp_path: Path
) -> None:
    rows = heads.members()
    rows[1]["address"] = refusing_place()
    heads.heads[0].answers["/members"] = (200, {"cluster": "prod", "members": rows})
    heads.heads[0].answers["/failover"] = (
        412,
        {"error": "this is head-1", "todo": "ask the agent of head-2"},
    )
    heads.heads[1].answers["/failover"] = heads.take_over
    done = cli("failover", "--to", "head-2", "--yes", "--config", str(heads.config(tmp_path)))
    assert (done.returncode, done.stdout[:28]) == (0, "head-2 leads with epoch 5 af"), done.stderr


def test_a_failover_without_another_head_is_refused(heads: Any, cli: Run) -> None:
    heads.heads[0].answers["/members"] = (200, {"cluster": "prod", "members": heads.members()[:1]})
    done = cli("failover", "--yes", *by_agent(heads))
    assert (done.returncode, "no other head that could take over" in done.stderr) == (1, True)


def test_a_head_that_cannot_do_it_leaves_it_to_the_next(heads: Any, cli: Run, tmp_path: Path) -> None:
    heads.heads[0].answers["/pause"] = (503, {"error": "the store is away"})
    heads.heads[1].answers["/pause"] = heads.pause(True, "paused: no head takes over by itself")
    done = cli("pause", "--config", str(heads.config(tmp_path)))
    assert (done.returncode, done.stdout) == (0, "paused: no head takes over by itself\n")


def test_switchover_needs_a_leader_and_names_failover(heads: Any, cli: Run) -> None:
    heads.leader = ""
    done = cli("switchover", "--yes", *by_agent(heads))
    assert (done.returncode, "rayward failover" in done.stderr) == (1, True)


@pytest.mark.parametrize("words", [["switchover"], ["failover"], ["store", "adopt"]], ids=" ".join)
def test_without_a_terminal_yes_must_be_said(heads: Any, cli: Run, words: list[str]) -> None:
    done = cli(*words, *by_agent(heads))
    assert (done.returncode, "say --yes" in done.stderr) == (2, True)
    assert heads.heads[0].posts == []


@pytest.mark.parametrize(("typed", "code", "posts"), [("n\n", 130, 0), ("y\n", 0, 1)])
def test_on_a_terminal_the_person_is_asked(
    heads: Any, tmp_path: Path, typed: str, code: int, posts: int
) -> None:
    heads.heads[1].answers["/failover"] = heads.take_over
    controller, terminal = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "rayward", "failover", "--config", str(heads.config(tmp_path))],
        env={**os.environ, "PYTHONPATH": ROOT, "RAYWARD_HOME": str(tmp_path)},
        stdin=terminal, stdout=terminal, stderr=terminal,
    )  # fmt: skip
    os.close(terminal)
    asked, deadline = b"", time.monotonic() + 30
    while b"?" not in asked and time.monotonic() < deadline:
        if select.select([controller], [], [], 0.2)[0]:
            asked += os.read(controller, 4096)
    assert b"head-1 leads (epoch 4): let another head take the lease" in asked
    os.write(controller, typed.encode())
    assert child.wait(30) == code
    os.close(controller)
    assert len(heads.heads[1].posts) == posts


def test_pause_resume_and_adopt_say_what_the_agent_says(heads: Any, cli: Run) -> None:
    answers = heads.heads[0].answers
    answers["/pause"], answers["/resume"] = heads.pause(True, "paused"), heads.pause(False, "on again")
    answers["/store/adopt"] = (200, {"ok": True, "message": "adopted"})
    for words, said in (
        (["pause"], "paused"),
        (["resume"], "on again"),
        (["store", "adopt", "--yes"], "adopted"),
    ):
        done = cli(*words, *by_agent(heads))
        assert (done.returncode, done.stdout) == (0, f"{said}\n")
    assert [path for path, _, _ in heads.heads[0].posts] == ["/pause", "/resume", "/store/adopt"]


def test_a_pause_that_no_head_acts_by_is_not_done(heads: Any, cli: Run) -> None:
    heads.heads[0].answers["/pause"] = (200, {"ok": True, "message": "paused"})
    done = cli("pause", *by_agent(heads))
    assert (done.returncode, "the heads do not show it after 5 s" in done.stderr) == (1, True)


def test_an_adoption_that_the_agent_refuses_is_not_done(heads: Any, cli: Run) -> None:
    heads.heads[0].answers["/store/adopt"] = (412, {"error": "there is nothing to adopt: the store is good"})
    done = cli("store", "adopt", "--yes", *by_agent(heads))
    assert (done.returncode, "there is nothing to adopt" in done.stderr) == (1, True)


def test_the_token_comes_from_the_config_or_the_environment(heads: Any, cli: Run, tmp_path: Path) -> None:
    heads.heads[0].answers["/pause"] = heads.pause(True, "paused")
    (tmp_path / "token").write_text("from-file\n")
    cli("pause", "--config", str(heads.config(tmp_path, "agent: {token: written}\n")))
    cli("pause", "--config", str(heads.config(tmp_path, f"agent: {{tokenFile: {tmp_path}/token}}\n")))
    cli("pause", *by_agent(heads), RAYWARD_AGENT_TOKEN="given")
    tokens = [token for _, _, token in heads.heads[0].posts]
    assert tokens == ["Bearer written", "Bearer from-file", "Bearer given"]


def test_a_missing_token_is_named(heads: Any, cli: Run) -> None:
    heads.heads[0].answers["/pause"] = (401, {"error": "a token is needed"})
    done = cli("pause", *by_agent(heads))
    assert done.returncode == 1
    assert "a token is needed" in done.stderr
    assert "RAYWARD_AGENT_TOKEN" in done.stderr


def test_history_lists_who_led_since_when_and_why(heads: Any, cli: Run) -> None:
    entries = [
        {"epoch": 3, "member": "head-2", "reason": "nobody has led yet", "time": 1_700_000_000.0},
        {"epoch": 4, "member": "head-1", "reason": "switchover to head-1", "time": "2026-01-02T03:04:05Z"},
    ]
    heads.heads[0].answers["/history"] = (200, {"history": entries})
    lines = cli("history", *by_agent(heads), TZ="UTC").stdout.splitlines()
    assert lines[0].split() == ["SINCE", "EPOCH", "MEMBER", "REASON"]
    assert lines[1].split(maxsplit=4) == ["2023-11-14", "22:13:20", "3", "head-2", "nobody has led yet"]
    assert lines[2].split(maxsplit=3) == ["2026-01-02T03:04:05Z", "4", "head-1", "switchover to head-1"]
    assert json.loads(cli("history", "--json", *by_agent(heads)).stdout) == entries
    heads.heads[0].answers["/history"] = (200, {"history": []})
    assert cli("history", *by_agent(heads)).stdout == "nobody has led yet\n"


def test_watching_goes_on_through_an_outage(heads: Any, tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "rayward", "list", "--watch", "--agent", heads.heads[0].place],
        env={**os.environ, "PYTHONPATH": ROOT, "RAYWARD_HOME": str(tmp_path)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stderr is not None
    try:
        assert child.stdout.readline() == "cluster prod: head-1 leads with epoch 4\n"
        heads.heads[0].answers["/members"] = (500, {"error": "out of order"})
        assert "out of order" in child.stderr.readline()
        heads.lead("head-2")
        del heads.heads[0].answers["/members"]
        line = ""
        while not line.startswith("cluster prod: head-2 leads with epoch 5"):
            line = child.stdout.readline()
            assert line
    finally:
        child.kill()
        child.wait(10)


def test_the_shell_completes_members_that_could_lead(heads: Any, cli: Run) -> None:
    line = f"rayward switchover --agent {heads.heads[0].place} --to he"
    words = len(line.split()) - 1
    done = cli(_RAYWARD_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(words))
    assert done.stdout.split() == ["plain,head-2"]
    dead = cli(
        _RAYWARD_COMPLETE="bash_complete",
        COMP_CWORD="5",
        COMP_WORDS=line.replace(heads.heads[0].place, "127.0.0.1:1"),
    )
    assert (dead.stdout.strip(), dead.stderr) == ("", "")

"""The gateway's pure rules: framing, what is done with a command, what an answer means."""

from __future__ import annotations

import random

import pytest

from rayward.errors import RaywardError
from rayward.store.gateway_commands import (
    LOCALS,
    READS,
    WRITES,
    Guard,
    Kind,
    asks_session_name,
    kind_of,
    local_reply,
    login_reply,
    probes_for_writing,
)
from rayward.store.gateway_counters import LATENCY_BOUNDS, Counters
from rayward.store.gateway_frames import Cutter, command_and_key, words_of_one
from rayward.store.gateway_replies import Verdict, judge, judge_writer, repeated_hsetnx
from rayward.store.gateway_settings import GatewaySettings
from rayward.store.resp import ProtocolError, encode, split_request

COMMANDS = [
    encode("PING"),
    encode("HSET", "RAYx@KV", "a\r\n$3\r\n", b"\x00\r\n*1\r\n"),
    encode("HGET", "RAYx@KV", ""),
    encode("HSET", "k", "f", b"v" * 100_000),
    encode("HMGET", "k", *(f"f{number}" for number in range(100))),
    b"*0\r\n",
]
REPLIES = [
    b"+OK\r\n",
    b"-ERR no\r\n",
    b":-5\r\n",
    b"$-1\r\n",
    b"$5\r\na\r\nbc\r\n",
    b"*-1\r\n",
    b"*0\r\n",
    b"*2\r\n$1\r\n0\r\n*4\r\n$1\r\na\r\n:1\r\n*1\r\n$-1\r\n+x\r\n",
]


@pytest.mark.parametrize(("commands", "values"), [(True, COMMANDS), (False, REPLIES)])
def test_values_come_whole_however_the_stream_is_cut(commands: bool, values: list[bytes]) -> None:
    dice = random.Random(1)
    for _ in range(200):
        wanted = [dice.choice(values) for _ in range(dice.randrange(1, 6))]
        stream, cutter, found = b"".join(wanted), Cutter(commands), []
        while stream:
            size = min(len(stream), dice.choice((1, 2, 3, 7, 50, 5000, 1_000_000)))
            size = size if len(stream) < 1000 else max(size, len(stream) // 20)
            found += cutter.feed(stream[:size])
            stream = stream[size:]
        assert found == wanted
        assert cutter.held == 0


def test_a_piece_that_is_one_value_is_not_copied() -> None:
    assert Cutter(True).feed(COMMANDS[1])[0] is COMMANDS[1]


@pytest.mark.parametrize(
    "garbage",
    [b"PING\r\n", b"*1\r\n:5\r\n", b"*1\r\n*1\r\n", b"$3\r\nabc\r\n", b"*1\r\n$-1\r\n", b"*x\r\n",
     b"*1\r\n$2\r\nabc\r\n", b"*2000000\r\n", b"*1\r\n$600000000\r\n", b"*1_0\r\n", b"* 1\r\n",
     b"*" + b"1" * 50],
)  # fmt: skip
def test_what_no_client_sends_is_an_error(garbage: bytes) -> None:
    assert words_of_one(garbage) == []
    with pytest.raises(ProtocolError):
        Cutter(True).feed(garbage)


def test_the_short_way_says_the_same_or_nothing() -> None:
    dice = random.Random(2)
    pieces = [b"", b"a", b"\r\n", b"$1", b"*1", b"x" * 300, b"\r", b"\n", b"$1\r\na"]
    for _ in range(3000):
        words = tuple(b"".join(dice.choices(pieces, k=2)) for _ in range(dice.randrange(1, 5)))
        frame = encode(*words)
        assert words_of_one(frame) in ([], list(words))
        assert command_and_key(frame) == list(words[:2])
        assert words_of_one(frame + frame) == []
        assert words_of_one(frame[:-1]) == []


def test_each_command_is_of_one_sort() -> None:
    assert not READS & WRITES
    assert not LOCALS & (READS | WRITES)
    assert (kind_of(b"hset"), kind_of(b"HGET"), kind_of(b"Ping")) == (Kind.WRITE, Kind.READ, Kind.LOCAL)
    for name in (b"EVAL", b"EVALSHA", b"FLUSHALL", b"MULTI", b"XADD", b"RENAME", b"", b"\xff"):
        assert kind_of(name) is Kind.UNKNOWN


def test_a_guarded_write_keeps_its_words() -> None:
    guard = Guard("d" * 40, "rayward:x:lease", "")
    guard.lead("7:a")
    for words in (("HSET", "RAYx@KV", "f", b"\r\n\x00"), ("DEL", "k"), ("hdel", "k", *map(str, range(100)))):
        frame = encode(*words)
        name, key = (word.encode() for word in words[:2])  # type: ignore[union-attr]
        for _ in range(2):  # the second is from memory
            found = split_request(guard.wrap(frame, name, key))
            assert found == split_request(
                encode("EVALSHA", "d" * 40, "1", key, "rayward:x:lease", "7:a", name, *words[2:])
            )
    guard.lead("8:a")
    assert split_request(guard.wrap(encode("DEL", "k"), b"DEL", b"k"))[5] == b"8:a"


def test_with_an_audit_and_without_a_guard() -> None:
    audited = Guard("d" * 40, "lease", "audit")
    audited.lead(1)
    assert split_request(audited.wrap(encode("DEL", "k"), b"DEL", b"k"))[3:] == (
        b"k", b"lease", b"1", b"audit", b"DEL",
    )  # fmt: skip
    assert Guard("", "lease", "").wrap(encode("DEL", "k"), b"DEL", b"k") == encode("DEL", "k")


def test_what_a_standby_may_ask() -> None:
    assert asks_session_name((b"HGET", b"RAYx@KV", b"@namespace_session:session_name"))
    assert asks_session_name((b"HGET", b"x", b"x@KV:@namespace_session:session_name"))
    assert not asks_session_name((b"HGET", b"RAYx@KV", b"@namespace_cluster:ray_cluster_id"))
    assert not asks_session_name((b"HSETNX", b"RAYx@KV", b"@namespace_session:session_name", b"s"))
    assert probes_for_writing((b"DEL", b"DUMMY"))
    assert not probes_for_writing((b"DEL", b"DUMMY", b"k"))


def test_a_gcs_is_shown_a_plain_server() -> None:
    assert local_reply((b"INFO", b"SENTINEL")) == b"$0\r\n\r\n"
    assert b"cluster_enabled:0" in local_reply((b"info", b"cluster"))
    assert local_reply((b"DEL", b"DUMMY")) == b":0\r\n"
    assert local_reply((b"HELLO", b"3")).startswith(b"-ERR unknown command")
    assert local_reply((b"SELECT", b"0")) == b"+OK\r\n"
    assert local_reply((b"SELECT", b"1")).startswith(b"-ERR")
    assert login_reply((b"AUTH", b"t"), b"t")[0]
    assert login_reply((b"AUTH", b"anybody", b"t"), b"t")[0]
    assert not login_reply((b"AUTH", b"t", b"other"), b"t")[0]


@pytest.mark.parametrize(
    ("reply", "verdict", "found"),
    [
        (b"-FENCED 9:b\r\n", Verdict.FENCED, 9),
        (b"-FENCED 7:a\r\n", Verdict.AGAIN, 7),
        (b"-FENCED 7:b\r\n", Verdict.FENCED, 7),
        (b"-FENCED 6:a\r\n", Verdict.OLDER, 6),
        (b"-FENCED none\r\n", Verdict.EMPTY, 0),
        (b"-FENCED released\r\n", Verdict.FENCED, 0),
        (b"-NOSCRIPT No matching script\r\n", Verdict.AGAIN, 0),
        (b"-MOVED 5 1.2.3.4:6379\r\n", Verdict.AGAIN, 0),
        (b"-LOADING Redis is loading\r\n", Verdict.AWAY, 0),
        (b"-READONLY You can't write\r\n", Verdict.AWAY, 0),
        (
            b"-ERR Error running script (call to f_1): @user_script:1: @user_script: 1: -READONLY You\r\n",
            Verdict.AWAY,
            0,
        ),
        (b"-NOREPLICAS Not enough\r\n", Verdict.AWAY, 0),
        (b"-OOM command not allowed\r\n", Verdict.REFUSED, 0),
        (b"-MISCONF cannot save\r\n", Verdict.REFUSED, 0),
        (b"-NOPERM no right\r\n", Verdict.REFUSED, 0),
        (b"-WRONGTYPE Operation\r\n", Verdict.PASS, 0),
        (b"-ERR syntax error\r\n", Verdict.PASS, 0),
    ],
)
def test_what_an_error_means(reply: bytes, verdict: Verdict, found: int) -> None:
    judgement = judge(reply, "7:a")
    assert (judgement.verdict, judgement.found) == (verdict, found)


def test_a_strange_writer_is_not_ours() -> None:
    assert judge_writer("x7", "7:a").verdict is Verdict.FENCED


def test_a_repeated_hsetnx() -> None:
    assert repeated_hsetnx(b":1\r\n", b"$1\r\na\r\n", b"a") == b":1\r\n"
    assert repeated_hsetnx(b":0\r\n", b"$1\r\na\r\n", b"a") == b":1\r\n"
    assert repeated_hsetnx(b":0\r\n", b"$1\r\nb\r\n", b"a") == b":0\r\n"
    assert repeated_hsetnx(b"-WRONGTYPE x\r\n", b"-WRONGTYPE x\r\n", b"a") == b"-WRONGTYPE x\r\n"


def test_latencies_fall_into_their_buckets() -> None:
    counters = Counters()
    for seconds in (0.00005, 0.0001, 0.003, 100.0):
        counters.answered(seconds)
    latency = counters.as_json()["latency"]
    assert latency["count"] == 4
    assert latency["buckets"][0] == 2
    assert latency["buckets"][LATENCY_BOUNDS.index(0.005)] == 1
    assert latency["buckets"][-1] == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RAYWARD_GATEWAY_TOKEN", ""),
        ("RAYWARD_GATEWAY_PORT", "x"),
        ("RAYWARD_GATEWAY_PORT", "65536"),
        ("RAYWARD_STORE_PATIENCE", "0"),
        ("RAYWARD_GATEWAY_SILENCE", "nan"),
        ("RAYWARD_GATEWAY_PARK_BYTES", "1"),
        ("RAYWARD_FENCE", "yes"),
        ("RAY_REDIS_ADDRESS", "http://x"),
        ("RAY_external_storage_namespace", "a@b"),
    ],
)
def test_settings_that_cannot_be_used_name_their_variable(name: str, value: str) -> None:
    good = {"RAYWARD_GATEWAY_TOKEN": "t", "RAY_REDIS_ADDRESS": "127.0.0.1:6379"}
    assert GatewaySettings.from_environment(good).patience == 600
    with pytest.raises(RaywardError) as caught:
        GatewaySettings.from_environment({**good, name: value})
    assert name in str(caught.value) or "namespace" in str(caught.value)
    assert "secret" not in repr(GatewaySettings.from_environment({**good, "RAYWARD_GATEWAY_TOKEN": "secret"}))

"""A GCS without rayward, with nothing to do, is seen to be alive by its own use of Redis."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_server import Server, free_port, running

from rayward.store.orphans import Owners, Verdict, judge, look

pytestmark = pytest.mark.ray
NAMESPACE = "864b004c-6305-42e3-ac46-adfa8eb6f752"
QUIET_FOR_S = 30.0
BOUND_S = 60.0


@pytest.fixture(scope="module")
def used() -> Iterator[Server]:
    """A Redis that one stock head uses: no dashboard, and a driver that asks for nothing."""
    # Ray's sockets live below it, and a socket's path has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="rw", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        with running(directory / "redis") as server, (directory / "helper.log").open("wb") as log:
            helper = subprocess.Popen(
                [
                    sys.executable,
                    str(Path(__file__).with_name("gcs_with_data.py")),
                    str(directory),
                    *(str(free_port()) for _ in range(3)),
                ],
                env={
                    **os.environ,
                    "RAY_REDIS_ADDRESS": server.address.hostport,
                    "RAY_external_storage_namespace": NAMESPACE,
                    "RAY_USAGE_STATS_ENABLED": "0",
                },
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            assert helper.stdin is not None
            assert helper.stdout is not None
            try:
                assert helper.stdout.readline(), (directory / "helper.log").read_text()
                yield server
            finally:
                # The end of its input tells the helper to end everything it started.
                helper.stdin.close()
                helper.wait(BOUND_S)
                helper.stdout.close()


def test_it_goes_on_using_its_tables(used: Server) -> None:
    client = used.client()

    def uses() -> int:
        stats = client.info("commandstats")
        return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("hset", "hget", "hmget"))

    before, give_up = uses(), time.monotonic() + BOUND_S
    while uses() < before + 3:
        assert time.monotonic() < give_up, (
            "a quiet GCS leaves Redis alone: its namespace would look forgotten"
        )
        time.sleep(0.2)
    (found,) = look(client)
    assert found.namespace == NAMESPACE
    judged = judge(found, Owners(), QUIET_FOR_S)
    assert judged.verdict is Verdict.RECENT, judged
    assert not judged.verdict.removable
    client.close()

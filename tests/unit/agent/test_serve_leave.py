"""``leave``: how long a node serves on before it is stopped."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import stand_in_proxy
from agent_node import until
from stand_in_proxy import StandInProxy

from rayward.agent import serve_hook
from rayward.agent.connections import Connections
from rayward.agent.main import main
from rayward.agent.serve_leave import Patience, leave_main, reason_to_go

PATIENCE = Patience(least=2, most=10, quiet=1)


@pytest.mark.parametrize(
    ("listens", "count", "elapsed", "quiet_for", "goes"),
    [
        (False, 0, 0, 0, True),
        (True, 0, 0, 0, False),
        (True, 0, 1.9, 1.9, False),
        (True, 0, 2.0, 2.0, True),
        (True, 0, 5.0, 0.9, False),
        (True, 0, 5.0, 1.0, True),
        (True, 3, 9.9, 0, False),
        (True, 3, 10.0, 0, True),
    ],
)
def test_it_goes_when_services_have_had_their_time_and_nobody_is_left(
    count: int, elapsed: float, quiet_for: float, *, listens: bool, goes: bool
) -> None:
    assert bool(reason_to_go(Connections(listens, count), elapsed, quiet_for, PATIENCE)) is goes


def test_a_short_grace_period_cuts_the_least_time_short() -> None:
    patience = Patience(least=2, most=0.5, quiet=1)
    assert reason_to_go(Connections(True, 0), 0.4, 0.4, patience) == ""
    assert reason_to_go(Connections(True, 7), 0.5, 0, patience) == "the time is up; connections left: 7"


def test_a_node_that_serves_nothing_goes_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    proxy = StandInProxy()
    proxy.end()
    assert leave_main({"RAYWARD_SERVE_PORT": str(proxy.port)}, PATIENCE) == 0
    assert "no Serve proxy listens here" in capsys.readouterr().out
    assert leave_main({}, PATIENCE) == 0, "no RayService's node"


def test_leave_as_a_pod_runs_it(tmp_path: Path) -> None:
    """The flag is there at once, and the process ends when the least time is over and nobody is connected."""
    proxy = StandInProxy()
    environ = {"RAYWARD_SERVE_PORT": str(proxy.port), "RAYWARD_AGENT_PORT": "4711", "TMPDIR": str(tmp_path)}
    place = tmp_path / f"rayward-serve-{os.getuid()}-4711"
    serve_hook.write(str(place))
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "rayward.agent", "leave", "--least=1.5", "--most=8"],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(filter(None, sys.path)), **environ},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    until((place / "leaving").exists, 30, "the proxy is told")
    assert process.poll() is None
    words, _ = process.communicate(timeout=20)
    assert (process.returncode, "nobody is connected any more" in words) == (0, True), words
    assert time.monotonic() - began >= 1.5
    proxy.end()


def test_seconds_that_are_none_are_refused() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["leave", "--most=soon"])
    assert caught.value.code == 2


FAR_CLIENT = """
import http.client, subprocess, sys, threading, time
sys.path.insert(0, sys.argv[1])
from stand_in_proxy import StandInProxy
for words in ("link set lo up", "address add 10.77.0.1/32 dev lo", "address add 10.77.0.2/32 dev lo"):
    subprocess.run(["ip", *words.split()], check=True)
proxy = StandInProxy(8000, "0.0.0.0")
client = http.client.HTTPConnection("10.77.0.1", 8000, source_address=("10.77.0.2", 0))
client.request("GET", "/-/healthz")
client.getresponse().read()

def leave(most):
    words = [sys.executable, "-m", "rayward.agent", "leave", "--least=0.3", f"--most={most}"]
    return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout

print(leave(1.5), end="")
threading.Timer(3.0, client.close).start()
print(leave(20), end="")
"""


def test_a_client_elsewhere_keeps_the_node_until_it_is_gone_or_the_time_is_up(tmp_path: Path) -> None:
    """In a network namespace whose loopback has two addresses, client and node are not the same host."""
    unshare = ["unshare", "--net", *(["--map-root-user"] if os.geteuid() else [])]
    if shutil.which("ip") is None or subprocess.run([*unshare, "true"], check=False).returncode:
        pytest.skip("needs ip and the right to make a network namespace")
    helpers = Path(stand_in_proxy.__file__).parent
    done = subprocess.run(
        [*unshare, sys.executable, "-c", FAR_CLIENT, str(helpers)],
        env={
            "PATH": os.environ["PATH"], "PYTHONPATH": ":".join(filter(None, sys.path)),
            "RAYWARD_SERVE_PORT": "8000", "TMPDIR": str(tmp_path),
        },
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    by_time, by_client = done.stdout.splitlines()
    assert by_time.endswith("s: the time is up; connections left: 1"), by_time
    assert by_client.endswith("s: nobody is connected any more"), by_client
    assert float(by_client.split(" left after ")[1].split()[0]) >= 1.5

"""Whose process it is, why it died, and what of it may be shown."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from rayward.agent import deaths, processes
from rayward.agent.deaths import Death
from rayward.agent.events import KEPT, EventLog
from rayward.agent.processes import Launch, ProcStat, Role
from rayward.agent.watch import DemandWindow

SITE = "/usr/lib/python3.11/site-packages/ray"
PY = "/usr/bin/python3.11"


@pytest.mark.parametrize(
    ("argv", "role"),
    [
        ([f"{SITE}/core/src/ray/gcs/gcs_server", "--log_dir=/l", "--gcs_server_port=6379"], Role.GCS),
        ([f"{SITE}/core/src/ray/raylet/raylet", "--raylet_socket_name=/s"], Role.RAYLET),
        ([PY, f"{SITE}/dashboard/dashboard.py", "--host=127.0.0.1", "--port=8265"], Role.DASHBOARD),
        ([PY, "-u", f"{SITE}/dashboard/dashboard.py", "--host=127.0.0.1"], Role.DASHBOARD),
        ([PY, "-u", f"{SITE}/autoscaler/_private/monitor.py", "--logs-dir=/l"], Role.MONITOR),
        ([PY, "-u", f"{SITE}/autoscaler/v2/monitor.py", "--logs-dir=/l"], Role.MONITOR),
        ([PY, "-u", f"{SITE}/_private/log_monitor.py", "--session-dir=/s"], Role.LOG_MONITOR),
        ([PY, "-m", "ray.util.client.server", "--address=h:1", "--mode=proxy"], Role.CLIENT_SERVER),
        ([PY, "-m", "ray.util.client.server", "--address=h:1", "--mode=specific-server"], None),
        ([PY, f"{SITE}/dashboard/agent.py", "--node-ip-address=10.0.0.1"], Role.DASHBOARD_AGENT),
        ([PY, "-u", f"{SITE}/dashboard/agent.py", "--node-ip-address=10.0.0.1"], Role.DASHBOARD_AGENT),
        ([PY, "-u", f"{SITE}/_private/runtime_env/agent/main.py", "--node-id=x"], Role.RUNTIME_ENV_AGENT),
        (["ray::DashboardAgent"], Role.DASHBOARD_AGENT),
        (["ray::RuntimeEnvAgent "], Role.RUNTIME_ENV_AGENT),
        (["ray::Counter.increment"], None),
        (["ray::IDLE", "", ""], None),
        ([PY, f"{SITE}/_private/workers/default_worker.py", "--node-ip-address=1"], None),
        ([PY, "-B", "-c", "from multiprocessing.forkserver import main; main(1)"], None),
        (["/bin/sh", "-c", f"{SITE}/dashboard/dashboard.py"], None),
        (["/usr/bin/vim", f"{SITE}/dashboard/dashboard.py"], None),
        ([PY, "-c", f"{SITE}/dashboard/dashboard.py"], None),
        (["/bin/grep", "gcs_server"], None),
        ([PY, "-m"], None),
        ([PY], None),
        ([], None),
    ],
)
def test_classify(argv: list[str], role: Role | None) -> None:
    assert processes.classify(argv) is role


def test_only_the_agents_of_the_raylet_are_tied_to_it() -> None:
    assert [role for role in Role if role.tied_to_raylet] == [Role.DASHBOARD_AGENT, Role.RUNTIME_ENV_AGENT]


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["ray", "--port=1"], "1"),
        (["ray", "--port", "2"], "2"),
        (["ray", "--port=1", "--port", "2"], "2"),
        (["ray", "--port", "2", "--port=3=4"], "3=4"),
        (["ray", "--ports=1"], None),
        (["ray", "--port"], None),
    ],
)
def test_last_option_wins(argv: list[str], value: str | None) -> None:
    assert processes.option(argv, "port") == value


def test_stat_line_with_spaces_and_brackets_in_the_name() -> None:
    fields = "T 7 " + " ".join("0" for _ in range(17)) + " 4711 0 0"
    assert processes.parse_stat(f"42 (a) (b c) {fields}") == ProcStat(42, "a) (b c", "T", 7, 4711)


def test_descendants_come_parents_first() -> None:
    tree = {10: 1, 11: 10, 12: 11, 13: 10, 20: 1}
    stats = {pid: ProcStat(pid, "p", "S", parent, 0) for pid, parent in tree.items()}
    assert processes.descendants(10, stats) == [11, 13, 12]
    assert processes.descendants(12, stats) == []


def test_capture_of_this_process() -> None:
    launch = processes.capture(os.getpid(), Role.GCS)
    assert launch is not None
    assert list(launch.argv) == processes.read_argv(os.getpid())
    assert launch.directory == str(Path.cwd())
    stat = processes.read_stat(os.getpid())
    assert stat is not None
    assert 0 <= processes.age(stat) < 100_000
    assert processes.resident_bytes(os.getpid()) > 1_000_000
    assert (processes.main_thread_demand(os.getpid()) or 0) > 0


def test_a_process_that_is_gone_has_nothing_to_read() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert processes.capture(pid, Role.GCS) is None
    assert processes.read_stat(pid) is None
    assert processes.main_thread_demand(pid) is None
    assert processes.resident_bytes(pid) == 0


def launch(*argv: str, role: Role = Role.GCS, **environment: str) -> Launch:
    return Launch(role, argv, tuple(environment.items()), "/", "/dev/null", "/dev/null")


def test_log_files_most_telling_first() -> None:
    gcs = launch("gcs_server", "--stdout_filepath=/l/gcs.out", "--stderr_filepath=/l/gcs.err")
    assert gcs.log_paths == ("/l/gcs.err", "/l/gcs.out")
    monitor = launch("python", "monitor.py", "--logs-dir=/l", role=Role.MONITOR)
    assert monitor.log_paths == ("/l/monitor.err", "/l/monitor.log", "/l/monitor.out")


def test_passwords_of_a_launch() -> None:
    assert launch("gcs_server", "--redis_password=a", REDIS_PASSWORD="b").secrets == ("a", "b")
    assert launch("gcs_server", REDIS_PASSWORD="").secrets == ()


def exited(code: int) -> int:
    return code << 8


@pytest.mark.parametrize(
    ("death", "cause", "code"),
    [
        (Death(exited(0), 1), "exit code 0", 0),
        (Death(exited(3), 1), "exit code 3", 3),
        (Death(9, 1), "killed by SIGKILL", 137),
        (Death(15, 1), "killed by SIGTERM", 143),
        (Death(6 | 0x80, 1), "killed by SIGABRT (core dumped)", 134),
        (Death(9, 1, out_of_memory=True),
         "killed by SIGKILL: the kernel's out-of-memory killer struck in this container", 137),
        (Death(15, 1, out_of_memory=True), "killed by SIGTERM", 143),
        (Death(40, 1), "killed by signal 40", 168),
        (Death(None, 1), "ended, exit status unknown (not a child of the agent)", None),
        (Death(9, 1, ended_by_agent="it hung"), "ended by rayward: it hung", 137),
    ],
)  # fmt: skip
def test_explain(death: Death, cause: str, code: int | None) -> None:
    assert deaths.explain(death) == cause
    assert deaths.exit_code(death.status) == code


@pytest.mark.parametrize(
    ("death", "served", "crash"),
    [
        (Death(9, 1), True, False),
        (Death(15, 1), True, False),
        (Death(2, 1), True, False),
        (Death(9, 1), False, True),
        (Death(9, 1, out_of_memory=True), True, True),
        (Death(6, 1), True, True),
        (Death(11, 1), True, True),
        (Death(exited(0), 1), True, False),
        (Death(exited(0), 1), False, True),
        (Death(exited(1), 1), True, True),
        (Death(None, 1), True, True),
        (Death(9, 1, ended_by_agent="hung"), True, True),
        (Death(9, 1, ended_by_agent="stopped", from_outside=True), True, False),
        (Death(9, 1, ended_by_agent="stopped", from_outside=True), False, True),
    ],
)
def test_only_its_own_faults_count_as_crashes(death: Death, served: bool, crash: bool) -> None:
    assert deaths.is_crash(death, served) is crash


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("gcs_server --redis_password=s3cret --x=1", "gcs_server --redis_password=*** --x=1"),
        ("--redis-password s3cret -v", "--redis-password *** -v"),
        ('{"redis_password": "s3cret", "a": 1}', '{"redis_password": ***, "a": 1}'),
        ("REDIS_PASSWORD='s3 cret'", "REDIS_PASSWORD=***"),
        ("requirepass s3cret", "requirepass ***"),
        ("redis://u:s3cret@h:6379 up", "redis://***@h:6379 up"),
        ("rediss://:s3@cret@h:6379", "rediss://***@h:6379"),
        ("redis://h:6379 refused", "redis://h:6379 refused"),
        ("it refused the user name or password given", "it refused the user name or password given"),
    ],
)
def test_secrets_are_taken_out(line: str, shown: str) -> None:
    assert deaths.without_secrets(line) == shown


def test_a_known_secret_is_taken_out_wherever_it_stands() -> None:
    assert deaths.without_secrets("AUTH s3cret failed", ["s3cret"]) == "AUTH *** failed"


def test_last_lines(tmp_path: Path) -> None:
    empty, log = tmp_path / "gcs.err", tmp_path / "gcs.out"
    empty.write_text("\n \n")
    log.write_bytes(b"".join(b"line %d\n" % number for number in range(9000)) + b"\xff last pw1\n\n")
    paths = [str(tmp_path / "missing"), str(empty), str(log)]
    assert deaths.last_lines(paths, 2, secrets=["pw1"]) == ("line 8999", "\ufffd last ***")
    assert deaths.last_lines(paths[:2]) == ()


def test_demand_window() -> None:
    window = DemandWindow(3.0)
    assert window.share() == 1.0, "nothing known: taken for busy, for only idleness may kill"
    window.add(0.0, 0.0)
    window.add(1.4, 0.0)
    assert window.share() == 1.0, "less than half the window is known"
    window.add(1.6, 0.0)
    assert window.share() == 0.0
    window.add(4.0, 2.0)
    assert window.share() == 0.5, "the last sample before the window still counts, older ones do not"
    window.add(5.0, 9.0)
    assert window.share() == 1.0, "never more than all"
    window.clear()
    assert window.share() == 1.0


def test_events_are_kept_counted_and_printed() -> None:
    stream = io.StringIO()
    log = EventLog("rayward[head]", stream)
    for number in range(KEPT + 5):
        log.add("ProcessDied", f"number {number}", role="raylet")
    log.add("NodeStarted", "runs")
    kept = log.recent()
    assert len(kept) == KEPT
    assert [kept[0]["message"], kept[-1]["message"]] == ["number 6", "runs"]
    assert kept[0]["details"] == {"role": "raylet"}
    assert log.counts() == {"ProcessDied": KEPT + 5, "NodeStarted": 1}
    lines = stream.getvalue().splitlines()
    assert len(lines) == KEPT + 6
    assert lines[-1].endswith("Z rayward[head] NodeStarted: runs")
    assert kept[-1]["time"] == lines[-1].split(" ", 1)[0]


def test_a_log_that_cannot_be_written_ends_nothing() -> None:
    with open("/dev/full", "w") as full:
        log = EventLog("rayward[head]", full)
        log.add("NodeStarted", "runs")
        assert log.counts() == {"NodeStarted": 1}
        with pytest.raises(OSError, match="space"):
            full.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())
